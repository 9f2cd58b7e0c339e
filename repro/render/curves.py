"""Training curves as figures: one panel a metric, a line with a band for each set of seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from repro.core import curves as data
from repro.core.curves import Band, Curve
from repro.render import page, plots
from repro.render.page import NOTE_CHARACTERS, TITLE_CHARACTERS, TITLE_FONT, WIDTH, wrap

_DASHES: Sequence[Any] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_BAND_OPACITY = 0.18
_PANEL_HEIGHT = 1.9  # inches
_LOG_RATIO = 20  # of the peaks of two curves, from which on the axis is logarithmic
_MARK_WIDTH, _GROUP_WIDTH, _MARGIN = 0.017, 0.09, 0.06  # of the x axis
_LABEL_CHARACTERS = 85
_MAX_STACKED = 3  # panels; more are in two columns


def draw(curves: Sequence[Curve], metrics: Sequence[str], title: str) -> Figure:
    """The figure of the curves that have begun; one panel for each of the metrics, at least one.

    Lines are means over seeds; bands, and bars of single points, are from minimum to maximum.

    Raises ValueError if no curve has begun.
    """
    shown = [curve for curve in curves if any(t.lines for t in curve.trainings)]
    columns = 1 if len(metrics) <= _MAX_STACKED else 2
    rows = -(-len(metrics) // columns)
    x = data.axis(shown)
    left, right = _limits([float(line[x] or 0) for line in data.lines(shown)])
    bands = {metric: [data.band(curve, metric, x) for curve in shown] for metric in metrics}
    with page.style_context():
        height = _PANEL_HEIGHT * rows + 0.2 * -(-len(shown) // _legend_columns(shown)) + 0.9
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for panel in panels[len(metrics) :]:
            panel.set_axis_off()
        for place, (axes, metric) in enumerate(zip(panels, metrics, strict=False)):
            _draw_panel(axes, bands[metric], right - left)
            if metric == "lr":
                _scale_rates(axes, bands[metric])
            axes.set_title(wrap(_capital(data.title(metric)), TITLE_CHARACTERS // columns))
            if place + columns >= len(metrics):
                axes.set_xlabel(x)
                axes.tick_params(labelbottom=True)
        panels[0].set_xlim(left, right)
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        _write_around(figure, shown, title, note(curves, bands.values()))
    return figure


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The x axis's limits: with a margin, and from 0 where all values are equal."""
    first, last = min(values), max(values)
    span = last - first or last or 1.0
    return (first - _MARGIN * span if last > first else 0.0), last + _MARGIN * span


def _draw_panel(axes: Axes, bands: Sequence[Band], x_range: float) -> None:
    """Draw a metric of every curve; those of a single point are side by side."""
    single = [place for place, band in enumerate(bands) if len(band.x) == 1]
    for place, band in enumerate(bands):
        look = style(place)
        if place in single:
            beside = [other for other in single if bands[other].x == band.x]
            step = min(_MARK_WIDTH, _GROUP_WIDTH / len(beside)) * x_range
            shift = step * (beside.index(place) - (len(beside) - 1) / 2)
            errors = [[band.mean[0] - band.low[0]], [band.high[0] - band.mean[0]]]
            axes.errorbar(band.x[0] + shift, band.mean, errors, **look)
        elif band.x:
            axes.fill_between(
                band.x, band.low, band.high, color=look["color"], alpha=_BAND_OPACITY, linewidth=0
            )
            axes.plot(band.x, band.mean, markevery=[len(band.x) - 1], **look)


def _scale_rates(axes: Axes, bands: Sequence[Band]) -> None:
    """A logarithmic axis, with zero, if the learning rates of curves are far apart."""
    peaks = [peak for band in bands if (peak := max(band.high, default=0.0))]
    if not peaks or max(peaks) < _LOG_RATIO * min(peaks):
        return
    axes.set_yscale("symlog", linthresh=min(peaks) / 10, linscale=0.3)
    first, last = math.floor(math.log10(min(peaks))), math.floor(math.log10(max(peaks)))
    ticks = [0.0, *(10.0**decade for decade in range(first, last + 1))]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def style(place: int) -> dict[str, Any]:
    """Colour, dashes and end mark of the line with this index; the first 140 differ."""
    return {**plots.style_of(place), "linestyle": _DASHES[place % len(_DASHES)]}


def _write_around(figure: Figure, curves: Sequence[Curve], title: str, note: str) -> None:
    """Write the title with the legend above the panels, and the note below them."""
    handles = [Line2D([], [], **style(place)) for place in range(len(curves))]
    labels = ["".join(page.truncate(curve.label, _LABEL_CHARACTERS)) for curve in curves]
    legend = figure.legend(
        handles, labels, loc="outside upper left",
        title=wrap(title, TITLE_CHARACTERS), ncols=_legend_columns(curves), alignment="left",
        borderaxespad=0.2, handlelength=4, title_fontproperties=TITLE_FONT,
    )  # fmt: skip
    legend.get_title().set_multialignment("left")
    figure.supxlabel(
        wrap(note, NOTE_CHARACTERS), x=0.01, ha="left", fontsize=plots.SMALL, color=plots.DARK
    )


def _legend_columns(curves: Sequence[Curve]) -> int:
    """As many columns as the widest label leaves room for, at most four."""
    widest = max((len(curve.label) for curve in curves), default=0)
    return max(1, min(4, 104 // (widest + 10)))


def note(curves: Sequence[Curve], panels: Iterable[Sequence[Band]] = ()) -> str:
    """What lines and bands are, and which trainings are not or not wholly in them."""
    counts = sorted({sum(bool(t.lines) for t in curve.trainings) for curve in curves} - {0})
    texts = ["One seed each."]
    if counts != [1]:
        number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        texts = [f"Line: mean over {number} seeds; band or bar: minimum to maximum."]
    single = [[band.x for band in bands if len(band.x) == 1] for bands in panels]
    if any(len(set(places)) < len(places) for places in single):
        texts.append(f"Marks side by side are of the same {data.axis(curves)}.")
    texts.append(data.state_note(curves))
    return " ".join(filter(None, texts))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
