"""Normalise and resize maps before they are compared, plotted or scored."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

ResizeMode = Literal["bicubic", "bilinear", "nearest"]


def normalize(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, h, w), each min-max scaled to [0, 1], and which of them are empty, bool (B,).

    A map that is constant or has a value that is not finite counts as empty and becomes zeros.
    """
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    spread = high - low
    empty = ~((spread > 0) & spread.isfinite())
    scaled = ((maps - low) / spread.masked_fill(empty, 1)).clamp(0, 1)
    return scaled.masked_fill(empty, 0), empty[:, 0, 0]


def resize(maps: Tensor, side: int, mode: ResizeMode = "bicubic") -> Tensor:
    """Maps (B, h, w) resized to (B, side, side), with pixel centres aligned, without antialiasing.

    Bicubic values may leave the range of the input: resize first, then normalise.
    """
    if mode == "nearest":
        return F.interpolate(maps[:, None], (side, side), mode="nearest-exact")[:, 0]
    return F.interpolate(maps[:, None], (side, side), mode=mode, align_corners=False)[:, 0]
