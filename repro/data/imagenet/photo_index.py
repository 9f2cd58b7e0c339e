"""The index of a scanned dataset: one .npz per split, from which `Photos` are loaded directly.

Images are sorted by (label, file stem), so that the n-th image, which determines all randomness, is
the same in a folder tree, in tar files and in WebDataset shards.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from repro.core import records
from repro.data.imagenet.photos import MEAN, STD, Photos
from repro.data.imagenet.scan import Container, ContainerImages
from repro.data.images import Bytes, Labels

VERSION = 1
ARRAYS = ("file", "offset", "length", "labels", "names", "spans")
_MAX_BYTES = 2**33  # 14 million images have 1.2 GB


class _Header(TypedDict):
    """The header of the index."""

    version: int
    containers: list[tuple[str, str, str, int, int, int]]
    files: list[str]
    classes: list[str]
    fingerprint: str


def merge(
    folder: Path,
    scanned: Sequence[tuple[Container, ContainerImages]],
    labels: Labels,
    classes: Sequence[str],
) -> Photos:
    """Merge all containers into one sorted `Photos`; `labels` are in the order of the scan."""
    paths = list(dict.fromkeys(unit.path for unit, _ in scanned))
    position = {path: index for index, path in enumerate(paths)}
    file = [np.full(len(part.length), position[unit.path], np.int32) for unit, part in scanned]
    names, sizes, stems, offset, length, _ = (
        np.concatenate(column) for column in zip(*(part for _, part in scanned), strict=True)
    )
    ends = sizes.cumsum()
    spans = np.stack([ends - sizes, ends], axis=1)
    stem_spans = stems + spans[:, :1]
    order, mark = _order(names, stem_spans, length, labels)
    columns = (np.concatenate(file), offset, length, labels)
    file_, offset_, length_, labels_ = (torch.from_numpy(column[order]) for column in columns)
    return Photos(
        files=tuple(folder / path for path in paths),
        file=file_,
        offset=offset_,
        length=length_,
        labels=labels_,
        classes=tuple(classes),
        mean=MEAN,
        std=STD,
        fingerprint=mark,
        names=torch.from_numpy(names),
        spans=torch.from_numpy(spans[order]),
    )


def _order(
    names: Bytes, stems: Labels, length: Labels, labels: Labels
) -> tuple[npt.NDArray[np.intp], str]:
    """The order of the images, and the fingerprint of their stems, lengths and labels in it."""
    sizes = stems[:, 1] - stems[:, 0]
    width = max(1, int(sizes.max(initial=0)))
    padded = np.zeros((len(stems), width), np.uint8)
    column = np.arange(width)
    for start in range(0, len(stems), 1 << 20):  # bounds temporary memory
        part = slice(start, start + (1 << 20))
        inside = column < sizes[part, None]
        padded[part][inside] = names[(stems[part, :1] + column)[inside]]
    order = np.lexsort((length, padded.view(f"S{width}")[:, 0], labels))
    digest = hashlib.sha256()
    for start in range(0, len(order), 1 << 20):
        part_order = order[start : start + (1 << 20)]
        digest.update(padded[part_order][column < sizes[part_order, None]].data)
    for values in (sizes, length, labels):
        digest.update(values[order].astype("<i8").data)
    return order, digest.hexdigest()[:16]


def write(path: Path, photos: Photos, folder: Path, containers: Sequence[Container]) -> None:
    """Write `photos` and the containers that were scanned, atomically."""
    about = {
        "version": VERSION,
        "containers": [astuple(container) for container in containers],
        "files": [str(file.relative_to(folder)) for file in photos.files],
        "classes": photos.classes,
        "fingerprint": photos.fingerprint,
    }
    text = np.frombuffer(records.encode(about).encode(), np.uint8)
    arrays = {f"photos.{name}": getattr(photos, name).numpy() for name in ARRAYS}
    with records.atomic_file(path, sync=False) as file:
        np.savez(file, about=text, **arrays)


def read(path: Path, folder: Path, containers: Sequence[Container]) -> Photos | None:
    """The stored `Photos`; None if missing, damaged, or of other containers."""
    try:
        about = _read_header(records.read_arrays(path, ["about"]))
        if about["version"] != VERSION or about["containers"] != list(map(astuple, containers)):
            return None
        stored = records.read_arrays(path, [f"photos.{name}" for name in ARRAYS], _MAX_BYTES)
        _check(stored, about)
    except (OSError, records.Damaged):
        return None  # a new scan replaces it
    arrays = {name: torch.from_numpy(stored[f"photos.{name}"]) for name in ARRAYS}
    return Photos(
        files=tuple(folder / file for file in about["files"]),
        classes=tuple(about["classes"]),
        mean=MEAN,
        std=STD,
        fingerprint=about["fingerprint"],
        **arrays,
    )


def _read_header(stored: Mapping[str, npt.NDArray[Any]]) -> _Header:
    records.require("about" in stored, "no header")
    return records.decode(stored["about"].tobytes(), _Header)


def _check(stored: Mapping[str, npt.NDArray[Any]], about: _Header) -> None:
    """Raise Damaged unless the arrays fit `Photos`, with every number in its range."""
    records.require(len(stored) == len(ARRAYS), "an array is missing")
    file, offset, length, labels, names, spans = (stored[f"photos.{name}"] for name in ARRAYS)
    count = len(labels) if labels.ndim else -1
    for array, kind, shape in (
        (file, np.int32, (count,)),
        *((column, np.int64, (count,)) for column in (offset, length, labels)),
        (names, np.uint8, (names.size,)),
        (spans, np.int64, (count, 2)),
    ):
        valid = array.dtype == kind and array.shape == shape
        records.require(valid, f"an array is {array.dtype} of shape {array.shape}")
    records.require(_within(file, len(about["files"])), "file indices out of range")
    records.require(_within(labels, len(about["classes"])), "labels without a class")
    records.require(_within(spans, len(names) + 1), "names beyond the end")
    records.require((spans[:, 0] <= spans[:, 1]).all(), "names that end before they begin")
    records.require(
        offset.min(initial=0) >= -1 and length.min(initial=0) >= 0, "a negative offset or length"
    )
    paths = {path for path, *_ in about["containers"]}
    records.require(paths.issuperset(about["files"]), "files that are not in the dataset")


def _within(numbers: npt.NDArray[Any], end: int) -> bool:
    """Whether all are from 0 to below `end`."""
    return bool(numbers.min(initial=0) >= 0 and numbers.max(initial=-1) < end)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """An exclusive lock between processes; the others wait."""
    with path.open("w") as file:
        # On a file system without locks the work is done twice, and each write is atomic.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
