"""What lies in folders and tar files of images, found once, in parallel, and kept.

The scan of each container is kept in a journal beside the index, so that a scan that is killed
goes on where it was. The index is believed while its containers have the sizes and times they had.
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

from repro import records
from repro.data.images import Bytes, DataError, Labels, reason
from repro.data.tars import IMAGE, labelled, members

WNID = re.compile(r"n\d{8}")
THREADS = 32  # they wait for the file system
PROGRESS_S = 5.0
_MOST_LINE = 2**16  # bytes of JSON in the journal

Kind = Literal["folder", "tar", "tar of tars", "shard"]


@dataclass(frozen=True)
class Container:
    """A folder of images, or a tar file, or a stretch of one; `path` is in the dataset's folder."""

    path: str
    kind: Kind
    wnid: str = ""  # the class of all its images, or '': of each image its own
    start: int = 0  # bytes, of a tar
    stop: int = 0
    modified_ns: int = 0


class Part(NamedTuple):
    """What was found in one container: a row an image."""

    names: Bytes  # in UTF-8, one after another
    sizes: Labels  # (N,) bytes of each name
    stems: Labels  # (N, 2) where in the name that part lies which no format changes
    offset: Labels  # (N,) bytes; -1: a file of its own
    length: Labels  # (N,) bytes
    label: Labels  # (N,) -1 where the container, or the name, says the class


def stated(folder: Path, containers: Sequence[Container]) -> list[Container]:
    """The containers with their sizes and times of now; OSError for one that is gone."""

    def look(container: Container) -> Container:
        status = (folder / container.path).stat()
        stop = 0 if container.kind == "folder" else status.st_size
        return replace(container, stop=stop, modified_ns=status.st_mtime_ns)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, containers))


def scan(
    folder: Path, containers: Sequence[Container], journal: Path, title: str
) -> list[tuple[Container, Part]]:
    """Every container with what is in it, in order; a tar of tars as the tars that it holds.

    Progress goes to stderr, what is found to `journal`. DataError for a tar that is damaged.
    """
    units = [unit for container in containers for unit in _units(folder, container)]
    known = dict(_read_journal(journal))
    missing = [unit for unit in units if unit not in known]
    shown = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool, journal.open("ab") as file:
        try:
            for unit, part in pool.map(lambda unit: (unit, _look(folder, unit)), missing):
                known[unit] = part
                _append(file, unit, part)
                if time.monotonic() - shown > PROGRESS_S:
                    shown = time.monotonic()
                    _say(f"{title}: scanned {len(known):,} of {len(units):,} folders or tars")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [(unit, known[unit]) for unit in units]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- one container ------------------------------------------------------------------------------


def _units(folder: Path, container: Container) -> Iterator[Container]:
    if container.kind != "tar of tars":
        yield container
        return
    path = folder / container.path
    for name, offset, size in members(path, 0, container.stop):
        stem = Path(name).stem
        if name.endswith(".tar") and WNID.fullmatch(stem):
            yield replace(container, kind="tar", wnid=stem, start=offset, stop=offset + size)


def _look(folder: Path, unit: Container) -> Part:
    path = folder / unit.path
    try:
        if unit.kind == "folder":
            with os.scandir(path) as entries:
                found = [
                    (entry.name, -1, entry.stat().st_size, -1)
                    for entry in entries
                    if IMAGE.fullmatch(entry.name) and entry.is_file()
                ]
        elif unit.kind == "shard":
            found = labelled(path, unit.stop)
        else:
            found = [
                (*member, -1)
                for member in members(path, unit.start, unit.stop)
                if IMAGE.fullmatch(member[0])
            ]
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}; make it readable and try again") from error
    return _part(found, first_dot=unit.kind == "shard")


def _part(found: list[tuple[str, int, int, int]], first_dot: bool) -> Part:
    names = [os.fsencode(name) for name, _, _, _ in found]
    stems = []
    for name in names:
        begin = name.rfind(b"/") + 1
        end = name.find(b".", begin) if first_dot else name.rfind(b".")
        stems.append((begin, end))
    numbers = np.array([row[1:] for row in found], np.int64).reshape(-1, 3)
    return Part(
        np.frombuffer(b"".join(names), np.uint8),
        np.array([len(name) for name in names], np.int64),
        np.array(stems, np.int64).reshape(-1, 2),
        *numbers.T,
    )


# ---- the journal: a line of JSON and an .npz a container -----------------------------------------


def _append(file: BinaryIO, unit: Container, part: Part) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **part._asdict())
    data = buffer.getvalue()
    about = {"unit": asdict(unit), "bytes": len(data), "crc": zlib.crc32(data)}
    file.write(records.encode(about).encode() + b"\n" + data)
    file.flush()


class _Entry(TypedDict):
    unit: Container
    bytes: Annotated[int, Meta(ge=0)]
    crc: int


def _read_journal(path: Path) -> Iterator[tuple[Container, Part]]:
    """What was kept whole; what a kill left half written, or is damaged, is cut off.

    Raises OSError, or DataError if it is no regular file.
    """
    try:
        size = records.size(path)
    except FileNotFoundError:
        return
    except records.Damaged as error:
        raise DataError(f"{path}: {error}; remove it") from error
    whole = 0
    with records.opened(path) as file:
        while line := file.readline(_MOST_LINE):
            try:
                entry = records.decode(line, _Entry)
                data = file.read(min(entry["bytes"], size))
                records.require(zlib.crc32(data) == entry["crc"], "another content")
                part = _part_in(data)
            except records.Damaged:
                break
            yield entry["unit"], part
            whole = file.tell()
    os.truncate(path, whole)


def _part_in(data: bytes) -> Part:
    """A part as it was appended. Raises Damaged if it is none."""
    shapes = {"names": ("u", 1), "stems": ("i", 2)}
    shapes |= dict.fromkeys(("sizes", "offset", "length", "label"), ("i", 1))
    found = records.arrays_of(data, shapes)
    part = Part(**{name: found[name] for name in Part._fields})
    numbers = part[1:]
    records.require(part.names.dtype == np.uint8, "names that are no bytes")
    records.require({column.dtype for column in numbers} == {np.dtype(np.int64)}, "short numbers")
    records.require(len({len(column) for column in numbers}) == 1, "columns of several lengths")
    records.require(part.stems.shape[1] == 2, "stems without a begin and an end")
    begin, end = part.stems.T
    inside = ((begin >= 0) & (begin <= end) & (end <= part.sizes)).all()
    records.require(inside and part.sizes.sum() == len(part.names), "names that are not whole")
    records.require((part.offset >= -1).all() and (part.length >= 0).all(), "no place in a file")
    return part
