"""timm's fifteen 'increasing' RandAugment operations on whole batches of uint8 images.

Behaviour of timm 1.0.31's auto_augment.py ('rand-m9-mstd0.5-inc1' of DeiT and Swin), which works on
single images of Pillow. The geometric operations are bicubic, as both recipes ask for; where a
recipe asks for nothing, timm draws bilinear or bicubic.
"""

from collections.abc import Callable
from itertools import product
from math import pi

import torch
from torch import Tensor

from repro.data.ops import (
    Function,
    auto_contrast,
    blend,
    dispatch,
    each,
    equalize,
    invert,
    rounded_mean,
    smooth,
    solarize_add,
    truncate,
)

_LUMINANCE = (19595, 38470, 7471)  # Pillow's, of 65536; sums of products are exact in float32
_TAPS = (-1, 0, 1, 2)  # the pixels that bicubic interpolation takes
_SHEAR, _SHIFT, _ROTATION = 0.3, 0.45, pi / 6  # at level 1; a shift is of the image's side


def apply(
    pixels: Tensor, operation: Tensor, level: Tensor, sign: Tensor, fill: tuple[int, ...]
) -> Tensor:
    """To each image its own operation.

    pixels (B, 3, H, W) uint8; operation (B,) int64, an index into OPERATIONS; level (B,) in [0, 1],
    the magnitude; sign (B,) -1 or 1, the direction; `fill`, the colour (3,) outside the image.
    """
    # 'Increasing': away from 1, which changes nothing, by 0.9 level to either side.
    factor = (1 + sign * (0.9 * level)).clamp(min=0.1)
    colour = torch.tensor(fill, dtype=torch.uint8, device=pixels.device).view(3, 1, 1)

    def plain(tone: Callable[[Tensor, Tensor], Tensor]) -> Function:
        return lambda images, which: tone(images, level[which])

    def enhanced(tone: Callable[[Tensor, Tensor], Tensor]) -> Function:
        return lambda images, which: tone(images, factor[which])

    def moved(move: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Function:
        return lambda images, which: move(images, (sign * level)[which], colour)

    functions = (None, *map(plain, TONES), *map(enhanced, ENHANCEMENTS), *map(moved, MOVES))
    return dispatch(functions, operation, pixels.clone())


# Tones: pixels (n, 3, H, W), the level (n,) of each image.


def posterize(pixels: Tensor, level: Tensor) -> Tensor:
    """Keeps the highest 4 - int(4 level) bits. With none the image is black, as in Pillow < 13."""
    kept = 4 - (4 * level).to(torch.int32)
    return pixels & each(256 - (256 >> kept)).to(torch.uint8)


def solarize(pixels: Tensor, level: Tensor) -> Tensor:
    """Inverts from the threshold 256 - int(256 level), which is 0 to 256, upwards."""
    threshold = 256 - (256 * level).to(torch.int16)
    return pixels ^ ((pixels >= each(threshold)).to(torch.uint8) * 255)


# Enhancements: pixels (n, 3, H, W), the factor (n,) of the way from the degenerate image.


def color(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(_grey(pixels), pixels, factor)


def contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(rounded_mean(_grey(pixels)), pixels, factor)


def brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(torch.zeros((), device=pixels.device), pixels, factor)


def sharpness(pixels: Tensor, factor: Tensor) -> Tensor:
    return blend(smooth(pixels, rounding=6), pixels, factor)


def _grey(pixels: Tensor) -> Tensor:
    """Luminance as Pillow rounds it, whole numbers as float32 (n, 1, H, W)."""
    red, green, blue = pixels.to(torch.float32).split(1, dim=1)
    total: Tensor = _LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue
    return ((total + 32768) / 65536).floor_()


# Moves: pixels (n, 3, H, W), how far and in which direction (n,), the colour outside.


def shear_x(pixels: Tensor, amount: Tensor, colour: Tensor) -> Tensor:
    """By 0.3 about the corner of the image."""
    y = torch.arange(pixels.shape[2], device=pixels.device) + 0.5
    return _slide(pixels, _SHEAR * amount.to(torch.float64)[:, None] * y, colour)


def translate_x(pixels: Tensor, amount: Tensor, colour: Tensor) -> Tensor:
    distance = _SHIFT * pixels.shape[3] * amount.to(torch.float64)
    return _slide(pixels, distance[:, None].expand(-1, pixels.shape[2]), colour)


def shear_y(pixels: Tensor, amount: Tensor, colour: Tensor) -> Tensor:
    return shear_x(pixels.mT, amount, colour).mT


def translate_y(pixels: Tensor, amount: Tensor, colour: Tensor) -> Tensor:
    return translate_x(pixels.mT, amount, colour).mT


def _slide(pixels: Tensor, distance: Tensor, colour: Tensor) -> Tensor:
    """Each row by its own distance (n, H): bicubic along the row alone, as rows stay whole."""
    n, _, height, width = pixels.shape
    x = torch.arange(width, device=pixels.device)
    whole = distance.floor()
    column = whole.to(torch.int64)[..., None] + x
    shown = torch.zeros(pixels.shape, device=pixels.device)
    for tap, weight in zip(_TAPS, _cubic(distance - whole), strict=True):
        index = (column + tap).clamp_(0, width - 1)[:, None].expand(n, 3, height, width)
        shown.addcmul_(pixels.gather(3, index), weight[:, None, :, None])
    place = distance[..., None] + (x + 0.5)
    return _inside(shown, (place >= 0) & (place < width), colour)


def rotate(pixels: Tensor, amount: Tensor, colour: Tensor) -> Tensor:
    """By up to 30 degrees about the centre of the image."""
    n, _, height, width = pixels.shape
    angle = (_ROTATION * amount.to(torch.float64))[:, None, None]
    cosine, sine = angle.cos().to(torch.float32), angle.sin().to(torch.float32)
    y = torch.arange(height, device=pixels.device)[:, None] + (0.5 - height / 2)
    x = torch.arange(width, device=pixels.device) + (0.5 - width / 2)
    source_y = sine * x + (cosine * y + height / 2)
    source_x = cosine * x + (width / 2 - sine * y)
    inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)

    row, column = (source_y - 0.5).floor(), (source_x - 0.5).floor()
    rows = [(row.to(torch.int64) + tap).clamp_(0, height - 1) * width for tap in _TAPS]
    columns = [(column.to(torch.int64) + tap).clamp_(0, width - 1) for tap in _TAPS]
    weights_y, weights_x = _cubic(source_y - 0.5 - row), _cubic(source_x - 0.5 - column)
    channels, shown = pixels.flatten(2), torch.zeros(pixels.shape, device=pixels.device)
    for tap_y, tap_x in product(range(4), range(4)):
        index = (rows[tap_y] + columns[tap_x]).view(n, 1, -1).expand(n, 3, -1)
        weight = (weights_y[tap_y] * weights_x[tap_x])[:, None]
        shown.addcmul_(channels.gather(2, index).view_as(pixels), weight)
    return _inside(shown, inside, colour)


def _cubic(part: Tensor) -> tuple[Tensor, ...]:
    """Weights of the four pixels at _TAPS from the one before a place, 0 <= part < 1 behind it.

    Keys' kernel with a = -1, as in Pillow, at the distances 1 + part, part, 1 - part, 2 - part.
    """
    part = part.to(torch.float32)
    rest = 1 - part
    both = part * rest
    return -rest * both, rest * (1 + both), part * (1 + both), -part * both


def _inside(shown: Tensor, inside: Tensor, colour: Tensor) -> Tensor:
    inside = inside[:, None]
    return truncate(shown.clamp_(0, 255)).mul_(inside).add_(~inside * colour)


TONES = (auto_contrast, equalize, invert, posterize, solarize, solarize_add)
ENHANCEMENTS = (color, contrast, brightness, sharpness)
MOVES = (rotate, shear_x, shear_y, translate_x, translate_y)
OPERATIONS = ("identity", *(f.__name__ for f in (*TONES, *ENHANCEMENTS, *MOVES)))
