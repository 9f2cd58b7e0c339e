"""A grid of attribution maps: one picture per row, one method per column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from repro.render import page
from repro.render.page import DARK, EDGE, FAINT, GREY, WIDTH, draw_label

COLOURS = "inferno"  # perceptually uniform, from black to a pale yellow
BOX = "#56b4e9"  # true boxes: visible on dark and light, also to colour-blind readers
OPACITY = 0.62  # of a map over its picture
MID_GREY = 0.3  # the picture under the colours in the legend
MIN_SIDE = 128  # px, of an enlarged map

_MAX_INCHES = 1.42  # a picture's side
_MIN_INCHES = 0.6  # a picture's side; a page with more rows gets longer
_MARGINS = 1.3  # inches of a page: title, names, scale and note
_GAP = 0.09  # inches between rows, and at least between columns
_MAX_GAP = 0.6  # inches between columns
_TEXT_HEIGHT = 0.17  # inches of a line below a row, and above the first


@dataclass(frozen=True)
class ExplainedImage:
    """A picture and its map by each of several methods."""

    pixels: NDArray[np.uint8]  # (S, S, 3)
    class_name: str  # '' if unknown
    boxes: NDArray[np.int64]  # (K, 4): x0, y0, x1, y1 in pixels, inclusive; K may be 0
    maps: tuple[NDArray[np.float32] | str, ...]  # raw, (h, w) each; or why there is none
    predicted: tuple[str, ...]  # the class by each method's classifier; '' if unknown


def draw(
    pictures: Sequence[ExplainedImage], methods: Sequence[str], title: str, note: str
) -> Figure:
    """A figure of one or more pictures, for `page.svg` and `page.png`.

    Raises ValueError if a picture does not have one map per method.
    """
    if not pictures or any(len(methods) != len(p.maps) for p in pictures):
        raise ValueError(f"maps: {len(pictures)} pictures by {len(methods)} methods do not fit")
    side, pitch = _grid(len(pictures), len(methods) + 1)
    names = [page.fit(name, side, 8, 2, "bold") for name in ("Input", *methods)]
    head = page.line_height(8) * max(map(len, names)) + 0.05
    row = side + _TEXT_HEIGHT + _GAP
    with page.style_context():
        figure, axes = page.new_sheet(title, note, head + row * len(pictures) + 0.25)
        for column, name in enumerate(names):
            x, top = EDGE + column * pitch, head - 0.05 - page.line_height(8) * len(name)
            page.write_lines(axes, x, top, name, 8, weight="bold")
        for number, picture in enumerate(pictures):
            _draw_row(axes, picture, head + number * row, side, pitch)
        boxed = any(len(picture.boxes) for picture in pictures)
        _draw_legend(axes, head + row * len(pictures) + 0.02, boxed)
    return figure


def _grid(rows: int, columns: int) -> tuple[float, float]:
    """The side of a picture and the pitch of the columns, in inches, so that all fit on a page."""
    wide = (WIDTH - 2 * EDGE - _GAP * (columns - 1)) / columns
    high = (page.TALLEST - _MARGINS) / rows - _TEXT_HEIGHT - _GAP
    side = min(_MAX_INCHES, wide, max(high, _MIN_INCHES))
    pitch = (WIDTH - 2 * EDGE - side) / max(columns - 1, 1)
    return side, min(pitch, side + _MAX_GAP)


def overlay(pixels: NDArray[np.uint8], raw: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """The coloured map over the grey picture, (T, T, 3); None if the map is constant or not finite.

    It is enlarged bicubically, then scaled from its minimum to its maximum.
    """
    if _reason_empty(raw):
        return None
    times = -(-MIN_SIDE // len(pixels))
    side = times * len(pixels)
    large = np.asarray(
        Image.fromarray(raw.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    )
    grey = pixels.mean(2).repeat(times, 0).repeat(times, 1)[:, :, None] / 255
    return _colour((large - large.min()) / (large.max() - large.min()), grey)


def _reason_empty(raw: NDArray[np.float32] | str) -> str:
    """Why a map cannot be shown; '' if it can."""
    if isinstance(raw, str):
        return raw
    if not np.isfinite(raw).all():
        return "not finite"
    return "constant" if raw.max() == raw.min() else ""


def _colour(values: NDArray[np.float32], grey: Any) -> NDArray[np.uint8]:
    """Values from 0 to 1 as colours over a grey image."""
    colours = matplotlib.colormaps[COLOURS](values)[:, :, :3]
    mixed = OPACITY * colours + (1 - OPACITY) * grey
    return np.asarray(np.rint(255 * mixed).astype(np.uint8))


def _draw_row(axes: Axes, picture: ExplainedImage, y: float, side: float, pitch: float) -> None:
    """Draw the picture and each map, all with the boxes."""
    below = y + side + 0.03
    page.draw_picture(axes, picture.pixels, EDGE, y, side)
    _draw_boxes(axes, picture, EDGE, y, side)
    page.write_lines(axes, EDGE, below, page.fit(picture.class_name, side, 7), 7)
    for column, (raw, predicted) in enumerate(zip(picture.maps, picture.predicted, strict=True), 1):
        x = EDGE + column * pitch
        shown = None if isinstance(raw, str) else overlay(picture.pixels, raw)
        if shown is None:
            page.draw_frame(
                axes, (x, y), (side, side), FAINT, 1, fill=True, facecolor=FAINT, zorder=2
            )
            draw_label(axes, x + side / 2, y + side / 2, _reason_empty(raw), color=GREY)
        else:
            page.draw_picture(axes, shown, x, y, side)
            _draw_boxes(axes, picture, x, y, side)
        if predicted and predicted != picture.class_name:
            page.write_lines(
                axes, x, below, page.fit(f"predicted {predicted}", side, 7), 7, color=GREY
            )


def _draw_boxes(axes: Axes, picture: ExplainedImage, x: float, y: float, side: float) -> None:
    scale = side / len(picture.pixels)
    for x0, y0, x1, y1 in picture.boxes.tolist():
        last = len(picture.pixels)
        corner = x + x0 * scale, y + y0 * scale
        size = (min(x1 + 1, last) - x0) * scale, (min(y1 + 1, last) - y0) * scale
        page.draw_frame(axes, corner, size, BOX, 1)


def _draw_legend(axes: Axes, y: float, boxed: bool) -> None:
    """Draw the legend of the colours and, if there are any, of the boxes."""
    width, height, middle = 1.1, 0.11, y + 0.09
    ramp = _colour(np.linspace(0, 1, 64, dtype=np.float32)[None], MID_GREY)
    extent = (EDGE + 0.36, EDGE + 0.36 + width, middle + height / 2, middle - height / 2)
    axes.imshow(ramp, extent=extent, aspect="auto", clip_on=False, zorder=3)
    draw_label(axes, EDGE, middle, "min", ha="left")
    draw_label(axes, EDGE + 0.42 + width, middle, "max", ha="left", color=DARK)
    if boxed:
        page.draw_frame(axes, (EDGE + 2.25, middle - height / 2), (0.16, height), BOX, 1)
        draw_label(axes, EDGE + 2.47, middle, "true box", ha="left")
