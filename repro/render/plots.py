"""Plots of lines and of bars: each draws the cells of a panel into axes and returns legend handles.

Filled marks are measured here, with the standard deviation over seeds; hollow marks are the paper's
numbers; a cell without a number of ours has a mark for the reason in its place.
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

from repro.core.cells import HOLE, Row, reason, value_of
from repro.core.measures import ACCURACIES, measure
from repro.core.numbers import number

# Okabe and Ito's palette for colour-blind readers, without the yellow, which is too light for a
# line. Marks or hatches differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "-.", ":")  # of lines, where the colours begin again
HATCHES = ("", "///", "...", "xxx", "---", "ooo")  # of bars
MARKS = ("o", "s", "^", "D", "v", "P", "*", "p", "H", "<")
HOLLOW: Mapping[str, Any] = {"fillstyle": "none", "markeredgewidth": 1.1, "linewidth": 1}
DARK, SMALL = "#333333", 8  # points

PERCENT = (0.0, 100.0)

ABSENT = "no such run"  # label of a bar for which the item has no cell
CROSSES: Mapping[str, Mapping[str, Any]] = {  # marks of missing numbers, by the reason
    HOLE: {"marker": "x", "markersize": 5},
    "diverged": {"marker": "1", "markersize": 8},
    "damaged": {"marker": "+", "markersize": 7},
    "stale": {"marker": "2", "markersize": 8},
}

_LOW_FRACTION = 0.3  # of the axes' height: a point below it would overlap a text at the axis
_KEY_X = 0.018  # of the axes' width: the x of the marks that label rows of crosses

Handles = dict[str, Any]  # of a legend: label -> what it explains


def style_of(place: int) -> dict[str, Any]:
    """Colour and mark of the series with this index."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKS[place % len(MARKS)]}


def log_range(values: Collection[float], margin: float) -> tuple[float, float]:
    """The limits of a logarithmic axis; `margin` is a fraction of its length.

    For a single value, half and twice that.
    """
    low, high = min(values), max(values)
    factor = (high / low) ** margin if high > low else 2.0
    return low / factor, high * factor


# --- lines ---------------------------------------------------------------------------------------


def lines(axes: Axes, cells: pd.DataFrame) -> Handles:
    """Draw one line per row over the columns, which are numbers, with a tick at each.

    The axis is logarithmic if the numbers are not evenly spaced.
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
        dash = DASHES[i // len(COLOURS) % len(DASHES)]
        handles[str(row)] = _draw_line(axes, line, style_of(i), dash)
    if (cells["n"] == 0).any():
        _draw_crosses(axes, cells)
    return handles


def _draw_line(axes: Axes, line: pd.DataFrame, style: dict[str, Any], dash: str) -> Any:
    """Draw the measured line, interrupted where numbers are missing, and the paper's, dashed."""
    x = line["column"].astype(float)
    line = line.assign(x=x).sort_values("x")
    mean, spread, paper = (line[name].astype(float) for name in ("mean", "spread", "paper"))
    axes.plot(line["x"], paper, linestyle="--", **HOLLOW, **style)
    return axes.errorbar(line["x"], mean, spread.fillna(0), linestyle=dash, **style)


def _draw_crosses(axes: Axes, cells: pd.DataFrame) -> None:
    """Draw a cross for every missing number, in a strip below the lines with a row per line.

    Each row begins with the line's mark, to identify it without colour.
    """
    rows, height = list(cells["row"].unique()), 0.05  # of the axes
    if not _has_numbers(cells):
        axes.set_ylim(_default_range(cells))
    low, high = axes.get_ylim()
    strip = height * (len(rows) + 0.6)
    named = (
        _has_numbers(cells) or _default_range(cells) == PERCENT
    )  # of a scale that is not known, no numbers
    axes.set_yticks([tick for tick in axes.get_yticks() if named and low <= tick <= high])
    axes.set_ylim(low - (high - low) * strip / (1 - strip), high)
    axes.add_patch(Rectangle((0, 0), 1, strip, color="#f1f1f1", zorder=0, transform=axes.transAxes))
    for cell in cells[cells["n"] == 0].to_dict("records"):
        place = rows.index(cell["row"])
        y, style = height * (len(rows) - place - 0.2), style_of(place) | {"linestyle": ""}
        axes.plot([_KEY_X], [y], transform=axes.transAxes, markersize=4, **style)
        cross = {**style, **CROSSES[reason(cell)]}
        axes.plot([float(cell["column"])], [y], transform=axes.get_xaxis_transform(), **cross)


def _has_numbers(cells: pd.DataFrame) -> bool:
    """Whether any cell has a number, ours or the paper's."""
    return bool(cells["mean"].notna().any() or cells["paper"].notna().any())


def _default_range(cells: pd.DataFrame) -> tuple[float, float]:
    """The limits of an axis without numbers."""
    return PERCENT if cells["metric"].isin(ACCURACIES).all() else (0, 1)


# --- bars ----------------------------------------------------------------------------------------


def bars(axes: Axes, cells: pd.DataFrame) -> Handles:
    """Draw a group of bars per row, with one bar per column and its number above it."""
    rows, columns = list(cells["row"].unique()), list(cells["column"].unique())
    width = 0.8 / len(columns)
    upright = 5.4 * width / len(rows) < 0.4  # inches: the width of a bar, and of five digits
    cell_at = {(cell["row"], cell["column"]): cell for cell in cells.to_dict("records")}
    holes, tops = [], [0.0]
    for (i, row), (place, column) in product(enumerate(rows), enumerate(columns)):
        x = i + (place - (len(columns) - 1) / 2) * width
        cell = cell_at.get((row, column))
        paper = _draw_paper(axes, x, cell) if cell else 0.0
        tops.append(paper)
        if cell and cell["n"]:
            tops.append(_draw_bar(axes, x, width, cell, place, paper, upright))
        else:
            holes.append((x, paper, reason(cell) if cell else ABSENT, place))
    names = _wrap_names(rows) if len(rows) < 9 else [textwrap.fill(row, 18) for row in rows]
    axes.set_xticks(range(len(rows)), names, fontsize=9 if len(rows) < 6 else 7.5)
    axes.tick_params(axis="x", length=0, rotation=90 * (len(rows) > 8))
    axes.grid(False, axis="x")
    axes.set_xlim(-0.5, len(rows) - 0.5)
    room = 1.4 if upright else 1.2  # for the numbers above the bars
    axes.set_ylim(0, room * max(tops) if _has_numbers(cells) else _default_range(cells)[1])
    if cells["metric"].isin(ACCURACIES).all():
        axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])  # percent
    elif not _has_numbers(cells):  # no numbers of a scale that is not known
        axes.set_yticks([])
    for hole in holes:
        _draw_hole(axes, *hole)
    if len(columns) == 1:  # no legend needed
        return {}
    return {str(c): Patch(**_bar_style(i)) for i, c in enumerate(columns)}


def _bar_style(place: int) -> dict[str, Any]:
    """Colour and hatch of the bars of the column with this index."""
    return {
        "facecolor": COLOURS[place % len(COLOURS)],
        "hatch": HATCHES[place % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def _draw_paper(axes: Axes, x: float, cell: Row) -> float:
    """Draw the paper's number as a hollow point; returns its height, 0 if there is none."""
    paper = (value_of(cell, "paper") or 0.0) / measure(cell["metric"]).divisor
    if paper:
        axes.plot([x], [paper], color=DARK, marker="o", linestyle="", **HOLLOW)
    return paper


def _draw_bar(
    axes: Axes, x: float, width: float, cell: Row, place: int, paper: float, upright: bool
) -> float:
    """Draw one bar with its number above it and above the paper's; returns the top."""
    unit = measure(cell["metric"]).divisor
    mean, spread = cell["mean"] / unit, (value_of(cell, "spread") or 0.0) / unit
    axes.bar(x, mean, 0.94 * width, **_bar_style(place))
    if spread:
        axes.errorbar(x, mean, spread, color=DARK, linewidth=1)
    top = float(max(mean + spread, paper))
    _write_above(axes, number(cell["mean"], cell["metric"]), x, top, DARK, upright)
    return top


def _draw_hole(axes: Axes, x: float, paper: float, why: str, place: int) -> None:
    """Write why there is no bar, above the axis, or above the paper's number if that is low."""
    low = paper if paper < _LOW_FRACTION * axes.get_ylim()[1] else 0.0
    _write_above(axes, why, x, low, COLOURS[place % len(COLOURS)], upright=True)


def _write_above(axes: Axes, text: str, x: float, y: float, colour: str, upright: bool) -> None:
    """Write a text a little above a point."""
    axes.annotate(
        text, (x, y), (0, 5), textcoords="offset points", ha="center", va="bottom",
        fontsize=SMALL, color=colour, rotation=90 * upright,
    )  # fmt: skip


def _wrap_names(names: list[str]) -> list[str]:
    """The names of groups, wrapped to fit between their neighbours."""
    letters = max(8, 76 // len(names))
    wrap = textwrap.TextWrapper(letters, break_long_words=False, break_on_hyphens=False)
    return list(map(wrap.fill, names))
