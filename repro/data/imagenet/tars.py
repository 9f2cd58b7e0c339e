"""Names and offsets of the files in uncompressed tars, to read them without unpacking."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from repro.core import records
from repro.data.images import DataError, reason

# One of ImageNet's JPEG files is a PNG. A base name with a leading dot is macOS's, not an image.
IMAGE = re.compile(r"(.*/)?[^./][^/]*\.(jpe?g|png)", re.IGNORECASE)
BLOCK = 512  # bytes
_MAX_HEADER_BYTES = 2**20  # bytes of a long name, or of a pax header


def members(path: Path, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """The name, offset and size of every file in a tar that fills [start, stop) of `path`.

    Raises DataError for one that is damaged or ends too early, at the latest after its last file.
    """
    broken = f"{path}: damaged or truncated tar file; replace it"
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        at, long_name = start, ""
        extended: dict[str, str] = {}
        while at + BLOCK <= stop:
            header = os.pread(descriptor, BLOCK, at)
            if not any(header) and len(header) == BLOCK:
                return
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            data, size = at + BLOCK, int(extended.get("size", info.size))
            records.require(0 <= size <= stop - data, f"a member of {size:,} bytes")
            at = data + -(-size // BLOCK) * BLOCK
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
                records.require(size <= _MAX_HEADER_BYTES, f"a header of {size:,} bytes")
            if info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = os.fsdecode(os.pread(descriptor, size, data).rstrip(b"\0"))
            elif info.type == tarfile.XHDTYPE:
                extended = _pax_records(os.pread(descriptor, size, data))
            else:
                if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    yield long_name or extended.get("path", info.name), data, size
                long_name, extended = "", {}
    except (tarfile.TarError, ValueError) as error:
        raise DataError(f"{broken} ({reason(error)})") from error
    finally:
        os.close(descriptor)
    raise DataError(broken)


def _pax_records(data: bytes) -> dict[str, str]:
    """The records 'length key=value\\n' of a pax header."""
    records = {}
    while data:
        length = int(data[: data.index(b" ")])
        if length < 1:
            raise ValueError("a pax header without a length")
        key, _, value = data[:length].partition(b" ")[2].partition(b"=")
        records[os.fsdecode(key)] = os.fsdecode(value.removesuffix(b"\n"))
        data = data[length:]
    return records


def labelled_images(path: Path, stop: int) -> list[tuple[str, int, int, int]]:
    """The images of a WebDataset shard, each with the label of its .cls or .json."""
    images, labels = {}, {}
    with records.open_file(path) as file:
        for name, offset, size in members(path, 0, stop):
            key, _, ending = _split_name(name)
            if IMAGE.fullmatch(name):
                images[key] = (name, offset, size)
            elif ending == "cls" or (ending == "json" and key not in labels):
                file.seek(offset)
                label = _parse_label(file.read(min(size, records.MAX_BYTES)), ending)
                if label is not None:
                    labels[key] = label
    for key, (name, _, _) in images.items():
        if key not in labels:
            problem = f"no {key}.cls and no label in {key}.json"
            raise DataError(f"{path.name}:{name}: {problem}; replace the shard {path}")
    return [(*image, labels[key]) for key, image in images.items()]


def _split_name(name: str) -> tuple[str, str, str]:
    """A shard's member: its key, up to the first dot of its base name, '.' and the rest."""
    head, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return head + slash + stem, dot, ending


def _parse_label(content: bytes, ending: str) -> int | None:
    """The label in a member, of at most 31 bits; None if there is none."""
    try:
        if ending == "cls":
            value: object = int(content)
        else:
            about = records.decode(content, dict[str, object])
            value = about.get("label", about.get("cls"))
    except ValueError:
        return None
    return value if type(value) is int and abs(value) < 2**31 else None
