"""The index of a scanned dataset: one .npz a split, from which `Photos` are made at once.

Images are in the order of (label, name without its ending), so that the n-th image, on which all
randomness hangs, is the same one in a folder tree, in tar files and in WebDataset shards.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from repro import records
from repro.data.images import Bytes, Labels
from repro.data.photos import MEAN, STD, Photos
from repro.data.scan import Container, Part

VERSION = 1
ARRAYS = ("file", "offset", "length", "labels", "names", "spans")
_MOST_BYTES = 2**33  # 14 million images have 1.2 GB


class _About(TypedDict):
    """What the index says of itself."""

    version: int
    containers: list[tuple[str, str, str, int, int, int]]
    files: list[str]
    classes: list[str]
    fingerprint: str


def merge(
    folder: Path, scanned: Sequence[tuple[Container, Part]], labels: Labels, classes: Sequence[str]
) -> Photos:
    """The images of all containers as one `Photos`, in its order; `labels` are in the scan's."""
    paths = list(dict.fromkeys(unit.path for unit, _ in scanned))
    place = {path: index for index, path in enumerate(paths)}
    file = [np.full(len(part.length), place[unit.path], np.int32) for unit, part in scanned]
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
    for start in range(0, len(stems), 1 << 20):  # keeps what is temporary small
        part = slice(start, start + (1 << 20))
        inside = column < sizes[part, None]
        padded[part][inside] = names[(stems[part, :1] + column)[inside]]
    order = np.lexsort((length, padded.view(f"S{width}")[:, 0], labels))
    digest = hashlib.sha256()
    for start in range(0, len(order), 1 << 20):
        chosen = order[start : start + (1 << 20)]
        digest.update(padded[chosen][column < sizes[chosen, None]].data)
    for values in (sizes, length, labels):
        digest.update(values[order].astype("<i8").data)
    return order, digest.hexdigest()[:16]


def write(path: Path, photos: Photos, folder: Path, containers: Sequence[Container]) -> None:
    """Keep `photos`, with what it was scanned from; by rename, so what exists is complete."""
    about = {
        "version": VERSION,
        "containers": [astuple(container) for container in containers],
        "files": [str(file.relative_to(folder)) for file in photos.files],
        "classes": photos.classes,
        "fingerprint": photos.fingerprint,
    }
    text = np.frombuffer(records.encode(about).encode(), np.uint8)
    arrays = {f"photos.{name}": getattr(photos, name).numpy() for name in ARRAYS}
    scratch = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            np.savez(file, about=text, **arrays)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)  # of a full disk


def read(path: Path, folder: Path, containers: Sequence[Container]) -> Photos | None:
    """What `write` kept; None where there is nothing, or not of these containers, or damaged."""
    try:
        about = _about(records.arrays(path, ["about"]))
        if about["version"] != VERSION or about["containers"] != list(map(astuple, containers)):
            return None
        stored = records.arrays(path, [f"photos.{name}" for name in ARRAYS], _MOST_BYTES)
        _check(stored, about)
    except (OSError, records.Damaged):
        return None  # a scan makes it new
    arrays = {name: torch.from_numpy(stored[f"photos.{name}"]) for name in ARRAYS}
    return Photos(
        files=tuple(folder / file for file in about["files"]),
        classes=tuple(about["classes"]),
        mean=MEAN,
        std=STD,
        fingerprint=about["fingerprint"],
        **arrays,
    )


def _about(stored: Mapping[str, npt.NDArray[Any]]) -> _About:
    records.require("about" in stored, "nothing about it")
    return records.decode(stored["about"].tobytes(), _About)


def _check(stored: Mapping[str, npt.NDArray[Any]], about: _About) -> None:
    """Raise Damaged unless the arrays are as `Photos` has them, with every number in its range."""
    records.require(len(stored) == len(ARRAYS), "an array is missing")
    file, offset, length, labels, names, spans = (stored[f"photos.{name}"] for name in ARRAYS)
    count = len(labels) if labels.ndim else -1
    for array, kind, shape in (
        (file, np.int32, (count,)),
        *((column, np.int64, (count,)) for column in (offset, length, labels)),
        (names, np.uint8, (names.size,)),
        (spans, np.int64, (count, 2)),
    ):
        good = array.dtype == kind and array.shape == shape
        records.require(good, f"an array is {array.dtype} of shape {array.shape}")
    records.require(_within(file, len(about["files"])), "files that it does not name")
    records.require(_within(labels, len(about["classes"])), "labels without a class")
    records.require(_within(spans, len(names) + 1), "names beyond the end")
    records.require((spans[:, 0] <= spans[:, 1]).all(), "names that end before they begin")
    records.require(
        offset.min(initial=0) >= -1 and length.min(initial=0) >= 0, "no place in a file"
    )
    known = {place for place, *_ in about["containers"]}
    records.require(known.issuperset(about["files"]), "files that are not in the dataset")


def _within(numbers: npt.NDArray[Any], end: int) -> bool:
    """Whether all are from 0 to below `end`."""
    return bool(numbers.min(initial=0) >= 0 and numbers.max(initial=-1) < end)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Of several processes, one is inside at a time, and the others wait."""
    with path.open("w") as file:
        # On a file system without locks the work is done twice, and each writes by rename.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
