"""Images side by side in one PNG: samples in a grid, latent interpolations in a strip."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WHITE = 255


def grid(images: Tensor, columns: int | None = None, gap: int = 2) -> bytes:
    """(N, 3, H, W) uint8 images in raster order as a PNG: the same bytes for the same images.

    They are `gap` px apart, on white; by default about as many columns as rows. Grey images give a
    grey PNG. ValueError for no images, or other tensors.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        kind = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"a grid is of uint8 images (N, 3, H, W), not of {kind}")
    if not images.numel():
        raise ValueError(f"a grid of no images or no pixels: {tuple(images.shape)}")
    if gap < 0 or (columns is not None and columns < 1):
        raise ValueError(f"a grid of {columns} columns, {gap} px apart")
    count, _, height, width = images.shape
    across = min(columns or math.isqrt(count - 1) + 1, count)
    down = math.ceil(count / across)
    shape = (down * (height + gap) - gap, across * (width + gap) - gap, 3)
    sheet = np.full(shape, WHITE, np.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        top, left = index // across * (height + gap), index % across * (width + gap)
        sheet[top : top + height, left : left + width] = image
    if (sheet == sheet[..., :1]).all():
        sheet = sheet[..., 0]
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", optimize=True)
    return file.getvalue()


def strip(images: Tensor) -> bytes:
    """(N, 3, H, W) uint8 images in one row, as a PNG. ValueError as in `grid`."""
    return grid(images, columns=max(1, len(images)))
