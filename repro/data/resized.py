"""ImageNet as squares of one size: every image as uint8, decoded once and mapped from a file.

Both forms use Pillow's bicubic with antialiasing. Each is another dataset than ImageNet, with a
name of its own: a run on it is not a run on ImageNet.

256px, to train classifiers some ten times faster: the shorter side is resized to 256, then the
centre square kept. So a training crop is cut from fewer pixels, resized twice, and never from the
edges of the longer side; and the test crop of 224 is almost, not exactly, that of the photo.

64px, to train generators: the centre square is cut first, at the photo's own size, then resized to
64. So each pixel is of that square alone. The other order gives nearly the same, but its outermost
pixels mix in what lies beside the square, whose edges it rounds to whole pixels of 64. Guided
diffusion halves by box filters first, EDM takes Lanczos: an FID between such sets is not zero.

`root / name` holds <split>.npy (N, 3, S, S), <split>-labels.npy and <split>.json, which is written
last. Images that 'validation' holds out of 'train' stand at its end, so that every split is a
stretch of the file.
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

from repro import records
from repro.data import photo_index
from repro.data.images import (
    Bytes,
    DataError,
    Images,
    Labels,
    Official,
    Split,
    reason,
    record,
    write_whole,
)
from repro.data.own_picture import FORMATS
from repro.data.photos import MEAN, STD, Photos
from repro.data.sample import BROKEN

CHUNK = 256  # images that are written at once: 50 MB of 256 px, 3 MB of 64 px
PROGRESS_S = 5.0

_Some = Annotated[int, Meta(ge=1)]
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Manifest(TypedDict):
    """What <split>.json holds."""

    images: _Some
    fit: Annotated[int, Meta(ge=0)]  # how many are not held out for validation
    fingerprint: str
    classes: list[str]
    source: dict[str, str]
    kernel: Annotated[str, Meta(max_length=200)]
    chunk: _Some  # images
    sha256: list[_Digest]  # of the pixels of each chunk


@dataclass(frozen=True)
class Form:
    """How an RGB image becomes a square of `side` px."""

    side: int
    kernel: str  # crop and resampling, as the manifest says them; files of another are refused
    square: Callable[[Image.Image, int], Image.Image]


def resize_and_crop(image: Image.Image, side: int) -> Image.Image:
    """torchvision's Resize(side) and CenterCrop(side)."""
    short = min(image.size)
    size = (side * image.width // short, side * image.height // short)
    return _centre(image.resize(size, Image.Resampling.BICUBIC), side)


def crop_and_resize(image: Image.Image, side: int) -> Image.Image:
    """torchvision's CenterCrop of the whole shorter side, and Resize(side)."""
    # Not resize(box=...), whose kernel reaches beyond the box; nor draft(), another kernel.
    return _centre(image, min(image.size)).resize((side, side), Image.Resampling.BICUBIC)


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


FORMS = {
    "256px": Form(
        256, "shorter side 256, bicubic, antialiased; centre square", resize_and_crop
    ),
    "64px": Form(
        64, "centre square of the shorter side; 64 x 64, bicubic, antialiased", crop_and_resize
    ),
}  # fmt: skip
RESIZED = {f"{name}-{form}": name for form in FORMS for name in ("imagenet", "imagenet-smoke")}


def form_of(name: str) -> Form:
    """The form of a dataset in `RESIZED`, by its name."""
    return FORMS[name.rpartition("-")[2]]


@dataclass(frozen=True)
class MappedImages(Images):
    """Images whose pixels stay in a file; they are read-only, and writing to them is a crash.

    Pickled, for a worker, it is the name of the file.
    """

    place: tuple[Path, Split] = field(default=(Path(), "train"))

    def __reduce__(self) -> Any:
        return load, self.place


def load(folder: Path, split: Split) -> MappedImages:
    """A split of the squares in `folder`, mapped; DataError where it is not, or not wholly."""
    official: Official = "test" if split == "test" else "train"
    about, step = _manifest(folder, official), _again(folder)
    form, mark, classes = form_of(folder.name), about["fingerprint"], tuple(about["classes"])
    if about["kernel"] != form.kernel:
        path = folder / f"{official}.json"
        raise DataError(f"{path}: made by another rule ({about['kernel']}); {step}")
    count = about["images"]
    pixels = _array(folder / f"{official}.npy", np.uint8, (count, 3, form.side, form.side), step)
    path = folder / f"{official}-labels.npy"
    labels: Labels = np.array(_array(path, np.int64, (count,), step))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(f"{path}: a label that none of {len(classes):,} classes has; {step}")
    part = slice(about["fit"], None) if split == "validation" else slice(None)
    part = slice(0, about["fit"]) if split == "fit" else part
    if split != official:
        mark = hashlib.sha256(f"{mark} {split}".encode()).hexdigest()[:16]
    return MappedImages(
        _tensor(pixels)[part], torch.from_numpy(labels)[part], classes, MEAN, STD, mark,
        place=(folder, split),
    )  # fmt: skip


def _again(folder: Path) -> str:
    """How to make the squares anew."""
    return f"remove {folder} and run `repro prepare {folder.name} --data {folder.parent}`"


def _manifest(folder: Path, split: Official) -> _Manifest:
    """What the squares of a split are; DataError where it is not said, or contradicts itself."""
    path, step = folder / f"{split}.json", _again(folder)
    if not path.exists():
        step = step.partition(" and ")[2]
    about = record(path, _Manifest, step)
    chunks = -(-about["images"] // about["chunk"])
    if about["fit"] > about["images"] or len(about["sha256"]) != chunks:
        raise DataError(f"{path}: its numbers contradict each other; {step}")
    return about


def _array(path: Path, kind: type, shape: tuple[int, ...], step: str) -> npt.NDArray[Any]:
    """The array in a file, mapped; DataError unless it is of this kind and shape."""
    try:
        found = records.mapped(path)
        good = found.dtype == kind and found.shape == shape
        records.require(good, f"{found.dtype} {found.shape} is not of {shape[0]:,} images")
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {step}") from error
    return found


def _tensor(pixels: Bytes) -> Tensor:
    """The mapped array as a tensor. torch warns that it could be written to; nobody does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(pixels)


# ---- making it ----------------------------------------------------------------------------------


def square(data: bytes, form: Form) -> Bytes:
    """A compressed image, of any size and mode, as (3, S, S) uint8.

    Raises one of `sample.BROKEN` where it is no image.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(form.square(image, form.side))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def build(
    name: str, split: Official, root: Path, photos: Photos, held_out: Tensor | None, again: bool
) -> str:
    """Write the squares of `photos`, going on where a killed call was; the line to print.

    `held_out` (N,) bool says which images are for validation; `again`: replace what was made of
    other photos, or by another rule. Raises DataError for a broken image, which it names and leaves
    to be put right, and where what is there is not of `photos`, or not as it was written.
    """
    folder, source = root / name, _source(photos)
    folder.mkdir(exist_ok=True)
    with photo_index.locked(folder / f"{split}.lock"):
        if not _made(folder, split, source, again):
            _build(folder, split, photos, held_out, source)
    return f"{name} {split}: {len(photos):,} images in {folder / f'{split}.npy'}"


def _build(
    folder: Path, split: Official, photos: Photos, held_out: Tensor | None, source: dict[str, str]
) -> None:
    order = torch.arange(len(photos))
    if held_out is not None:
        order = torch.cat([order[~held_out], order[held_out]])
    form = form_of(folder.name)
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
    write_whole(folder / f"{split}.json", (records.encode(about, indent=1) + "\n").encode())
    (folder / f"{split}.journal").unlink()


def _source(photos: Photos) -> dict[str, str]:
    """What the pixels depend on, beside their form."""
    jpeg = features.version("jpg") or "unknown"
    return {"photos": photos.fingerprint, "Pillow": PIL.__version__, "libjpeg": jpeg}


def _write_pixels(
    path: Path, photos: Photos, order: Tensor, source: dict[str, str], form: Form
) -> list[str]:
    """Write the pixels by chunks, in parallel; the sha256 of each chunk. The journal stays."""
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    done = _resumed(path, len(photos), source, form)
    header = partial.stat().st_size - len(photos) * 3 * form.side**2  # bytes
    starts = range(0, len(photos), CHUNK)
    shown = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, journal.open("a") as kept:
        waiting = {
            pool.submit(_write_chunk, partial, header, photos, order, form, start): start
            for start in starts
            if start not in done
        }
        try:
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                kept.write(records.encode([waiting[future], future.result()]) + "\n")
                kept.flush()
                if time.monotonic() - shown > PROGRESS_S:
                    shown = time.monotonic()
                    count = f"{min(len(done) * CHUNK, len(photos)):,} of {len(photos):,} images"
                    print(f"{path}: {count}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    os.replace(partial, path)
    return [done[start] for start in starts]


def _resumed(path: Path, count: int, source: dict[str, str], form: Form) -> dict[int, str]:
    """The chunks that are written, with their sha256: if of the same images in the same way."""
    way = records.encode(source | {"kernel": form.kernel})
    shape = (count, 3, form.side, form.side)
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    if journal.exists():
        if path.exists() and not partial.exists():
            os.replace(path, partial)  # it was killed after its last chunk
        first, done = _read_journal(journal)
        # While 256px was the only form, a journal named no kernel.
        if first in (way, records.encode(source)) and _is_array(partial, shape):
            lines = [first, *map(records.encode, done.items())]
            journal.write_text("".join(f"{line}\n" for line in lines))
            return done
    partial.unlink(missing_ok=True)
    journal.unlink(missing_ok=True)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    journal.write_text(f"{way}\n")
    return {}


def _read_journal(path: Path) -> tuple[str, dict[int, str]]:
    """Its first line, and the chunks with their sha256, up to what is torn or damaged."""
    first, done = b"", dict[int, str]()
    try:
        first, *lines = records.content(path).split(b"\n")[:-1] or [b""]
        for line in lines:
            start, digest = records.decode(line, tuple[int, _Digest])
            done[start] = digest
    except records.Damaged:
        pass
    return first.decode(errors="replace"), done


def _is_array(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether the file has pixels of this shape."""
    try:
        _array(path, np.uint8, shape, "")
    except DataError:
        return False
    return True


def _write_chunk(
    partial: Path, header: int, photos: Photos, order: Tensor, form: Form, start: int
) -> str:
    chunk = order[start : start + CHUNK].tolist()
    pixels = np.empty((len(chunk), 3, form.side, form.side), np.uint8)
    for row, index in enumerate(chunk):
        data = photos.read(index)
        try:
            pixels[row] = square(data, form)
        except BROKEN as error:
            place = photos.files[int(photos.file[index])]
            broken = f"{photos.name(index)}: no image ({reason(error)})"
            raise DataError(f"{broken}; put a whole one in {place}") from error
    with partial.open("r+b") as file:
        file.seek(header + start * pixels[0].nbytes)
        file.write(pixels.data)
        file.flush()
        os.fdatasync(file.fileno())  # before the journal says that it is there
    return hashlib.sha256(pixels.data).hexdigest()


def _made(folder: Path, split: Official, source: dict[str, str], again: bool) -> bool:
    """Whether the squares are there; DataError where they changed, or are of other photos."""
    if not (folder / f"{split}.json").exists():
        return False
    about, step = _manifest(folder, split), _again(folder)
    other_photos = about["source"].get("photos") != source["photos"]
    if again and (other_photos or about["kernel"] != form_of(folder.name).kernel):
        return False
    if other_photos:
        raise DataError(f"{folder}: made of other photos than there are now; {step}")
    _check_pixels(load(folder, split).pixels, about, f"{folder / split}.npy", step)
    return True


def _check_pixels(pixels: Tensor, about: _Manifest, where: str, step: str) -> None:
    """Raise DataError unless some 32 chunks, 1.6 GB of 256 px, are what was written."""
    hashes, size = about["sha256"], about["chunk"]
    for chunk in range(0, len(hashes), -(-len(hashes) // 32)):
        part = pixels[chunk * size : (chunk + 1) * size].numpy()
        if hashlib.sha256(part.data).hexdigest() != hashes[chunk]:
            first = chunk * size
            raise DataError(f"{where}: images {first} to {first + len(part) - 1} changed; {step}")
