"""A bundle: finished runs in one file, to be taken to another results folder.

It is a zip archive without compression, times, comments and extra fields:

  manifest.json     the site that exported it; for each run its id, the site that computed it, and
                    the name, size and SHA-256 of each of its files
  <run id>/<file>   these files, in the order of the manifest

The same runs and site make the same bytes. `open_bundle` accepts only an archive that `write` would
write, to the byte. Links, devices, folders, encryption, compression, duplicate names and bytes
between entries are refused, since programs for zip files treat them differently.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, TypedDict

from msgspec import Meta

from repro.core import artifacts, records
from repro.core.records import Damaged, require
from repro.results import Digest, Site

MANIFEST = "manifest.json"
FORMAT, SCHEMA = "repro results", 1
MAX_BYTES = 2**31 - 1  # of a bundle
MAX_FILE_BYTES = 2**28  # of a file in it
MAX_ENTRIES = 50_000

_ID, _FILE = r"[A-Za-z0-9][A-Za-z0-9._-]*", r"(?:[a-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*"

RunId = Annotated[str, Meta(pattern=rf"^{_ID}\Z", max_length=200)]
FileName = Annotated[str, Meta(pattern=rf"^{_FILE}\Z", max_length=200)]


class BundledFile(TypedDict):
    """A file of a run. `bytes`: its size."""

    name: FileName
    bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
    sha256: Digest


class BundledRun(TypedDict):
    """A run. `site`: where it was computed, as far as the exporting site knows."""

    id: RunId
    site: Site
    files: Annotated[list[BundledFile], Meta(min_length=1, max_length=100)]


class Manifest(TypedDict):
    """What MANIFEST holds."""

    format: Literal["repro results"]
    schema: Annotated[int, Meta(ge=1, le=2**31)]
    site: Site
    runs: Annotated[list[BundledRun], Meta(min_length=1, max_length=MAX_ENTRIES)]


@dataclass(frozen=True)
class _Entry:
    """A file of the archive. `start`: of its header, in bytes from the beginning."""

    name: str
    crc: int
    size: int
    start: int

    @property
    def end(self) -> int:
        return self.start + _LOCAL.size + len(self.name) + self.size


@dataclass(frozen=True)
class Bundle:
    """A bundle that is open, its manifest checked. `digest`: the SHA-256 of the manifest."""

    manifest: Manifest
    digest: str
    _file: io.BufferedReader
    _entries: Mapping[str, _Entry]

    def content(self, run: BundledRun, file: BundledFile) -> bytes:
        """The bytes of a file of a run. Raises Damaged if they are not those of the manifest."""
        name = f"{run['id']}/{file['name']}"
        data = _read_entry(self._file, self._entries[name])
        good = artifacts.digest(data) == file["sha256"]
        require(good, f"{name}: its digest is not that in the manifest")
        return data


# --- writing -------------------------------------------------------------------------------------


def write(file: BinaryIO, manifest: Manifest, root: Path) -> None:
    """Write a bundle of runs whose folders are in `root`, as the manifest lists them.

    Raises OSError for a file that cannot be read, Damaged for one that is not as in the manifest,
    and for more bytes or entries than a bundle may have.
    """
    entries = list[_Entry]()
    for name, data in _members(manifest, root):
        entry = _Entry(name, zlib.crc32(data), len(data), entries[-1].end if entries else 0)
        require(entry.end <= MAX_BYTES, f"more than {MAX_BYTES:,} bytes; export fewer runs")
        require(len(entries) < MAX_ENTRIES, f"more than {MAX_ENTRIES:,} files; export fewer runs")
        file.write(_local_header(entry))
        file.write(data)
        entries.append(entry)
    file.write(_tail(entries))


def _members(manifest: Manifest, root: Path) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the archive's files."""
    yield MANIFEST, encode_manifest(manifest)
    for run in manifest["runs"]:
        for file in run["files"]:
            name = f"{run['id']}/{file['name']}"
            data = records.read_bytes(root / name, MAX_FILE_BYTES)
            require(artifacts.digest(data) == file["sha256"], f"{name} changed while it was read")
            yield name, data


def describe_file(name: str, data: bytes) -> BundledFile:
    """The entry of the manifest for a file of a run. Raises Damaged for one that is too large."""
    size = len(data)
    require(size <= MAX_FILE_BYTES, f"{name}: {size:,} bytes; at most {MAX_FILE_BYTES:,}")
    return BundledFile(name=name, bytes=size, sha256=artifacts.digest(data))


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is stored: the one spelling of its content."""
    return (records.encode(manifest, indent=1, sort_keys=True) + "\n").encode()


# --- reading -------------------------------------------------------------------------------------


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """A bundle, to be read. Raises OSError, or Damaged for what `write` has not written.

    The content of its files is checked as it is read.
    """
    with records.open_file(path) as file:
        entries = _read_directory(file, os.fstat(file.fileno()).st_size)
        names = [entry.name for entry in entries]
        require(names[0] == MANIFEST, f"its first entry is {_shown(names[0])}, not {MANIFEST}")
        data = _read_entry(file, entries[0])
        manifest = _read_manifest(data)
        stated = [(MANIFEST, len(data))]
        stated += [
            (f"{run['id']}/{file['name']}", file["bytes"])
            for run in manifest["runs"]
            for file in run["files"]
        ]
        actual = [(entry.name, entry.size) for entry in entries]
        for left, right in zip(stated, actual, strict=False):
            require(left == right, f"{_shown(right[0])} is not the entry that its manifest lists")
        require(len(stated) == len(actual), "its manifest lists more or fewer files than it has")
        by_name = {entry.name: entry for entry in entries}
        yield Bundle(manifest, artifacts.digest(data), file, by_name)


def _read_manifest(data: bytes) -> Manifest:
    """The manifest in its file. Raises Damaged if it is none, or of another schema."""
    try:
        require(len(data) <= records.MAX_BYTES, f"{len(data):,} bytes")
        head = records.decode(data, _Head)
        about = f"of schema {head['schema']}, where this version reads {SCHEMA}; update the older"
        require(head["schema"] == SCHEMA, about)
        manifest = records.decode(data, Manifest)
        require(encode_manifest(manifest) == data, "not as `repro export` writes it")
        ids = [run["id"] for run in manifest["runs"]]
        require(ids == sorted(set(ids)), "its runs are not in order, or one is there twice")
        for run in manifest["runs"]:
            files = [file["name"] for file in run["files"]]
            require(files == sorted(set(files)), f"the files of {run['id']} are not in order")
    except Damaged as error:
        raise Damaged(f"{MANIFEST}: {error}") from error
    return manifest


class _Head(TypedDict):
    """What a manifest of any schema has."""

    format: Literal["repro results"]
    schema: Annotated[int, Meta(ge=1, le=2**31)]


def _read_entry(file: io.BufferedReader, entry: _Entry) -> bytes:
    """The bytes of an entry. Raises Damaged if they are not those that the directory describes."""
    file.seek(entry.start)
    header = file.read(_LOCAL.size + len(entry.name))
    require(header == _local_header(entry), f"{entry.name}: its header is not that of a bundle")
    data = file.read(entry.size)
    require(len(data) == entry.size, f"{entry.name} is truncated")
    require(zlib.crc32(data) == entry.crc, f"{entry.name}: its checksum is another")
    return data


def _read_directory(file: io.BufferedReader, size: int) -> Sequence[_Entry]:
    """The entries of the archive; there is at least one. Raises Damaged for what is not ours."""
    require(size <= MAX_BYTES, f"{size:,} bytes, where {MAX_BYTES:,} are the most")
    what = "not a bundle, or truncated: it does not end as one"
    require(size >= _END.size, what)
    file.seek(size - _END.size)
    signature, *_, count, length, start, _ = _END.unpack(file.read(_END.size))
    require(signature == _END_SIGNATURE, what)
    require(count <= MAX_ENTRIES, f"{count:,} entries, where {MAX_ENTRIES:,} are the most")
    require(start + length + _END.size == size, what)
    require(length <= count * (_CENTRAL.size + 2 * _MAX_NAME), "its directory is too long")
    file.seek(start)
    data = file.read(length)
    entries = list[_Entry]()
    end = 0
    for header in _parse_directory(data, count):
        header.check(start)
        entries.append(_Entry(header.name, header.crc, header.size, end))
        end = entries[-1].end
    _check_names([entry.name for entry in entries])
    require(entries, "it has no entries")
    total = sum(entry.size for entry in entries)
    require(total <= start, f"its files have {total:,} bytes, the whole {size:,}")
    require(
        entries[-1].end == start, "it has bytes that belong to no entry, or entries that overlap"
    )
    file.seek(start)
    require(file.read() == _tail(entries), "not an archive as `repro export` writes it")
    return entries


@dataclass(frozen=True)
class _Description:
    """What the directory of any zip archive says of an entry."""

    name: str
    flags: int
    method: int
    crc: int
    stored: int  # bytes in the archive
    size: int  # bytes unpacked
    mode: int  # of a Unix file

    def check(self, most: int) -> None:
        """Raise Damaged, with what is wrong in words, unless the entry is a plain small file.

        `most`: bytes of all entries.
        """
        shown = _shown(self.name)
        require(not (why := _name_problem(self.name)), f"the name {shown} {why}")
        kind = stat.S_IFMT(self.mode)
        require(kind != stat.S_IFLNK, f"{shown} is a link")
        require(kind in (0, stat.S_IFREG), f"{shown} is no regular file (a device, pipe or folder)")
        require(not self.flags & _ENCRYPTED, f"{shown} is encrypted")
        require(self.method == 0, f"{shown} is compressed; the files of a bundle are not")
        text = f"{shown}: {self.size:,} bytes"
        require(self.size <= min(most, MAX_FILE_BYTES), f"{text}, more than a bundle may have")
        require(self.size == self.stored, f"{text} unpacked, but {self.stored:,} in the archive")


def _parse_directory(data: bytes, count: int) -> Iterator[_Description]:
    """The entries in the bytes of a directory. Raises Damaged if these are not `count` entries."""
    at = 0
    for _ in range(count):
        require(len(data) - at >= _CENTRAL.size, "its directory is truncated")
        signature, _, _, flags, method, _, _, crc, stored, size, *rest = _CENTRAL.unpack_from(
            data, at
        )
        require(signature == _CENTRAL_SIGNATURE, "its directory is damaged")
        of_name, of_extra, of_comment, _, _, attributes, _ = rest
        at += _CENTRAL.size
        name = data[at : at + of_name].decode("latin-1")  # what is not ASCII is refused by name
        at += of_name + of_extra + of_comment
        yield _Description(name, flags, method, crc, stored, size, attributes >> 16)
    require(at == len(data), "its directory is damaged")


def _name_problem(name: str) -> str:
    """Why a name cannot be that of an entry; '' if it can."""
    if len(name) > _MAX_NAME:
        return "is too long"
    if not (name.isascii() and name.isprintable()):
        return "has control characters, or others that are not ASCII"
    if name.startswith(("/", "\\", "~")) or re.match("[A-Za-z]:", name):
        return "is absolute"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of the folder"
    if name != MANIFEST and not re.fullmatch(f"{_ID}/{_FILE}", name):
        return "is not that of a file of a run"
    return ""


def _check_names(names: Iterable[str]) -> None:
    """Raise Damaged for a name that is there twice, or differs from another in its case only."""
    counts = Counter(names)
    for name, count in counts.items():
        require(count == 1, f"two entries are called {_shown(name)}")
    spelled = dict[str, str]()  # a folder or file by its name in lower case
    for name in counts:
        for path in (name, name.partition("/")[0]):
            other = spelled.setdefault(path.lower(), path)
            require(other == path, f"{_shown(other)} and {_shown(path)} differ in case only")


def _shown(name: str) -> str:
    """A name from the archive in a message."""
    return f"{name!a:.100}"


# --- the zip format ------------------------------------------------------------------------------

# A file's header, its entry in the directory, and the end of the directory (APPNOTE.TXT 4.3).
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\3\4", b"PK\1\2", b"PK\5\6"
_VERSION, _UNIX = 10, 3  # to extract a stored file; the system of the mode
_DAY = 0x21  # 1980-01-01, the first there is
_MODE = (stat.S_IFREG | 0o644) << 16
_ENCRYPTED = 0x2041  # bits 0, 6 and 13 of the flags
_MAX_NAME = 401  # bytes: a run's id, a slash and a file's name


def _local_header(entry: _Entry) -> bytes:
    name = entry.name.encode()
    sizes = entry.crc, entry.size, entry.size, len(name), 0
    return _LOCAL.pack(_LOCAL_SIGNATURE, _VERSION, 0, 0, 0, _DAY, *sizes) + name


def _tail(entries: Sequence[_Entry]) -> bytes:
    """The directory and its end."""
    parts = list[bytes]()
    for entry in entries:
        name = entry.name.encode()
        sizes = entry.crc, entry.size, entry.size, len(name), 0, 0
        before = _CENTRAL_SIGNATURE, _UNIX << 8 | _VERSION, _VERSION, 0, 0, 0, _DAY
        parts += _CENTRAL.pack(*before, *sizes, 0, 0, _MODE, entry.start), name
    directory = b"".join(parts)
    start = entries[-1].end
    return directory + _END.pack(
        _END_SIGNATURE, 0, 0, len(entries), len(entries), len(directory), start, 0
    )
