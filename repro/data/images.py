"""Shared by all dataset readers: in-memory images, fingerprints, file access and errors."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.core import records

Split = Literal["train", "test", "fit", "validation"]
OfficialSplit = Literal["train", "test"]
Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
RGB = tuple[float, float, float]

T = TypeVar("T")

MAX_BYTES = 2**30  # of a file that is read into memory, compressed and uncompressed
SIDE = 32  # px; small datasets are padded to CIFAR's size


class DataError(Exception):
    """A dataset that is missing, damaged or unknown; one line with the file and the next step."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # names of files may have line breaks


@dataclass(frozen=True)
class Images:
    """One split of a dataset of one size: (N, 3, S, S) uint8 pixels and (N,) int64 labels.

    S is 32, except for the resized versions of ImageNet, whose names give it.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: RGB  # of pixels / 255 over the train split, as the inputs are normalised
    std: RGB
    fingerprint: str  # of pixels and labels, the same on any machine


def fingerprint(pixels: Bytes, labels: Labels) -> str:
    """The first 16 hex digits of sha256 over the pixels, then the labels as little-endian int64."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()[:16]


def make_images(
    pixels: Bytes, labels: Labels, classes: Iterable[str], mean: RGB, std: RGB
) -> Images:
    """Make `Images` of the arrays of a split."""
    return Images(
        torch.from_numpy(pixels),
        torch.from_numpy(labels),
        tuple(classes),
        mean,
        std,
        fingerprint(pixels, labels),
    )


def to_rgb(grey: Bytes) -> Bytes:
    """(N, 28 or 32, same) grey to (N, 3, 32, 32): zero-padded on every side, channels repeated."""
    pad = (SIDE - grey.shape[-1]) // 2
    padded = np.pad(grey, ((0, 0), (pad, pad), (pad, pad)))
    return np.ascontiguousarray(np.repeat(padded[:, None], 3, axis=1))


def check_md5(path: Path, data: bytes, md5: str, next_step: str) -> None:
    """Raise DataError unless the bytes of `path` have this md5."""
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if digest != md5:
        problem = f"truncated or altered ({len(data):,} bytes, md5 {digest}, not {md5})"
        raise DataError(f"{path}: {problem}; remove it and run `{next_step}`")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically, and create its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.atomic_file(path, sync=False) as file:
        file.write(data)


def file_bytes(path: Path, next_step: str) -> bytes:
    """The content of `path`; DataError with the next step if it cannot be read."""
    try:
        return records.read_bytes(path, MAX_BYTES)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; run `{next_step}`") from error


def gunzip(data: bytes) -> bytes:
    """Decompress gzip. Raises EOFError, OSError, zlib.error, or Damaged if it is too large."""
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        content = file.read(MAX_BYTES + 1)
    records.require(len(content) <= MAX_BYTES, f"unpacks to more than {MAX_BYTES:,} bytes")
    return content


def read_json(path: Path, schema: type[T], next_step: str) -> T:
    """The JSON in a file, of this schema; else DataError with the next step."""
    try:
        return records.read(path, schema)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {next_step}") from error


def reason(error: Exception) -> str:
    """The reason of an error, in one line."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
