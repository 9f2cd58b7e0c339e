"""timm's random erasing and its mixing of a batch, as boxes and weights made from uniform draws.

Behaviour of timm 1.0.31: random_erasing.py with one box, and mixup.py in mode 'batch', where one
draw holds for the whole global batch.
"""

from math import log, pi

import torch
from torch import Tensor

ERASED_AREA = (0.02, 1 / 3)  # of the image, uniform
ERASED_ASPECT = 0.3  # height over width from this to its inverse, log-uniform
ERASE_ATTEMPTS = 10
ERASE_DRAWS = 2 * ERASE_ATTEMPTS + 2  # areas, aspects, top, left
MIX_DRAWS = 6  # whether, Mixup or CutMix, two for the weight, centre row, centre column


def erased_box(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which rows (B, H) and columns (B, W) are erased, from draws (B, ERASE_DRAWS).

    The first of ten boxes that is smaller than the image either way, anywhere inside it; or none.
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
    return _between(top, top + tall, height), _between(left, left + wide, width)


def own_share(
    draws: Tensor, height: int, width: int, mix_prob: float, mixup_odds: float, alpha: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What every sample keeps of its own, from draws (MIX_DRAWS,); alpha is Mixup's.

    Returns whether anything is mixed (1,), the share of the label (1, 1), and that of the pixels, a
    product of (1, H, W) and (1, 1, 1). CutMix's box is the partner's; the label follows its area
    within the image.
    """
    whether, which, weight, angle, middle_y, middle_x = draws.to(torch.float64)
    mixed, by_mixup = whether < mix_prob, which < mixup_odds
    share = torch.where(by_mixup, symmetric_beta(weight, angle, alpha or 1), weight)
    extent = (1 - share).sqrt()
    rows = _box(extent, middle_y, height)
    columns = _box(extent, middle_x, width)
    kept = torch.where(by_mixup, share, ~(rows[:, None] & columns))
    own = torch.where(mixed, kept, 1.0)
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
    """Bool (length,): floor(extent length) places about floor(middle length), cut at the ends."""
    count, centre = (extent * length).floor(), (middle * length).floor()
    first = centre - (count / 2).floor()
    return _between(first, first + count, length)


def _between(first: Tensor, end: Tensor, length: int) -> Tensor:
    """Bool (..., length): which of 0..length-1 are at least `first` and less than `end`."""
    line = torch.arange(length, device=first.device)
    return (line >= first) & (line < end)
