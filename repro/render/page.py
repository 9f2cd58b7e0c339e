"""Pages for figures: the style, the output formats, and drawing in inches.

Text stays text, so that it can be searched and read aloud, and files do not depend on the version
of FreeType. Its width is measured in DejaVu Sans, which comes with matplotlib and is wider than the
usual substitutes, so that nothing overlaps for readers without it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from repro.core import output

WIDTH = 6.4  # inches; text of 8 points becomes 5 points in a column of 8.5 cm
TALLEST = 1.5 * WIDTH  # inches, of figures whose rows can shrink
NOTE_CHARACTERS, TITLE_CHARACTERS = 100, 72  # per line
TITLE_FONT: Mapping[str, Any] = {"size": 10, "weight": "bold"}

Spot = tuple[float, float]  # x and y in inches, from the top left

POINT = 1 / 72  # inches
EDGE = 0.07  # inches: the margin of a sheet
TINY = 7  # points: text inside pictures
DARK, GREY, FAINT = "#333333", "#777777", "#f1f1f1"
_LEAD = 1.35  # line height, in font sizes
_CAPITAL = 0.73  # height of a capital or a digit, in font sizes

_OMITTED = ("Creator", "Producer", "CreationDate")  # metadata of a PDF that differ by machine

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "repro",  # without it, ids in the file are random
    "pdf.fonttype": 42,  # conferences refuse Type 3
    "text.parse_math": False,  # names may contain dollars
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#555555",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def style_context() -> AbstractContextManager[None]:
    """matplotlib's defaults with STYLE, independent of the user's matplotlibrc."""
    return matplotlib.style.context([dict(STYLE)], after_reset=True)


def svg(figure: Figure, title: str) -> str:
    """The figure as SVG, byte for byte reproducible; the title is its metadata."""
    return _save(figure, "svg", {"Title": title, "Creator": None, "Date": None}).decode()


def png(figure: Figure, title: str) -> bytes:
    """The figure as PNG, for viewers without SVG."""
    return _save(figure, "png", {"Title": title})


def pdf(figure: Figure, title: str) -> bytes:
    """The figure as PDF, with TrueType fonts and no date; the bytes depend on zlib's version."""
    return _save(figure, "pdf", {"Title": title, **dict.fromkeys(_OMITTED)})


def _save(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with style_context():
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def wrap(text: str, letters: int) -> str:
    return textwrap.fill(text, letters, break_on_hyphens=False)


def truncate(text: str, letters: int, lines: int = 1) -> list[str]:
    """The text in at most `lines` lines of `letters` characters, cut with '…'."""
    text = output.line(text)
    return textwrap.wrap(text, letters, max_lines=lines, placeholder="…", break_on_hyphens=False)


def fit(text: str, inches: float, size: float, lines: int = 1, weight: str = "normal") -> list[str]:
    """The text in at most `lines` lines that are no wider than `inches`, cut with '…'."""
    if not text:
        return []
    for letters in range(len(text) + 1, 1, -1):
        text_lines = truncate(text, letters, lines)
        if max((_width(line, size, weight) for line in text_lines), default=0.0) <= inches:
            return text_lines
    return ["…"]


def _width(text: str, size: float, weight: str) -> float:
    """The width of a text in inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) * POINT


def line_height(size: float) -> float:
    """The line height in inches of a font size in points."""
    return _LEAD * size * POINT


# --- drawing on a sheet: coordinates are inches from the left and from the top -------------------


def new_sheet(title: str, note: str, height: float) -> tuple[Figure, Axes]:
    """A page with `height` inches from y = 0 between its title and its note.

    Call this, and everything that draws, within `style_context`.
    """
    above, below = (
        wrap(title, TITLE_CHARACTERS).splitlines(),
        wrap(note, NOTE_CHARACTERS).splitlines(),
    )
    size = float(TITLE_FONT["size"])
    top = EDGE + len(above) * line_height(size) + 0.06
    bottom = EDGE + len(below) * line_height(8) + 0.04
    figure = Figure(figsize=(WIDTH, top + height + bottom))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height + bottom, -top))
    axes.set_axis_off()
    write_lines(axes, EDGE, EDGE - top, above, size, weight="bold")
    write_lines(axes, EDGE, height + 0.04, below, 8)
    return figure, axes


def write_lines(
    axes: Axes, x: float, top: float, lines: list[str], size: float = 8, **how: Any
) -> float:
    """Write lines of text from `top` down; returns the top of the next line."""
    for line in lines:
        draw_label(axes, x, top + line_height(size) / 2, line, size, **{"ha": "left", **how})
        top += line_height(size)
    return top


def draw_label(
    axes: Axes, x: float, middle: float, text: str, size: float = TINY, **how: Any
) -> None:
    """Draw one line with its capitals centred on `middle`, by the font's nominal height."""
    baseline = middle + _CAPITAL / 2 * size * POINT
    style = {"ha": "center", "color": DARK, "zorder": 6, **how}
    axes.text(x, baseline, output.line(text), size=size, va="baseline", **style)


def draw_picture(axes: Axes, pixels: NDArray[np.uint8], x: float, y: float, side: float) -> None:
    """Draw pixels (S, S, 3) as a square with its top left at (x, y), without interpolation."""
    extent = (x, x + side, y + side, y)
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="none", clip_on=False, zorder=3)


def draw_pill(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str, zorder: float = 4
) -> None:
    """Draw a filled box with round corners, centred on x, its top at y."""
    shape = f"round,pad=0,rounding_size={min(width, height) / 5}"
    style: dict[str, Any] = {"facecolor": colour, "edgecolor": "none", "zorder": zorder}
    axes.add_patch(FancyBboxPatch((x - width / 2, y), width, height, shape, **style))


def draw_frame(axes: Axes, at: Spot, size: Spot, colour: str, points: float, **how: Any) -> None:
    """Draw the outline of a box whose top left is `at`, `points` wide."""
    style = {"fill": False, "edgecolor": colour, "linewidth": points, "joinstyle": "miter"}
    axes.add_patch(Rectangle(at, *size, **{"zorder": 5, **style, **how}))
