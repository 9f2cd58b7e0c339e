"""Every table and figure says why a number is missing, as `status` does."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from repro import experiments, results
from repro.cli import main
from repro.core import cells, plan
from repro.core.claims import judge_claims
from repro.render import claims, figures, latex, released_weights, tables
from repro.spec import Claim, Experiment, PaperValue, Run
from tests.render.sample import cell, fill_frame

PLOTS = ("", "lines", "bars", "scatter", "trees", "maps")
ITEMS: dict[str, Experiment] = {
    item.plot: item for item in map(experiments.get, reversed(experiments.names()))
}


def save_in_state(root: Path, run: Run, state: str) -> None:
    """Create the files of a run in this state."""
    if state == cells.HOLE:
        return
    folder = results.begin(root, run)
    if state == "diverged":
        results.finish(folder, {"status": "diverged", "metrics": {"step": 1}})
    elif state == "damaged":
        (folder / results.RESULT).write_text("{")
    else:
        spec = folder / results.SPEC
        spec.write_text(json.dumps(json.loads(spec.read_text()) | {"seed": 99}))
    assert results.outcome(root, run).state == state


def render(root: Path, item: Experiment, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Render an item at demo scale; returns its text by file suffix."""
    line = f"{item.name} --scale demo --seeds 1 --results {root / 'results'} --out {root}"
    assert main(line.split()) == 0
    capsys.readouterr()
    found = {path.suffix: path.read_text() for path in root.glob("tables/demo/*")}
    for path in root.glob("figures/demo/*.svg"):
        found[".svg"] = " ".join(texts(path.read_text()))
    return found


def texts(svg: str) -> list[str]:
    """The texts in a figure."""
    return [part for text in ElementTree.fromstring(svg).itertext() if (part := text.strip())]


@pytest.mark.parametrize("state", cells.REASONS)
@pytest.mark.parametrize("plot", PLOTS)
def test_the_state_of_the_runs_stands_in_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plot: str, state: str
) -> None:
    item = ITEMS[plot]
    (tmp_path / "results").mkdir()
    for run in plan.runs(item.cells, "demo", 1):
        save_in_state(tmp_path / "results", run, state)
    found = render(tmp_path, item, capsys)
    others = [word for word in cells.REASONS if word != state]
    csv = pd.read_csv(tmp_path / f"tables/demo/{item.name}.csv")
    del found[".csv"]
    assert found.keys() == {".md", ".tex"} | ({".svg"} if plot else set())
    for ending, shown in found.items():
        text = shown.lower()
        assert state in text, ending
        assert not [word for word in others if word in text], ending
    assert csv["value"].isna().all()
    assert set(csv["status"]) == {state}


def some_lost(plot: str, *lost: str) -> pd.DataFrame:
    """Two cells, the one with a number, and the other without for these reasons."""
    frame = fill_frame(two_cells(plot), {("a", "1", ""): [50.0]})
    for word in lost:
        frame.loc[frame["row"] == "b", word] = 1
    return frame


def two_cells(plot: str) -> Experiment:
    cells = tuple(cell(row, column, paper=None) for row in "ab" for column in "12")
    return Experiment(name="two", place="Figure 9", title="Two", caption="A caption.", cells=cells,
                      plot=plot)  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("plot", ["lines", "bars", "scatter"])
def test_of_several_reasons_one_is_drawn_and_each_is_counted(plot: str) -> None:
    frame = some_lost(plot, "diverged", "stale", "damaged")
    shown = texts(figures.svg(two_cells(plot), frame, "paper"))
    note = " ".join(shown)
    for word in cells.LOST:
        assert f"{word.capitalize()} and left out: 2 of 7 runs." in note
        assert word not in shown or word == "damaged"
    assert "damaged" in shown or (plot == "scatter" and "Damaged: b." in note)
    assert "1 diverged, 1 damaged, 1 stale" in tables.markdown(two_cells(""), frame, "paper")


def test_lost_seeds_stand_beside_those_that_are_there() -> None:
    frame = fill_frame(two_cells(""), {("a", "1", ""): [50.0, 60.0]})
    frame.loc[(frame["row"] == "a") & (frame["column"] == "1"), "damaged"] = 1
    assert "55.00 ± 7.07 (2), 1 damaged" in tables.markdown(two_cells(""), frame, "paper")
    assert r"(2),\\1 damaged" in latex.latex(two_cells(""), frame, "paper")


def test_a_claim_about_lost_runs_says_so() -> None:
    claim = Claim("words", "Section 1", "a above b", (("a", "1"),), (("b", "1"),))
    frame = some_lost("", "damaged")
    (found,) = judge_claims(replace_claims(claim), frame, "paper")
    assert claims.line(found, "paper") == (
        "Undecided: a above b. a: 50.00 against b: damaged (1); "
        "a has 1 of 3 required seeds. "
        "Trained for 4 epochs of 6,000 images, with 0.25M parameters."
    )


def replace_claims(*claims: Claim) -> Experiment:
    item = two_cells("")
    return Experiment(**{**vars(item), "claims": claims})


def test_released_weights_whose_test_is_damaged() -> None:
    one = cell("a", "1", published=PaperValue(81.4, "timm"), epochs=0)
    item = Experiment(**{**vars(two_cells("")), "cells": (one,)})
    frame = fill_frame(item, {})
    assert released_weights.lines(item, frame)[0].endswith("Not run.")
    frame["damaged"] = 1
    assert released_weights.lines(item, frame)[0].endswith("Damaged.")
