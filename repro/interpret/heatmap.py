"""What all maps go through before they are compared, drawn or scored: one scale, one size."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Mode = Literal["bicubic", "bilinear", "nearest"]


def normalised(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, h, w) each brought to [0, 1] by its least and largest value, and which are empty.

    A map that is constant, or not finite somewhere, says nothing of where: it becomes zeros, and
    is True in the second answer, bool (B,).
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    empty = ~((spread > 0) & spread.isfinite())
    scaled = ((maps - low) / spread.masked_fill(empty, 1)).clamp(0, 1)
    return scaled.masked_fill(empty, 0), empty[:, 0, 0]


def resized(maps: Tensor, side: int, mode: Mode = "bicubic") -> Tensor:
    """Maps (B, h, w) at (B, side, side), pixel centres kept, not smoothed where they shrink.

    Bicubic values may leave the range of the map's own: resize first, then normalise.
    """
    if mode == "nearest":
        return F.interpolate(maps[:, None], (side, side), mode="nearest-exact")[:, 0]
    return F.interpolate(maps[:, None], (side, side), mode=mode, align_corners=False)[:, 0]
