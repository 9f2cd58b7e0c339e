"""ImageNet as uint8 crops of one size, decoded once and memory-mapped.

Both formats use Pillow's antialiased bicubic resampling. Each is a dataset of its own, with its own
name: a run on it is not a run on ImageNet.

256px, to train classifiers about ten times faster: resize the shorter side to 256 px, then take the
centre crop. A training crop therefore has fewer source pixels, is resampled twice, and never covers
the ends of the longer side. The 224 px test crop is almost, not exactly, that of the original.

64px, to train generators: take the centre crop at full resolution, then resize it to 64 px. Each
pixel depends on the crop only. The other order is nearly the same, but its border pixels mix in
content beside the crop, whose edges it rounds to whole pixels of 64. Guided diffusion first halves
with box filters, EDM uses Lanczos: the FID between such datasets is not zero.

`root / name` holds <split>.npy (N, 3, S, S), <split>-labels.npy and <split>.json, which is written
last. The images that 'validation' holds out of 'train' come last, so that every split is a slice
of the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import numpy.typing as npt
import PIL
import torch
from msgspec import Meta
from PIL import Image, features
from torch import Tensor

from repro.core import records
from repro.data.imagenet import photo_index
from repro.data.imagenet.photos import MEAN, STD, Photos
from repro.data.imagenet.verify import DECODE_ERRORS
from repro.data.images import (
    Bytes,
    DataError,
    Images,
    Labels,
    OfficialSplit,
    Split,
    read_json,
    reason,
    write_atomically,
)
from repro.data.user_image import FORMATS

CHUNK = 256  # images that are written at once: 50 MB of 256 px, 3 MB of 64 px
PROGRESS_S = 5.0

_Positive = Annotated[int, Meta(ge=1)]
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Manifest(TypedDict):
    """The content of <split>.json."""

    images: _Positive
    fit: Annotated[int, Meta(ge=0)]  # images that are not held out for validation
    fingerprint: str
    classes: list[str]
    source: dict[str, str]
    kernel: Annotated[str, Meta(max_length=200)]
    chunk: _Positive  # images
    sha256: list[_Digest]  # of the pixels of each chunk


@dataclass(frozen=True)
class CropFormat:
    """How an RGB image is cropped and resized to `side` px."""

    side: int
    kernel: str  # crop and resampling, as in the manifest; other files are refused
    crop: Callable[[Image.Image, int], Image.Image]


def resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """torchvision's Resize(side) and CenterCrop(side)."""
    short = min(image.size)
    size = (side * image.width // short, side * image.height // short)
    return _centre_crop(image.resize(size, Image.Resampling.BICUBIC), side)


def crop_and_resize(image: Image.Image, side: int) -> Image.Image:
    """torchvision's CenterCrop of the whole shorter side, and Resize(side)."""
    # Not resize(box=...), whose kernel reaches beyond the box; nor draft(), another kernel.
    return _centre_crop(image, min(image.size)).resize((side, side), Image.Resampling.BICUBIC)


def _centre_crop(image: Image.Image, side: int) -> Image.Image:
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


CROP_FORMATS = {
    "256px": CropFormat(
        256, "shorter side 256, bicubic, antialiased; centre square", resize_and_crop
    ),
    "64px": CropFormat(
        64, "centre square of the shorter side; 64 x 64, bicubic, antialiased", crop_and_resize
    ),
}  # fmt: skip
RESIZED = {
    f"{name}-{form}": name for form in CROP_FORMATS for name in ("imagenet", "imagenet-smoke")
}


def crop_format(name: str) -> CropFormat:
    """The format of a dataset in `RESIZED`."""
    return CROP_FORMATS[name.rpartition("-")[2]]


@dataclass(frozen=True)
class MappedImages(Images):
    """Images whose pixels are memory-mapped, read-only; writing to them crashes.

    For a worker, it is pickled as the name of the file.
    """

    place: tuple[Path, Split] = field(default=(Path(), "train"))

    def __reduce__(self) -> Any:
        return load, self.place


def load(folder: Path, split: Split) -> MappedImages:
    """A split of the crops in `folder`, memory-mapped; DataError if missing or incomplete."""
    official: OfficialSplit = "test" if split == "test" else "train"
    about, step = _manifest(folder, official), _rebuild_step(folder)
    form, mark, classes = crop_format(folder.name), about["fingerprint"], tuple(about["classes"])
    if about["kernel"] != form.kernel:
        path = folder / f"{official}.json"
        raise DataError(f"{path}: made with another kernel ({about['kernel']}); {step}")
    count = about["images"]
    pixels = _array(folder / f"{official}.npy", np.uint8, (count, 3, form.side, form.side), step)
    path = folder / f"{official}-labels.npy"
    labels: Labels = np.array(_array(path, np.int64, (count,), step))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"{path}: a label outside the {len(classes):,} classes; {step}")
    part = slice(about["fit"], None) if split == "validation" else slice(None)
    part = slice(0, about["fit"]) if split == "fit" else part
    if split != official:
        mark = hashlib.sha256(f"{mark} {split}".encode()).hexdigest()[:16]
    return MappedImages(
        _tensor(pixels)[part], torch.from_numpy(labels)[part], classes, MEAN, STD, mark,
        place=(folder, split),
    )  # fmt: skip


def _rebuild_step(folder: Path) -> str:
    """The next step of an error: how to rebuild the crops."""
    return f"remove {folder} and run `repro prepare {folder.name} --data {folder.parent}`"


def _manifest(folder: Path, split: OfficialSplit) -> _Manifest:
    """The manifest of a split; DataError if it is missing or inconsistent."""
    path, step = folder / f"{split}.json", _rebuild_step(folder)
    if not path.exists():
        step = step.partition(" and ")[2]
    about = read_json(path, _Manifest, step)
    chunks = -(-about["images"] // about["chunk"])
    if about["fit"] > about["images"] or len(about["sha256"]) != chunks:
        raise DataError(f"{path}: inconsistent numbers; {step}")
    return about


def _array(path: Path, kind: type, shape: tuple[int, ...], step: str) -> npt.NDArray[Any]:
    """The array in a file, memory-mapped; DataError unless it has this type and shape."""
    try:
        array = records.map_array(path)
        valid = array.dtype == kind and array.shape == shape
        records.require(valid, f"{array.dtype} {array.shape} is not of {shape[0]:,} images")
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {step}") from error
    return array


def _tensor(pixels: Bytes) -> Tensor:
    """The mapped array as a tensor. torch warns that it is not writable; nothing writes to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(pixels)


# ---- building ----------------------------------------------------------------------------------


def decode_and_crop(data: bytes, form: CropFormat) -> Bytes:
    """Decode a compressed image of any size and mode to a crop (3, S, S) uint8.

    Raises one of `verify.DECODE_ERRORS`.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(form.crop(image, form.side))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def build(
    name: str,
    split: OfficialSplit,
    root: Path,
    photos: Photos,
    held_out: Tensor | None,
    overwrite: bool,
) -> str:
    """Write the crops of `photos`, resuming after a kill; returns the line to print.

    `held_out` (N,) bool: images for validation. `overwrite`: replace crops of other photos or by
    another kernel. Raises DataError for an unreadable image, and for existing crops that are of
    other photos or have changed.
    """
    folder, source = root / name, _source(photos)
    folder.mkdir(exist_ok=True)
    with photo_index.file_lock(folder / f"{split}.lock"):
        if not _is_complete(folder, split, source, overwrite):
            _build(folder, split, photos, held_out, source)
    return f"{name} {split}: {len(photos):,} images in {folder / f'{split}.npy'}"


def _build(
    folder: Path,
    split: OfficialSplit,
    photos: Photos,
    held_out: Tensor | None,
    source: dict[str, str],
) -> None:
    order = torch.arange(len(photos))
    if held_out is not None:
        order = torch.cat([order[~held_out], order[held_out]])
    form = crop_format(folder.name)
    hashes = _write_pixels(folder / f"{split}.npy", photos, order, source, form)
    labels = photos.labels[order].numpy()
    np.save(folder / f"{split}-labels.npy", labels)
    digest = hashlib.sha256("".join(hashes).encode())
    digest.update(labels.astype("<i8").data)
    about = {
        "images": len(photos),
        "fit": len(photos) - (0 if held_out is None else int(held_out.sum())),
        "fingerprint": digest.hexdigest()[:16],
        "classes": photos.classes,
        "source": source,
        "kernel": form.kernel,
        "chunk": CHUNK,
        "sha256": hashes,
    }
    write_atomically(folder / f"{split}.json", (records.encode(about, indent=1) + "\n").encode())
    (folder / f"{split}.journal").unlink()


def _source(photos: Photos) -> dict[str, str]:
    """Everything that the pixels depend on, except the crop format."""
    jpeg = features.version("jpg") or "unknown"
    return {"photos": photos.fingerprint, "Pillow": PIL.__version__, "libjpeg": jpeg}


def _write_pixels(
    path: Path, photos: Photos, order: Tensor, source: dict[str, str], form: CropFormat
) -> list[str]:
    """Write the pixels in chunks, in parallel; returns the sha256 of each chunk."""
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    digests = _load_progress(path, len(photos), source, form)
    header = partial.stat().st_size - len(photos) * 3 * form.side**2  # bytes
    starts = range(0, len(photos), CHUNK)
    last_shown = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, journal.open("a") as file:
        pending = {
            pool.submit(_write_chunk, partial, header, photos, order, form, start): start
            for start in starts
            if start not in digests
        }
        try:
            for future in as_completed(pending):
                digests[pending[future]] = future.result()
                file.write(records.encode([pending[future], future.result()]) + "\n")
                file.flush()
                if time.monotonic() - last_shown > PROGRESS_S:
                    last_shown = time.monotonic()
                    count = f"{min(len(digests) * CHUNK, len(photos)):,} of {len(photos):,} images"
                    print(f"{path}: {count}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    os.replace(partial, path)
    return [digests[start] for start in starts]


def _load_progress(
    path: Path, count: int, source: dict[str, str], form: CropFormat
) -> dict[int, str]:
    """The sha256 of each chunk written so far from the same images in the same format."""
    settings = records.encode(source | {"kernel": form.kernel})
    shape = (count, 3, form.side, form.side)
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    if journal.exists():
        if path.exists() and not partial.exists():
            os.replace(path, partial)  # it was killed after its last chunk
        first, digests = _read_journal(journal)
        # When 256px was the only format, a journal named no kernel.
        if first in (settings, records.encode(source)) and _is_array(partial, shape):
            lines = [first, *map(records.encode, digests.items())]
            journal.write_text("".join(f"{line}\n" for line in lines))
            return digests
    partial.unlink(missing_ok=True)
    journal.unlink(missing_ok=True)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    journal.write_text(f"{settings}\n")
    return {}


def _read_journal(path: Path) -> tuple[str, dict[int, str]]:
    """Its first line, and the sha256 of each chunk, up to a torn or damaged line."""
    first, digests = b"", dict[int, str]()
    try:
        first, *lines = records.read_bytes(path).split(b"\n")[:-1] or [b""]
        for line in lines:
            start, digest = records.decode(line, tuple[int, _Digest])
            digests[start] = digest
    except records.Damaged:
        pass
    return first.decode(errors="replace"), digests


def _is_array(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the file has pixels of this shape."""
    try:
        _array(path, np.uint8, shape, "")
    except DataError:
        return False
    return True


def _write_chunk(
    partial: Path, header: int, photos: Photos, order: Tensor, form: CropFormat, start: int
) -> str:
    chunk = order[start : start + CHUNK].tolist()
    pixels = np.empty((len(chunk), 3, form.side, form.side), np.uint8)
    for row, index in enumerate(chunk):
        data = photos.read(index)
        try:
            pixels[row] = decode_and_crop(data, form)
        except DECODE_ERRORS as error:
            source = photos.files[int(photos.file[index])]
            problem = f"{photos.name(index)}: unreadable image ({reason(error)})"
            raise DataError(f"{problem}; replace it in {source}") from error
    with partial.open("r+b") as file:
        file.seek(header + start * pixels[0].nbytes)
        file.write(pixels.data)
        file.flush()
        os.fdatasync(file.fileno())  # before the journal records it
    return hashlib.sha256(pixels.data).hexdigest()


def _is_complete(
    folder: Path, split: OfficialSplit, source: dict[str, str], overwrite: bool
) -> bool:
    """Whether the crops exist; DataError if they changed, or are of other photos."""
    if not (folder / f"{split}.json").exists():
        return False
    about, step = _manifest(folder, split), _rebuild_step(folder)
    other_photos = about["source"].get("photos") != source["photos"]
    if overwrite and (other_photos or about["kernel"] != crop_format(folder.name).kernel):
        return False
    if other_photos:
        raise DataError(f"{folder}: built from different images; {step}")
    _check_pixels(load(folder, split).pixels, about, f"{folder / split}.npy", step)
    return True


def _check_pixels(pixels: Tensor, about: _Manifest, where: str, step: str) -> None:
    """Raise DataError unless some 32 chunks, 1.6 GB of 256 px, have their recorded hashes."""
    hashes, size = about["sha256"], about["chunk"]
    for chunk in range(0, len(hashes), -(-len(hashes) // 32)):
        part = pixels[chunk * size : (chunk + 1) * size].numpy()
        if hashlib.sha256(part.data).hexdigest() != hashes[chunk]:
            first = chunk * size
            raise DataError(f"{where}: images {first} to {first + len(part) - 1} changed; {step}")
