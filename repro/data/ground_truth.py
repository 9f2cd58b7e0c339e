"""Ground-truth boxes of ImageNet's validation images and of ImageNetV2, as users have them.

Under the data folder, whichever is found first:

    wsol/test/{localization,image_sizes,class_labels}.txt   wsolevaluation's metadata/ILSVRC/test;
                                                            each plain or .gz
    ILSVRC/Annotations/CLS-LOC/val/*.xml                    ILSVRC's annotations, an image a file
    LOC_val_solution.csv                                    Kaggle's; it has no sizes of images

and for ImageNetV2, on whose images wsolevaluation chooses thresholds, wsol/val in the same form.
The coordinates are those of the original picture, counted from 0; the three say the same.
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

from repro import records
from repro.data import composed, datasets, smoke_photos
from repro.data.imagenet import synsets
from repro.data.images import MOST_BYTES, DataError, Images, Labels, gunzip, reason
from repro.data.images import Split as AnySplit
from repro.data.own_picture import FORMATS
from repro.data.photos import Photos

Split = Literal["test", "val"]  # ImageNet's validation images; ImageNetV2, as wsolevaluation says
Ints = npt.NDArray[np.int64]

ANNOTATIONS = Path("ILSVRC/Annotations/CLS-LOC/val")
SOLUTION = "LOC_val_solution.csv"


@dataclass(frozen=True)
class GroundTruth:
    """Images with their class and all their boxes, as arrays: 50,000 images are quick."""

    ids: tuple[str, ...]  # as `image_id` has them
    sizes: Ints  # (N, 2), width and height in px
    labels: Labels  # (N,), in the standard order of the 1,000 classes
    boxes: Ints  # (B, 4), x0, y0, x1, y1 in original px, image after image
    first: Ints  # (N + 1,), where in `boxes` those of each image begin

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, index: int) -> Ints:
        """The boxes of one image, (K, 4)."""
        return self.boxes[self.first[index] : self.first[index + 1]]

    def take(self, ids: Sequence[str]) -> GroundTruth:
        """The images of these names, in this order. DataError names the first that is not there."""
        place = {name: index for index, name in enumerate(self.ids)}
        names = [image_id(name) for name in ids]
        missing = [name for name in names if name not in place]
        if missing:
            step = "take boxes and images from the same set"
            raise DataError(f"{missing[0]}: no ground-truth box ({len(missing):,} such); {step}")
        chosen = np.array([place[name] for name in names], np.int64)
        counts = np.diff(self.first)[chosen]
        parts = [self.of(index) for index in chosen.tolist()] or [self.boxes[:0]]
        return GroundTruth(
            tuple(names),
            self.sizes[chosen],
            self.labels[chosen],
            np.concatenate(parts),
            np.concatenate([[0], counts.cumsum()]),
        )


def image_id(name: str) -> str:
    """ILSVRC2012_val_00000001 of any path that ends in it; of another, folder/name ('0/7')."""
    found = re.search(r"ILSVRC2012_val_\d{8}", name)
    if found:
        return found[0]
    folder, _, file = name.rpartition("/")
    return f"{folder.rpartition('/')[2]}/{file.rpartition('.')[0] or file}"


def read(
    data: Path, split: Split = "test", sizes: Mapping[str, tuple[int, int]] | None = None
) -> GroundTruth:
    """The ground truth of a split under the folder `data`, in the first form that is there.

    `sizes`, the images' width and height by `image_id`, are needed for Kaggle's file alone.
    DataError: none is there, or it is damaged, with the file, the line and the next step.
    """
    wsol = data / "wsol" / split
    if wsol.is_dir():
        return read_wsol(wsol)
    if split == "test" and (data / ANNOTATIONS).is_dir():
        return read_xml(data / ANNOTATIONS)
    if split == "test" and (data / SOLUTION).is_file():
        return read_kaggle(data / SOLUTION, sizes or {})
    places = [str(wsol / "localization.txt"), f"{data / ANNOTATIONS}/*.xml", str(data / SOLUTION)]
    wanted = ", ".join(places if split == "test" else places[:1])
    raise DataError(f"{data}: no ground-truth boxes; put one of these there: {wanted}")


def load(name: str, split: AnySplit, images: Images | Photos, root: Path) -> GroundTruth:
    """The ground truth of the images of a dataset's split, in their order.

    Of composed pictures, whose pixels are known, a box ends where the pixel after its last begins,
    so that it covers all of them at any scale. DataError for a set without boxes, an image without
    one, or one of another class.
    """
    if isinstance(images, Images):
        return _composed(name, split, images)
    if name in smoke_photos.SOURCE and split == "test":
        truth = read_wsol(smoke_photos.boxes_folder(name, root))
    elif name == "imagenetv2":
        truth = read(root, "val")
    elif name == "imagenet" and split == "test":
        truth = read(root, "test", None if _has_sizes(root) else _sizes(images))
    else:
        raise DataError(f"{name}, {split}: there are no ground-truth boxes of it")
    truth = truth.take([images.name(number) for number in range(len(images))])
    other = truth.labels != images.labels.numpy()
    if other.any():
        number = int(other.argmax())
        found = f"class {truth.labels[number]} where the images have {int(images.labels[number])}"
        raise DataError(f"{truth.ids[number]}: {found}; take boxes and images from the same set")
    return truth


def _composed(name: str, split: AnySplit, images: Images) -> GroundTruth:
    if name != composed.SINGLES:
        raise DataError(f"{name}: there are no ground-truth boxes of it")
    boxes = composed.boxes("test" if split == "test" else "train")
    if split in ("fit", "validation"):
        labels = composed.objects("train").labels
        boxes = boxes[datasets.validation(labels) == (split == "validation")]
    side, count = images.pixels.shape[-1], len(images.labels)
    return GroundTruth(
        tuple(map(str, range(count))),
        np.full((count, 2), side, np.int64),
        images.labels.numpy(),
        (boxes + torch.tensor([0, 0, 1, 1])).numpy(),
        np.arange(count + 1),
    )


def _has_sizes(data: Path) -> bool:
    """Whether what `read` finds first says how large images are."""
    return (data / "wsol" / "test").is_dir() or (data / ANNOTATIONS).is_dir()


def _sizes(photos: Photos) -> dict[str, tuple[int, int]]:
    """Width and height of each image by its header; of 50,000 that takes minutes."""
    found = {}
    for number in range(len(photos)):
        with Image.open(io.BytesIO(photos.read(number)), formats=FORMATS) as image:
            found[image_id(photos.name(number))] = image.size
    return found


# ---- wsolevaluation -----------------------------------------------------------------------------


def read_wsol(folder: Path) -> GroundTruth:
    """wsolevaluation's metadata: lines of path,x0,y0,x1,y1, of path,width,height and path,label."""
    step = f"take it again from wsolevaluation's metadata/ILSVRC/{folder.name}"
    of_labels = _table(folder, "class_labels", 1, step)
    of_sizes = _table(folder, "image_sizes", 2, step)
    of_boxes = _table(folder, "localization", 4, step)
    labels, sizes = (dict(zip(t.ids, t.rows.tolist(), strict=True)) for t in (of_labels, of_sizes))
    if not of_labels.ids:
        raise DataError(f"{of_labels.path}: no image in it; {step}")
    for line, label in enumerate(of_labels.rows[:, 0].tolist(), 1):
        if not 0 <= label < 1000:
            raise DataError(f"{of_labels.path}, line {line}: no class {label}; {step}")
    return _assembled(
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


def _table(folder: Path, name: str, columns: int, step: str) -> _Table:
    """A file of lines 'path,number,...'."""
    path = folder / f"{name}.txt"
    path = path if path.is_file() else folder / f"{name}.txt.gz"
    ids, rows = [], []
    for line, text in enumerate(_text(path, step).splitlines(), 1):
        try:
            found, *numbers = text.split(",")
            row = list(map(_whole, numbers))
        except ValueError:
            row = []
        if len(row) != columns:
            raise DataError(f"{path}, line {line}: {text[:60]!r} is no line of it; {step}")
        ids.append(image_id(found))
        rows.append(row)
    return _Table(path, ids, np.array(rows, np.int64).reshape(-1, columns))


def _text(path: Path, step: str) -> str:
    try:
        data = records.content(path, MOST_BYTES)
        return (gunzip(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {step}") from error


def _whole(text: str) -> int:
    """A number of at most 31 bits. ValueError if it is none."""
    number = int(text)
    if abs(number) >= 2**31:
        raise ValueError(f"{number:,} is too much")
    return number


# ---- ILSVRC's XML and Kaggle's csv --------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """What stands about one image: the class and the coordinates of each object."""

    name: str
    size: tuple[int, int] | None
    objects: list[tuple[str, list[int]]]
    place: str


def read_xml(
    folder: Path,
    class_of: Mapping[str, str] | None = None,
    keep: Literal["class", "all"] = "class",
) -> GroundTruth:
    """ILSVRC's annotations, PASCAL VOC's form, one file an image.

    `class_of` gives the wnid of an image by its id. Without it the objects of an image say its
    class, and must agree. `keep`: the objects of that class, or all.
    """
    step = "take it again from ILSVRC's CLS-LOC annotations"
    files = sorted(folder.glob("*.xml"))
    if not files:
        raise DataError(f"{folder}: no *.xml in it; {step}")
    pictures = (_picture(path, step) for path in files)
    return _from_objects(pictures, class_of or {}, keep, folder, step)


def _picture(path: Path, step: str) -> _Picture:
    """One annotation. What declares entities is not read: they can grow without bound."""
    text = _text(path, step)
    if "<!DOCTYPE" in text:  # the only place where an entity can be declared
        raise DataError(f"{path}: declares a document type; {step}")
    try:
        root = ElementTree.fromstring(text)
        width, height = (_whole(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        objects = [
            (
                item.findtext("name", ""),
                [
                    _whole(item.findtext(f"bndbox/{c}", ""))
                    for c in ("xmin", "ymin", "xmax", "ymax")
                ],
            )
            for item in root.iter("object")
        ]
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: {error}; {step}") from error
    except ValueError as error:
        raise DataError(f"{path}: a size or a box without its whole numbers; {step}") from error
    return _Picture(image_id(path.stem), (width, height), objects, str(path))


def read_kaggle(
    path: Path,
    sizes: Mapping[str, tuple[int, int]],
    class_of: Mapping[str, str] | None = None,
    keep: Literal["class", "all"] = "class",
) -> GroundTruth:
    """Kaggle's LOC_val_solution.csv: 'ImageId,wnid x0 y0 x1 y1 wnid x0 y0 x1 y1 ...' a line.

    It does not say how large the images are: `sizes` are width and height by `image_id`.
    """
    step = "take it again from Kaggle's ImageNet Object Localization Challenge"
    header, *lines = _text(path, step).splitlines() or [""]
    if header.strip() != "ImageId,PredictionString":
        raise DataError(f"{path}, line 1: {header[:60]!r} is not its header; {step}")
    if not lines:
        raise DataError(f"{path}: no image in it; {step}")
    pictures = [_solution(text, f"{path}, line {n}", step) for n, text in enumerate(lines, 2)]
    with_sizes = (_Picture(p.name, sizes.get(p.name), p.objects, p.place) for p in pictures)
    return _from_objects(with_sizes, class_of or {}, keep, path, step)


def _solution(text: str, place: str, step: str) -> _Picture:
    name, _, prediction = text.partition(",")
    words = prediction.split()
    fives = [words[at : at + 5] for at in range(0, len(words), 5)]
    try:
        if not fives or len(fives[-1]) != 5:
            raise ValueError(text)
        objects = [(wnid, list(map(_whole, numbers))) for wnid, *numbers in fives]
    except ValueError as error:
        wrong = f"{len(words)} words that are no groups of a wnid and four whole numbers"
        raise DataError(f"{place}: {wrong}; {step}") from error
    return _Picture(image_id(name), None, objects, place)


def _from_objects(
    pictures: Iterable[_Picture], class_of: Mapping[str, str], keep: str, where: Path, step: str
) -> GroundTruth:
    index = {wnid: label for label, wnid in enumerate(synsets())}
    labels: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    owners: list[str] = []
    boxes: list[list[int]] = []
    places: list[str] = []
    for picture in pictures:
        wnid = _class(picture, class_of, step)
        if wnid not in index:
            raise DataError(f"{picture.place}: {wnid} is no class of ImageNet-1K; {step}")
        if picture.size is None:
            wrong = f"{picture.place}: the size of {picture.name} is not known"
            raise DataError(f"{wrong}; put the images, or ILSVRC's annotations, beside it")
        if picture.name in labels:
            raise DataError(f"{picture.place}: {picture.name} stands there twice; {step}")
        labels[picture.name], sizes[picture.name] = index[wnid], picture.size
        kept = [box for name, box in picture.objects if keep == "all" or name == wnid]
        owners += [picture.name] * len(kept)
        boxes += kept
        places += [picture.place] * len(kept)
    return _assembled(labels, sizes, owners, np.array(boxes), places.__getitem__, where, step)


def _class(picture: _Picture, class_of: Mapping[str, str], step: str) -> str:
    if picture.name in class_of:
        return class_of[picture.name]
    names = sorted({name for name, _ in picture.objects})
    if len(names) != 1:
        found = (
            f"objects of {len(names)} classes ({', '.join(names[:3])})" if names else "no object"
        )
        raise DataError(f"{picture.place}: {found}, so that its class is not known; {step}")
    return names[0]


# ---- all of them --------------------------------------------------------------------------------


def _assembled(
    labels: Mapping[str, int],
    sizes: Mapping[str, tuple[int, int]],
    owners: Sequence[str],
    boxes: Ints,
    place: Callable[[int], str],
    where: Path,
    step: str,
) -> GroundTruth:
    """The images in the order of `labels`, after a look at each box; `place` says where one is.

    `where` all boxes are.
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
    """Raise DataError for the first box that is empty, turned round or outside its picture."""
    low, high = boxes[:, :2], boxes[:, 2:]
    wrong = {
        "encloses nothing": (low >= high).any(1),
        "reaches out of the picture": (low < 0).any(1) | (high > sizes).any(1),
    }
    for words, rows in wrong.items():
        if rows.any():
            row = int(rows.argmax())
            box, (width, height) = tuple(boxes[row].tolist()), sizes[row].tolist()
            found = f"the box {box} {words}, {width} x {height} px"
            raise DataError(f"{place(row)}: {found}; {step}")
