"""Attribution maps beside each other: a picture a row, a method a column."""

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
from repro.render.page import DARK, EDGE, FAINT, GREY, WIDTH, label

COLOURS = "inferno"  # perceptually uniform, from black to a pale yellow
BOX = "#56b4e9"  # of the true boxes: seen on dark and on light, by colour-blind readers too
SHARE = 0.62  # of the colours, before the picture
BETWEEN = 0.3  # grey of a picture that is neither dark nor light
LEAST_SIDE = 128  # px, of a drawn map

_LARGEST = 1.42  # inches: a picture's side
_SMALLEST = 0.6  # inches: more rows than fit at that size make a page longer
_REST = 1.3  # inches of a page: title, names, scale and note
_GAP = 0.09
_TEXT = 0.17  # inches for a line below a row, and above the first


@dataclass(frozen=True)
class Seen:
    """A picture, and what each of several methods makes of it."""

    pixels: NDArray[np.uint8]  # (S, S, 3)
    shows: str  # its class; '' if that is not known
    boxes: NDArray[np.int64]  # (K, 4): x0, y0, x1, y1 in its pixels, both corners in; K may be 0
    maps: tuple[NDArray[np.float32] | str, ...]  # raw, (h, w) each; or why there is none
    predicted: tuple[str, ...]  # what each method's classifier takes it for; '' if nobody asks


def drawn(pictures: Sequence[Seen], methods: Sequence[str], title: str, note: str) -> Figure:
    """The pictures below each other, at least one; `page.svg` and `page.png` write them.

    ValueError for a picture that has another number of maps than there are methods.
    """
    if not pictures or any(len(methods) != len(p.maps) for p in pictures):
        raise ValueError(f"maps: {len(pictures)} pictures by {len(methods)} methods do not fit")
    side = _side(len(pictures), len(methods) + 1)
    names = [page.fitted(name, side, 8, 2, "bold") for name in ("Input", *methods)]
    head = page.leading(8) * max(map(len, names)) + 0.05
    row = side + _TEXT + _GAP
    with page.styled():
        figure, axes = page.sheet(title, note, head + row * len(pictures) + 0.25)
        for column, name in enumerate(names):
            x, top = EDGE + column * (side + _GAP), head - 0.05 - page.leading(8) * len(name)
            page.write(axes, x, top, name, 8, weight="bold")
        for number, picture in enumerate(pictures):
            _draw_row(axes, picture, head + number * row, side)
        boxed = any(len(picture.boxes) for picture in pictures)
        _draw_scale(axes, head + row * len(pictures) + 0.02, boxed)
    return figure


def _side(rows: int, columns: int) -> float:
    """Of a picture, in inches: as many beside and below each other as fit into a page."""
    wide = (WIDTH - 2 * EDGE - _GAP * (columns - 1)) / columns
    high = (page.TALLEST - _REST) / rows - _TEXT - _GAP
    return min(_LARGEST, wide, max(high, _SMALLEST))


def overlay(pixels: NDArray[np.uint8], raw: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """The map's colours over the picture in grey, (T, T, 3); None if it has nothing to show.

    It is enlarged bicubically, then scaled from its least to its largest value.
    """
    if _empty(raw):
        return None
    times = -(-LEAST_SIDE // len(pixels))
    side = times * len(pixels)
    large = np.asarray(
        Image.fromarray(raw.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    )
    grey = pixels.mean(2).repeat(times, 0).repeat(times, 1)[:, :, None] / 255
    return _coloured((large - large.min()) / (large.max() - large.min()), grey)


def _empty(raw: NDArray[np.float32] | str) -> str:
    """Why there is nothing to show of a map; '' if there is."""
    if isinstance(raw, str):
        return raw
    if not np.isfinite(raw).all():
        return "not finite"
    return "constant" if raw.max() == raw.min() else ""


def _coloured(values: NDArray[np.float32], grey: Any) -> NDArray[np.uint8]:
    """Values from 0 to 1 as colours over something grey."""
    colours = matplotlib.colormaps[COLOURS](values)[:, :, :3]
    mixed = SHARE * colours + (1 - SHARE) * grey
    return np.asarray(np.rint(255 * mixed).astype(np.uint8))


def _draw_row(axes: Axes, picture: Seen, y: float, side: float) -> None:
    """The picture with its boxes, and each map with the same boxes."""
    below = y + side + 0.03
    page.picture(axes, picture.pixels, EDGE, y, side)
    _draw_boxes(axes, picture, EDGE, y, side)
    page.write(axes, EDGE, below, page.fitted(picture.shows, side, 7), 7)
    for column, (raw, taken) in enumerate(zip(picture.maps, picture.predicted, strict=True), 1):
        x = EDGE + column * (side + _GAP)
        shown = None if isinstance(raw, str) else overlay(picture.pixels, raw)
        if shown is None:
            page.frame(axes, (x, y), (side, side), FAINT, 1, fill=True, facecolor=FAINT, zorder=2)
            label(axes, x + side / 2, y + side / 2, _empty(raw), color=GREY)
        else:
            page.picture(axes, shown, x, y, side)
            _draw_boxes(axes, picture, x, y, side)
        if taken and taken != picture.shows:
            page.write(axes, x, below, page.fitted(f"taken for {taken}", side, 7), 7, color=GREY)


def _draw_boxes(axes: Axes, picture: Seen, x: float, y: float, side: float) -> None:
    scale = side / len(picture.pixels)
    for x0, y0, x1, y1 in picture.boxes.tolist():
        last = len(picture.pixels)
        corner = x + x0 * scale, y + y0 * scale
        size = (min(x1 + 1, last) - x0) * scale, (min(y1 + 1, last) - y0) * scale
        page.frame(axes, corner, size, BOX, 1)


def _draw_scale(axes: Axes, y: float, boxed: bool) -> None:
    """What the colours are, and the frames, if there are any."""
    width, height, middle = 1.1, 0.11, y + 0.09
    ramp = _coloured(np.linspace(0, 1, 64, dtype=np.float32)[None], BETWEEN)
    extent = (EDGE + 0.36, EDGE + 0.36 + width, middle + height / 2, middle - height / 2)
    axes.imshow(ramp, extent=extent, aspect="auto", clip_on=False, zorder=3)
    label(axes, EDGE, middle, "least", ha="left")
    label(axes, EDGE + 0.42 + width, middle, "largest", ha="left", color=DARK)
    if boxed:
        page.frame(axes, (EDGE + 2.25, middle - height / 2), (0.16, height), BOX, 1)
        label(axes, EDGE + 2.47, middle, "a true box", ha="left")
