"""CIFAR from its own files: Python pickles, read without executing them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.images import (
    RGB,
    SIDE,
    Bytes,
    DataError,
    Images,
    Labels,
    Official,
    check_md5,
    file_bytes,
    images_of,
    reason,
)
from repro.data.places import FOLDERS


@dataclass(frozen=True)
class Cifar:
    """Where a CIFAR-shaped set lies under the data folder, and what its files must be."""

    folder: str
    train: dict[str, str | None]  # file -> md5; None: not checked
    test: dict[str, str | None]
    meta: tuple[str, str | None]
    labels_key: str
    names_key: str
    classes: int
    counts: dict[str, int]  # images in each split
    mean: RGB
    std: RGB

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, *self.test, self.meta[0])

    def smoke(self, folder: str, train: int, test: int) -> Cifar:
        """The same format with a handful of images, whose md5 is not known beforehand."""
        return replace(
            self,
            folder=folder,
            train=dict.fromkeys(self.train),
            test=dict.fromkeys(self.test),
            meta=(self.meta[0], None),
            counts={"train": train, "test": test},
        )


# md5 as in torchvision.datasets (a test compares them); mean and std from the official
# implementation of NesT, libml/preprocess.py.
CIFAR10 = Cifar(
    folder=FOLDERS["cifar10"],
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    labels_key="labels",
    names_key="label_names",
    classes=10,
    counts={"train": 50_000, "test": 10_000},
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
)
CIFAR100 = Cifar(
    folder=FOLDERS["cifar100"],
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
    labels_key="fine_labels",
    names_key="fine_label_names",
    classes=100,
    counts={"train": 50_000, "test": 10_000},
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)
CIFARS = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "cifar10-smoke": CIFAR10.smoke("cifar10-smoke/cifar-10-batches-py", train=20, test=20),
    "cifar100-smoke": CIFAR100.smoke("cifar100-smoke/cifar-100-python", train=20, test=20),
}


def load(name: str, split: Official, root: Path) -> Images:
    """One split of a CIFAR-shaped set under the data folder; a DataError where a file is wrong."""
    cifar = CIFARS[name]
    folder, next_step = root / cifar.folder, f"repro prepare {name} --data {root}"
    files = cifar.train if split == "train" else cifar.test
    parts = []
    for file, md5 in files.items():
        batch = _read_pickle(folder / file, md5, next_step)
        parts.append(_cifar_batch(batch, cifar, folder / file, next_step))
    pixels = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, SIDE, SIDE)
    labels = np.concatenate([labels for _, labels in parts])
    if len(labels) != cifar.counts[split]:
        wrong = f"{len(labels)} images where {name} {split} has {cifar.counts[split]}"
        raise DataError(f"{folder}: {wrong}; run `{next_step}`")
    classes = _read_pickle(folder / cifar.meta[0], cifar.meta[1], next_step).get(cifar.names_key)
    if (
        not isinstance(classes, list)
        or len(classes) != cifar.classes
        or not all(isinstance(name, str) for name in classes)
    ):
        raise DataError(f"{folder / cifar.meta[0]}: not {cifar.classes} names; run `{next_step}`")
    return images_of(pixels, labels, classes, cifar.mean, cifar.std)


def _cifar_batch(
    batch: dict[str, Any], cifar: Cifar, path: Path, next_step: str
) -> tuple[Bytes, Labels]:
    """Pixels (N, 3072) and labels (N,) of one batch file, or a DataError."""
    data, labels = batch.get("data"), batch.get(cifar.labels_key)
    if not isinstance(data, _Array) or data.array.shape[1:] != (3 * SIDE * SIDE,):
        raise DataError(f"{path}: no 32x32 RGB images in 'data'; run `{next_step}`")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data.array)
        or not all(isinstance(label, int) and 0 <= label < cifar.classes for label in labels)
    ):
        wrong = f"'{cifar.labels_key}' is not a label below {cifar.classes} for each image"
        raise DataError(f"{path}: {wrong}; run `{next_step}`")
    return data.array, np.array(labels, dtype=np.int64)


class _Array:
    """Takes the place of numpy.ndarray in a pickle: bytes and a shape, nothing that runs."""

    array: Bytes

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, bool, str | bytes]) -> None:
        _, shape, _, fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.array = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Takes the place of numpy.dtype in a pickle: unsigned bytes or nothing."""

    def __init__(self, kind: str, *_: object) -> None:
        if kind != "u1":
            raise pickle.UnpicklingError(f"an array of {kind}, where CIFAR has unsigned bytes")

    def __setstate__(self, _: object) -> None:
        pass


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Builds the containers and byte arrays of a CIFAR file; refuses every other global."""

    STAND_INS: Mapping[str, Callable[..., object]] = {
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy._core.multiarray._reconstruct": _Array,  # as numpy 2 writes it
        "numpy.ndarray": _Array,
        "numpy.dtype": _Dtype,
        "_codecs.encode": _latin1,  # how Python 3 writes bytes in protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (stand_in := self.STAND_INS.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR file does")
        return stand_in


def _read_pickle(path: Path, md5: str | None, next_step: str) -> dict[str, Any]:
    data = file_bytes(path, next_step)
    if md5 is not None:
        check_md5(path, data, md5, next_step)
    try:
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{path}: {reason(error)}; run `{next_step}`") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a CIFAR batch; run `{next_step}`")
    return content
