"""The index of a scanned dataset: one .npz a split, from which `Photos` are made at once.

Images are in the order of (label, name without its ending), so that the n-th image, on which all
randomness hangs, is the same one in a folder tree, in tar files and in WebDataset shards.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from repro.data.images import Bytes, Labels
from repro.data.photos import MEAN, STD, Photos
from repro.data.scan import Container, Part

VERSION = 1
ARRAYS = ("file", "offset", "length", "labels", "names", "spans")


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
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
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
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about: dict[str, Any] = json.loads(stored["about"].tobytes())
            if about["version"] != VERSION or about["containers"] != [
                list(astuple(container)) for container in containers
            ]:
                return None
            arrays = {name: torch.from_numpy(stored[f"photos.{name}"]) for name in ARRAYS}
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, EOFError):
        return None  # a scan makes it new
    return Photos(
        files=tuple(folder / file for file in about["files"]),
        classes=tuple(about["classes"]),
        mean=MEAN,
        std=STD,
        fingerprint=about["fingerprint"],
        **arrays,
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Of several processes, one is inside at a time, and the others wait."""
    with path.open("w") as file:
        # On a file system without locks the work is done twice, and each writes by rename.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
