"""Every committed figure, drawn again: its texts, its proportions, and whether it reads in grey."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

from repro import experiments
from repro.commands.selection import seeds_to_show
from repro.render import figures, page, pictures, plots
from repro.render.frame import tidy
from repro.render.text import heading
from repro.spec import Experiment, Scale

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
COMMITTED = sorted(ROOT.glob("figures/*.svg")) + sorted(ROOT.glob("figures/demo/*.svg"))

Drawn = tuple[Experiment, Scale, Figure]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "figures").with_suffix(""))


@pytest.fixture(scope="module", params=COMMITTED, ids=name_of)
def drawn(request: pytest.FixtureRequest) -> Iterator[Drawn]:
    """A committed figure, drawn from the committed results."""
    path: Path = request.param
    item = experiments.get(path.stem)
    scale: Scale = "demo" if path.parent.name == "demo" else "paper"
    with page.style_context():
        yield item, scale, figure_of(item, scale)


def figure_of(item: Experiment, scale: Scale) -> Figure:
    if item.plot in ("trees", "maps"):
        return pictures._figure(item, scale, RESULTS, heading(item, scale))
    frame, _ = tidy(item, scale, RESULTS, seeds_to_show(None, RESULTS)(item, scale))
    return figures._draw(item, frame, scale)


class Recorder(RendererAgg):
    """Matplotlib's renderer, which also keeps the id of each text that it draws."""

    def __init__(self, figure: Figure) -> None:
        super().__init__(*figure.canvas.get_width_height(), figure.dpi)  # type: ignore[no-untyped-call]
        self.drawn: set[str | None] = set()

    def open_group(self, s: str, gid: str | None = None) -> None:
        if s == "text":
            self.drawn.add(gid)


def visible(figure: Figure) -> dict[Text, BboxBase]:
    """The texts that are on the figure, each with its box in pixels."""
    figure.draw_without_rendering()  # makes the labels of the ticks
    texts = {str(number): text for number, text in enumerate(figure.findobj(Text))}
    for number, text in texts.items():
        text.set_gid(number)
    renderer: Any = Recorder(figure)
    figure.draw(renderer)
    return {
        text: text.get_window_extent(renderer)
        for number, text in texts.items()
        if number in renderer.drawn
    }


def inner(box: BboxBase) -> BboxBase:
    """Without the edge where one line has descenders and the next has ascenders."""
    return box.padded(-0.06 * min(box.width, box.height))


def faults(figure: Figure) -> list[str]:
    """Texts that overlap, that leave the figure, and that a point covers."""
    texts = visible(figure)
    assert texts
    found = [
        f"{a.get_text()!r} overlaps {b.get_text()!r}"
        for (a, first), (b, second) in combinations(texts.items(), 2)
        if inner(first).overlaps(inner(second))
    ]
    found += [
        f"{text.get_text()!r} leaves the figure"
        for text, box in texts.items()
        if not (
            box.x0 >= 0 and box.x1 <= figure.bbox.x1 and 0 <= box.y0 <= box.y1 <= figure.bbox.y1
        )
    ]
    points = [point for axes in figure.axes for line in axes.lines for point in marks(line)]
    return found + [
        f"a point covers {text.get_text()!r}"
        for text, box in texts.items()
        if any(inner(box).overlaps(point) for point in points)
    ]


def marks(line: Line2D) -> list[Bbox]:
    """The boxes of a line's marks, in pixels; an error bar's cap is no mark."""
    if line.get_marker() in ("None", "", None, "_", "|"):
        return []
    middles = line.get_transform().transform(np.asarray(line.get_xydata(), float))
    radius = line.get_markersize() / 2 * line.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    return [Bbox([xy - radius, xy + radius]) for xy in middles if np.isfinite(xy).all()]


def test_every_text_can_be_read(drawn: Drawn) -> None:
    """None overlaps another, none leaves the page, no point covers one."""
    assert faults(drawn[2]) == []


def test_what_cannot_be_read_is_found() -> None:
    with page.style_context():
        figure, axes = page.new_sheet("A title", "A note", 1)
        assert faults(figure) == []
        page.draw_label(axes, 1, 0.5, "one text")
        page.draw_label(axes, 1.2, 0.52, "another")
        page.draw_label(axes, page.WIDTH, 0.8, "too far to the right")
        axes.plot([3], [0.5], "o")
        page.draw_label(axes, 3, 0.5, "covered")
    assert faults(figure) == [
        "'one text' overlaps 'another'",
        "'too far to the right' leaves the figure",
        "a point covers 'covered'",
    ]


def test_no_figure_is_much_taller_than_wide(drawn: Drawn) -> None:
    width, height = drawn[2].get_size_inches()
    assert height / width <= 1.6


def look(artist: Any) -> tuple[object, ...]:
    """How an artist is drawn, but for its hue."""
    if isinstance(artist, Line2D):
        return artist.get_marker(), artist.get_linestyle(), artist.get_fillstyle()
    return "filled", artist.get_hatch() or ""


def test_series_differ_by_more_than_their_hue(drawn: Drawn) -> None:
    """In the legend, on the axes as in the legend, and in the rows of crosses."""
    item, _, figure = drawn
    if item.plot in ("trees", "maps"):
        return  # a class has its number, a map its heading: `test_trees` and `test_maps`
    legend = [handle for one in figure.legends for handle in one.legend_handles]
    looks = [look(handle) for handle in legend if not isinstance(handle, LineCollection)]
    assert len(set(looks)) == len(looks)
    for axes in figure.axes:
        if item.plot == "lines":
            series = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
            own = looks + [look(one.lines[0]) for one in series]
            assert len(set(own)) == len(own) == len(legend)
        bars = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_height()]
        if item.plot == "bars":
            hatches = {(p.get_facecolor(), p.get_hatch()) for p in bars}
            assert len({hatch for _, hatch in hatches}) == len(hatches)
        crosses_are_named(axes.lines)


def crosses_are_named(lines: Any) -> None:
    """Every row of crosses begins with the mark of its line, which no other row has."""
    strange = {style["marker"] for style in plots.CROSSES.values()}
    crosses = [line for line in lines if line.get_marker() in strange]
    rows = {float(line.get_ydata()[0]) for line in crosses}
    keys: dict[float, set[str]] = {}
    for line in lines:
        if list(line.get_xdata()) == [plots._KEY_X]:
            keys.setdefault(float(line.get_ydata()[0]), set()).add(line.get_marker())
    assert keys.keys() == rows
    names = [name for row in keys.values() for name in row]
    assert len(names) == len(set(names)) == len(rows)


def test_every_place_of_a_bar_has_a_bar_or_a_reason(drawn: Drawn) -> None:
    item, scale, figure = drawn
    if item.plot != "bars":
        return
    frame, _ = tidy(item, scale, RESULTS, seeds_to_show(None, RESULTS)(item, scale))
    for axes, (_, cells) in zip(figure.axes, frame.groupby("panel", sort=False), strict=True):
        rows, columns = cells["row"].nunique(), cells["column"].nunique()
        bars = [p.get_x() + p.get_width() / 2 for p in cast("list[Rectangle]", axes.patches)]
        reasons = [cast("Any", t).xy[0] for t in axes.texts if any(map(str.isalpha, t.get_text()))]
        width = 0.8 / columns
        places = [
            row + (column - (columns - 1) / 2) * width
            for row in range(rows)
            for column in range(columns)
        ]
        named = [reason for reason in reasons if not np.isclose(reason, bars).any()]
        assert sorted(bars + named) == pytest.approx(places)
