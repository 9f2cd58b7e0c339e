"""Smoke sets of photos: small real JPEGs made of the embedded images, the same bytes every time.

They have what ImageNet has and code stumbles over: all sizes, a grey and a CMYK JPEG, and a PNG
that is called .JPEG. The bytes depend on Pillow's version, as a JPEG encoder's do.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from repro.data import atlas, imagenet
from repro.data.composed import INK
from repro.data.imagenet import SMOKE_CLASSES
from repro.data.images import Bytes, Official, write_whole

SOURCE = {
    "imagenet-smoke": "fashion-mnist-6k",
    "imagenetv2-smoke": "fashion-mnist-6k",
    "imagenet22k-smoke": "glyphs",
}
TAR_CLASSES, TAR_IMAGES = 12, 4  # of imagenet22k-smoke
TREE_IMAGES: dict[Official, int] = {"train": 4, "test": 2}  # a class
GREY, CMYK, PNG = 5, 14, 23  # which train images of imagenet-smoke are odd


def write(name: str, root: Path) -> list[str]:
    """Write the files of a smoke set that are not there, or not so; the lines to print."""
    folder = root / name
    make = {"imagenet-smoke": _tree, "imagenetv2-smoke": _numbered, "imagenet22k-smoke": _tars}
    files = make[name]()
    changed = [_write(folder / path, data) for path, data in files.items()]
    for path, data in _boxes(name).items():
        _write(boxes_folder(name, root) / path, data)
    if any(changed):  # as with another Pillow; what was known of the old ones is void
        imagenet.manifest(name, root).unlink(missing_ok=True)
    return [f"{name}: written to {folder}, from {SOURCE[name]}"]


def _tree() -> dict[str, bytes]:
    files = {}
    for split, part in (("train", "train"), ("test", "val")):
        official: Official = "train" if split == "train" else "test"
        for number, (label, grey) in enumerate(
            _chosen("imagenet-smoke", official, len(SMOKE_CLASSES), TREE_IMAGES[official])
        ):
            wnid = SMOKE_CLASSES[label]
            odd = number if official == "train" else -1
            base = f"{wnid}_{number}" if odd >= 0 else f"ILSVRC2012_val_{number + 1:08}"
            files[f"{part}/{wnid}/{base}.JPEG"] = _encoded(_photo(grey, number), odd)
    return files


def _test_photos(name: str) -> list[tuple[str, int, Bytes, int]]:
    """The test images that have boxes: path, label, grey (32, 32) and number."""
    count = TREE_IMAGES["test"]
    chosen = _chosen("imagenet-smoke", "test", len(SMOKE_CLASSES), 2 * count)
    places = [(label, n % (2 * count), grey) for n, (label, grey) in enumerate(chosen)]
    if name == "imagenet-smoke":
        first = [(label, grey) for label, place, grey in places if place < count]
        return [
            (f"val/{SMOKE_CLASSES[label]}/ILSVRC2012_val_{n + 1:08}.JPEG", label, grey, n)
            for n, (label, grey) in enumerate(first)
        ]
    later = [(label, place - count, grey) for label, place, grey in places if place >= count]
    return [(f"{lab}/{place}.jpeg", lab, grey, n) for n, (lab, place, grey) in enumerate(later)]


def _numbered() -> dict[str, bytes]:
    photos = _test_photos("imagenetv2-smoke")
    return {path: _encoded(_photo(grey, number), -1) for path, _, grey, number in photos}


def boxes_folder(name: str, root: Path) -> Path:
    """Where the boxes of a set's test images are, in wsolevaluation's form."""
    return root / f"{name}-boxes"


def _boxes(name: str) -> dict[str, bytes]:
    """Boxes around what is lighter than the threshold of an embedded image, as it was enlarged."""
    if name == "imagenet22k-smoke":
        return {}
    lines: dict[str, list[str]] = {"class_labels": [], "image_sizes": [], "localization": []}
    for path, label, grey, number in _test_photos(name):
        width, height = _photo(grey, number).size
        y, x = np.nonzero(grey > INK)
        low, high = (x.min(), y.min()), (x.max() + 1, y.max() + 1)
        scale = width / grey.shape[1], height / grey.shape[0]
        x0, y0 = (int(at * s) for at, s in zip(low, scale, strict=True))
        x1, y1 = (int(at * s) for at, s in zip(high, scale, strict=True))
        lines["class_labels"].append(f"{path},{label}")
        lines["image_sizes"].append(f"{path},{width},{height}")
        lines["localization"].append(f"{path},{x0},{y0},{x1},{y1}")
    return {f"{kind}.txt": "".join(f"{x}\n" for x in rows).encode() for kind, rows in lines.items()}


def _tars() -> dict[str, bytes]:
    members: dict[str, dict[str, bytes]] = {}
    chosen = _chosen("imagenet22k-smoke", "train", TAR_CLASSES, TAR_IMAGES)
    for number, (label, grey) in enumerate(chosen):
        wnid = f"n910000{label:02}"
        data = _encoded(_photo(grey, number), -1)
        members.setdefault(wnid, {})[f"{wnid}_{number}.JPEG"] = data
    return {f"train/{wnid}.tar": tar_of(files) for wnid, files in members.items()}


def tar_of(files: dict[str, bytes]) -> bytes:
    """A tar of these files: uncompressed, with no owner and no time, so always the same."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _chosen(name: str, split: Official, classes: int, count: int) -> list[tuple[int, Bytes]]:
    """The first `count` grey (32, 32) images of the first classes, with their labels."""
    images = atlas.load(SOURCE[name], split)
    return [
        (label, images.pixels[index, 0].numpy())
        for label in range(classes)
        for index in torch.nonzero(images.labels == label).flatten()[:count].tolist()
    ]


def _photo(grey: Bytes, number: int) -> Image.Image:
    """An embedded image, larger, of a shape and a tint of its own."""
    width, height = 60 + 37 * number % 61, 60 + (53 * number + 17) % 61  # 60 to 120 px
    height = height if height != width else 60 + (height - 59) % 61
    tint = np.array([255, 60 + 29 * number % 196, 60 + 83 * number % 196]) / 255
    pixels = np.rint(grey[:, :, None] * tint).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, odd: int) -> bytes:
    mode = {GREY: "L", CMYK: "CMYK"}.get(odd, "RGB")
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG" if odd == PNG else "JPEG", quality=90)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> bool:
    """Write by rename, and only what differs: what is indexed by its time keeps it. Whether."""
    if path.exists() and path.read_bytes() == data:
        return False
    write_whole(path, data)
    return True
