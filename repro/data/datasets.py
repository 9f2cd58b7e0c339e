"""Image datasets in memory: the two embedded sets, and CIFAR and Fashion-MNIST from their files.

Usable on its own: `load('glyphs', 'train').pixels`. Nothing here executes code from a data file,
and nothing is believed before it is checked: what is wrong with a file is a `DataError`.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import pickle
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Split = Literal["train", "test", "fit", "validation"]
Official = Literal["train", "test"]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
RGB = tuple[float, float, float]

EMBEDDED = Path(__file__).parent / "embedded"
SIDE = 32  # px; every dataset here is brought to CIFAR's size


class DataError(Exception):
    """A dataset that is missing, damaged or unknown; one line with the file and the next step."""


@dataclass(frozen=True)
class Images:
    """One split of a dataset: (N, 3, 32, 32) uint8 pixels and (N,) int64 labels."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: RGB  # of pixels / 255 over the train split, as the inputs are normalised
    std: RGB
    fingerprint: str  # of pixels and labels, the same on any machine


def load(name: str, split: Split, root: Path | None = None) -> Images:
    """The split `split` of the dataset `name`; `root` is the data folder, if the set needs one.

    'fit' and 'validation' are a fixed balanced 5/6 and 1/6 of 'train', to choose recipes on.
    Raises DataError, naming the file and the next step.
    """
    check_name(name)
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split}: there are {', '.join(get_args(Split))}")
    official: Official = "test" if split == "test" else "train"
    if name in ATLASES:
        images = _load_atlas(name, official)
    elif name in CIFARS:
        images = _load_cifar(name, official, data_folder(name, root))
    else:
        images = _load_fashion_mnist(official, data_folder(name, root))
    if split == official:
        return images
    return _take(images, _validation(images.labels) == (split == "validation"))


def names() -> tuple[str, ...]:
    """Every dataset that `load` knows."""
    return (*CIFARS, "fashion-mnist", *ATLASES)


def check_name(name: str) -> None:
    """Raise DataError, with the nearest match, unless `name` is one of `names()`."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise DataError(f"unknown dataset {name}: {hint}")


def data_folder(name: str, root: Path | None) -> Path:
    """The folder of a dataset that is not embedded, or a DataError that asks for it."""
    if root is None:
        raise DataError(f"{name} is not embedded: name its folder with --data DIR or REPRO_DATA")
    return root


def fingerprint(pixels: Bytes, labels: Labels) -> str:
    """The first 16 hex digits of sha256 over the pixels, then the labels as little-endian int64."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()[:16]


def hash_order(indices: Iterable[int], key: str) -> list[int]:
    """The indices in an order that depends on `key` alone: not on a library's generator."""
    return sorted(indices, key=lambda i: hashlib.sha256(f"{key} {i}".encode()).digest())


def _images(pixels: Bytes, labels: Labels, classes: Iterable[str], mean: RGB, std: RGB) -> Images:
    return Images(
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        tuple(classes),
        mean,
        std,
        fingerprint(pixels, labels),
    )


def _take(images: Images, mask: Tensor) -> Images:
    pixels, labels = images.pixels[mask], images.labels[mask]
    mark = fingerprint(pixels.numpy(), labels.numpy())
    return replace(images, pixels=pixels, labels=labels, fingerprint=mark)


def _validation(labels: Tensor) -> Tensor:
    """(N,) bool: the sixth of each class, at least one image, that is held out for validation."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members: list[int] = torch.nonzero(labels == label).flatten().tolist()
        held_out = max(1, round(len(members) / 6))
        mask[hash_order(members, "validation")[:held_out]] = True
    return mask


# ---- embedded: a grey PNG atlas for each split, images sorted by class, and a JSON manifest ----

ATLASES = ("fashion-mnist-6k", "glyphs")


def to_rgb(grey: Bytes) -> Bytes:
    """(N, 28 or 32, same) grey to (N, 3, 32, 32): zero-padded on every side, channels repeated."""
    pad = (SIDE - grey.shape[-1]) // 2
    padded = np.pad(grey, ((0, 0), (pad, pad), (pad, pad)))
    return np.ascontiguousarray(np.repeat(padded[:, None], 3, axis=1))


COLUMNS = 100  # images in a row of an atlas


def write_atlas(
    folder: Path, name: str, splits: Mapping[str, tuple[Bytes, Labels]], about: Mapping[str, Any]
) -> None:
    """Write grey images (N, side, side) of every split, and the manifest with what `about` adds.

    The labels must be sorted and balanced, since an atlas keeps a label as a position only.
    """
    train = to_rgb(splits["train"][0])[:, 0] / 255.0
    manifest = {
        "name": name,
        **about,
        "side": splits["train"][0].shape[-1],
        "columns": COLUMNS,
        "mean": round(float(train.mean()), 4),
        "std": round(float(train.std()), 4),
        "splits": {},
    }
    for split, (grey, labels) in splits.items():
        count, side = len(grey), grey.shape[-1]
        per_class = count // len(manifest["classes"])
        if not np.array_equal(labels, np.arange(count) // per_class) or count % COLUMNS:
            raise ValueError(f"{name} {split}: labels must be sorted and balanced")
        sheet = grey.reshape(-1, COLUMNS, side, side).swapaxes(1, 2).reshape(-1, COLUMNS * side)
        Image.fromarray(sheet).save(folder / f"{name}-{split}.png", optimize=True)
        manifest["splits"][split] = {
            "images": count,
            "per_class": per_class,
            "fingerprint": fingerprint(to_rgb(grey), labels),
        }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _load_atlas(name: str, split: str, folder: Path = EMBEDDED) -> Images:
    path = folder / f"{name}-{split}.png"
    broken = "the installation is damaged; check out or install the project again"
    try:
        manifest = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        side, columns, about = manifest["side"], manifest["columns"], manifest["splits"][split]
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("L")).reshape(-1, side, columns, side)
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {reason(error)}; {broken}") from error
    grey = sheet.swapaxes(1, 2).reshape(-1, side, side)
    labels = np.arange(len(grey)) // about["per_class"]
    mean, std = manifest["mean"], manifest["std"]
    images = _images(to_rgb(grey), labels, manifest["classes"], (mean,) * 3, (std,) * 3)
    if images.fingerprint != about["fingerprint"]:
        raise DataError(f"{path}: its pixels are not its manifest's; {broken}")
    return images


# ---- CIFAR: python pickles, read without executing them -----------------------------------------


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
    folder="cifar-10-batches-py",
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
    folder="cifar-100-python",
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
    "cifar10-smoke": CIFAR10.smoke("cifar10-smoke/cifar-10-batches-py", train=80, test=40),
    "cifar100-smoke": CIFAR100.smoke("cifar100-smoke/cifar-100-python", train=200, test=100),
}


def _load_cifar(name: str, split: Official, root: Path) -> Images:
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
    if not isinstance(classes, list) or len(classes) != cifar.classes:
        raise DataError(f"{folder / cifar.meta[0]}: not {cifar.classes} names; run `{next_step}`")
    return _images(pixels, labels, map(str, classes), cifar.mean, cifar.std)


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
FASHION_FOLDER = Path("FashionMNIST", "raw")
# md5 of the uncompressed files, so that any gzip of them will do (Debian's differs in its header).
FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
FASHION_MEAN, FASHION_STD = 0.2190, 0.3318  # of the 60,000 train images, padded to 32x32


def _load_fashion_mnist(split: Official, root: Path) -> Images:
    prefix = "train" if split == "train" else "t10k"
    next_step = f"repro prepare fashion-mnist --data {root}"
    folder = root / FASHION_FOLDER
    arrays = []
    for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path, data = idx_bytes(folder, file, next_step)
        check_md5(path, data, FASHION_MD5[file], next_step)
        arrays.append(parse_idx(path, data, next_step))
    grey, labels = arrays
    return _images(
        to_rgb(grey),
        labels.astype(np.int64),
        FASHION_CLASSES,
        (FASHION_MEAN,) * 3,
        (FASHION_STD,) * 3,
    )


def idx_bytes(folder: Path, file: str, next_step: str) -> tuple[Path, bytes]:
    """The path and the uncompressed content of an idx file that lies there plain or as .gz."""
    path = folder / file
    if path.exists():
        return path, file_bytes(path, next_step)
    path = folder / f"{file}.gz"
    packed = file_bytes(path, next_step)
    try:
        return path, gzip.decompress(packed)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: {reason(error)}; run `{next_step}`") from error


def parse_idx(path: Path, data: bytes, next_step: str) -> Bytes:
    """The array of unsigned bytes in an idx file: magic 0, 0, 8, rank; big-endian sizes; bytes."""
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    header = 4 + 4 * rank
    shape = tuple(int.from_bytes(data[i : i + 4]) for i in range(4, header, 4))
    if rank == 0 or len(data) != header + int(np.prod(shape)):
        raise DataError(f"{path}: not an idx file of its own length; run `{next_step}`")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


# ---- what every reader needs --------------------------------------------------------------------


def check_md5(path: Path, data: bytes, md5: str, next_step: str) -> None:
    """Raise DataError unless the bytes of `path` have this md5."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        wrong = f"truncated or altered ({len(data):,} bytes, md5 {found}, not {md5})"
        raise DataError(f"{path}: {wrong}; remove it and run `{next_step}`")


def file_bytes(path: Path, next_step: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}; run `{next_step}`") from error


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
