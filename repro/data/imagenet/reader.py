"""ImageNet-1K, 22K and V2, as a folder tree, tar files or WebDataset shards.

Under `root / name`, the first layout that exists:

    train/<wnid>/*.JPEG and val/<wnid>/*.JPEG      (22K: also <wnid>/*.JPEG)
    ILSVRC2012_img_train.tar, and ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz, which
                                                   has its labels (or a val tar of class folders)
    train/<wnid>.tar and val/<wnid>.tar            (22K: also <wnid>.tar, fall11_whole.tar)
    *train-000000.tar and *val-000000.tar          (pairs of key.jpg and key.cls or key.json)

ImageNetV2 is in <class number>/*.jpeg. The first use scans a dataset, in minutes, and stores an
index in `root / name-index`, so the data itself may be read-only.
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

from repro.data.catalogue import DATASETS
from repro.data.imagenet import containers, devkit, photo_index
from repro.data.imagenet.photos import Photos
from repro.data.imagenet.scan import WNID, Container, ContainerImages, scan, with_file_stats
from repro.data.images import DataError, Labels, OfficialSplit, reason

# md5 of ILSVRC's archives, as in torchvision.datasets.imagenet (a test compares them).
ARCHIVES = {
    "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
    "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
    devkit.ARCHIVE: "fa75699e90414af021442c21a62c3abf",
}


@dataclass(frozen=True)
class PhotoSet:
    """The official numbers of a dataset."""

    counts: dict[OfficialSplit, int]  # images; empty where several releases are known
    per_class: dict[OfficialSplit, tuple[int, int]]  # fewest and most images of a class
    classes: tuple[str, ...] | None = None  # None: the classes in the data
    devkit_md5: str | None = None
    numbered: bool = False  # whether folders are named by class number


@cache
def synsets() -> tuple[str, ...]:
    """The 1,000 wnids of ILSVRC2012 in the standard order, which timm has in a file."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return tuple(path.read_text(encoding="utf-8").split())


SMOKE_CLASSES = tuple(f"n9000000{label}" for label in range(10))  # no wnid of WordNet
PHOTO_SETS = {
    "imagenet": PhotoSet(
        {"train": DATASETS["imagenet"].train_images, "test": DATASETS["imagenet"].test_images},
        {"train": (732, 1300), "test": (50, 50)},
        devkit_md5=ARCHIVES[devkit.ARCHIVE],
    ),
    "imagenetv2": PhotoSet(
        {"test": DATASETS["imagenetv2"].test_images}, {"test": (10, 10)}, numbered=True
    ),
    "imagenet22k": PhotoSet({}, {"train": (0, 1 << 30)}),
    "imagenet-smoke": PhotoSet(
        {"train": 40, "test": 20}, {"train": (4, 4), "test": (2, 2)}, SMOKE_CLASSES
    ),
    "imagenetv2-smoke": PhotoSet({"test": 20}, {"test": (2, 2)}, SMOKE_CLASSES, numbered=True),
    "imagenet22k-smoke": PhotoSet({"train": 48}, {"train": (4, 4)}),
}
# Images and classes of the releases of ImageNet-22K: by image-net.org, and as timm's shards on
# Hugging Face (which hold out 40 images of some classes, or leave out the smallest classes).
RELEASES = {
    (14_197_122, 21_841): "fall11",
    (13_673_551, 21_841): "fall11, timm's shards",
    (13_153_500, 19_167): "winter21",
    (13_151_276, 19_167): "winter21, timm's shards",
}


def classes_of(name: str) -> tuple[str, ...] | None:
    """The classes that a set must have, in order; None if the data define them."""
    return synsets() if name in ("imagenet", "imagenetv2") else PHOTO_SETS[name].classes


def splits(name: str) -> tuple[OfficialSplit, ...]:
    """The official splits of a set: 22K has no test split, and ImageNetV2 is one."""
    both: tuple[OfficialSplit, ...] = ("train", "test")
    return tuple(split for split in both if split in PHOTO_SETS[name].per_class)


def load(name: str, split: OfficialSplit, root: Path) -> Photos:
    """One split, from its index; the index is built if it is missing or out of date.

    Raises DataError if data are missing, damaged, or do not match the official numbers.
    """
    if split not in splits(name):
        others = "'test'" if split == "train" else "'train', 'fit' and 'validation'"
        raise DataError(f"{name} has no {split} split, only {others}")
    folder = root / name
    index = index_folder(name, root) / f"{split}.npz"
    try:
        sources = with_file_stats(folder, find_containers(name, split, root))
        photos = photo_index.read(index, folder, sources)
        return photos or _scan_and_index(name, split, root, sources, index)
    except OSError as error:
        path = error.filename or index
        step = f"make it readable, and {index.parent} writable"
        raise DataError(f"{path}: {reason(error)}; {step}") from error


def find_containers(name: str, split: OfficialSplit, root: Path) -> list[Container]:
    """The folders or tars of a split. DataError, with what to put where, if there are none."""
    one_split, numbered = len(splits(name)) == 1, PHOTO_SETS[name].numbered
    sources = containers.find(root / name, split, one_split, numbered)
    if not sources:
        raise DataError(_missing_message(name, split, root))
    return sources


def _missing_message(name: str, split: OfficialSplit, root: Path) -> str:
    part, folder = "train" if split == "train" else "val", root / name
    if PHOTO_SETS[name].numbered:
        return (
            f"{name}: no images in {folder}; put ImageNetV2 (threshold-0.7, as in wsolevaluation) "
            f"there as <class number>/<number>.jpeg, and run `repro prepare {name} --data {root}`"
        )
    extra = " with its devkit" if split == "test" else ""
    archive = "<wnid>.tar" if splits(name) == ("train",) else f"ILSVRC2012_img_{part}.tar{extra}"
    return (
        f"{name}: no {split} images in {folder}; ask for the set at image-net.org, then put there "
        f"{part}/<wnid>/*.JPEG, or {archive}, or shards {part}-000000.tar, or a symlink to "
        f"their folder, and run `repro prepare {name} --data {root}`"
    )


def index_folder(name: str, root: Path) -> Path:
    """The folder of the index; it may be removed at any time."""
    return root / f"{name}-index"


def manifest(name: str, root: Path) -> Path:
    """The manifest that the last `repro prepare` wrote."""
    return index_folder(name, root) / "manifest.json"


def _scan_and_index(
    name: str, split: OfficialSplit, root: Path, sources: Sequence[Container], index: Path
) -> Photos:
    """Scan, check and store the index; one process does it, and the others wait."""
    folder, journal = root / name, index.with_suffix(".journal")
    index.parent.mkdir(exist_ok=True)
    with photo_index.file_lock(index.with_suffix(".lock")):
        photos = photo_index.read(index, folder, sources)
        if photos is not None:
            return photos
        scanned = scan(folder, sources, journal, f"{name} {split}")
        classes, labels = _labels(name, split, root, scanned)
        photos = photo_index.merge(folder, scanned, labels, classes)
        check_counts(name, split, root, photos)
        photo_index.write(index, photos, folder, sources)
        journal.unlink(missing_ok=True)
        return photos


# ---- checks ----------------------------------------------------------------------------


def _labels(
    name: str,
    split: OfficialSplit,
    root: Path,
    scanned: Sequence[tuple[Container, ContainerImages]],
) -> tuple[tuple[str, ...], Labels]:
    """The classes, and the label of every image in the order of the scan."""
    official = classes_of(name)
    if scanned and scanned[0][0].kind == "shard":
        labels = np.concatenate([part.label for _, part in scanned])
        classes = official or tuple(map(str, range(int(labels.max(initial=-1)) + 1)))
        outside = labels[(labels < 0) | (labels >= len(classes))]
        if len(outside):
            about = f"label {outside[0]}, but {name} has {len(classes):,} classes"
            raise DataError(f"{root / name}: {about}; its .cls must count the sorted wnids from 0")
        return classes, labels
    of_images = [_image_wnids(name, root, unit, part) for unit, part in scanned]
    classes = official or tuple(sorted({wnid for wnids in of_images for wnid in wnids}))
    names = map(str, range(len(classes))) if PHOTO_SETS[name].numbered else classes
    index = {wnid: label for label, wnid in enumerate(names)}
    for (unit, _), wnids in zip(scanned, of_images, strict=True):
        for wnid in wnids[:1] if unit.wnid else wnids:
            if wnid not in index:
                path = root / name / unit.path
                raise DataError(f"{path}: {wnid} is not a class of {name}; remove it")
    return classes, np.array([index[w] for wnids in of_images for w in wnids], np.int64)


def _image_wnids(name: str, root: Path, unit: Container, part: ContainerImages) -> list[str]:
    """The class of every image of a container, from the container or from each name."""
    if unit.wnid:
        return [unit.wnid] * len(part.length)
    archive, step = root / name / devkit.ARCHIVE, f"put ILSVRC2012's {devkit.ARCHIVE} there"
    ends = part.sizes.cumsum()
    text = part.names.tobytes()
    names = [os.fsdecode(text[b:e]) for b, e in zip(ends - part.sizes, ends, strict=True)]
    parents = [Path(n).parent.name for n in names]
    if all(map(WNID.fullmatch, parents)):
        return parents
    truth = devkit.wnids(archive, PHOTO_SETS[name].devkit_md5, step)
    try:
        return [truth[_validation_number(file) - 1] for file in names]
    except (IndexError, ValueError):
        expected = f"ILSVRC2012_val_00000001.JPEG to {len(truth):08}"
        raise DataError(
            f"{root / name / unit.path}: names differ from {expected}; use the official file"
        ) from None


def _validation_number(file: str) -> int:
    """1 for ILSVRC2012_val_00000001.JPEG; ValueError for another name."""
    match = re.search(r"ILSVRC2012_val_(\d{8})\.", file)
    if match is None or match[1] == "00000000":
        raise ValueError(file)
    return int(match[1])


def check_counts(name: str, split: OfficialSplit, root: Path, photos: Photos) -> None:
    """Raise DataError, naming the class, unless the numbers of images are the official ones."""
    spec = PHOTO_SETS[name]
    expected, (fewest, most) = spec.counts.get(split), spec.per_class[split]
    counts = photos.labels.bincount(minlength=len(photos.classes)).tolist()
    wrong = [
        f"{wnid} has {count:,}"
        for wnid, count in zip(photos.classes, counts, strict=True)
        if not fewest <= count <= most
    ]
    if len(photos) == (expected or len(photos)) and len(photos) and not wrong:
        return
    each = f"{fewest}" if fewest == most else f"{fewest:,} to {most:,}"
    more = f" and {len(wrong) - 3} more classes" if len(wrong) > 3 else ""
    classes = f"{', '.join(wrong[:3])}{more}, expected {each}" if wrong else "no class stands out"
    official = "some" if expected is None else f"{expected:,}"
    total = f"{len(photos):,} {split} images, but {name} has {official}"
    step = f"complete it, then run `repro prepare {name} --data {root}`"
    raise DataError(f"{root / name}: {total}; {classes}; {step}")
