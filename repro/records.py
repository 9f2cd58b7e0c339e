"""What is read from disk is checked here first: whole, small, strict, and of the expected schema.

A file may hold anything: another program wrote it, a disk lost half of it, or somebody edited it.
Every reader of JSON goes through `read` or `decode`, and every reader of numpy's files through
`arrays` or `mapped`, which either return what was asked for or raise Damaged; a test holds this.
JSON has no NaN, here neither in nor out.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BYTES = 16 * 2**20  # of a JSON file
MOST_ARRAY_BYTES = 2**30  # of the arrays in a file, unpacked
MOST_DEPTH = 32  # of lists and objects in each other

# A number above zero. Not `gt=0`: msgspec compares with the least denormal, which is zero where
# torch flushes denormals.
Positive = Annotated[float, msgspec.Meta(ge=1e-30)]

T = TypeVar("T")


class Damaged(ValueError):
    """What is wrong with the content of a file: one line without the file's name."""


def content(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises OSError if it cannot be read (FileNotFoundError if there is none), Damaged if it is no
    regular file or is larger than `most`.
    """
    size_here = size(path)
    require(size_here <= most, f"{size_here:,} bytes, where {most:,} are the most")
    return chunk(path, 0, size_here)


def size(path: Path) -> int:
    """Bytes of a regular file. Raises OSError, or Damaged if it is no regular file."""
    with opened(path) as file:
        return os.fstat(file.fileno()).st_size


def chunk(path: Path, start: int, most: int = MOST_BYTES) -> bytes:
    """At most `most` bytes of a regular file from `start`. Raises as `size`."""
    with opened(path) as file:
        file.seek(start)
        return file.read(most)


def opened(path: Path) -> io.BufferedReader:
    """A regular file, to be read. Raises OSError, or Damaged if it is no regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        require(stat.S_ISREG(os.fstat(descriptor).st_mode), "not a regular file")
    except Damaged:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read(path: Path, schema: type[T]) -> T:
    """The JSON in a file, as the schema describes it. Raises OSError or Damaged, as `content`."""
    return decode(content(path), schema)


def decode(data: bytes, schema: type[T]) -> T:
    """JSON as a value of the schema: a TypedDict, a dataclass or anything that msgspec knows.

    Raises Damaged for what is no JSON, nests too deeply, or does not fit the schema.
    """
    if data.count(b"{") + data.count(b"[") > MOST_DEPTH and _depth(data) > MOST_DEPTH:
        raise Damaged(f"lists or objects in each other, more than {MOST_DEPTH} deep")
    try:
        return msgspec.json.decode(data, type=schema)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Damaged(one_line(str(error))) from error


def _depth(data: bytes) -> int:
    """How deeply lists and objects lie in each other."""
    depth = most = 0
    for token in re.findall(rb'"(?:[^"\\]|\\.)*+"|[][{}]', data, re.DOTALL):
        if token in b"[{":
            depth += 1
            most = max(most, depth)
        elif token in b"]}":
            depth -= 1
    return most


def encode(value: object, indent: int | None = None, *, sort_keys: bool = False) -> str:
    """The value as JSON. Raises ValueError for NaN and infinite numbers, which JSON has not."""
    return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)


def check(value: object, schema: type[T]) -> T:
    """What JSON was read as, as a value of a narrower schema. Raises Damaged if it does not fit."""
    try:
        return msgspec.convert(value, schema)
    except msgspec.MsgspecError as error:
        raise Damaged(one_line(str(error))) from error


def arrays(
    source: bytes | Path, names: Collection[str] | None = None, most: int = MOST_ARRAY_BYTES
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name, of these names only where they are given.

    Executes no code from it. Raises Damaged if it is none, or they have more than `most` bytes, and
    OSError if a file cannot be read.
    """
    import numpy as np

    with opened(source) if isinstance(source, Path) else io.BytesIO(source) as file:
        try:
            with (
                warnings.catch_warnings(action="error"),
                np.load(file, allow_pickle=False) as stored,
            ):
                chosen = [name for name in stored.files if names is None or name in names]
                entries = stored.zip.infolist()
                size = sum(
                    e.file_size for e in entries if e.filename.removesuffix(".npy") in chosen
                )
                require(size <= most, f"arrays of {size:,} bytes")
                found = {name: stored[name] for name in chosen}
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for what is none
            what = one_line(f"{type(error).__name__}: {error}")
            raise Damaged(f"not an .npz: {what}") from error
    for name, value in found.items():  # a member that is no array comes as bytes
        require(isinstance(value, np.ndarray), f"not an array: {name!r}")
    return found


def arrays_of(data: bytes, shapes: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """The same, with an array of each name; `shapes`: numpy's letters of its kinds, dimensions."""
    found = arrays(data)
    for name, (kinds, dimensions) in shapes.items():
        require(name in found, f"no array {name!r}")
        array = found[name]
        good = array.dtype.kind in kinds and array.ndim == dimensions
        require(good, f"{name!r} is {array.dtype} of shape {array.shape}")
    return found


def mapped(path: Path) -> NDArray[Any]:
    """The array of an .npy, mapped read-only from its file, which is whole.

    Raises OSError if it cannot be read, Damaged if it is none.
    """
    import numpy as np

    size_here = size(path)
    try:
        with warnings.catch_warnings(action="error"):
            found = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy evaluates the header as Python's literal
        what = one_line(f"{type(error).__name__}: {error}")
        raise Damaged(f"not an .npy: {what}") from error
    require(found.offset + found.nbytes == size_here, f"{size_here:,} bytes, more than its array")
    return found


def require(holds: object, what: str) -> None:
    """Raise Damaged with these words unless it holds."""
    if not holds:
        raise Damaged(what)


def one_line(text: str, most: int = 200) -> str:
    """A text from elsewhere as one line of a message, cut where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"
