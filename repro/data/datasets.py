"""Image datasets: embedded ones, CIFAR and Fashion-MNIST in memory; ImageNet read from its files.

Usable on its own: `load('glyphs', 'train').pixels`, `load('imagenet', 'train', root).read(0)`.
No code from a data file is executed, and every file is verified; a wrong file is a `DataError`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from repro.core.records import Damaged
from repro.data import atlas, catalogue, cifar, composed, cues
from repro.data.atlas import ATLASES
from repro.data.cifar import CIFARS
from repro.data.imagenet import reader, resized
from repro.data.imagenet.photos import Photos
from repro.data.images import (
    Bytes,
    DataError,
    Images,
    OfficialSplit,
    Split,
    check_md5,
    file_bytes,
    fingerprint,
    gunzip,
    make_images,
    reason,
    to_rgb,
)

__all__ = ["DataError", "Images", "Photos", "Split", "check_name", "load", "names", "splits"]

PhotosName = Literal[
    "imagenet",
    "imagenetv2",
    "imagenet22k",
    "imagenet-smoke",
    "imagenetv2-smoke",
    "imagenet22k-smoke",
]


@overload
def load(name: PhotosName, split: Split, root: Path | None = None) -> Photos: ...  # type: ignore[overload-overlap]


@overload
def load(name: str, split: Split, root: Path | None = None) -> Images: ...


def load(name: str, split: Split, root: Path | None = None) -> Images | Photos:
    """The split `split` of the dataset `name`; `root` is the data folder, if the set needs one.

    'fit' and 'validation' are a fixed, balanced 5/6 and 1/6 of 'train', for choosing recipes.
    The datasets of `reader.PHOTO_SETS` are `Photos`, all others `Images`. If the name is known only
    at run time, the static type is `Images`; check with `isinstance` if both are possible.
    Raises DataError, naming the file and the next step.
    """
    check_name(name)
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split}: choose from {', '.join(get_args(Split))}")
    official: OfficialSplit = "test" if split == "test" else "train"
    if name in resized.RESIZED:
        return resized.load(data_folder(name, root) / name, split)
    images: Images | Photos
    if name in reader.PHOTO_SETS:
        images = reader.load(name, official, data_folder(name, root))
    elif name in ATLASES:
        images = atlas.load(name, official)
    elif name == composed.SINGLES:
        images = composed.singles(official)
    elif name in cues.NAMES:
        images = cues.singles(name, official)
    elif name in CIFARS:
        images = cifar.load(name, official, data_folder(name, root))
    else:
        images = _load_fashion_mnist(official, data_folder(name, root))
    if split == official:
        return images
    held_out = validation(images.labels)
    indices = torch.nonzero(held_out == (split == "validation")).flatten()
    if isinstance(images, Photos):
        return images.take(indices, split)
    return _take(images, indices)


def names() -> tuple[str, ...]:
    """The names of all datasets."""
    return catalogue.NAMES


def splits(name: str) -> tuple[OfficialSplit, ...]:
    """The official splits of a dataset: 'train' and 'test', or one of them."""
    return reader.splits(name) if name in reader.PHOTO_SETS else ("train", "test")


def check_name(name: str) -> None:
    """Raise DataError, with the nearest match, unless `name` is one of `names()`."""
    if error := catalogue.unknown_dataset(name):
        raise DataError(error)


def data_folder(name: str, root: Path | None) -> Path:
    """The folder of a dataset that is not embedded, or a DataError."""
    if root is None:
        raise DataError(f"{name} is not embedded: name its folder with --data DIR or REPRO_DATA")
    return root


def hash_order(indices: Iterable[int], key: str) -> list[int]:
    """The indices in an order that depends only on `key`, not on a library's generator."""
    return sorted(indices, key=lambda i: hashlib.sha256(f"{key} {i}".encode()).digest())


def _take(images: Images, indices: Tensor) -> Images:
    pixels, labels = images.pixels[indices], images.labels[indices]
    mark = fingerprint(pixels.numpy(), labels.numpy())
    return replace(images, pixels=pixels, labels=labels, fingerprint=mark)


def validation(labels: Tensor) -> Tensor:
    """(N,) bool: the sixth of each class, at least one image, that is held out for validation."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    by_class = labels.argsort(stable=True).split(labels.bincount().tolist())
    for members in by_class:
        held_out = max(1, round(len(members) / 6))
        mask[hash_order(members.tolist(), "validation")[:held_out]] = True
    return mask


# ---- Fashion-MNIST: idx files, gzipped or not ---------------------------------------------------

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_FOLDER = Path(catalogue.FOLDERS["fashion-mnist"][0])
# md5 of the uncompressed files, so that any gzip of them is valid (Debian's has another header).
FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
FASHION_MEAN, FASHION_STD = 0.2190, 0.3318  # of the 60,000 train images, padded to 32x32


def _load_fashion_mnist(split: OfficialSplit, root: Path) -> Images:
    prefix = "train" if split == "train" else "t10k"
    next_step = f"repro prepare fashion-mnist --data {root}"
    folder = root / FASHION_FOLDER
    arrays = []
    for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path, data = idx_bytes(folder, file, next_step)
        check_md5(path, data, FASHION_MD5[file], next_step)
        arrays.append(parse_idx(path, data, next_step))
    grey, labels = arrays
    return make_images(
        to_rgb(grey),
        labels.astype(np.int64),
        FASHION_CLASSES,
        (FASHION_MEAN,) * 3,
        (FASHION_STD,) * 3,
    )


def idx_bytes(folder: Path, file: str, next_step: str) -> tuple[Path, bytes]:
    """The path and the uncompressed content of an idx file, plain or .gz."""
    path = folder / file
    if path.exists():
        return path, file_bytes(path, next_step)
    path = folder / f"{file}.gz"
    packed = file_bytes(path, next_step)
    try:
        return path, gunzip(packed)
    except (EOFError, OSError, zlib.error, Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; run `{next_step}`") from error


def parse_idx(path: Path, data: bytes, next_step: str) -> Bytes:
    """The array of unsigned bytes in an idx file: magic 0, 0, 8, rank; big-endian sizes; bytes."""
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    header = 4 + 4 * rank
    shape = tuple(int.from_bytes(data[i : i + 4]) for i in range(4, header, 4))
    if rank == 0 or len(data) != header + int(np.prod(shape)):
        raise DataError(f"{path}: not an idx file, or of the wrong length; run `{next_step}`")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
