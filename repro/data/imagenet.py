"""ImageNet-1K, 22K and V2 as users have them: a folder tree, tar files or WebDataset shards.

Under `root / name`, whichever is found first:

    train/<wnid>/*.JPEG and val/<wnid>/*.JPEG      (22K: also <wnid>/*.JPEG)
    ILSVRC2012_img_train.tar, and ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz, which
                                                   has its labels (or a val tar of class folders)
    train/<wnid>.tar and val/<wnid>.tar            (22K: also <wnid>.tar, fall11_whole.tar)
    *train-000000.tar and *val-000000.tar          (pairs of key.jpg and key.cls or key.json)

ImageNetV2 is in <number of the class>/*.jpeg. The first use scans a set, in minutes, into
`root / name-index`; so the data itself may be read-only.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from repro.data import devkit, layouts, photo_index
from repro.data.images import DataError, Labels, Official, reason
from repro.data.photos import Photos
from repro.data.scan import WNID, Container, Part, scan, stated

# md5 of ILSVRC's archives, as in torchvision.datasets.imagenet (a test compares them).
ARCHIVES = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    devkit.ARCHIVE: "fa75699e90414af021442c21a62c3abf",
}


@dataclass(frozen=True)
class Set:
    """What a dataset must be to go under its name."""

    counts: dict[Official, int]  # images; empty where several releases are known
    per_class: dict[Official, tuple[int, int]]  # fewest and most images of a class
    classes: tuple[str, ...] | None = None  # None: those that are found
    devkit_md5: str | None = None
    numbered: bool = False  # whether folders are called by the number of their class


@cache
def synsets() -> tuple[str, ...]:
    """The 1,000 wnids of ILSVRC2012 in the standard order, which timm has in a file."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return tuple(path.read_text(encoding="utf-8").split())


SMOKE_CLASSES = tuple(f"n9000000{label}" for label in range(10))  # no wnid of WordNet
SETS = {
    "imagenet": Set(
        {"train": 1_281_167, "test": 50_000},
        {"train": (732, 1300), "test": (50, 50)},
        devkit_md5=ARCHIVES[devkit.ARCHIVE],
    ),
    "imagenetv2": Set({"test": 10_000}, {"test": (10, 10)}, numbered=True),
    "imagenet22k": Set({}, {"train": (0, 1 << 30)}),
    "imagenet-smoke": Set(
        {"train": 40, "test": 20}, {"train": (4, 4), "test": (2, 2)}, SMOKE_CLASSES
    ),
    "imagenetv2-smoke": Set({"test": 20}, {"test": (2, 2)}, SMOKE_CLASSES, numbered=True),
    "imagenet22k-smoke": Set({"train": 48}, {"train": (4, 4)}),
}
# Images and classes of the releases of ImageNet-22K: what image-net.org gave out, and shards of
# timm on Hugging Face (which hold out 40 images of some classes, or leave out the tiny ones).
RELEASES = {
    (14_197_122, 21_841): "fall11",
    (13_673_551, 21_841): "fall11, timm's shards",
    (13_153_500, 19_167): "winter21",
    (13_151_276, 19_167): "winter21, timm's shards",
}


def classes_of(name: str) -> tuple[str, ...] | None:
    """The classes that a set must have, in order; None where they are those that are found."""
    return synsets() if name in ("imagenet", "imagenetv2") else SETS[name].classes


def splits(name: str) -> tuple[Official, ...]:
    """The official splits of a set: 22K has no test split, and ImageNetV2 is one."""
    both: tuple[Official, ...] = ("train", "test")
    return tuple(split for split in both if split in SETS[name].per_class)


def load(name: str, split: Official, root: Path) -> Photos:
    """One split, from its index, which is made first where there is none of the files of now.

    Raises DataError for what is missing, damaged, or not what the dataset's name says.
    """
    if split not in splits(name):
        others = "is 'test' alone" if split == "train" else "are 'train', 'fit' and 'validation'"
        raise DataError(f"{name} has no {split} split; there {others}")
    folder = root / name
    index = index_folder(name, root) / f"{split}.npz"
    try:
        containers = stated(folder, found(name, split, root))
        photos = photo_index.read(index, folder, containers)
        return photos or _indexed(name, split, root, containers, index)
    except OSError as error:
        place = error.filename or index
        step = f"make it readable, and {index.parent} writable"
        raise DataError(f"{place}: {reason(error)}; {step}") from error


def found(name: str, split: Official, root: Path) -> list[Container]:
    """The folders or tars of a split; a DataError that says what to put where, for none."""
    one_split, numbered = len(splits(name)) == 1, SETS[name].numbered
    containers = layouts.find(root / name, split, one_split, numbered)
    if not containers:
        raise DataError(_wanted(name, split, root))
    return containers


def _wanted(name: str, split: Official, root: Path) -> str:
    part, folder = "train" if split == "train" else "val", root / name
    if SETS[name].numbered:
        return (
            f"{name}: no images in {folder}; put ImageNetV2 (threshold-0.7, as wsolevaluation has "
            f"it) there as <number of the class>/<number>.jpeg, and run `repro prepare {name} "
            f"--data {root}`"
        )
    extra = " with its devkit" if split == "test" else ""
    archive = "<wnid>.tar" if splits(name) == ("train",) else f"ILSVRC2012_img_{part}.tar{extra}"
    return (
        f"{name}: no {split} images in {folder}; ask for the set at image-net.org, then put there "
        f"{part}/<wnid>/*.JPEG, or {archive}, or shards {part}-000000.tar, or a link to a folder "
        f"that has them, and run `repro prepare {name} --data {root}`"
    )


def index_folder(name: str, root: Path) -> Path:
    """Where what was found is kept; it may be removed at any time."""
    return root / f"{name}-index"


def manifest(name: str, root: Path) -> Path:
    """Where the last `repro prepare` kept what it saw."""
    return index_folder(name, root) / "manifest.json"


def _indexed(
    name: str, split: Official, root: Path, containers: Sequence[Container], index: Path
) -> Photos:
    """Scan, check and keep; of several processes one does it, and the others wait."""
    folder, journal = root / name, index.with_suffix(".journal")
    index.parent.mkdir(exist_ok=True)
    with photo_index.locked(index.with_suffix(".lock")):
        photos = photo_index.read(index, folder, containers)
        if photos is not None:
            return photos
        scanned = scan(folder, containers, journal, f"{name} {split}")
        classes, labels = _labels(name, split, root, scanned)
        photos = photo_index.merge(folder, scanned, labels, classes)
        check(name, split, root, photos)
        photo_index.write(index, photos, folder, containers)
        journal.unlink(missing_ok=True)
        return photos


# ---- what it must be ----------------------------------------------------------------------------


def _labels(
    name: str, split: Official, root: Path, scanned: Sequence[tuple[Container, Part]]
) -> tuple[tuple[str, ...], Labels]:
    """The classes, and the label of every image in the order of the scan."""
    known = classes_of(name)
    if scanned and scanned[0][0].kind == "shard":
        labels = np.concatenate([part.label for _, part in scanned])
        classes = known or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
        wrong = labels[(labels < 0) | (labels >= len(classes))]
        if len(wrong):
            about = f"a label of {wrong[0]}, where {name} has {len(classes):,} classes"
            raise DataError(f"{root / name}: {about}; its .cls must count the sorted wnids from 0")
        return classes, labels
    of_images = [_wnids(name, root, unit, part) for unit, part in scanned]
    classes = known or tuple(sorted({wnid for wnids in of_images for wnid in wnids}))
    names = map(str, range(len(classes))) if SETS[name].numbered else classes
    index = {wnid: label for label, wnid in enumerate(names)}
    for (unit, _), wnids in zip(scanned, of_images, strict=True):
        for wnid in wnids[:1] if unit.wnid else wnids:
            if wnid not in index:
                place = root / name / unit.path
                raise DataError(f"{place}: {wnid} is no class of {name}; take it away")
    return classes, np.array([index[w] for wnids in of_images for w in wnids], np.int64)


def _wnids(name: str, root: Path, unit: Container, part: Part) -> list[str]:
    """The class of every image of a container: its own, or by each name."""
    if unit.wnid:
        return [unit.wnid] * len(part.length)
    archive, step = root / name / devkit.ARCHIVE, f"put ILSVRC2012's {devkit.ARCHIVE} there"
    ends = part.sizes.cumsum()
    text = part.names.tobytes()
    names = [os.fsdecode(text[b:e]) for b, e in zip(ends - part.sizes, ends, strict=True)]
    parents = [Path(n).parent.name for n in names]
    if all(map(WNID.fullmatch, parents)):
        return parents
    truth = devkit.wnids(archive, SETS[name].devkit_md5, step)
    try:
        return [truth[_number(file) - 1] for file in names]
    except (IndexError, ValueError):
        wanted = f"ILSVRC2012_val_00000001.JPEG to {len(truth):08}"
        raise DataError(
            f"{root / name / unit.path}: has other names than {wanted}; put the official one there"
        ) from None


def _number(file: str) -> int:
    """1 of ILSVRC2012_val_00000001.JPEG; ValueError for another name."""
    found = re.search(r"ILSVRC2012_val_(\d{8})\.", file)
    if found is None or found[1] == "00000000":
        raise ValueError(file)
    return int(found[1])


def check(name: str, split: Official, root: Path, photos: Photos) -> None:
    """Raise DataError, naming the class, unless the numbers of images are the official ones."""
    spec = SETS[name]
    wanted, (fewest, most) = spec.counts.get(split), spec.per_class[split]
    counts = photos.labels.bincount(minlength=len(photos.classes)).tolist()
    wrong = [
        f"{wnid} has {count:,}"
        for wnid, count in zip(photos.classes, counts, strict=True)
        if not fewest <= count <= most
    ]
    if len(photos) == (wanted or len(photos)) and len(photos) and not wrong:
        return
    each = f"{fewest}" if fewest == most else f"{fewest:,} to {most:,}"
    more = f" and {len(wrong) - 3} more classes" if len(wrong) > 3 else ""
    classes = (
        f"{', '.join(wrong[:3])}{more}, where it is {each}" if wrong else "no class stands out"
    )
    official = "some" if wanted is None else f"{wanted:,}"
    total = f"{len(photos):,} {split} images where {name} has {official}"
    step = f"complete it, then run `repro prepare {name} --data {root}`"
    raise DataError(f"{root / name}: {total}; {classes}; {step}")
