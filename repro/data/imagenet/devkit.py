"""The labels of ILSVRC2012's validation images, from its development kit.

The kit has its own class numbers, and maps them to wnids only in a MATLAB file. This module reads
the part of that format ('MAT-File Format', level 5, The MathWorks) that is needed, without scipy:
one array of structures, compressed or not.
"""

from __future__ import annotations

import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from repro.data.images import DataError, check_md5, file_bytes, reason

ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"  # a number per line
META = "data/meta.mat"
_MAX_BYTES = 2**24  # of a part, unpacked

_MATRIX, _COMPRESSED = 14, 15
_STRUCT = 2  # the class of an array
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8", 16: "u1", 17: "u2"}  # fmt: skip


def wnids(archive: Path, md5: str | None, next_step: str) -> list[str]:
    """The class of validation images 1, 2, ... in order; `md5` of the archive, if it is known.

    Raises DataError if the archive is missing, damaged or a different one.
    """
    content = file_bytes(archive, next_step)
    if md5 is not None:
        check_md5(archive, content, md5, next_step)
    try:
        with tarfile.open(archive) as tar:
            files = {
                part: extracted.read(_MAX_BYTES)
                for member in tar
                for part in (GROUND_TRUTH, META)
                if member.name.endswith(part) and (extracted := tar.extractfile(member))
            }
        wnid_of = class_wnids(files[META])
        return [wnid_of[int(line)] for line in files[GROUND_TRUTH].split()]
    except Exception as error:  # a damaged archive raises nearly anything
        raise DataError(f"{archive}: no labels in it ({reason(error)}); {next_step}") from error


def class_wnids(mat: bytes) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid, of the synsets in meta.mat that have no children: the classes.

    Raises ValueError, IndexError or struct.error where the file is not one.
    """
    for kind, data in _elements(mat[128:]):  # after the header
        elements = list(_elements(data)) if kind == _MATRIX else []
        if elements and elements[0][1][0] == _STRUCT:
            rows = _rows(elements)
            break
    else:
        raise ValueError("meta.mat holds no structures")
    return {
        int(_value(row["ILSVRC2012_ID"])[0]): bytes(_value(row["WNID"]).astype("u1")).decode()
        for row in rows
        if _value(row["num_children"])[0] == 0
    }


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The data elements one after another: their type and content."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # a small element: type and size in two bytes each, then four of content
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        elif kind == _COMPRESSED:
            packed = data[at + 8 : at + 8 + size]
            yield from _elements(zlib.decompressobj().decompress(packed, _MAX_BYTES))
            at += 8 + size
        else:
            yield kind, data[at + 8 : at + 8 + size]
            at += 8 + -(-size // 8) * 8


def _rows(elements: list[tuple[int, bytes]]) -> list[dict[str, bytes]]:
    """The structures of an array: flags, dimensions, name, width of a name, names, values."""
    width = int.from_bytes(elements[3][1], "little")
    text = elements[4][1]
    fields = [text[at : at + width].rstrip(b"\0").decode() for at in range(0, len(text), width)]
    values = [data for _, data in elements[5:]]
    return [
        dict(zip(fields, values[at : at + len(fields)], strict=True))
        for at in range(0, len(values), len(fields))
    ]


def _value(matrix: bytes) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    """The numbers, or the characters' codes, of an array: flags, dimensions, name, values."""
    kind, data = list(_elements(matrix))[3]
    return np.frombuffer(data, f"<{_NUMBERS[kind]}")
