"""Smoke versions of ImageNet: small JPEGs made from the embedded images, deterministically.

They include ImageNet's corner cases: different sizes, a grey and a CMYK JPEG, and a PNG named
.JPEG. The bytes depend on Pillow's version.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repro.data import atlas
from repro.data.composed import INK
from repro.data.imagenet import reader
from repro.data.imagenet.reader import SMOKE_CLASSES
from repro.data.images import Bytes, OfficialSplit, write_atomically

SOURCE = {
    "imagenet-smoke": "fashion-mnist-6k",
    "imagenetv2-smoke": "fashion-mnist-6k",
    "imagenet22k-smoke": "glyphs",
}
TAR_CLASSES, TAR_IMAGES = 12, 4  # of imagenet22k-smoke
TREE_IMAGES: dict[OfficialSplit, int] = {"train": 4, "test": 2}  # a class
GREY, CMYK, PNG = 5, 14, 23  # indices of the special train images of imagenet-smoke


def write(name: str, root: Path) -> list[str]:
    """Write the missing or changed files of a smoke set; returns the lines to print."""
    folder = root / name
    make = {
        "imagenet-smoke": _folder_tree_files,
        "imagenetv2-smoke": _numbered_folder_files,
        "imagenet22k-smoke": _tar_files,
    }
    files = make[name]()
    changed = [_write_if_changed(folder / path, data) for path, data in files.items()]
    for path, data in _box_files(name).items():
        _write_if_changed(boxes_folder(name, root) / path, data)
    if any(changed):  # as with another Pillow; the old manifest is invalid
        reader.manifest(name, root).unlink(missing_ok=True)
    return [f"{name}: written to {folder}, from {SOURCE[name]}"]


def _folder_tree_files() -> dict[str, bytes]:
    files = {}
    for split, part in (("train", "train"), ("test", "val")):
        official: OfficialSplit = "train" if split == "train" else "test"
        for number, (label, grey) in enumerate(
            _source_images("imagenet-smoke", official, len(SMOKE_CLASSES), TREE_IMAGES[official])
        ):
            wnid = SMOKE_CLASSES[label]
            odd = number if official == "train" else -1
            base = f"{wnid}_{number}" if odd >= 0 else f"ILSVRC2012_val_{number + 1:08}"
            files[f"{part}/{wnid}/{base}.JPEG"] = _encode(_make_photo(grey, number), odd)
    return files


def _test_photos(name: str) -> list[tuple[str, int, Bytes, int]]:
    """The test images that have boxes: path, label, grey (32, 32) and number."""
    count = TREE_IMAGES["test"]
    sources = _source_images("imagenet-smoke", "test", len(SMOKE_CLASSES), 2 * count)
    positions = [(label, n % (2 * count), grey) for n, (label, grey) in enumerate(sources)]
    if name == "imagenet-smoke":
        first = [(label, grey) for label, position, grey in positions if position < count]
        return [
            (f"val/{SMOKE_CLASSES[label]}/ILSVRC2012_val_{n + 1:08}.JPEG", label, grey, n)
            for n, (label, grey) in enumerate(first)
        ]
    later = [
        (label, position - count, grey) for label, position, grey in positions if position >= count
    ]
    return [
        (f"{lab}/{position}.jpeg", lab, grey, n) for n, (lab, position, grey) in enumerate(later)
    ]


def _numbered_folder_files() -> dict[str, bytes]:
    photos = _test_photos("imagenetv2-smoke")
    return {path: _encode(_make_photo(grey, number), -1) for path, _, grey, number in photos}


def boxes_folder(name: str, root: Path) -> Path:
    """The folder of the boxes of a set's test images, in wsolevaluation's format."""
    return root / f"{name}-boxes"


def _box_files(name: str) -> dict[str, bytes]:
    """Boxes around the pixels of an embedded image above the threshold, at the enlarged size."""
    if name == "imagenet22k-smoke":
        return {}
    lines: dict[str, list[str]] = {"class_labels": [], "image_sizes": [], "localization": []}
    for path, label, grey, number in _test_photos(name):
        width, height = _make_photo(grey, number).size
        y, x = np.nonzero(grey > INK)
        low, high = (x.min(), y.min()), (x.max() + 1, y.max() + 1)
        scale = width / grey.shape[1], height / grey.shape[0]
        x0, y0 = (int(at * s) for at, s in zip(low, scale, strict=True))
        x1, y1 = (int(at * s) for at, s in zip(high, scale, strict=True))
        lines["class_labels"].append(f"{path},{label}")
        lines["image_sizes"].append(f"{path},{width},{height}")
        lines["localization"].append(f"{path},{x0},{y0},{x1},{y1}")
    return {f"{kind}.txt": "".join(f"{x}\n" for x in rows).encode() for kind, rows in lines.items()}


def _tar_files() -> dict[str, bytes]:
    members: dict[str, dict[str, bytes]] = {}
    sources = _source_images("imagenet22k-smoke", "train", TAR_CLASSES, TAR_IMAGES)
    for number, (label, grey) in enumerate(sources):
        wnid = f"n910000{label:02}"
        data = _encode(_make_photo(grey, number), -1)
        members.setdefault(wnid, {})[f"{wnid}_{number}.JPEG"] = data
    return {f"train/{wnid}.tar": make_tar(files) for wnid, files in members.items()}


def make_tar(files: dict[str, bytes]) -> bytes:
    """A deterministic tar of these files: uncompressed, without owners and times."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _source_images(
    name: str, split: OfficialSplit, classes: int, count: int
) -> list[tuple[int, Bytes]]:
    """The first `count` grey (32, 32) images of the first classes, with their labels."""
    images = atlas.load(SOURCE[name], split)
    return [
        (label, images.pixels[index, 0].numpy())
        for label in range(classes)
        for index in torch.nonzero(images.labels == label).flatten()[:count].tolist()
    ]


def _make_photo(grey: Bytes, number: int) -> Image.Image:
    """An embedded image, enlarged, with its own size and tint."""
    width, height = 60 + 37 * number % 61, 60 + (53 * number + 17) % 61  # 60 to 120 px
    height = height if height != width else 60 + (height - 59) % 61
    tint = np.array([255, 60 + 29 * number % 196, 60 + 83 * number % 196]) / 255
    pixels = np.rint(grey[:, :, None] * tint).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _encode(image: Image.Image, odd: int) -> bytes:
    mode = {GREY: "L", CMYK: "CMYK"}.get(odd, "RGB")
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG" if odd == PNG else "JPEG", quality=90)
    return buffer.getvalue()


def _write_if_changed(path: Path, data: bytes) -> bool:
    """Write only if the content differs, to keep the modification time; whether it was written."""
    if path.exists() and path.read_bytes() == data:
        return False
    write_atomically(path, data)
    return True
