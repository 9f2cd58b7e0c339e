"""Training curves as small plots: points of SVG lines, from the metrics of the runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from repro import results
from repro.core import curves as data
from repro.core.curves import Band, Curve
from repro.core.measures import MEASURES
from repro.core.numbers import number
from repro.render.text import place
from repro.report.content import CurveGroup, Plot, TrainingCurve
from repro.spec import Experiment, Scale

WIDTH, HEIGHT, MARGIN = 200, 48, 4  # of a plot


def groups(
    root: Path, items: Sequence[tuple[Experiment, Scale, int]]
) -> tuple[list[CurveGroup], list[str]]:
    """The trainings that have begun, each with the first item that has it, and warnings.

    items: experiments at a scale, with their number of seeds.
    """
    curve_groups, warnings, shown = list[CurveGroup](), list[str](), set[str]()
    for experiment, scale, seeds in items:
        try:
            curves = data.of_item(root, experiment, scale, seeds)
        except results.ResultsError as error:
            warnings.append(f"no curves of {experiment.name} at {scale} scale: {error}")
            continue
        begun = [each for each in curves if any(t.lines for t in each.trainings)]
        fresh = [each for each in begun if each.trainings[0].run.id not in shown]
        shown |= {training.run.id for each in fresh for training in each.trainings}
        if fresh:
            drawn = tuple(_training_curve(curve) for curve in fresh)
            heading = place(experiment, scale)
            curve_groups.append(CurveGroup(experiment.name, heading, drawn, data.state_note(fresh)))
    return curve_groups, warnings


def _training_curve(curve: Curve) -> TrainingCurve:
    axis = data.axis([curve])
    begun = [training for training in curve.trainings if training.lines]
    metrics = [name for name in data.main_metrics([curve]) if name != "lr"]
    places = [line[axis] or 0 for line in data.lines([curve])]
    length = f"{axis}s {min(places):g} to {max(places):g}" if len(places) > 1 else axis
    return TrainingCurve(
        label=curve.label or data.common_name([begun[0].run]),
        runs=tuple(training.run.id for training in begun),
        length=length if min(places) < max(places) else f"{axis} {places[0]:g}",
        plots=tuple(_plots(curve, metrics, axis)),
    )


def _plots(curve: Curve, metrics: Sequence[str], axis: str) -> Iterator[Plot]:
    for metric in metrics:
        band = data.band(curve, metric, axis)
        if band.x:
            yield _plot(metric, band, axis)


def _plot(metric: str, band: Band, axis: str) -> Plot:
    title = data.title(metric)
    first, last = (_number(value, metric) for value in (band.mean[0], band.mean[-1]))
    xs = _scaled(band.x, min(band.x), max(band.x), MARGIN, WIDTH - MARGIN)
    low, high = min(band.low), max(band.high)
    mean, lows, highs = (
        _scaled(values, low, high, HEIGHT - MARGIN, MARGIN)
        for values in (band.mean, band.low, band.high)
    )
    outline = [*zip(xs, lows, strict=True), *reversed([*zip(xs, highs, strict=True)])]
    has_band = len(band.x) > 1 and band.low != band.high
    about = f"{title}: {last}" if len(band.x) == 1 else f"{title}: from {first} to {last}"
    return Plot(
        metric=title,
        last=last,
        about=f"{about} at {axis} {band.x[-1]:g}",
        line=_points(zip(xs, mean, strict=True)) if len(band.x) > 1 else "",
        band=_points(outline) if has_band else "",
        end=(f"{xs[-1]:.1f}", f"{mean[-1]:.1f}"),
    )


def _number(value: float, metric: str) -> str:
    return number(value, metric) if metric in MEASURES else f"{value:.3g}"


def _scaled(
    values: Sequence[float], low: float, high: float, first: float, last: float
) -> list[float]:
    """The values with `low` at `first` and `high` at `last`; in the middle if these are equal."""
    if high <= low:
        return [(first + last) / 2] * len(values)
    return [first + (value - low) / (high - low) * (last - first) for value in values]


def _points(places: Iterator[tuple[float, float]] | list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
