"""ImageNet in its fast form: every image as 256 x 256 uint8, decoded once and mapped from a file.

The shorter side is resized to 256 (bicubic with antialiasing, Pillow), and the centre square kept.
So a training crop is cut from fewer pixels, resized twice, and never from the edges of the longer
side; and the test crop of 224 is almost, not exactly, that of the photo. That is another dataset,
with a name of its own: a run on it is not a run on ImageNet. It reads some ten times faster.

`root / name` holds <split>.npy (N, 3, 256, 256), <split>-labels.npy and <split>.json, which is
written last. Images that 'validation' holds out of 'train' stand at its end, so that every split
is a stretch of the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor

from repro.data import photo_index
from repro.data.images import Bytes, DataError, Images, Official, Split, reason
from repro.data.photos import MEAN, STD, Photos
from repro.data.sample import BROKEN

SIDE = 256  # px
RESIZED = {f"{name}-{SIDE}px": name for name in ("imagenet", "imagenet-smoke")}
IMAGE = 3 * SIDE * SIDE  # bytes
CHUNK = 256  # images that are written at once, 50 MB
PROGRESS_S = 5.0


@dataclass(frozen=True)
class MappedImages(Images):
    """Images whose pixels stay in a file; they are read-only, and writing to them is a crash.

    Pickled, for a worker, it is the name of the file.
    """

    place: tuple[Path, Split] = field(default=(Path(), "train"))

    def __reduce__(self) -> Any:
        return load, self.place


def load(folder: Path, split: Split) -> MappedImages:
    """A split of the fast form in `folder`, mapped; DataError where it is not, or not wholly."""
    official: Official = "test" if split == "test" else "train"
    step = f"run `repro prepare {folder.name} --data {folder.parent}`"
    path = folder / f"{official}.npy"
    try:
        about = json.loads((folder / f"{official}.json").read_text(encoding="utf-8"))
        labels = np.load(folder / f"{official}-labels.npy", allow_pickle=False)
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        part = slice(about["fit"], None) if split == "validation" else slice(None)
        part = slice(0, about["fit"]) if split == "fit" else part
        mark = about["fingerprint"]
        classes = tuple(about["classes"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {reason(error)}; {step}") from error
    if pixels.shape != (about["images"], 3, SIDE, SIDE) or len(labels) != len(pixels):
        raise DataError(f"{path}: {pixels.shape} is not of {about['images']:,} images; {step}")
    if split != official:
        mark = hashlib.sha256(f"{mark} {split}".encode()).hexdigest()[:16]
    return MappedImages(
        _tensor(pixels)[part], torch.from_numpy(labels)[part], classes, MEAN, STD, mark,
        place=(folder, split),
    )  # fmt: skip


def _tensor(pixels: Bytes) -> Tensor:
    """The mapped array as a tensor. torch warns that it could be written to; nobody does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(pixels)


# ---- making it ----------------------------------------------------------------------------------


def square(data: bytes) -> Bytes:
    """A compressed image as (3, 256, 256) uint8: torchvision's Resize(256) and CenterCrop(256).

    Raises one of `sample.BROKEN` where it is no image.
    """
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    short = min(width, height)
    width, height = SIDE * width // short, SIDE * height // short
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def build(
    name: str, split: Official, root: Path, photos: Photos, held_out: Tensor | None, again: bool
) -> str:
    """Write the fast form of `photos`, going on where a killed call was; the line to print.

    `held_out` (N,) bool says which images are for validation; `again`: replace what was made of
    other photos. Raises DataError for a broken image, and where what is there is not of `photos`.
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
    hashes = _write_pixels(folder / f"{split}.npy", photos, order, source)
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
        "kernel": f"shorter side {SIDE}, bicubic, antialiased; centre square",
        "chunk": CHUNK,
        "sha256": hashes,
    }
    scratch = folder / f"{split}.json.tmp"
    scratch.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, folder / f"{split}.json")
    (folder / f"{split}.journal").unlink()


def _source(photos: Photos) -> dict[str, str]:
    """What the pixels depend on."""
    jpeg = features.version("jpg") or "unknown"
    return {"photos": photos.fingerprint, "Pillow": PIL.__version__, "libjpeg": jpeg}


def _write_pixels(path: Path, photos: Photos, order: Tensor, source: dict[str, str]) -> list[str]:
    """Write the pixels by chunks, in parallel; the sha256 of each chunk. The journal stays."""
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    done = _resumed(path, len(photos), source)
    header = partial.stat().st_size - len(photos) * IMAGE
    starts = range(0, len(photos), CHUNK)
    shown = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, journal.open("a") as kept:
        waiting = {
            pool.submit(_write_chunk, partial, header, photos, order, start): start
            for start in starts
            if start not in done
        }
        try:
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                kept.write(json.dumps([waiting[future], future.result()]) + "\n")
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


def _resumed(path: Path, count: int, source: dict[str, str]) -> dict[int, str]:
    """The chunks that are written, with their sha256: if of the same images by the same library."""
    partial, journal = path.with_suffix(".partial"), path.with_suffix(".journal")
    if journal.exists():
        if path.exists() and not partial.exists():
            os.replace(path, partial)  # it was killed after its last chunk
        first, *lines = journal.read_text().split("\n")[:-1] or [""]  # the last may be torn
        if first == json.dumps(source) and partial.exists():
            journal.write_text("".join(f"{line}\n" for line in (first, *lines)))
            return dict(json.loads(line) for line in lines)
    partial.unlink(missing_ok=True)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(count, 3, SIDE, SIDE))
    journal.write_text(json.dumps(source) + "\n")
    return {}


def _write_chunk(partial: Path, header: int, photos: Photos, order: Tensor, start: int) -> str:
    chunk = order[start : start + CHUNK].tolist()
    pixels = np.empty((len(chunk), 3, SIDE, SIDE), np.uint8)
    for row, index in enumerate(chunk):
        data = photos.read(index)
        try:
            pixels[row] = square(data)
        except BROKEN as error:
            raise DataError(f"{photos.name(index)}: no image ({reason(error)})") from error
    with partial.open("r+b") as file:
        file.seek(header + start * IMAGE)
        file.write(pixels.data)
        file.flush()
        os.fdatasync(file.fileno())  # before the journal says that it is there
    return hashlib.sha256(pixels.data).hexdigest()


def _made(folder: Path, split: Official, source: dict[str, str], again: bool) -> bool:
    """Whether the fast form is there; DataError where it is not what was written, or of others."""
    if not (folder / f"{split}.json").exists():
        return False
    about = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
    step = f"remove {folder} and run `repro prepare {folder.name} --data {folder.parent}`"
    if about["source"]["photos"] != source["photos"]:
        if again:
            return False
        raise DataError(f"{folder}: made of other photos than there are now; {step}")
    _check_pixels(load(folder, split).pixels, about, f"{folder / split}.npy", step)
    return True


def _check_pixels(pixels: Tensor, about: dict[str, Any], where: str, step: str) -> None:
    """Raise DataError unless some 32 chunks, 1.6 GB, of the images are what was written."""
    hashes, size = about["sha256"], about["chunk"]
    for chunk in range(0, len(hashes), -(-len(hashes) // 32)):
        part = pixels[chunk * size : (chunk + 1) * size].numpy()
        if hashlib.sha256(part.data).hexdigest() != hashes[chunk]:
            first = chunk * size
            raise DataError(f"{where}: images {first} to {first + len(part) - 1} changed; {step}")
