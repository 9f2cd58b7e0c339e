"""A photograph becomes a square of uint8: decoded, cut out and resized, on the CPU.

All that has to be done an image at a time is here; the rest happens to whole batches on the model's
device (`repro.data.augment`). JPEGs are decoded by torchvision's operator and resized as tensors,
because that takes half the time of Pillow (`repro bench loader`) and gives its pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.io  # noqa: F401  (registers torch.ops.image)
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from repro.data.images import reason
from repro.data.own_picture import FORMATS
from repro.data.randomness import uniform

# Both antialiased, as Pillow's; or bilinear between the nearest four pixels, as TensorFlow's.
Resize = Literal["bilinear", "bicubic", "aliased"]
Box = tuple[int, int, int, int]  # top, left, height, width, in pixels

STREAM = 20  # of randomness, beside those of `augment.Stream`: area, aspect, top, left per attempt
ATTEMPTS = 10
ASPECT = (3 / 4, 4 / 3)  # width over height, log-uniform

RESIZES_UINT8 = ("cpu",)  # devices; others do it in float32, which rounds a few pixels otherwise

_RGB = 3  # torchvision.io.ImageReadMode.RGB


class Unreadable(ValueError):
    """Bytes that are no image that can be decoded; the reason, in one line."""


@dataclass(frozen=True)
class RandomCrop:
    """A random part of an image, resized to `size` x `size` px: torchvision's RandomResizedCrop.

    The share of the area is uniform in `area`, the aspect log-uniform in `ASPECT`, the place
    uniform. The first of ten attempts that fits is taken; if none does, the largest central part of
    a permitted aspect. The official code's tf.image.sample_distorted_bounding_box instead draws the
    aspect uniformly in 0.75..1.33, then the height uniformly between those that the two bounds of
    the area give. Its crops are smaller: of 500 x 375 px, 0.34 in the mean where ours are 0.42.
    """

    size: int
    area: tuple[
        float, float
    ]  # least and largest share of the image; timm 0.08, 1; official 0.05, 1
    resize: Resize

    def draws(self, keys: Tensor) -> list[list[float]]:
        """What the box of each sample depends on: 4 numbers in [0, 1) for each attempt."""
        return uniform(keys, STREAM, 4 * ATTEMPTS).tolist()

    def box(self, height: int, width: int, draws: Sequence[float]) -> Box:
        """The part of an image of `height` x `width` px that is taken."""
        least, most = self.area
        narrow, wide = (math.log(aspect) for aspect in ASPECT)
        for start in range(0, 4 * ATTEMPTS, 4):
            share, shape, top, left = draws[start : start + 4]
            area = (least + (most - least) * share) * (height * width)
            aspect = math.exp(narrow + (wide - narrow) * shape)
            h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < h <= height and 0 < w <= width:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        h = min(height, round(width / ASPECT[0]))
        w = min(width, round(height * ASPECT[1]))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, image: Tensor, draws: Sequence[float]) -> Tensor:
        """uint8 (3, H, W) -> (3, size, size), on the image's device."""
        top, left, height, width = self.box(image.shape[1], image.shape[2], draws)
        part = image[:, top : top + height, left : left + width]
        return resample(part, self.size, self.size, self.resize)


@dataclass(frozen=True)
class CentreCrop:
    """The centre of an image, `size` x `size` px, as timm tests.

    The shorter side is resized to floor(size / fraction), the longer one in proportion, cut off. A
    fraction of 0 takes the whole image, squeezed to a square. ValueError for one outside of 0..1.
    """

    size: int
    fraction: float  # of the resized shorter side
    resize: Resize

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"CentreCrop: the fraction {self.fraction} is not within 0..1")

    def draws(self, keys: Tensor) -> list[list[float]]:
        """Nothing is drawn."""
        return [[] for _ in keys]

    def __call__(self, image: Tensor, draws: Sequence[float]) -> Tensor:
        """uint8 (3, H, W) -> (3, size, size), on the image's device."""
        if self.fraction == 0:
            return resample(image, self.size, self.size, self.resize)
        height, width = image.shape[1:]
        shorter = math.floor(self.size / self.fraction)
        height, width = (int(shorter * side / min(height, width)) for side in (height, width))
        image = resample(image, height, width, self.resize)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return image[:, top : top + self.size, left : left + self.size]


def decode(data: bytes) -> Tensor:
    """An image file -> uint8 (3, H, W), the pixels of Pillow's `open` and `convert("RGB")`.

    What torchvision's operator refuses, such as a PNG named .JPEG, is Pillow's. The EXIF
    orientation is ignored, as by torchvision and timm. Raises Unreadable.
    """
    if not data:
        raise Unreadable("empty")
    try:
        # Not torchvision.io.decode_jpeg, which warns at each call that TorchCodec will replace it.
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Tensor = torch.ops.image.decode_jpeg(buffer, _RGB, False)
        return image
    except RuntimeError:
        return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> Tensor:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except UnidentifiedImageError:
        raise Unreadable("not an image") from None
    except Exception as error:  # Pillow raises whatever damaged bytes lead to
        raise Unreadable(reason(error)) from error


def decode_all(data: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """JPEG files, uint8 (bytes,) on the CPU -> uint8 (3, H, W) on `device`; None for a refused one.

    On CUDA by nvJPEG, whose pixels differ from the CPU's by some grey levels.
    """
    try:
        if device.type == "cuda":
            return list(torch.ops.image.decode_jpegs_cuda(list(data), _RGB, device))
        return [torch.ops.image.decode_jpeg(one, _RGB, False) for one in data]
    except RuntimeError:  # which does not say of which
        if len(data) == 1:
            return [None]
        return [decode_all([one], device)[0] for one in data]


def resample(image: Tensor, height: int, width: int, resize: Resize) -> Tensor:
    """uint8 (3, H, W) -> (3, height, width), rounded; the official code cuts off instead."""
    if image.device.type in RESIZES_UINT8:
        return _interpolated(image, height, width, resize)
    exact = _interpolated(image.to(torch.float32), height, width, resize)
    return exact.round_().clamp_(0, 255).to(torch.uint8)


def _interpolated(image: Tensor, height: int, width: int, resize: Resize) -> Tensor:
    return F.interpolate(
        image[None],
        (height, width),
        mode="bicubic" if resize == "bicubic" else "bilinear",
        antialias=resize != "aliased",
        align_corners=False,
    )[0]
