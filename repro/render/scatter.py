"""Plots of points: accuracy against throughput, each point with its name beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox, BboxBase

from repro.render.plots import DARK, HOLLOW, SMALL, Handles, log_range, style_of
from repro.render.text import Row, known, reason

_DISTANCE = 7  # points, from a point to its label
_TURNS = (0, 4, 2, 6, 1, 7, 3, 5)  # eighths: right, left, above, below, then between these


def scatter(axes: Axes, cells: pd.DataFrame) -> Handles:
    """A point a row: the first column is its height, the second its place on a log axis."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.15)
    groups, points = list(cells["group"].unique()), _points(cells)
    ends = [_at(x, y, name) for y, x in points.values() for name in ("mean", "paper")]
    if any(ends):
        axes.set_xlim(log_range([end[0] for end in ends if end], 0.15))
    else:
        axes.set(xticks=[], yticks=[])
        why = reason(*(cell for pair in points.values() for cell in pair))
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color=DARK)
    for (group, row), (y, x) in points.items():
        _point(axes, row, x, y, style_of(groups.index(group)))
    return {
        group: axes.plot([], [], linestyle="", **style_of(place))[0]
        for place, group in enumerate(groups)
        if group
    }


def unplaced(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The rows that are no point of ours, by the reason."""
    found: dict[str, list[str]] = {}
    for _, panel in cells.groupby("panel", sort=False):
        for (_, row), pair in _points(panel).items():
            if not all(cell["n"] for cell in pair):
                found.setdefault(reason(*pair), []).append(row)
    return found


def _points(cells: pd.DataFrame) -> dict[tuple[str, str], tuple[Row, Row]]:
    """The two cells of each row that has both."""
    first, second = cells["column"].unique()[:2]
    points: dict[tuple[str, str], tuple[Row, Row]] = {}
    for (group, row), of_row in cells.groupby(["group", "row"], sort=False):
        at = {cell["column"]: cell for cell in of_row.to_dict("records")}
        if first in at and second in at:
            points[str(group), str(row)] = (at[first], at[second])
    return points


def _point(axes: Axes, row: str, x: Row, y: Row, style: dict[str, Any]) -> None:
    """The measured point and the paper's, each if it is known, joined if both are; one label."""
    here, printed = _at(x, y, "mean"), _at(x, y, "paper")
    if printed:
        axes.plot(*printed, linestyle="", **HOLLOW, **style)
    if here:
        wide, high = known(x, "spread") or 0, known(y, "spread") or 0
        axes.errorbar(*here, xerr=wide, yerr=high, **style)
    if here and printed:
        both = zip(here, printed, strict=True)
        axes.plot(*both, linestyle=":", linewidth=1, color=style["color"])
    if point := here or printed:
        label = axes.annotate(row, point, (0, 0), textcoords="offset points", fontsize=SMALL)
        label.set_in_layout(False)


def _at(x: Row, y: Row, name: str) -> tuple[float, float] | None:
    """The point with these coordinates, if both are known."""
    place = known(x, name), known(y, name)
    return None if place[0] is None or place[1] is None else (place[0], place[1])


def place_labels(axes: Axes) -> None:
    """Put each label beside its point where it covers the least; once the layout is made."""
    paths = [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    dots = [xy for path in paths for xy in path]
    taken: list[BboxBase] = [Bbox([(x - 5, y - 5), (x + 5, y + 5)]) for x, y in dots]
    for label in (text for text in axes.texts if isinstance(text, Annotation)):
        covered = {turn: _covered(_turned(label, turn), taken, axes.bbox) for turn in _TURNS}
        taken.append(_turned(label, min(_TURNS, key=covered.__getitem__)))


def _turned(label: Annotation, turn: int) -> BboxBase:
    """The label put so many eighths of a turn from the right of its point, and the box it fills."""
    x, y = (round(f(turn * math.pi / 4), 6) for f in (math.cos, math.sin))
    label.set_position((_DISTANCE * x, _DISTANCE * y))
    label.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    label.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
    return label.get_window_extent()


def _covered(box: BboxBase, taken: Sequence[BboxBase], inside: BboxBase) -> float:
    """How much of the boxes that are taken, and of what is not inside, a box covers."""
    overlaps = [_area(BboxBase.intersection(box, other)) for other in taken]
    return sum(overlaps) + _area(box) - _area(BboxBase.intersection(box, inside))


def _area(box: BboxBase | None) -> float:
    return box.width * box.height if box else 0.0
