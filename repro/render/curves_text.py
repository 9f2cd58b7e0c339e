"""Training curves as text, for a terminal of any width: one plot a metric."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_letters, digits

from repro.core import curves as data
from repro.core import output
from repro.core.curves import Band, Curve

_MARKS = ascii_letters[26:] + ascii_letters[:26] + digits  # of several curves; then again
_MAX_MARKS = 8  # on a line of many points
_LEAST_WIDTH = 24
_SCALE_WIDTH = 9  # characters left of the plot
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille pattern, by row


@dataclass(frozen=True)
class _Range:
    """What a plot shows of one axis."""

    low: float
    high: float

    def place(self, value: float, size: int) -> int:
        """Which of `size` places from low to high a value is at; the middle if it has no extent."""
        if self.high <= self.low:
            return (size - 1) // 2
        return round((value - self.low) / (self.high - self.low) * (size - 1))


def draw(
    curves: Sequence[Curve],
    metrics: Sequence[str],
    title: str,
    *,
    width: int,
    height: int,
    unicode: bool,
) -> list[str]:
    """The lines of text of the title, of a plot for each metric, and of a note.

    Each curve has a letter, and below the plot its first and last value.

    Args:
        width: characters in a line, at least 24.
        height: rows of a plot.
        unicode: whether lines are drawn in braille; otherwise every character is ASCII.
    """
    shown = [curve for curve in curves if any(t.lines for t in curve.trainings)]
    lines = [title]
    if shown:
        axis = data.axis(shown)
        places = [float(line[axis] or 0) for line in data.lines(shown)]
        x_range = _Range(min(places), max(places))
        for metric in metrics:
            bands = [data.band(curve, metric, axis) for curve in shown]
            series = [(mark, c, b) for mark, c, b in _marked(shown, bands) if b.x]
            marked = [(mark, band) for mark, _, band in series]
            lines += ["", data.title(metric)]
            lines += _plot(marked, x_range, max(width, _LEAST_WIDTH), height, unicode)
            lines.append(_x_labels(x_range, axis, max(width, _LEAST_WIDTH)))
            lines += [_key(*each, axis=axis) for each in series]
    lines += ["", *textwrap.wrap(data.state_note(curves), max(width, _LEAST_WIDTH))]
    return [_fitted(line, max(width, _LEAST_WIDTH), unicode) for line in lines]


def _marked(curves: Sequence[Curve], bands: Sequence[Band]) -> Iterator[tuple[str, Curve, Band]]:
    for place, (curve, band) in enumerate(zip(curves, bands, strict=True)):
        yield "*" if len(curves) == 1 else _MARKS[place % len(_MARKS)], curve, band


def _plot(
    bands: Sequence[tuple[str, Band]], x_range: _Range, width: int, height: int, unicode: bool
) -> list[str]:
    """The rows of a plot, with the highest and the lowest value beside them."""
    columns = width - _SCALE_WIDTH - 1
    values = [value for _, band in bands for value in band.mean]
    y_range = _Range(min(values), max(values))
    rows = _lines_of([band for _, band in bands], x_range, y_range, columns, height, unicode)
    for mark, band in bands:
        step = -(-len(band.x) // _MAX_MARKS)
        for index in {*range(0, len(band.x), step), len(band.x) - 1}:
            row = height - 1 - y_range.place(band.mean[index], height)
            rows[row][x_range.place(band.x[index], columns)] = mark
    scales = [""] * height
    for value in (y_range.low, y_range.high):
        scales[height - 1 - y_range.place(value, height)] = f"{value:.4g}"
    return [
        f"{scale:>{_SCALE_WIDTH - 1}} |{''.join(row).rstrip()}"
        for scale, row in zip(scales, rows, strict=True)
    ]


def _lines_of(
    bands: Sequence[Band], x: _Range, y: _Range, columns: int, rows: int, unicode: bool
) -> list[list[str]]:
    """The characters of the lines between the points: braille with 2 x 4 dots each, or dots."""
    wide, high = (2, 4) if unicode else (1, 1)
    patterns = [[0] * columns for _ in range(rows)]
    for band in bands:
        points = [
            (x.place(a, columns * wide), rows * high - 1 - y.place(b, rows * high))
            for a, b in zip(band.x, band.mean, strict=True)
        ]
        for column, row in _between(points):
            dot = _DOTS[row % high][column % wide] if unicode else 1
            patterns[row // high][column // wide] |= dot
    return [
        [(chr(0x2800 + dots) if unicode else ".") if dots else " " for dots in row]
        for row in patterns
    ]


def _between(points: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The places on the straight lines from each point to the next."""
    for (x1, y1), (x2, y2) in pairwise(points):
        steps = max(abs(x2 - x1), abs(y2 - y1), 1)
        for step in range(steps + 1):
            yield (
                x1 + round((x2 - x1) * step / steps),
                y1 + round((y2 - y1) * step / steps),
            )


def _x_labels(x_range: _Range, axis: str, width: int) -> str:
    """The first and the last epoch or step, below the ends of the plot."""
    first, last = f"{axis} {x_range.low:g}", f"{x_range.high:g}"
    gap = width - _SCALE_WIDTH - 1 - len(first) - len(last)
    if x_range.low == x_range.high:
        return " " * (_SCALE_WIDTH + 1) + first
    return " " * (_SCALE_WIDTH + 1) + first + " " * max(1, gap) + last


def _key(mark: str, curve: Curve, band: Band, *, axis: str) -> str:
    """'A 1.62 → 0.629  method (4 epochs, 3 seeds)'; the mean over seeds."""
    seeds = f", {max(band.seeds)} seeds" if max(band.seeds) > 1 else ""
    values = f"{band.mean[0]:.4g}"
    if len(band.x) > 1:
        values += f" → {band.mean[-1]:.4g}"
    label = f"  {output.line(curve.label)}" if curve.label else ""
    return f"  {mark} {values}{label} ({axis} {band.x[-1]:g}{seeds})"


def _fitted(line: str, width: int, unicode: bool) -> str:
    """The line in `width` characters."""
    if not unicode:
        plain = line.replace("→", "->").replace("×", "x").replace("…", "...")
        line = plain.encode("ascii", "replace").decode()
    if len(line) <= width:
        return line
    end = "…" if unicode else "..."
    return line[: width - len(end)] + end
