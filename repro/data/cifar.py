"""CIFAR: 32x32 images in the authors' containers, each batch verified by its content.

A record is an image in the binary version's format: its label (CIFAR-100: the coarse one, then the
fine one), then its red, green and blue planes, a byte per value. Whatever the container, a batch's
records must have the digest of the published binary version. Pickles are read without executing
code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from repro.core import records
from repro.data.catalogue import DATASETS, FOLDERS
from repro.data.images import (
    RGB,
    SIDE,
    Bytes,
    DataError,
    Images,
    OfficialSplit,
    file_bytes,
    make_images,
    reason,
)

PIXELS = 3 * SIDE * SIDE  # bytes of an image in its record


class BatchFormat(NamedTuple):
    """How a container stores a batch: the names of its files, and their decoder to records."""

    files: Callable[[CifarBatch], tuple[str, ...]]
    decode: Callable[[CifarBatch, list[bytes]], Bytes]  # raises Damaged


@dataclass(frozen=True)
class Cifar:
    """A CIFAR-like dataset, and the folders under the data folder that may contain it."""

    containers: Mapping[str, BatchFormat]  # by folder; the first complete one is read
    train: dict[str, str | None]  # batch -> sha1 of its records; None: not checked
    test: dict[str, str | None]
    labels: dict[str, int]  # name in a pickle -> number of classes; the last is the image's class
    counts: dict[str, int]  # images in each split
    mean: RGB
    std: RGB
    names: tuple[str, ...] | None  # of the classes; None: in the file below
    meta: tuple[str, str]  # the pickle of class names, and their key in it
    order: Path | None = None  # the index of its images, see `cifar_import`

    @property
    def classes(self) -> int:
        return list(self.labels.values())[-1]

    @property
    def batches(self) -> list[CifarBatch]:
        """All batches, in their order."""
        sizes = {"train": len(self.train), "test": len(self.test)}
        return [
            CifarBatch(self, split, number, name, sha1, self.counts[split] // sizes[split])
            for split, batches in (("train", self.train), ("test", self.test))
            for number, (name, sha1) in enumerate(batches.items())
        ]

    def smoke(self, folder: str, train: int, test: int) -> Cifar:
        """The same format with a few images, pickled, without sha1 checks."""
        return replace(
            self,
            containers={folder: PICKLES},
            train=dict.fromkeys(self.train),
            test=dict.fromkeys(self.test),
            counts={"train": train, "test": test},
            names=None,
            order=None,
        )


class CifarBatch(NamedTuple):
    """A part of a split that is one file in CIFAR."""

    cifar: Cifar
    split: str
    number: int  # within its split
    name: str
    sha1: str | None
    images: int

    @property
    def width(self) -> int:
        """Bytes of a record."""
        return len(self.cifar.labels) + PIXELS


# ---- the containers of the authors --------------------------------------------------------------


def _decode_binary(batch: CifarBatch, contents: list[bytes]) -> Bytes:
    """The records of a binary file."""
    size = batch.images * batch.width
    records.require(len(contents[0]) == size, f"{len(contents[0]):,} bytes, expected {size:,}")
    return np.frombuffer(contents[0], np.uint8).reshape(batch.images, batch.width)


def _decode_pickle(batch: CifarBatch, contents: list[bytes]) -> Bytes:
    """Records from the images in 'data' and one or two lists of labels."""
    content = _unpickle(contents[0])
    data = content.get("data")
    shape = (batch.images, PIXELS)
    if not isinstance(data, _SafeArray) or data.array.shape != shape:
        raise records.Damaged(f"'data' is not {batch.images:,} RGB images of 32x32 px")
    return np.hstack([*(_labels(batch, content, key) for key in batch.cifar.labels), data.array])


def _labels(batch: CifarBatch, content: dict[str, Any], key: str) -> Bytes:
    """(N, 1) labels from a pickle."""
    labels, classes = content.get(key), batch.cifar.labels[key]
    if (
        not isinstance(labels, list)
        or len(labels) != batch.images
        or not all(isinstance(label, int) and 0 <= label < classes for label in labels)
    ):
        raise records.Damaged(f"'{key}' is not a label below {classes} for each image")
    return np.array(labels, dtype=np.uint8)[:, None]


BINARY = BatchFormat(lambda batch: (f"{batch.name}.bin",), _decode_binary)
PICKLES = BatchFormat(lambda batch: (batch.name,), _decode_pickle)


# ---- the sets -----------------------------------------------------------------------------------

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
    couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
    house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
    turtle wardrobe whale willow_tree wolf woman worm
"""


def _counts(name: str) -> dict[str, int]:
    return {"train": DATASETS[name].train_images, "test": DATASETS[name].test_images}


# sha1 as in Gluon (MXNet, gluon/data/vision/datasets.py), of the binary version; mean and std from
# the official implementation of NesT, libml/preprocess.py.
CIFAR10 = Cifar(
    containers=dict(zip(FOLDERS["cifar10"], (BINARY, PICKLES), strict=True)),
    train={
        "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    },
    test={"test_batch": "67eb016db431130d61cd03c7ad570b013799c88c"},
    labels={"labels": 10},
    counts=_counts("cifar10"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
    names=tuple(CIFAR10_NAMES.split()),
    meta=("batches.meta", "label_names"),
    order=Path(__file__).parent / "embedded" / "cifar10-order.npy",
)
CIFAR100 = Cifar(
    containers=dict(zip(FOLDERS["cifar100"], (BINARY, PICKLES), strict=True)),
    train={"train": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"},
    test={"test": "8fb6623e830365ff53cf14adec797474f5478006"},
    labels={"coarse_labels": 20, "fine_labels": 100},
    counts=_counts("cifar100"),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    names=tuple(CIFAR100_NAMES.split()),
    meta=("meta", "fine_label_names"),
)
CIFARS = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "cifar10-smoke": CIFAR10.smoke("cifar10-smoke/cifar-10-batches-py", train=20, test=20),
    "cifar100-smoke": CIFAR100.smoke("cifar100-smoke/cifar-100-python", train=20, test=20),
}


# ---- reading ------------------------------------------------------------------------------------


def load(name: str, split: OfficialSplit, root: Path) -> Images:
    """One split of a CIFAR-like set under the data folder; DataError if a file is invalid."""
    cifar, next_step = CIFARS[name], f"repro prepare {name} --data {root}"
    folder, form = container(name, root)
    rows = np.concatenate(
        [
            read(form, batch, folder, lambda file: file_bytes(folder / file, next_step), next_step)
            for batch in cifar.batches
            if batch.split == split
        ]
    )
    pixels = np.ascontiguousarray(rows[:, -PIXELS:]).reshape(-1, 3, SIDE, SIDE)
    labels = rows[:, -PIXELS - 1].astype(np.int64)
    names = cifar.names or _read_class_names(cifar, folder, next_step)
    return make_images(pixels, labels, names, cifar.mean, cifar.std)


def container(name: str, root: Path) -> tuple[Path, BatchFormat]:
    """The folder to read: the first complete one, or else the first that exists; or DataError."""
    cifar = CIFARS[name]
    present = [folder for folder in cifar.containers if (root / folder).exists()]
    if not present:
        *others, last = cifar.containers
        also = "".join(f", and so is {folder}" for folder in others)
        raise DataError(f"{root / last}: missing{also}; run `repro prepare {name} --data {root}`")
    complete = [folder for folder in present if not missing(cifar, folder, root)]
    folder = (complete or present)[0]
    return root / folder, cifar.containers[folder]


def missing(cifar: Cifar, folder: str, root: Path) -> list[CifarBatch]:
    """The batches whose files are missing in a folder of the set."""
    form = cifar.containers[folder]
    return [
        batch
        for batch in cifar.batches
        if not all((root / folder / file).exists() for file in form.files(batch))
    ]


def read(
    form: BatchFormat,
    batch: CifarBatch,
    source: Path,
    content: Callable[[str], bytes],
    next_step: str,
) -> Bytes:
    """The verified records (N, labels + 3072) of a batch; `content` returns the files of `source`.

    Raises DataError with the file and the next step.
    """
    files = form.files(batch)
    contents = [content(file) for file in files]
    try:
        rows = form.decode(batch, contents)
        verify(batch, rows)
    except records.Damaged as error:
        step = f"remove it and run `{next_step}`"
        raise DataError(f"{source / ' with '.join(files)}: {reason(error)}; {step}") from error
    return rows


def verify(batch: CifarBatch, rows: Bytes) -> None:
    """Raise Damaged unless these are the records of the batch."""
    sha1 = hashlib.sha1(np.ascontiguousarray(rows).data, usedforsecurity=False).hexdigest()
    if batch.sha1 not in (None, sha1):
        problem = f"not the published images and labels of {batch.name}"
        raise records.Damaged(f"{problem} (sha1 of its records {sha1}, not {batch.sha1})")


def _read_class_names(cifar: Cifar, folder: Path, next_step: str) -> list[str]:
    """The names of the classes, from their pickle."""
    file, key = cifar.meta
    content = file_bytes(folder / file, next_step)
    try:
        names = _unpickle(content).get(key)
        if (
            not isinstance(names, list)
            or len(names) != cifar.classes
            or not all(isinstance(name, str) for name in names)
        ):
            raise records.Damaged(f"not {cifar.classes} names")
    except records.Damaged as error:
        raise DataError(f"{folder / file}: {reason(error)}; run `{next_step}`") from error
    return names


# ---- pickles, without code execution -------------------------------------------------------------


class _SafeArray:
    """Replaces numpy.ndarray in a pickle: bytes and a shape."""

    array: Bytes

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, str | bytes]) -> None:
        _, shape, _, fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _SafeDtype:
    """Replaces numpy.dtype in a pickle; accepts only unsigned bytes."""

    def __init__(self, kind: str, *_: object) -> None:
        if kind != "u1":
            raise pickle.UnpicklingError(f"an array of {kind}, but CIFAR has unsigned bytes")

    def __setstate__(self, _: object) -> None:
        pass


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds the containers and byte arrays of a CIFAR file; every other global is an error."""

    REPLACEMENTS: Mapping[str, Callable[..., object]] = {
        "numpy.core.multiarray._reconstruct": _SafeArray,
        "numpy._core.multiarray._reconstruct": _SafeArray,  # as numpy 2 writes it
        "numpy.ndarray": _SafeArray,
        "numpy.dtype": _SafeDtype,
        "_codecs.encode": _latin1,  # how Python 3 writes bytes in protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (replacement := self.REPLACEMENTS.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"it uses {module}.{name}, unlike CIFAR's files")
        return replacement


def _unpickle(data: bytes) -> dict[str, Any]:
    """The dictionary in a pickle. Raises Damaged."""
    try:
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise records.Damaged(reason(error)) from error
    records.require(isinstance(content, dict), "not a CIFAR batch")
    return dict(content)
