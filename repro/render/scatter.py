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

from repro.core.cells import Row, reason, value_of
from repro.render.plots import DARK, HOLLOW, SMALL, Handles, log_range, style_of

_DISTANCE = 7  # typographic points, from a point to its label
_TURNS = (0, 4, 2, 6, 1, 7, 3, 5)  # eighths: right, left, above, below, then between these


def scatter(axes: Axes, cells: pd.DataFrame) -> Handles:
    """Draw one point per row: the first column is y, the second x on a logarithmic axis."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.15)
    groups, points = list(cells["group"].unique()), _pairs(cells)
    ends = [_coordinates(x, y, name) for y, x in points.values() for name in ("mean", "paper")]
    if any(ends):
        axes.set_xlim(log_range([end[0] for end in ends if end], 0.15))
    else:
        axes.set(xticks=[], yticks=[])
        why = reason(*(cell for pair in points.values() for cell in pair))
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, color=DARK)
    for (group, row), (y, x) in points.items():
        _draw_point(axes, row, x, y, style_of(groups.index(group)))
    return {
        group: axes.plot([], [], linestyle="", **style_of(place))[0]
        for place, group in enumerate(groups)
        if group
    }


def missing_rows(cells: pd.DataFrame) -> dict[str, list[str]]:
    """The rows without a measured point, by the reason."""
    rows_by_reason: dict[str, list[str]] = {}
    for _, panel in cells.groupby("panel", sort=False):
        for (_, row), pair in _pairs(panel).items():
            if not all(cell["n"] for cell in pair):
                rows_by_reason.setdefault(reason(*pair), []).append(row)
    return rows_by_reason


def _pairs(cells: pd.DataFrame) -> dict[tuple[str, str], tuple[Row, Row]]:
    """The cells of the two columns, for each row that has both."""
    first, second = cells["column"].unique()[:2]
    points: dict[tuple[str, str], tuple[Row, Row]] = {}
    for (group, row), of_row in cells.groupby(["group", "row"], sort=False):
        at = {cell["column"]: cell for cell in of_row.to_dict("records")}
        if first in at and second in at:
            points[str(group), str(row)] = (at[first], at[second])
    return points


def _draw_point(axes: Axes, row: str, x: Row, y: Row, style: dict[str, Any]) -> None:
    """Draw the measured point and the paper's, if known, a line between them, and a label."""
    here, printed = _coordinates(x, y, "mean"), _coordinates(x, y, "paper")
    if printed:
        axes.plot(*printed, linestyle="", **HOLLOW, **style)
    if here:
        wide, high = value_of(x, "spread") or 0, value_of(y, "spread") or 0
        axes.errorbar(*here, xerr=wide, yerr=high, **style)
    if here and printed:
        both = zip(here, printed, strict=True)
        axes.plot(*both, linestyle=":", linewidth=1, color=style["color"])
    if point := here or printed:
        label = axes.annotate(row, point, (0, 0), textcoords="offset points", fontsize=SMALL)
        label.set_in_layout(False)


def _coordinates(x: Row, y: Row, name: str) -> tuple[float, float] | None:
    """The coordinates of a point; None if one is unknown."""
    place = value_of(x, name), value_of(y, name)
    return None if place[0] is None or place[1] is None else (place[0], place[1])


def place_labels(axes: Axes) -> None:
    """Put each label beside its point where it overlaps least. Call it after the layout."""
    paths = [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    dots = [xy for path in paths for xy in path]
    occupied: list[BboxBase] = [Bbox([(x - 5, y - 5), (x + 5, y + 5)]) for x, y in dots]
    for label in (text for text in axes.texts if isinstance(text, Annotation)):
        overlap = {turn: _overlap(_place_at(label, turn), occupied, axes.bbox) for turn in _TURNS}
        occupied.append(_place_at(label, min(_TURNS, key=overlap.__getitem__)))


def _place_at(label: Annotation, turn: int) -> BboxBase:
    """Put a label `turn` eighths of a turn from the right of its point; returns its box."""
    x, y = (round(f(turn * math.pi / 4), 6) for f in (math.cos, math.sin))
    label.set_position((_DISTANCE * x, _DISTANCE * y))
    label.set_horizontalalignment("left" if x > 0 else "right" if x < 0 else "center")
    label.set_verticalalignment("bottom" if y > 0 else "top" if y < 0 else "center")
    return label.get_window_extent()


def _overlap(box: BboxBase, occupied: Sequence[BboxBase], inside: BboxBase) -> float:
    """The area of a box that overlaps occupied boxes or lies outside of `inside`."""
    overlaps = [_area(BboxBase.intersection(box, other)) for other in occupied]
    return sum(overlaps) + _area(box) - _area(BboxBase.intersection(box, inside))


def _area(box: BboxBase | None) -> float:
    return box.width * box.height if box else 0.0
