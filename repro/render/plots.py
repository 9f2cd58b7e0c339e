"""Plots of lines and of bars: each draws the cells of a panel into axes and returns legend handles.

Everywhere, what is filled was measured here, with the standard deviation over seeds; what is hollow
is the paper's number; and a cell without a number of ours has its mark where that would be.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from itertools import pairwise, product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from repro.measures import ACCURACIES, measure
from repro.render.text import HOLE, Row, known, number, reason

# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow, which is too
# light for a line; with the marks, no line is told by its colour alone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
HATCHES = ("", "///", "...", "xxx", "---", "ooo")  # of bars, which have no mark
MARKS = ("o", "s", "^", "D", "v", "P", "*")
HOLLOW: Mapping[str, Any] = {"fillstyle": "none", "markeredgewidth": 1.1, "linewidth": 1}
DARK, SMALL = "#333333", 8  # points

PERCENT = (0.0, 100.0)

ABSENT = "no such run"  # where the item has no cell for a place among the bars
CROSSES: Mapping[str, Mapping[str, Any]] = {  # by the reason
    HOLE: {"marker": "x", "markersize": 5},
    "diverged": {"marker": "1", "markersize": 8},
    "damaged": {"marker": "+", "markersize": 7},
    "stale": {"marker": "2", "markersize": 8},
}

_LOW = 0.3  # of the axes' height: a point below is in the way of a text at the axis
_KEY = 0.018  # of the axes' width: where the marks that name rows of crosses are

Handles = dict[str, Any]  # of a legend: label -> what it explains


def style_of(place: int) -> dict[str, Any]:
    """How the series at this place is drawn."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKS[place % len(MARKS)]}


def log_range(values: Collection[float], margin: float) -> tuple[float, float]:
    """The ends of a logarithmic axis with a margin, a share of it; of one value, half and twice."""
    low, high = min(values), max(values)
    factor = (high / low) ** margin if high > low else 2.0
    return low / factor, high * factor


# --- lines ---------------------------------------------------------------------------------------


def lines(axes: Axes, cells: pd.DataFrame) -> Handles:
    """A line a row over the columns, which are numbers, with a tick at each.

    The axis is logarithmic where the numbers are not evenly spaced.
    """
    ticks = {float(column): str(column) for column in cells["column"]}
    steps = {round(b - a, 9) for a, b in pairwise(sorted(ticks))}
    if min(ticks) > 0 and len(steps) > 1:
        axes.set_xscale("log")
        axes.set_xlim(log_range(ticks, 0.06))
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: ticks.get(x, "")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.08)
    handles = {}
    for i, (row, line) in enumerate(cells.groupby("row", sort=False)):
        handles[str(row)] = _line(axes, line, style_of(i))
    if (cells["n"] == 0).any():
        _crosses(axes, cells)
    return handles


def _line(axes: Axes, line: pd.DataFrame, style: dict[str, Any]) -> Any:
    """The measured line, broken at its holes, and the paper's, dashed."""
    x = line["column"].astype(float)
    line = line.assign(x=x).sort_values("x")
    mean, spread, paper = (line[name].astype(float) for name in ("mean", "spread", "paper"))
    axes.plot(line["x"], paper, linestyle="--", **HOLLOW, **style)
    return axes.errorbar(line["x"], mean, spread.fillna(0), **style)


def _crosses(axes: Axes, cells: pd.DataFrame) -> None:
    """A cross for every hole, in a strip below the lines that has a row for each line.

    The line's mark begins its row, so that crosses are told apart without their colour.
    """
    rows, height = list(cells["row"].unique()), 0.05  # of the axes
    if not _known(cells):
        axes.set_ylim(_range(cells))
    low, high = axes.get_ylim()
    strip = height * (len(rows) + 0.6)
    named = _known(cells) or _range(cells) == PERCENT  # of a scale that is not known, no numbers
    axes.set_yticks([tick for tick in axes.get_yticks() if named and low <= tick <= high])
    axes.set_ylim(low - (high - low) * strip / (1 - strip), high)
    axes.add_patch(Rectangle((0, 0), 1, strip, color="#f1f1f1", zorder=0, transform=axes.transAxes))
    for cell in cells[cells["n"] == 0].to_dict("records"):
        place = rows.index(cell["row"])
        y, style = height * (len(rows) - place - 0.2), style_of(place) | {"linestyle": ""}
        axes.plot([_KEY], [y], transform=axes.transAxes, markersize=4, **style)
        cross = {**style, **CROSSES[reason(cell)]}
        axes.plot([float(cell["column"])], [y], transform=axes.get_xaxis_transform(), **cross)


def _known(cells: pd.DataFrame) -> bool:
    """Whether there is any number to draw."""
    return bool(cells["mean"].notna().any() or cells["paper"].notna().any())


def _range(cells: pd.DataFrame) -> tuple[float, float]:
    """Of an axis without numbers."""
    return PERCENT if cells["metric"].isin(ACCURACIES).all() else (0, 1)


# --- bars ----------------------------------------------------------------------------------------


def bars(axes: Axes, cells: pd.DataFrame) -> Handles:
    """A group of bars a row, a bar a column, from zero, with its number above it."""
    rows, columns = list(cells["row"].unique()), list(cells["column"].unique())
    width = 0.8 / len(columns)
    upright = 5.4 * width / len(rows) < 0.4  # inches: what a bar has, and what five digits need
    found = {(cell["row"], cell["column"]): cell for cell in cells.to_dict("records")}
    holes, tops = [], [0.0]
    for (i, row), (place, column) in product(enumerate(rows), enumerate(columns)):
        x = i + (place - (len(columns) - 1) / 2) * width
        cell = found.get((row, column))
        paper = _paper(axes, x, cell) if cell else 0.0
        tops.append(paper)
        if cell and cell["n"]:
            tops.append(_bar(axes, x, width, cell, place, paper, upright))
        else:
            holes.append((x, paper, reason(cell) if cell else ABSENT, place))
    axes.set_xticks(range(len(rows)), _wrapped(rows), fontsize=9 if len(rows) < 6 else 7.5)
    axes.tick_params(axis="x", length=0, rotation=30 * (len(rows) > 8))
    axes.grid(False, axis="x")
    axes.set_xlim(-0.5, len(rows) - 0.5)
    room = 1.4 if upright else 1.2  # for the numbers above the bars
    axes.set_ylim(0, room * max(tops) if _known(cells) else _range(cells)[1])
    if cells["metric"].isin(ACCURACIES).all():
        axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])  # percent
    elif not _known(cells):  # no numbers of a scale that is not known
        axes.set_yticks([])
    for hole in holes:
        _hole(axes, *hole)
    if len(columns) == 1:  # nothing to be told apart
        return {}
    return {str(c): Patch(**_fill(i)) for i, c in enumerate(columns)}


def _fill(place: int) -> dict[str, Any]:
    """How the bars of the column at this place are filled, told apart in grey too."""
    return {
        "facecolor": COLOURS[place % len(COLOURS)],
        "hatch": HATCHES[place % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def _paper(axes: Axes, x: float, cell: Row) -> float:
    """The paper's number of a cell as a hollow point; how high it is, 0 where there is none."""
    paper = (known(cell, "paper") or 0.0) / measure(cell["metric"]).divisor
    if paper:
        axes.plot([x], [paper], color=DARK, marker="o", linestyle="", **HOLLOW)
    return paper


def _bar(
    axes: Axes, x: float, width: float, cell: Row, place: int, paper: float, upright: bool
) -> float:
    """One bar with its number above it and above the paper's; how high it comes."""
    unit = measure(cell["metric"]).divisor
    mean, spread = cell["mean"] / unit, (known(cell, "spread") or 0.0) / unit
    axes.bar(x, mean, 0.94 * width, **_fill(place))
    if spread:
        axes.errorbar(x, mean, spread, color=DARK, linewidth=1)
    top = float(max(mean + spread, paper))
    _above(axes, number(cell["mean"], cell["metric"]), x, top, DARK, upright)
    return top


def _hole(axes: Axes, x: float, paper: float, why: str, place: int) -> None:
    """Why there is no bar, above the axis, or above the paper's number where that is as low."""
    low = paper if paper < _LOW * axes.get_ylim()[1] else 0.0
    _above(axes, why, x, low, COLOURS[place % len(COLOURS)], upright=True)


def _above(axes: Axes, text: str, x: float, y: float, colour: str, upright: bool) -> None:
    """A text that begins a little above a point."""
    axes.annotate(
        text, (x, y), (0, 5), textcoords="offset points", ha="center", va="bottom",
        fontsize=SMALL, color=colour, rotation=90 * upright,
    )  # fmt: skip


def _wrapped(names: list[str]) -> list[str]:
    """Names below their groups, in lines that fit between their neighbours."""
    letters = max(8, 76 // len(names))
    wrap = textwrap.TextWrapper(letters, break_long_words=False, break_on_hyphens=False)
    return list(map(wrap.fill, names))
