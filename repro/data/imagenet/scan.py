"""Scan folders and tar files of images once, in parallel.

The scan of each container is stored in a journal beside the index, so that a killed scan resumes.
The index is valid as long as the sizes and modification times of its containers are unchanged.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple, TypedDict

import numpy as np
from msgspec import Meta

from repro.core import records
from repro.data.imagenet.tars import IMAGE, labelled_images, members
from repro.data.images import Bytes, DataError, Labels, reason

WNID = re.compile(r"n\d{8}")
THREADS = 32  # they wait for the file system
PROGRESS_S = 5.0
_MAX_LINE_BYTES = 2**16  # bytes of JSON in the journal

ContainerKind = Literal["folder", "tar", "tar of tars", "shard"]


@dataclass(frozen=True)
class Container:
    """A folder of images, a tar file, or a range of one; `path` is in the dataset's folder."""

    path: str
    kind: ContainerKind
    wnid: str = ""  # the class of all its images; '': each image has its own
    start: int = 0  # bytes, of a tar
    stop: int = 0
    modified_ns: int = 0


class ContainerImages(NamedTuple):
    """The images of one container, one row per image."""

    names: Bytes  # in UTF-8, one after another
    sizes: Labels  # (N,) bytes of each name
    stems: Labels  # (N, 2) the span of the stem within the name, the same in every format
    offset: Labels  # (N,) bytes; -1: a file of its own
    length: Labels  # (N,) bytes
    label: Labels  # (N,) -1 if the class is in the name of the container or image


def with_file_stats(folder: Path, containers: Sequence[Container]) -> list[Container]:
    """The containers with their current sizes and times; OSError if one is missing."""

    def with_stats(container: Container) -> Container:
        status = (folder / container.path).stat()
        stop = 0 if container.kind == "folder" else status.st_size
        return replace(container, stop=stop, modified_ns=status.st_mtime_ns)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(with_stats, containers))


def scan(
    folder: Path, containers: Sequence[Container], journal: Path, title: str
) -> list[tuple[Container, ContainerImages]]:
    """Every container with its images, in order; a tar of tars as its inner tars.

    Progress goes to stderr, results to `journal`. DataError for a tar that is damaged.
    """
    units = [unit for container in containers for unit in _expand(folder, container)]
    scanned = dict(_read_journal(journal))
    missing = [unit for unit in units if unit not in scanned]
    last_shown = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool, journal.open("ab") as file:
        try:
            for unit, part in pool.map(lambda unit: (unit, _scan_container(folder, unit)), missing):
                scanned[unit] = part
                _append(file, unit, part)
                if time.monotonic() - last_shown > PROGRESS_S:
                    last_shown = time.monotonic()
                    _print_progress(
                        f"{title}: scanned {len(scanned):,} of {len(units):,} folders or tars"
                    )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [(unit, scanned[unit]) for unit in units]


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- one container ------------------------------------------------------------------------------


def _expand(folder: Path, container: Container) -> Iterator[Container]:
    if container.kind != "tar of tars":
        yield container
        return
    path = folder / container.path
    for name, offset, size in members(path, 0, container.stop):
        stem = Path(name).stem
        if name.endswith(".tar") and WNID.fullmatch(stem):
            yield replace(container, kind="tar", wnid=stem, start=offset, stop=offset + size)


def _scan_container(folder: Path, unit: Container) -> ContainerImages:
    path = folder / unit.path
    try:
        if unit.kind == "folder":
            with os.scandir(path) as entries:
                rows = [
                    (entry.name, -1, entry.stat().st_size, -1)
                    for entry in entries
                    if IMAGE.fullmatch(entry.name) and entry.is_file()
                ]
        elif unit.kind == "shard":
            rows = labelled_images(path, unit.stop)
        else:
            rows = [
                (*member, -1)
                for member in members(path, unit.start, unit.stop)
                if IMAGE.fullmatch(member[0])
            ]
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}; make it readable and try again") from error
    return _to_arrays(rows, first_dot=unit.kind == "shard")


def _to_arrays(rows: list[tuple[str, int, int, int]], first_dot: bool) -> ContainerImages:
    names = [os.fsencode(name) for name, _, _, _ in rows]
    stems = []
    for name in names:
        begin = name.rfind(b"/") + 1
        end = name.find(b".", begin) if first_dot else name.rfind(b".")
        stems.append((begin, end))
    numbers = np.array([row[1:] for row in rows], np.int64).reshape(-1, 3)
    return ContainerImages(
        np.frombuffer(b"".join(names), np.uint8),
        np.array([len(name) for name in names], np.int64),
        np.array(stems, np.int64).reshape(-1, 2),
        *numbers.T,
    )


# ---- the journal: a line of JSON and an .npz for each container ---------------------------------


def _append(file: BinaryIO, unit: Container, part: ContainerImages) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **part._asdict())
    data = buffer.getvalue()
    about = {"unit": asdict(unit), "bytes": len(data), "crc": zlib.crc32(data)}
    file.write(records.encode(about).encode() + b"\n" + data)
    file.flush()


class _JournalEntry(TypedDict):
    unit: Container
    bytes: Annotated[int, Meta(ge=0)]
    crc: int


def _read_journal(path: Path) -> Iterator[tuple[Container, ContainerImages]]:
    """The complete entries; truncates a torn or damaged tail.

    Raises OSError, or DataError if it is not a regular file.
    """
    try:
        size = records.file_size(path)
    except FileNotFoundError:
        return
    except records.Damaged as error:
        raise DataError(f"{path}: {error}; remove it") from error
    intact = 0
    with records.open_file(path) as file:
        while line := file.readline(_MAX_LINE_BYTES):
            try:
                entry = records.decode(line, _JournalEntry)
                data = file.read(min(entry["bytes"], size))
                records.require(zlib.crc32(data) == entry["crc"], "CRC mismatch")
                part = _decode_arrays(data)
            except records.Damaged:
                break
            yield entry["unit"], part
            intact = file.tell()
    os.truncate(path, intact)


def _decode_arrays(data: bytes) -> ContainerImages:
    """The images of an entry. Raises Damaged if the data are invalid."""
    shapes = {"names": ("u", 1), "stems": ("i", 2)}
    shapes |= dict.fromkeys(("sizes", "offset", "length", "label"), ("i", 1))
    arrays = records.read_typed_arrays(data, shapes)
    part = ContainerImages(**{name: arrays[name] for name in ContainerImages._fields})
    numbers = part[1:]
    records.require(part.names.dtype == np.uint8, "names that are not bytes")
    records.require(
        {column.dtype for column in numbers} == {np.dtype(np.int64)}, "columns that are not int64"
    )
    records.require(len({len(column) for column in numbers}) == 1, "columns of several lengths")
    records.require(part.stems.shape[1] == 2, "stems without a begin and an end")
    begin, end = part.stems.T
    inside = ((begin >= 0) & (begin <= end) & (end <= part.sizes)).all()
    records.require(inside and part.sizes.sum() == len(part.names), "names that are incomplete")
    records.require(
        (part.offset >= -1).all() and (part.length >= 0).all(), "a negative offset or length"
    )
    return part
