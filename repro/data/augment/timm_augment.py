"""timm's random erasing and batch mixing: boxes and weights from uniform random numbers.

Follows timm 1.0.31: random_erasing.py with one box, and mixup.py in mode 'batch', where one random
choice applies to the whole global batch.
"""

from math import log, pi

import torch
from torch import Tensor

ERASED_AREA = (0.02, 1 / 3)  # of the image, uniform
ERASED_ASPECT = 0.3  # height over width from this to its inverse, log-uniform
ERASE_ATTEMPTS = 10
ERASE_DRAWS = 2 * ERASE_ATTEMPTS + 2  # areas, aspects, top, left
MIX_DRAWS = 6  # apply, Mixup or CutMix, two for the weight, centre row, centre column


def erase_box(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Masks of the erased rows (B, H) and columns (B, W), from draws (B, ERASE_DRAWS).

    The first of ten boxes that is smaller than the image in both dimensions, at a random position
    inside it; nothing if none fits.
    """
    areas, aspects, corner = draws.to(torch.float64).split((ERASE_ATTEMPTS, ERASE_ATTEMPTS, 2), 1)
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * areas) * (height * width)
    stretch = ((1 - 2 * aspects) * log(ERASED_ASPECT)).exp()
    tall, wide = (area * stretch).sqrt().round(), (area / stretch).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    tall, wide = tall.gather(1, first), (wide * fits).gather(1, first)
    top = (corner[:, :1] * (height - tall + 1)).floor()
    left = (corner[:, 1:] * (width - wide + 1)).floor()
    return _interval_mask(top, top + tall, height), _interval_mask(left, left + wide, width)


def mix_weights(
    draws: Tensor, height: int, width: int, mix_prob: float, mixup_odds: float, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of the sample itself, for all samples, from draws (MIX_DRAWS,); alpha is Mixup's.

    Returns whether the batch is mixed (1,), the weight of the label (1, 1), and that of the pixels
    as a product of (1, H, W) and (1, 1, 1). CutMix's box comes from the partner; the label weight
    follows its area within the image.
    """
    apply_draw, choice_draw, weight, angle, middle_y, middle_x = draws.to(torch.float64)
    mixed, by_mixup = apply_draw < mix_prob, choice_draw < mixup_odds
    share = torch.where(by_mixup, symmetric_beta(weight, angle, alpha or 1), weight)
    extent = (1 - share).sqrt()
    rows = _box(extent, middle_y, height)
    columns = _box(extent, middle_x, width)
    weight_if_mixed = torch.where(by_mixup, share, ~(rows[:, None] & columns))
    own = torch.where(mixed, weight_if_mixed, 1.0)
    label = own.mean().to(torch.float32).view(1, 1)
    return mixed[None], label, own.to(torch.float32)[None], torch.ones(1, 1, 1)


def symmetric_beta(radius: Tensor, angle: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) in float64 from two uniform draws in [0, 1), exactly, without rejection.

    (1 + c / sqrt(c^2 + u)) / 2 with u = U^(1 / alpha) and c = sqrt(1 - u) cos(2 pi V), because
    c sqrt(2 alpha / u) has Student's distribution with 2 alpha degrees of freedom (Bailey 1994).
    """
    u = (1 - radius.to(torch.float64)) ** (1 / alpha)
    c = (1 - u).sqrt() * (2 * pi * angle.to(torch.float64)).cos()
    return (1 + c / (c * c + u).sqrt()) / 2


def _box(extent: Tensor, middle: Tensor, length: int) -> Tensor:
    """Bool (length,): floor(extent length) pixels around floor(middle length), clipped."""
    count, centre = (extent * length).floor(), (middle * length).floor()
    first = centre - (count / 2).floor()
    return _interval_mask(first, first + count, length)


def _interval_mask(first: Tensor, end: Tensor, length: int) -> Tensor:
    """Bool (..., length): which of 0..length-1 are at least `first` and less than `end`."""
    line = torch.arange(length, device=first.device)
    return (line >= first) & (line < end)
