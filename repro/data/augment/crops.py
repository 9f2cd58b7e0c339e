"""Decode, crop and resize images to square uint8 inputs, on the CPU.

This module has the per-image steps; the rest works on whole batches on the model's device
(`repro.data.augment.augment`). JPEGs are decoded by torchvision's operator and resized as tensors,
which takes half the time of Pillow (`repro bench loader`) and gives the same pixels.
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
from repro.data.randomness import uniform
from repro.data.user_image import FORMATS

# Both antialiased, as Pillow's; or bilinear between the nearest four pixels, as TensorFlow's.
Interpolation = Literal["bilinear", "bicubic", "aliased"]
CropBox = tuple[int, int, int, int]  # top, left, height, width, in pixels

# The rules for crop boxes: torchvision's and timm's, or TensorFlow's, which the authors use.
CropRule = Literal["torchvision", "tensorflow"]

# Random streams, in addition to `augment.AugmentStream`.
TORCHVISION_STREAM = 20  # torchvision's: area, aspect, top, left
ATTEMPTS = 10
ASPECT = (3 / 4, 4 / 3)  # width over height, log-uniform
TF_STREAM = 21  # TensorFlow's: aspect, height, top, left
TF_ATTEMPTS = 100
TF_ASPECT = (0.75, 1.33)  # uniform; sample_distorted_bounding_box's default

UINT8_RESIZE_DEVICES = (
    "cpu",
)  # devices; others resize in float32, which rounds a few pixels differently

_RGB = 3  # torchvision.io.ImageReadMode.RGB


class UndecodableImage(ValueError):
    """An image that cannot be decoded; the reason, in one line."""


@dataclass(frozen=True)
class RandomCrop:
    """A random part of an image, resized to `size` x `size` px, by one of two rules.

    'torchvision' is RandomResizedCrop, as in timm: the area is uniform in `area`, the aspect ratio
    log-uniform in `ASPECT`, the position uniform. The first of ten attempts that fits is taken;
    otherwise the largest centre crop with a permitted aspect ratio.

    'tensorflow' is the official code's sample_distorted_bounding_box (`_tensorflow_box`), whose
    crops are smaller: for shares from 0.05 to 1 of 500 x 375 px, 0.34 on average instead of 0.42.
    """

    size: int
    area: tuple[
        float, float
    ]  # least and largest share of the image; timm 0.08, 1; official 0.05, 1
    resize: Interpolation
    rule: CropRule = "torchvision"

    def draws(self, keys: Tensor) -> list[list[float]]:
        """Random numbers in [0, 1) for each sample, 4 per attempt."""
        if self.rule == "tensorflow":
            return uniform(keys, TF_STREAM, 4 * TF_ATTEMPTS).tolist()
        return uniform(keys, TORCHVISION_STREAM, 4 * ATTEMPTS).tolist()

    def box(self, height: int, width: int, draws: Sequence[float]) -> CropBox:
        """The crop box in an image of `height` x `width` px."""
        rule = _tensorflow_box if self.rule == "tensorflow" else _torchvision_box
        return rule(height, width, self.area, draws)

    def __call__(self, image: Tensor, draws: Sequence[float]) -> Tensor:
        """uint8 (3, H, W) -> (3, size, size), on the image's device."""
        top, left, height, width = self.box(image.shape[1], image.shape[2], draws)
        part = image[:, top : top + height, left : left + width]
        return resample(part, self.size, self.size, self.resize)


def _torchvision_box(
    height: int, width: int, area: tuple[float, float], draws: Sequence[float]
) -> CropBox:
    least, most = area
    narrow, wide = (math.log(aspect) for aspect in ASPECT)
    for start in range(0, 4 * ATTEMPTS, 4):
        share, shape, top, left = draws[start : start + 4]
        pixels = (least + (most - least) * share) * (height * width)
        aspect = math.exp(narrow + (wide - narrow) * shape)
        h, w = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    h = min(height, round(width / ASPECT[0]))
    w = min(width, round(height * ASPECT[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _tensorflow_box(
    height: int, width: int, area: tuple[float, float], draws: Sequence[float]
) -> CropBox:
    """tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc, GenerateRandomCrop.

    The aspect is uniform, then the height uniform between those of the least and the largest area.
    The first of 100 attempts that fits is taken; otherwise the whole image. As in TensorFlow, the
    last row and column belong to a crop only if it spans the image. Double precision needs no
    guard against float rounding.
    """
    for start in range(0, 4 * TF_ATTEMPTS, 4):
        shape, size, top, left = draws[start : start + 4]
        aspect = TF_ASPECT[0] + (TF_ASPECT[1] - TF_ASPECT[0]) * shape
        if sides := _tensorflow_sides(height, width, area, aspect, size):
            h, w = sides
            return int(top * (height - h)), int(left * (width - w)), h, w
    return 0, 0, height, width


def _tensorflow_sides(
    height: int, width: int, area: tuple[float, float], aspect: float, draw: float
) -> tuple[int, int] | None:
    """Height and width of a crop of this aspect; None if none fits."""
    least, most = (share * height * width for share in area)
    lowest, highest = (round(math.sqrt(pixels / aspect)) for pixels in (least, most))
    if round(highest * aspect) > width:
        highest = int((width + 0.5 - 1e-7) / aspect)
    highest = min(highest, height)
    h = min(lowest, highest)
    h += int(draw * (highest - h + 1))
    # Correct areas that rounding moved outside the range.
    h += h * round(h * aspect) < least
    h -= h * round(h * aspect) > most
    w = round(h * aspect)
    fits = 0 < h <= height and 0 < w <= width and least <= h * w <= most
    return (h, w) if fits else None


@dataclass(frozen=True)
class CentreCrop:
    """A centre crop of `size` x `size` px, as in timm or in the official code.

    The shorter side is resized to floor(size / fraction), the longer one in proportion, truncated.
    A fraction of 0 resizes the whole image to a square. ValueError for one outside 0..1.

    By the rule 'tensorflow' (official libml/preprocess.py), the longer side is rounded to the
    nearest pixel, and a centre between two pixels to the upper left one.
    """

    size: int
    fraction: float  # of the resized shorter side
    resize: Interpolation
    rule: CropRule = "torchvision"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"CentreCrop: the fraction {self.fraction} is not within 0..1")

    def draws(self, keys: Tensor) -> list[list[float]]:
        """A centre crop needs no random numbers."""
        return [[] for _ in keys]

    def __call__(self, image: Tensor, draws: Sequence[float]) -> Tensor:
        """uint8 (3, H, W) -> (3, size, size), on the image's device."""
        if self.fraction == 0:
            return resample(image, self.size, self.size, self.resize)
        whole, half = (round, math.floor) if self.rule == "tensorflow" else (int, round)
        height, width = image.shape[1:]
        shorter = math.floor(self.size / self.fraction)
        height, width = (whole(shorter * side / min(height, width)) for side in (height, width))
        image = resample(image, height, width, self.resize)
        top, left = half((height - self.size) / 2), half((width - self.size) / 2)
        return image[:, top : top + self.size, left : left + self.size]


def decode(data: bytes) -> Tensor:
    """An image file -> uint8 (3, H, W), the pixels of Pillow's `open` and `convert("RGB")`.

    Files that torchvision's operator refuses, such as a PNG named .JPEG, are decoded by Pillow. The
    EXIF orientation is ignored, as in torchvision and timm. Raises UndecodableImage.
    """
    if not data:
        raise UndecodableImage("empty")
    try:
        # Not torchvision.io.decode_jpeg, which warns at each call that TorchCodec will replace it.
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        image: Tensor = torch.ops.image.decode_jpeg(buffer, _RGB, False)
        return image
    except RuntimeError:
        return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> Tensor:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except UnidentifiedImageError:
        raise UndecodableImage("not an image") from None
    except Exception as error:  # Pillow raises whatever damaged bytes lead to
        raise UndecodableImage(reason(error)) from error


def decode_all(data: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """JPEG files, uint8 (bytes,) on the CPU -> uint8 (3, H, W) on `device`; None if undecodable.

    On CUDA by nvJPEG, whose pixels differ from the CPU's by some grey levels.
    """
    try:
        if device.type == "cuda":
            return list(torch.ops.image.decode_jpegs_cuda(list(data), _RGB, device))
        return [torch.ops.image.decode_jpeg(file, _RGB, False) for file in data]
    except RuntimeError:  # the error does not say which image
        if len(data) == 1:
            return [None]
        return [decode_all([file], device)[0] for file in data]


def resample(image: Tensor, height: int, width: int, resize: Interpolation) -> Tensor:
    """uint8 (3, H, W) -> (3, height, width), rounded; the official code truncates instead."""
    if image.device.type in UINT8_RESIZE_DEVICES:
        return _interpolate(image, height, width, resize)
    exact = _interpolate(image.to(torch.float32), height, width, resize)
    return exact.round_().clamp_(0, 255).to(torch.uint8)


def _interpolate(image: Tensor, height: int, width: int, resize: Interpolation) -> Tensor:
    return F.interpolate(
        image[None],
        (height, width),
        mode="bicubic" if resize == "bicubic" else "bilinear",
        antialias=resize != "aliased",
        align_corners=False,
    )[0]
