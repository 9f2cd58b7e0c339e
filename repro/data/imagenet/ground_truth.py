"""Ground-truth boxes of ImageNet's validation images and of ImageNetV2.

Under the data folder, the first of these formats that exists:

    wsol/test/{localization,image_sizes,class_labels}.txt   wsolevaluation's metadata/ILSVRC/test;
                                                            each plain or .gz
    ILSVRC/Annotations/CLS-LOC/val/*.xml                    ILSVRC's annotations, an image a file
    LOC_val_solution.csv                                    Kaggle's; it has no sizes of images

and for ImageNetV2, on whose images wsolevaluation chooses thresholds, wsol/val in the same form.
Coordinates are 0-based pixels of the original image; the three formats are equivalent.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from repro.core import records
from repro.data import composed, cues, datasets
from repro.data.imagenet import smoke_photos
from repro.data.imagenet.photos import Photos
from repro.data.imagenet.reader import synsets
from repro.data.images import (
    MAX_BYTES,
    DataError,
    Images,
    Labels,
    OfficialSplit,
    Split,
    gunzip,
    reason,
)
from repro.data.user_image import FORMATS

BoxSplit = Literal[
    "test", "val"
]  # ImageNet's validation images; ImageNetV2, as wsolevaluation says
Ints = npt.NDArray[np.int64]

ANNOTATIONS = Path("ILSVRC/Annotations/CLS-LOC/val")
SOLUTION = "LOC_val_solution.csv"


@dataclass(frozen=True)
class GroundTruth:
    """Images with their class and all their boxes, as flat arrays, so that 50,000 are fast."""

    ids: tuple[str, ...]  # see `image_id`
    sizes: Ints  # (N, 2), width and height in px
    labels: Labels  # (N,), in the standard order of the 1,000 classes
    boxes: Ints  # (B, 4), x0, y0, x1, y1 in original px, in the order of images
    first: Ints  # (N + 1,), the index in `boxes` of each image's first

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, index: int) -> Ints:
        """The boxes of one image, (K, 4)."""
        return self.boxes[self.first[index] : self.first[index + 1]]

    def take(self, ids: Sequence[str]) -> GroundTruth:
        """The images of these names, in this order. DataError names the first missing one."""
        position = {name: index for index, name in enumerate(self.ids)}
        names = [image_id(name) for name in ids]
        missing = [name for name in names if name not in position]
        if missing:
            step = "take boxes and images from the same set"
            raise DataError(f"{missing[0]}: no ground-truth box ({len(missing):,} such); {step}")
        indices = np.array([position[name] for name in names], np.int64)
        counts = np.diff(self.first)[indices]
        parts = [self.of(index) for index in indices.tolist()] or [self.boxes[:0]]
        return GroundTruth(
            tuple(names),
            self.sizes[indices],
            self.labels[indices],
            np.concatenate(parts),
            np.concatenate([[0], counts.cumsum()]),
        )


def image_id(name: str) -> str:
    """ILSVRC2012_val_00000001 for any path that contains it; otherwise folder/name ('0/7')."""
    match = re.search(r"ILSVRC2012_val_\d{8}", name)
    if match:
        return match[0]
    folder, _, file = name.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{file.rpartition('.')[0] or file}"


def read(
    data: Path, split: BoxSplit = "test", sizes: Mapping[str, tuple[int, int]] | None = None
) -> GroundTruth:
    """The ground truth of a split under the folder `data`, in the first format that exists.

    `sizes`, the images' width and height by `image_id`, are needed only for Kaggle's file.
    Raises DataError, with file, line and next step, if it is missing or damaged.
    """
    wsol = data / "wsol" / split
    if wsol.is_dir():
        return read_wsol(wsol)
    if split == "test" and (data / ANNOTATIONS).is_dir():
        return read_xml(data / ANNOTATIONS)
    if split == "test" and (data / SOLUTION).is_file():
        return read_kaggle(data / SOLUTION, sizes or {})
    paths = [str(wsol / "localization.txt"), f"{data / ANNOTATIONS}/*.xml", str(data / SOLUTION)]
    choices = ", ".join(paths if split == "test" else paths[:1])
    raise DataError(f"{data}: no ground-truth boxes; put one of these there: {choices}")


def load(name: str, split: Split, images: Images | Photos, root: Path) -> GroundTruth:
    """The ground truth of the images of a dataset's split, in their order.

    Boxes of composed images, whose masks are exact, end at the far edge of the last pixel, so that
    they cover the object at any scale. Raises DataError for a dataset without boxes, an image
    without one, or a different class.
    """
    if isinstance(images, Images):
        return _composed_truth(name, split, images)
    if name in smoke_photos.SOURCE and split == "test":
        truth = read_wsol(smoke_photos.boxes_folder(name, root))
    elif name == "imagenetv2":
        truth = read(root, "val")
    elif name == "imagenet" and split == "test":
        truth = read(root, "test", None if _has_sizes(root) else _image_sizes(images))
    else:
        raise DataError(f"{name}, {split}: no ground-truth boxes")
    truth = truth.take([images.name(number) for number in range(len(images))])
    mismatch = truth.labels != images.labels.numpy()
    if mismatch.any():
        number = int(mismatch.argmax())
        classes = f"class {truth.labels[number]}, but the images have {int(images.labels[number])}"
        raise DataError(f"{truth.ids[number]}: {classes}; take boxes and images from the same set")
    return truth


def _composed_truth(name: str, split: Split, images: Images) -> GroundTruth:
    boxes, labels = _single_object_boxes(name, "test" if split == "test" else "train")
    if split in ("fit", "validation"):
        boxes = boxes[datasets.validation(labels) == (split == "validation")]
    side, count = images.pixels.shape[-1], len(images.labels)
    return GroundTruth(
        tuple(map(str, range(count))),
        np.full((count, 2), side, np.int64),
        images.labels.numpy(),
        (boxes + torch.tensor([0, 0, 1, 1])).numpy(),
        np.arange(count + 1),
    )


def _single_object_boxes(name: str, split: OfficialSplit) -> tuple[Tensor, Tensor]:
    """The boxes (N, 4), with inclusive corners, and the labels (N,) of single-object images."""
    if name == composed.SINGLES:
        return composed.boxes(split), composed.objects(split).labels
    if name in cues.NAMES:
        return cues.boxes(name, split), cues.labels_of(name, split)
    raise DataError(f"{name}: no ground-truth boxes")


def _has_sizes(data: Path) -> bool:
    """Whether the format that `read` would use contains image sizes."""
    return (data / "wsol" / "test").is_dir() or (data / ANNOTATIONS).is_dir()


def _image_sizes(photos: Photos) -> dict[str, tuple[int, int]]:
    """Width and height of each image, from its header; 50,000 images take minutes."""
    sizes = {}
    for number in range(len(photos)):
        with Image.open(io.BytesIO(photos.read(number)), formats=FORMATS) as image:
            sizes[image_id(photos.name(number))] = image.size
    return sizes


# ---- wsolevaluation -----------------------------------------------------------------------------


def read_wsol(folder: Path) -> GroundTruth:
    """wsolevaluation's metadata: lines of path,x0,y0,x1,y1, of path,width,height and path,label."""
    step = f"take it again from wsolevaluation's metadata/ILSVRC/{folder.name}"
    of_labels = _read_table(folder, "class_labels", 1, step)
    of_sizes = _read_table(folder, "image_sizes", 2, step)
    of_boxes = _read_table(folder, "localization", 4, step)
    labels, sizes = (dict(zip(t.ids, t.rows.tolist(), strict=True)) for t in (of_labels, of_sizes))
    if not of_labels.ids:
        raise DataError(f"{of_labels.path}: no image in it; {step}")
    for line, label in enumerate(of_labels.rows[:, 0].tolist(), 1):
        if not 0 <= label < 1000:
            raise DataError(f"{of_labels.path}, line {line}: no class {label}; {step}")
    return _assemble(
        {name: row[0] for name, row in labels.items()},
        {name: (width, height) for name, (width, height) in sizes.items()},
        of_boxes.ids,
        of_boxes.rows,
        lambda row: f"{of_boxes.path}, line {row + 1}",
        of_boxes.path,
        step,
    )


@dataclass(frozen=True)
class _Table:
    path: Path
    ids: list[str]
    rows: Ints


def _read_table(folder: Path, name: str, columns: int, step: str) -> _Table:
    """A file of lines 'path,number,...'."""
    path = folder / f"{name}.txt"
    path = path if path.is_file() else folder / f"{name}.txt.gz"
    ids, rows = [], []
    for line, text in enumerate(_read_text(path, step).splitlines(), 1):
        try:
            image, *numbers = text.split(",")
            row = list(map(_int32, numbers))
        except ValueError:
            row = []
        if len(row) != columns:
            raise DataError(f"{path}, line {line}: {text[:60]!r} is a malformed line; {step}")
        ids.append(image_id(image))
        rows.append(row)
    return _Table(path, ids, np.array(rows, np.int64).reshape(-1, columns))


def _read_text(path: Path, step: str) -> str:
    try:
        data = records.read_bytes(path, MAX_BYTES)
        return (gunzip(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {step}") from error


def _int32(text: str) -> int:
    """An integer of at most 31 bits; else ValueError."""
    number = int(text)
    if abs(number) >= 2**31:
        raise ValueError(f"{number:,} is too large")
    return number


# ---- ILSVRC's XML and Kaggle's csv --------------------------------------------------------------


@dataclass(frozen=True)
class _Annotation:
    """The annotation of one image: the class and the coordinates of each object."""

    name: str
    size: tuple[int, int] | None
    objects: list[tuple[str, list[int]]]
    place: str


def read_xml(
    folder: Path,
    class_of: Mapping[str, str] | None = None,
    keep: Literal["class", "all"] = "class",
) -> GroundTruth:
    """ILSVRC's annotations in PASCAL VOC's format, one file per image.

    `class_of` maps an image's id to its wnid. Without it an image's objects must all be of one
    class, which is the image's. `keep`: the objects of that class, or all.
    """
    step = "take it again from ILSVRC's CLS-LOC annotations"
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise DataError(f"{folder}: no *.xml in it; {step}")
    annotations = (_read_annotation(path, step) for path in files)
    return _from_objects(annotations, class_of or {}, keep, folder, step)


def _read_annotation(path: Path, step: str) -> _Annotation:
    """One annotation. Declared entities are refused: they can expand without bound."""
    text = _read_text(path, step)
    if "<!DOCTYPE" in text:  # the only place where an entity can be declared
        raise DataError(f"{path}: declares a document type; {step}")
    try:
        root = ElementTree.fromstring(text)
        width, height = (_int32(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        objects = [
            (
                item.findtext("name", ""),
                [
                    _int32(item.findtext(f"bndbox/{c}", ""))
                    for c in ("xmin", "ymin", "xmax", "ymax")
                ],
            )
            for item in root.iter("object")
        ]
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: {error}; {step}") from error
    except ValueError as error:
        raise DataError(f"{path}: a size or a box without integers; {step}") from error
    return _Annotation(image_id(path.stem), (width, height), objects, str(path))


def read_kaggle(
    path: Path,
    sizes: Mapping[str, tuple[int, int]],
    class_of: Mapping[str, str] | None = None,
    keep: Literal["class", "all"] = "class",
) -> GroundTruth:
    """Kaggle's LOC_val_solution.csv: 'ImageId,wnid x0 y0 x1 y1 wnid x0 y0 x1 y1 ...' a line.

    It has no image sizes: `sizes` are width and height by `image_id`.
    """
    step = "take it again from Kaggle's ImageNet Object Localization Challenge"
    header, *lines = _read_text(path, step).splitlines() or [""]
    if header.strip() != "ImageId,PredictionString":
        raise DataError(f"{path}, line 1: {header[:60]!r} is not the header; {step}")
    if not lines:
        raise DataError(f"{path}: no image in it; {step}")
    annotations = [
        _parse_solution(text, f"{path}, line {n}", step) for n, text in enumerate(lines, 2)
    ]
    with_sizes = (_Annotation(p.name, sizes.get(p.name), p.objects, p.place) for p in annotations)
    return _from_objects(with_sizes, class_of or {}, keep, path, step)


def _parse_solution(text: str, place: str, step: str) -> _Annotation:
    name, _, prediction = text.partition(",")
    words = prediction.split()
    fives = [words[at : at + 5] for at in range(0, len(words), 5)]
    try:
        if not fives or len(fives[-1]) != 5:
            raise ValueError(text)
        objects = [(wnid, list(map(_int32, numbers))) for wnid, *numbers in fives]
    except ValueError as error:
        problem = f"{len(words)} words, not groups of a wnid and four integers"
        raise DataError(f"{place}: {problem}; {step}") from error
    return _Annotation(image_id(name), None, objects, place)


def _from_objects(
    annotations: Iterable[_Annotation],
    class_of: Mapping[str, str],
    keep: str,
    where: Path,
    step: str,
) -> GroundTruth:
    index = {wnid: label for label, wnid in enumerate(synsets())}
    labels: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    owners: list[str] = []
    boxes: list[list[int]] = []
    places: list[str] = []
    for annotation in annotations:
        wnid = _class(annotation, class_of, step)
        if wnid not in index:
            raise DataError(f"{annotation.place}: {wnid} is not a class of ImageNet-1K; {step}")
        if annotation.size is None:
            problem = f"{annotation.place}: unknown size of {annotation.name}"
            raise DataError(f"{problem}; put the images, or ILSVRC's annotations, beside it")
        if annotation.name in labels:
            raise DataError(f"{annotation.place}: duplicate entry for {annotation.name}; {step}")
        labels[annotation.name], sizes[annotation.name] = index[wnid], annotation.size
        selected = [box for name, box in annotation.objects if keep == "all" or name == wnid]
        owners += [annotation.name] * len(selected)
        boxes += selected
        places += [annotation.place] * len(selected)
    return _assemble(labels, sizes, owners, np.array(boxes), places.__getitem__, where, step)


def _class(annotation: _Annotation, class_of: Mapping[str, str], step: str) -> str:
    if annotation.name in class_of:
        return class_of[annotation.name]
    names = sorted({name for name, _ in annotation.objects})
    if len(names) != 1:
        objects = (
            f"objects of {len(names)} classes ({', '.join(names[:3])})" if names else "no object"
        )
        raise DataError(f"{annotation.place}: {objects}, its class is ambiguous; {step}")
    return names[0]


# ---- all of them --------------------------------------------------------------------------------


def _assemble(
    labels: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int]],
    owners: Sequence[str],
    boxes: Ints,
    place: Callable[[int], str],
    where: Path,
    step: str,
) -> GroundTruth:
    """The images in the order of `labels`, with each box checked.

    For messages, `place` locates a box, and `where` is the file or folder of all boxes.
    """
    index = {name: number for number, name in enumerate(labels)}
    for row, name in enumerate(owners):
        if name not in index or name not in sizes:
            what = "size" if name in index else "class"
            raise DataError(f"{place(row)}: no {what} of {name}; {step}")
    owner = np.array([index[name] for name in owners], np.int64)
    boxless = np.bincount(owner, minlength=len(index)) == 0
    if boxless.any():
        name = tuple(index)[int(boxless.argmax())]
        what = f"no box of its class for {name} ({boxless.sum():,} such images)"
        raise DataError(f"{where}: {what}; {step}")
    size = np.array([sizes[name] for name in index], np.int64)
    _check(boxes, size[owner], place, step)
    order = owner.argsort(kind="stable")
    ends = np.bincount(owner).cumsum()
    return GroundTruth(
        tuple(index),
        size,
        np.array(list(labels.values()), np.int64),
        boxes[order],
        np.concatenate([[0], ends]),
    )


def _check(boxes: Ints, sizes: Ints, place: Callable[[int], str], step: str) -> None:
    """Raise DataError for the first box that is empty, inverted or outside its image."""
    low, high = boxes[:, :2], boxes[:, 2:]
    problems = {
        "is empty": (low >= high).any(1),
        "is outside the image": (low < 0).any(1) | (high > sizes).any(1),
    }
    for problem, rows in problems.items():
        if rows.any():
            row = int(rows.argmax())
            box, (width, height) = tuple(boxes[row].tolist()), sizes[row].tolist()
            raise DataError(f"{place(row)}: box {box} {problem}, {width} x {height} px; {step}")
