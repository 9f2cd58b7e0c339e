"""Tables of other shapes than Table 1: several measures, panels, missing cells, others' numbers."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from repro import experiments
from repro.core.columns import scaled_columns
from repro.core.numbers import number, rounded
from repro.core.scales import runs_at_scale, title
from repro.experiments import table2
from repro.render import released_weights, tables
from repro.render.frame import tidy
from repro.render.latex import latex
from repro.render.text import axis_label, format_printed, heading
from repro.spec import Decision, Experiment, PaperValue, Scale, dataset_of
from tests.finished import finish
from tests.render.sample import Values, cell, fill_frame

TIMM = PaperValue(81.426, "timm")
LIKE_TABLE_2 = Experiment(
    has_gaps=True,
    name="like2",
    place="Table 9",
    title="Several measures",
    caption="A caption.",
    headings=("Arch. base", "Method"),
    cells=(
        cell("A|B", "#Params", group="conv", metric="parameters", paper=17e6),
        cell("A|B", "Speed", group="conv", metric="forward_images_per_second", paper=5384),
        cell("A|B", "Memory", group="conv", metric="train_peak_bytes"),
        cell("A|B", "Top-1", group="conv", paper=81.5),
        cell("A|B", "Released", group="conv", paper=81.5, published=TIMM, epochs=0),
        cell("C", "#Params", group="full", metric="parameters"),
        cell("C", "MACs", group="full", metric="macs"),
        cell("C", "Top-1", group="full", paper=83.0),
    ),
)
VALUES: Values = {
    ("A|B", "#Params", ""): [17061234.0],
    ("A|B", "Speed", ""): [5210.4],
    ("A|B", "Memory", ""): [3.5 * 2**30],
    ("A|B", "Top-1", ""): [81.0, 81.2, 81.4],
    ("A|B", "Released", ""): [81.42],
    ("C", "#Params", ""): [9e6],
    ("C", "MACs", ""): [5.79e9],
    ("C", "Top-1", ""): [80.0, None, 80.2],
}
PANELS = Experiment(
    name="panels",
    place="Figure 9",
    title="Two panels",
    caption="A caption.",
    cells=tuple(
        cell(row, column, panel, dataset=dataset)
        for panel, dataset in (("CIFAR-10", "cifar10"), ("CIFAR-100", "cifar100"))
        for row in ("first", "second")
        for column in ("a", "b")
        if (panel, row, column) != ("CIFAR-100", "second", "b")
    ),
    headings=("", "Design"),
)


def grid(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cut = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [cut[0], *cut[2:]]


def test_several_measures() -> None:
    frame = fill_frame(LIKE_TABLE_2, VALUES)
    header, first, second = grid(tables.markdown(LIKE_TABLE_2, frame, "paper"))
    assert header[2:] == [
        r"\#Params, paper", r"\#Params, here", "Speed, paper", "Speed, here", "Memory, here",
        "Top-1, paper", "Top-1, here", "Δ", "Released, paper", "Released, here", "Δ",
        "Released, timm", "MACs, here",
    ]  # fmt: skip
    assert first == [
        "conv", r"A\|B", "17M", "17.1M", "5,384", "5,210", "3.50 GiB", "81.5",
        "**81.20 ± 0.20 (3)**", "", "81.5", "81.42", "", "81.426", "–",
    ]  # fmt: skip
    assert second == [
        "full", "C", "not in our copy of the paper", "9.0M", "–", "–", "–", "83.0",
        "80.10 ± 0.14 (2), 1 diverged", "", "–", "–", "–", "–", "5.8G",
    ]  # fmt: skip


def test_the_measures_are_named_and_only_accuracies_have_a_best() -> None:
    markdown = tables.markdown(LIKE_TABLE_2, fill_frame(LIKE_TABLE_2, VALUES), "paper")
    assert "Parameters in millions (M); images per second, forward; peak memory, in training;" in (
        markdown
    )
    assert "Bold: best accuracy." in markdown
    counted = replace(LIKE_TABLE_2, cells=LIKE_TABLE_2.cells[:1])
    markdown = tables.markdown(counted, fill_frame(counted, VALUES), "paper")
    assert "Parameters in millions (M).\n" in markdown
    assert "**" not in markdown


def test_published_numbers_are_shown_at_paper_scale_only() -> None:
    text = tables.markdown(LIKE_TABLE_2, fill_frame(LIKE_TABLE_2, VALUES, "smoke"), "smoke")
    assert "timm" not in text
    assert "81.426" not in text


def test_difference_of_an_accuracy_alone(tmp_path: Path) -> None:
    for one, metrics in (
        (LIKE_TABLE_2.cells[3], {"top1": 81.0}),
        (LIKE_TABLE_2.cells[0], {"parameters": 17000001}),
    ):
        finish(tmp_path, one.run, metrics)
    frame, _ = tidy(LIKE_TABLE_2, "paper", tmp_path, 1)
    found = frame.set_index("column")["difference"].dropna()
    assert list(found.index.unique()) == ["Top-1"]
    assert found.iloc[0] == pytest.approx(-0.5)


@pytest.mark.parametrize("scale", ["paper", "demo", "smoke"])
def test_every_column_has_as_many_texts_in_every_format(scale: Scale) -> None:
    for experiment in (LIKE_TABLE_2, PANELS):
        frame = fill_frame(experiment, VALUES, scale)
        header, *body = grid(tables.markdown(experiment, frame, scale))
        assert {len(row) for row in body} == {len(header)}
        source = latex(experiment, frame, scale)
        (columns,) = re.findall(r"\\begin\{tabular\}\{(l\w+)\}", source)
        assert len(columns) == len(header) - bool(experiment.headings[0])  # a group has a line
        rows = [line for line in source.splitlines() if line.endswith(r"\\")]
        rows = [row for row in rows if r"\multicolumn" not in row]
        assert len(rows) == len(body) + 1
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
        back = pd.read_csv(io.StringIO(tables.csv(frame)), dtype=str)
        assert len(back) == sum(max(1, len(runs)) for runs in frame["runs"])


def test_without_groups_there_is_no_such_column() -> None:
    markdown = tables.markdown(PANELS, fill_frame(PANELS, {}), "paper")
    header, first, second = grid(markdown)
    assert header == [
        "Design", "CIFAR-10: a, here", "CIFAR-10: b, here", "CIFAR-100: a, here",
        "CIFAR-100: b, here",
    ]  # fmt: skip
    assert first == ["first", *["not run"] * 4]
    assert second == ["second", *["not run"] * 3, "–"]
    assert latex(PANELS, fill_frame(PANELS, {}), "paper").count(r"\midrule") == 1


def test_panels_are_named_by_their_data_at_a_small_scale() -> None:
    markdown = tables.markdown(PANELS, fill_frame(PANELS, {}, "demo"), "demo")
    assert grid(markdown)[0][1:] == [
        "Fashion-MNIST-6k: a, here", "Fashion-MNIST-6k: b, here", "Glyphs-100: a, here",
        "Glyphs-100: b, here",
    ]  # fmt: skip
    assert "Data: Fashion-MNIST-6k for CIFAR-10, Glyphs-100 for CIFAR-100." in markdown


def test_columns_that_share_their_data_keep_their_names() -> None:
    one = replace(PANELS, cells=tuple(replace(c, panel="") for c in PANELS.cells[:4]))
    markdown = tables.markdown(one, fill_frame(one, {}, "demo"), "demo")
    assert grid(markdown)[0][1:] == ["a, here", "b, here"]
    assert "Data: Fashion-MNIST-6k for CIFAR-10." in markdown


def test_decisions_are_listed() -> None:
    one = replace(PANELS, decisions=(Decision("what x is", "x_1", "y", "z & co"),))
    for scale in ("paper", "demo", "smoke"):
        there, frame = scale != "smoke", fill_frame(one, {}, scale)
        text = "- What x is: x_1 (instead of y). Reason: z & co.\n"
        assert (text in tables.markdown(one, frame, scale)) is there
        item = r"\item What x is: x\_1 (instead of y). Reason: z \& co."
        assert (item in latex(one, frame, scale)) is there


def test_numbers() -> None:
    assert number(999950.0, "parameters") == "1.0M"
    assert number(-0.001, "top1") == "0.00"
    assert number(17_400_000, "macs") == "0.017G"
    assert number(0, "macs") == "0.00G"
    assert format_printed(23.8e6, "parameters", 1) == "23.8M"
    assert format_printed(1.5 * 2**30, "train_peak_bytes", 1) == "1.5 GiB"
    assert format_printed(81.0, "top1", 1) == "81.0"
    assert number(1234.5, "fid_score") == "1,234.50"


TIMMS = "gelu erf, 224 px, crop 0.875, bicubic."
AUTHORS = "nest_tiny_jx.goog_in1k, 224 px, crop 0.875, aliased, rounded as in TensorFlow."


@pytest.mark.parametrize(
    ("test", "column", "mean", "text"),
    [
        (TIMMS, table2.RELEASED, 81.40, "Agrees: 81.40, timm 81.428."),
        (TIMMS, table2.RELEASED, 81.49, "Differs: 81.49"),
        (TIMMS, table2.RELEASED, None, "Not run."),
        (AUTHORS, table2.AUTHORS_TEST, 81.59, "Agrees: 81.59, README 81.5."),
        (AUTHORS, table2.AUTHORS_TEST, 81.61, "Differs: 81.61, README 81.5."),
    ],
)
def test_released_weights_are_noted_with_their_preprocessing(
    test: str, column: str, mean: float | None, text: str
) -> None:
    """A number that was printed with one decimal may be half of that off."""
    item = table2.EXPERIMENT
    frame = fill_frame(item, {} if mean is None else {("NesT-T", column, ""): [mean]}, "paper")
    lines = [text for text in released_weights.lines(item, frame) if text.startswith("NesT-T")]
    (line,) = (line for line in lines if test in line)
    assert len(lines) == 2
    assert text in line


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.125, 2, "0.13"), (0.375, 2, "0.38"), (-0.125, 2, "-0.13"), (2.675, 2, "2.68"),
        (1.005, 2, "1.01"), (0.5, 0, "1"), (-0.004, 2, "0.00"), (1234.5, 0, "1,235"),
        (1e300, 0, f"{10**300:,}"), (math.inf, 2, "∞"), (-math.inf, 2, "-∞"), (math.nan, 2, "nan"),
    ],
)  # fmt: skip
def test_half_is_rounded_away_from_zero(value: float, digits: int, shown: str) -> None:
    assert rounded(value, digits) == shown


def test_every_number_is_rounded_by_the_same_rule() -> None:
    """71.125, 0.125 from it: in the text, the difference, the file and the notes."""
    item = replace(PANELS, cells=(cell("a", "x", paper=71.0), cell("b", "x", paper=10.0)))
    frame = fill_frame(item, {("a", "x", ""): [71.125], ("b", "x", ""): [10.00005]})
    frame["difference"] = frame["mean"] - frame["paper"]
    (row,) = [row for row in grid(tables.markdown(item, frame, "paper")) if row[0] == "a"]
    assert row == ["a", "71.0", "**71.13 (1)**", "+0.13"]
    assert "10.0001," in tables.csv(frame)
    assert number(2.675, "fid") == "2.68"
    assert number(1_250_000.0, "parameters") == "1.3M"


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        (name, scale)
        for name in experiments.names()
        for scale in ("demo", "smoke")
        if runs_at_scale(experiments.get(name).cells, scale)
    ],
)
def test_a_title_names_its_own_data(name: str, scale: Scale) -> None:
    """And none of the paper's that is not here."""
    item = experiments.get(name)
    here = {title(dataset_of(run)) for _, run in runs_at_scale(item.cells, scale)}
    shown = heading(item, scale)
    for data in here:
        shown = shown.replace(data, "") if data else shown
    assert not re.search("CIFAR|ImageNet(?!-22K)", shown)
    assert item.data in item.title


def test_an_axis_has_the_numbers_of_its_scale() -> None:
    left, top = experiments.get("figure5_left"), experiments.get("figure6_top")
    assert list(scaled_columns(left, "paper").items())[::9] == [("100", "100"), ("1000", "1000")]
    assert axis_label(left, "paper") == "steps of training (thousands)"
    assert list(scaled_columns(left, "demo").items())[::9] == [("100", "60"), ("1000", "600")]
    assert axis_label(left, "demo") == "steps of training"
    assert scaled_columns(left, "smoke") == {"1000": "2"}
    assert scaled_columns(top, "demo") == {"30": "1", "60": "2", "100": "3", "300": "8"}
    assert scaled_columns(top, "smoke") == {}  # all of one epoch
    assert scaled_columns(experiments.get("figure3_right_iou"), "demo") == {}
    frame = fill_frame(top, {}, "demo")
    assert grid(tables.markdown(top, frame, "demo"))[0] == [
        "Method", "30, paper", "1, here", "2, here", "100, paper", "3, here", "300, paper",
        "8, here",
    ]  # fmt: skip
