"""Figures: the same bytes, everything labelled, holes seen, what is drawn is what was measured."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from repro.render import figures, plots
from repro.spec import Experiment, Scale
from tests.render.sample import Values, cell, fill_frame

ODD = 'a <b> & "c" $x_1$ 100%'  # is neither markup nor mathematics
PANELS = (("CIFAR-10", "cifar10"), ("CIFAR-100", "cifar100"))

LINES = Experiment(
    name="lines",
    place="Figure 8",
    title="Lines",
    caption="A caption.",
    cells=tuple(
        cell(row, column, paper=80.5 if (row, column) == (ODD, "300") else None)
        for row in (ODD, "DeiT-B")
        for column in ("30", "60", "300")
    ),
    plot="lines",
    x_label="epochs",
    y_label="top-1 accuracy (%)",
)
BARS = replace(
    LINES,
    name="bars",
    plot="bars",
    cells=tuple(
        cell(row, column, panel, dataset=dataset, paper=77.5 if row == "DeiT-B" else None)
        for panel, dataset in PANELS
        for row in (ODD, "DeiT-B")
        for column in ("image plane", "block plane")
    ),
)
SCATTER = replace(
    LINES,
    name="scatter",
    plot="scatter",
    x_label="images per second",
    cells=tuple(
        one
        for row, paper in ((ODD, None), ("DeiT-B", 94.5), ("none, S=1", None))
        for one in (
            cell(row, "C10", paper=paper),
            cell(row, "images/s", metric="forward_images_per_second", paper=paper and 5384),
        )
    ),
)
LINE_VALUES: Values = {
    (ODD, "30", ""): [60.0, 62.0, 64.0],
    (ODD, "60", ""): [None, None, None],
    (ODD, "300", ""): [80.0, 81.0, 82.0],
    ("DeiT-B", "30", ""): [50.0, 51.0, None],
    ("DeiT-B", "60", ""): [65.0],
}
BAR_VALUES: Values = {
    (ODD, "image plane", "CIFAR-10"): [70.0, 72.0],
    ("DeiT-B", "image plane", "CIFAR-10"): [4.25, 4.25],
    (ODD, "block plane", "CIFAR-10"): [None],
    ("DeiT-B", "block plane", "CIFAR-100"): [33.0],
}
SCATTER_VALUES: Values = {
    (ODD, "C10", ""): [93.0, 95.0],
    (ODD, "images/s", ""): [2000.0],
    ("DeiT-B", "C10", ""): [96.0],
}
ALL = ((LINES, LINE_VALUES), (BARS, BAR_VALUES), (SCATTER, SCATTER_VALUES))


def texts(svg: str) -> str:
    """All text of a figure, in one line; a wrapped name as it was."""
    found = ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if _is_text(e)]
    return " ".join(" ".join(found).replace("\N{NO-BREAK SPACE}", " ").split())


def _is_text(element: ElementTree.Element) -> bool:
    return element.tag.endswith("}text")


def axes_of(experiment: Experiment, values: Values) -> list[Any]:
    """The plots before they are written."""
    return figures._draw(experiment, fill_frame(experiment, values), "paper").axes


@pytest.mark.parametrize(("experiment", "values"), ALL, ids=lambda v: getattr(v, "name", ""))
@pytest.mark.parametrize("scale", ["paper", "demo", "smoke"])
def test_everything_is_named(experiment: Experiment, values: Values, scale: Scale) -> None:
    svg = figures.svg(experiment, fill_frame(experiment, values, scale), scale)
    shown = texts(svg)
    at_scale = "" if scale == "paper" else f", {scale} scale"
    assert f"Figure 8{at_scale}. Lines" in shown
    assert experiment.x_label in shown
    assert experiment.y_label in shown
    for row in experiment.rows:
        assert row in shown
    if experiment.plot != "scatter":
        for column in experiment.columns:
            assert column in shown
    assert bool(re.search(r"the paper(?!')", shown)) == (scale == "paper")


@pytest.mark.parametrize("experiment", [LINES, BARS, SCATTER], ids=lambda e: e.name)
@pytest.mark.parametrize("scale", ["paper", "demo"])
def test_where_nothing_ran_axes_and_holes_are_drawn(experiment: Experiment, scale: Scale) -> None:
    shown = texts(figures.svg(experiment, fill_frame(experiment, {}, scale), scale))
    assert "Not run yet." in shown
    assert (
        shown.count("not run")
        == {"lines": 1, "bars": 8, "scatter": int(scale == "demo")}[experiment.plot]
    )
    bare = replace(experiment, cells=tuple(replace(c, paper=None) for c in experiment.cells))
    assert "not run" in texts(figures.svg(bare, fill_frame(bare, {}), "paper"))


def test_lines_are_what_was_measured() -> None:
    (axes,) = axes_of(LINES, LINE_VALUES)
    first, second = (container.lines for container in axes.containers)
    assert list(first[0].get_xdata()) == [30, 60, 300]
    np.testing.assert_allclose(first[0].get_xydata()[:, 1], [62, np.nan, 81])  # broken at the hole
    np.testing.assert_allclose(second[0].get_xydata()[:, 1], [50.5, 65, np.nan])
    bars = [bar[:, 1] for bar in first[2][0].get_segments() if bar.size]  # none at the hole
    np.testing.assert_allclose(bars, [(60, 64), (80, 82)])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["30", "60", "300"]
    assert axes.get_xscale() == "log"


def test_holes_of_lines_have_a_cross_in_the_colour_of_their_line() -> None:
    (axes,) = axes_of(LINES, LINE_VALUES)
    found = {
        (line.get_marker(), *line.get_xdata(), line.get_color()): line.get_ydata()[0]
        for line in axes.lines
        if line.get_marker() in ("x", "1")
    }
    assert list(found) == [("1", 60.0, plots.COLOURS[0]), ("x", 300.0, plots.COLOURS[1])]
    heights = list(found.values())
    assert 1 > heights[0] > heights[1] > 0  # of the axes, in the order of the legend
    floor = axes.transAxes.inverted().transform(axes.transData.transform((30, 50.5)))[1]
    assert floor > heights[0]  # no number is among them
    shown = texts(figures.svg(LINES, fill_frame(LINES, LINE_VALUES), "paper"))
    assert "not run" in shown
    assert "over 1 to 3 seeds. Diverged and left out: 4 of 13 runs." in shown


def test_bars_begin_at_zero_and_carry_their_number() -> None:
    first, second = axes_of(BARS, BAR_VALUES)
    assert [bar.get_height() for bar in first.patches] == pytest.approx([71, 4.25])
    assert first.get_ylim()[0] == second.get_ylim()[0] == 0
    assert first.get_ylim()[1] > 77.5  # the paper's number is in it
    assert [text.get_text() for text in first.texts] == ["71.00", "4.25", "diverged", "not run"]
    assert [text.get_text() for text in second.texts] == ["33.00", "not run", "not run", "not run"]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in first.patches]
    assert centres == pytest.approx([-0.2, 0.8])
    hollow = [line.get_xydata()[0] for line in first.lines if line.get_fillstyle() == "none"]
    np.testing.assert_allclose(hollow, [(0.8, 77.5), (1.2, 77.5)])


def test_points_are_accuracy_over_throughput() -> None:
    (axes,) = axes_of(SCATTER, SCATTER_VALUES)
    points = {tuple(xy) for line in axes.lines for xy in line.get_xydata()}
    assert {(2000.0, 94.0), (5384.0, 94.5)} <= points
    assert [text.get_text() for text in axes.texts] == [ODD, "DeiT-B"]
    note = texts(figures.svg(SCATTER, fill_frame(SCATTER, SCATTER_VALUES), "paper"))
    assert "Not run: DeiT-B; none, S=1." in note


def test_labels_of_points_that_are_close_do_not_cover_each_other() -> None:
    """Four at nearly the same place, and one whose name is too long for the room on its right."""
    speeds = {f"variant {i}": 3000.0 + i for i in range(4)} | {"v" * 30: 9000.0}
    many = replace(SCATTER, cells=tuple(replace(c, row=row, paper=None) for row in speeds
                                        for c in SCATTER.cells[:2]))  # fmt: skip
    values = {(row, "images/s", ""): [speed] for row, speed in speeds.items()}
    values |= {(row, "C10", ""): [80.0 + speed / 1000] for row, speed in speeds.items()}
    figure = figures._draw(many, fill_frame(many, values), "paper")
    boxes = [label.get_window_extent() for label in figure.axes[0].texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    inside = figure.axes[0].bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)


def test_data_that_stand_in_are_named() -> None:
    shown = texts(figures.svg(BARS, fill_frame(BARS, BAR_VALUES, "demo"), "demo"))
    assert "Fashion-MNIST-6k for CIFAR-10" in shown
    assert "Data:" not in shown
    shown = texts(figures.svg(LINES, fill_frame(LINES, LINE_VALUES, "demo"), "demo"))
    assert "Data: Fashion-MNIST-6k for CIFAR-10." in shown
    assert "not comparable with the paper's." in shown


DRAW = """
import sys
from repro.render import figures
from tests.render import test_figures as t
from tests.render.sample import fill_frame
for experiment, values in t.ALL:
    sys.stdout.write(figures.svg(experiment, fill_frame(experiment, values), "paper"))
    sys.stdout.flush()
    sys.stdout.buffer.write(figures.pdf(experiment, fill_frame(experiment, values), "paper"))
"""


def test_the_same_bytes_whatever_the_surroundings(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("xtick.direction: in\naxes.linewidth: 5\n")
    root = Path(__file__).parents[2]
    found = []
    for setting in (
        {"PYTHONHASHSEED": "1", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1", "MPLBACKEND": "nosuch"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(tmp_path)},
    ):
        environment = {**os.environ, **setting, "PYTHONIOENCODING": "utf-8"}
        command = [sys.executable, "-W", "error", "-c", DRAW]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True)
        found.append(done.stdout)
    assert found[0] == found[1]
    assert b"<text" in found[0]
    assert not re.search(rb"20[0-9]{2}-[0-9]{2}-[0-9]{2}|Matplotlib v", found[0])


def test_a_figure_for_latex_has_no_date_and_fonts_that_conferences_take() -> None:
    for experiment, values in ALL:
        content = figures.pdf(experiment, fill_frame(experiment, values), "paper")
        assert content.startswith(b"%PDF")
        assert b"/CreationDate" not in content
        assert b"/TrueType" in content or b"/CIDFontType2" in content
        assert b"/Type3" not in content


def test_bars_and_lines_are_distinct_in_grey() -> None:
    """Also without a hue: no two of a kind have the same hatch, or the same mark."""
    assert len(set(plots.HATCHES)) == len(plots.HATCHES) > 5
    assert len(set(plots.MARKS)) == len(plots.MARKS) > 5
    figure = figures._draw(BARS, fill_frame(BARS, BAR_VALUES), "paper")
    handles = figure.legends[0].get_patches()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    grey = np.asarray(canvas.buffer_rgba())[:, :, :3] @ (0.2126, 0.7152, 0.0722)
    shown = []
    for handle in handles:
        box = handle.get_window_extent()
        x, y = round(box.x0), round(grey.shape[0] - box.y1)
        shown.append(grey[y : y + 7, x : x + 18])
    assert np.abs(shown[0] - shown[1]).mean() > 10


def test_drawing_leaves_no_trace() -> None:
    before = dict(matplotlib.rcParams)
    figures.svg(LINES, fill_frame(LINES, LINE_VALUES), "paper")
    assert dict(matplotlib.rcParams) == before


def test_pixels() -> None:
    assert figures.png(LINES, fill_frame(LINES, LINE_VALUES), "paper").startswith(b"\x89PNG")


@pytest.mark.parametrize(("item", "plotted"), [("table1", False), ("figure7", True)])
def test_what_a_command_draws_and_imports(item: str, plotted: bool, tmp_path: Path) -> None:
    code = (
        "import sys; from repro.cli import main; "
        "status = main([sys.argv[1], '--out', sys.argv[2], '--results', sys.argv[2] + '/none']); "
        "print(*sorted({'torch', 'timm', 'matplotlib', 'matplotlib.pyplot'} & sys.modules.keys()));"
        "sys.exit(status)"
    )
    command = [sys.executable, "-W", "error", "-c", code, item, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ("matplotlib" if plotted else "")
    drawn = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    tables = [f"tables/{item}.{ending}" for ending in ("csv", "md", "tex")]
    plots = [f"figures/{item}.{ending}" for ending in ("pdf", "svg")]
    assert drawn == [*(plots if plotted else []), *tables]
