"""A layer's output as maps (B, C, h, w), with the layout inferred from its shape.

A map in the wrong layout still looks like a map: nothing fails, and rows are read as channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from repro.interpret.taps import InterpretError

Layout = Literal["NCHW", "NHWC"]


def as_maps(
    feature: Tensor,
    model: nn.Module,
    images: Tensor,
    layer: str,
    layout: Layout | None = None,
    channels: int | None = None,
) -> Tensor:
    """A layer's output as maps (B, C, h, w), whether it is NCHW, NHWC or tokens (B, N, C).

    Maps have the image's aspect ratio and, if given, `channels`; `layout` is needed where both
    readings fit. Tokens before the patches are dropped.
    """
    shape, pixels = tuple(feature.shape), tuple(images.shape[-2:])
    if feature.ndim == 3:
        return _patches(feature, model, pixels, layer)
    if feature.ndim != 4:
        raise InterpretError(f"layer {layer!r} gives {shape}, which is no map")
    readings: dict[Layout, Tensor] = {"NCHW": feature, "NHWC": feature.permute(0, 3, 1, 2)}
    if layout is not None:
        return readings[layout]
    fitting = [maps for maps in readings.values() if in_proportion(maps.shape[-2:], pixels)]
    if len(fitting) > 1:
        fitting = [maps for maps in fitting if maps.shape[1] == channels] or fitting
    if len(fitting) == 1:
        return fitting[0]
    why = "reads as NCHW and as NHWC" if fitting else f"is no map of images of {pixels} px"
    raise InterpretError(f"the {shape} of layer {layer!r} {why}: pass layout='NCHW' or 'NHWC'")


def prefix_tokens(model: nn.Module) -> int | None:
    """The number of tokens before the patches; None if unknown."""
    count = getattr(model, "num_prefix_tokens", None)  # timm
    if isinstance(count, int):
        return count
    return 1 if isinstance(getattr(model, "class_token", None), nn.Parameter) else None


def grid_of(tokens: int, pixels: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of patches on an image of these pixels; InterpretError if none fit."""
    rows = round((tokens * pixels[0] / pixels[1]) ** 0.5)
    if tokens < 1 or rows < 1 or tokens % rows or not in_proportion((rows, tokens // rows), pixels):
        raise InterpretError(f"{tokens} patches form no grid on images of {tuple(pixels)} px")
    return rows, tokens // rows


def in_proportion(sides: Sequence[int], pixels: Sequence[int]) -> bool:
    """Whether the sides are the image's divided by one stride, rounded up or down."""
    return abs(sides[0] * pixels[1] - sides[1] * pixels[0]) < max(pixels)


def _patches(feature: Tensor, model: nn.Module, pixels: Sequence[int], layer: str) -> Tensor:
    prefix = prefix_tokens(model)
    if prefix is None:
        raise InterpretError(f"layer {layer!r} gives tokens: the model has no num_prefix_tokens")
    grid = grid_of(feature.shape[1] - prefix, pixels)
    return feature[:, prefix:].transpose(1, 2).reshape(len(feature), -1, *grid)
