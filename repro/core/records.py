"""Reading files safely: every file is checked for completeness, size and schema.

A file may be truncated, edited, or written by another program. JSON is read with `read` or
`decode`, and numpy's files with `read_arrays` or `map_array`, which return a valid value or raise
Damaged; a test enforces this. NaN is neither read from JSON nor written to it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TypeVar
from uuid import uuid4

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BYTES = 16 * 2**20  # of a JSON file
MAX_ARRAY_BYTES = 2**30  # of all arrays in a file, uncompressed
MAX_DEPTH = 32  # of nested lists and objects

# A number above zero. Not `gt=0`: msgspec compares with the least denormal, which is zero where
# torch flushes denormals.
Positive = Annotated[float, msgspec.Meta(ge=1e-30)]

T = TypeVar("T")


class Damaged(ValueError):
    """A defect in the content of a file: one line without the file's name."""


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises OSError if it cannot be read (FileNotFoundError if it does not exist), Damaged if it is
    not regular or larger than `most`.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        require(size <= most, f"{size:,} bytes, where {most:,} are the most")
        return file.read(size)


def file_size(path: Path) -> int:
    """Bytes of a regular file. Raises OSError, or Damaged if it is not regular."""
    with open_file(path) as file:
        return os.fstat(file.fileno()).st_size


def read_chunk(path: Path, start: int, most: int = MAX_BYTES) -> bytes:
    """At most `most` bytes of a regular file from `start`. Raises as `file_size`."""
    with open_file(path) as file:
        file.seek(start)
        return file.read(most)


def open_file(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. Raises OSError, or Damaged if it is not regular."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        require(stat.S_ISREG(os.fstat(descriptor).st_mode), "not a regular file")
    except Damaged:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read(path: Path, schema: type[T]) -> T:
    """The JSON in a file as a value of the schema. Raises OSError or Damaged, as `read_bytes`."""
    return decode(read_bytes(path), schema)


def decode(data: bytes, schema: type[T]) -> T:
    """JSON as a value of the schema: a TypedDict, a dataclass or anything that msgspec knows.

    Raises Damaged if it is invalid JSON, nests too deeply, or does not fit the schema.
    """
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise Damaged(f"lists or objects nested more than {MAX_DEPTH} deep")
    try:
        return msgspec.json.decode(data, type=schema)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise Damaged(one_line(str(error))) from error


def _depth(data: bytes) -> int:
    """How deeply lists and objects are nested."""
    depth = most = 0
    for token in re.findall(rb'"(?:[^"\\]|\\.)*+"|[][{}]', data, re.DOTALL):
        if token in b"[{":
            depth += 1
            most = max(most, depth)
        elif token in b"]}":
            depth -= 1
    return most


def encode(value: object, indent: int | None = None, *, sort_keys: bool = False) -> str:
    """The value as JSON. Raises ValueError for NaN and infinite numbers."""
    return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)


def check(value: object, schema: type[T]) -> T:
    """Decoded JSON as a value of a narrower schema. Raises Damaged if it does not fit."""
    try:
        return msgspec.convert(value, schema)
    except msgspec.MsgspecError as error:
        raise Damaged(one_line(str(error))) from error


def read_arrays(
    source: bytes | Path, names: Collection[str] | None = None, most: int = MAX_ARRAY_BYTES
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name; `names`: only these.

    Executes no code from the file. Raises Damaged if it is not an .npz or the arrays have more than
    `most` bytes, and OSError if the file cannot be read.
    """
    import numpy as np

    with open_file(source) if isinstance(source, Path) else io.BytesIO(source) as file:
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
                arrays = {name: stored[name] for name in chosen}
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a bad file
            what = one_line(f"{type(error).__name__}: {error}")
            raise Damaged(f"not an .npz: {what}") from error
    for name, value in arrays.items():  # numpy returns a member that is not an array as bytes
        require(isinstance(value, np.ndarray), f"not an array: {name!r}")
    return arrays


def read_typed_arrays(data: bytes, types: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name. Raises Damaged as `read_arrays`, or unless `types` matches.

    types: by name, the allowed kinds of dtype in numpy's letters, and the number of dimensions.
    """
    arrays = read_arrays(data)
    for name, (kinds, dimensions) in types.items():
        require(name in arrays, f"no array {name!r}")
        array = arrays[name]
        fits = array.dtype.kind in kinds and array.ndim == dimensions
        require(fits, f"{name!r} is {array.dtype} of shape {array.shape}")
    return arrays


def map_array(path: Path) -> NDArray[Any]:
    """The array of an .npy, memory-mapped read-only.

    Raises OSError if the file cannot be read, Damaged if it is not an .npy or has another size.
    """
    import numpy as np

    size = file_size(path)
    try:
        with warnings.catch_warnings(action="error"):
            array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy evaluates the header as a Python literal
        what = one_line(f"{type(error).__name__}: {error}")
        raise Damaged(f"not an .npy: {what}") from error
    require(array.offset + array.nbytes == size, f"{size:,} bytes, more than its array")
    return array


def require(condition: object, message: str) -> None:
    """Raise Damaged with the message unless the condition is true."""
    if not condition:
        raise Damaged(message)


def one_line(text: str, most: int = 200) -> str:
    """A text from another source as one line of a message, truncated if it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write, renamed to `path` when the block ends without an error.

    A reader sees the old file or the complete new one. `sync`: flush to disk before the rename.
    Raises OSError if it cannot be written; the old file is kept.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a folder is refused below
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    scratch = path.with_name(f"{path.name}.{uuid4().hex}.tmp")  # unique across machines as well
    try:
        with scratch.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)  # remains after an error, such as a full disk
