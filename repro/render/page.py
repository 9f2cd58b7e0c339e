"""The page a figure is: its style, its way into a file, and a sheet to draw on in inches.

Text stays text: it can be searched and read out, and the file does not depend on how a version of
FreeType draws. It is measured in DejaVu Sans, which comes with matplotlib and is wider than what a
reader without it sees, so that nothing runs into anything there.
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

from repro import output

WIDTH = 6.4  # inches; its smallest letters are 8 points there, 5 in a column of 8.5 cm
TALLEST = 1.5 * WIDTH  # inches, of what has rows that can be lower
LINE, TITLE = 100, 72  # letters of a note and of the title in that width
TITLE_FONT: Mapping[str, Any] = {"size": 10, "weight": "bold"}

Spot = tuple[float, float]  # across and down, in inches

POINT = 1 / 72  # inches
EDGE = 0.07  # inches that are left free all round a sheet
TINY = 7  # points, of what is written into pictures
DARK, GREY, FAINT = "#333333", "#777777", "#f1f1f1"
_LEAD = 1.35  # from line to line, of the size of the letters
_CAPITAL = 0.73  # the height of a capital or a digit, of the size of the letters

_UNSAID = ("Creator", "Producer", "CreationDate")  # of a PDF: they differ from place to place

STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "repro",  # of the ids in the file, which are random without
    "pdf.fonttype": 42,  # conferences refuse Type 3
    "text.parse_math": False,  # a name may have dollars in it
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


def styled() -> AbstractContextManager[None]:
    """Whatever a reader's own matplotlibrc says."""
    return matplotlib.style.context([dict(STYLE)], after_reset=True)


def svg(figure: Figure, title: str) -> str:
    """The figure as a file, the same bytes everywhere; the title is its metadata."""
    return _written(figure, "svg", {"Title": title, "Creator": None, "Date": None}).decode()


def png(figure: Figure, title: str) -> bytes:
    """The same as pixels, to look at where SVG is not shown."""
    return _written(figure, "png", {"Title": title})


def pdf(figure: Figure, title: str) -> bytes:
    """The same for LaTeX, with TrueType fonts and no date; its bytes depend on zlib's version."""
    return _written(figure, "pdf", {"Title": title, **dict.fromkeys(_UNSAID)})


def _written(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def wrapped(text: str, letters: int) -> str:
    return textwrap.fill(text, letters, break_on_hyphens=False)


def shortened(text: str, letters: int, lines: int = 1) -> list[str]:
    """The text in lines of so many letters, with '…' for what is too much."""
    text = output.line(text)
    return textwrap.wrap(text, letters, max_lines=lines, placeholder="…", break_on_hyphens=False)


def fitted(
    text: str, inches: float, size: float, lines: int = 1, weight: str = "normal"
) -> list[str]:
    """The text in lines that are no wider than so many inches, by the measure of the font."""
    if not text:
        return []
    for letters in range(len(text) + 1, 1, -1):
        found = shortened(text, letters, lines)
        if max((_width(line, size, weight) for line in found), default=0.0) <= inches:
            return found
    return ["…"]


def _width(text: str, size: float, weight: str) -> float:
    """Inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) * POINT


def leading(size: float) -> float:
    """Inches from line to line of letters of a size in points."""
    return _LEAD * size * POINT


# --- a sheet, on which places are inches from the left and from the top --------------------------


def sheet(title: str, note: str, height: float) -> tuple[Figure, Axes]:
    """A page with its title above and its note below `height` inches, which begin at y = 0.

    To be called, like all that draws, where the page is `styled`.
    """
    above, below = wrapped(title, TITLE).splitlines(), wrapped(note, LINE).splitlines()
    size = float(TITLE_FONT["size"])
    top = EDGE + len(above) * leading(size) + 0.06
    bottom = EDGE + len(below) * leading(8) + 0.04
    figure = Figure(figsize=(WIDTH, top + height + bottom))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height + bottom, -top))
    axes.set_axis_off()
    write(axes, EDGE, EDGE - top, above, size, weight="bold")
    write(axes, EDGE, height + 0.04, below, 8)
    return figure, axes


def write(axes: Axes, x: float, top: float, lines: list[str], size: float = 8, **how: Any) -> float:
    """Lines of text, the first of which begins at `top`; where the next one would begin."""
    for line in lines:
        label(axes, x, top + leading(size) / 2, line, size, **{"ha": "left", **how})
        top += leading(size)
    return top


def label(axes: Axes, x: float, middle: float, text: str, size: float = TINY, **how: Any) -> None:
    """One line, its capitals centred on `middle`: by the font's design, not by what is measured."""
    baseline = middle + _CAPITAL / 2 * size * POINT
    style = {"ha": "center", "color": DARK, "zorder": 6, **how}
    axes.text(x, baseline, output.line(text), size=size, va="baseline", **style)


def picture(axes: Axes, pixels: NDArray[np.uint8], x: float, y: float, side: float) -> None:
    """Pixels (S, S, 3) in a square whose top left is at (x, y); each stays a square."""
    extent = (x, x + side, y + side, y)
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="none", clip_on=False, zorder=3)


def pill(
    axes: Axes, x: float, y: float, width: float, height: float, colour: str, zorder: float = 4
) -> None:
    """A filled box with round corners, centred on x, its top at y."""
    shape = f"round,pad=0,rounding_size={min(width, height) / 5}"
    style: dict[str, Any] = {"facecolor": colour, "edgecolor": "none", "zorder": zorder}
    axes.add_patch(FancyBboxPatch((x - width / 2, y), width, height, shape, **style))


def frame(axes: Axes, at: Spot, size: Spot, colour: str, points: float, **how: Any) -> None:
    """A line of so many points around a box whose top left is `at`."""
    style = {"fill": False, "edgecolor": colour, "linewidth": points, "joinstyle": "miter"}
    axes.add_patch(Rectangle(at, *size, **{"zorder": 5, **style, **how}))
