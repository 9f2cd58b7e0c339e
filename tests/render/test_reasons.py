"""Whatever is drawn, in whatever file: it says why a number is missing, as `status` does."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from repro import experiments, plan, results
from repro.cli import main
from repro.render import claims, figures, latex, released, tables, text
from repro.spec import Claim, Experiment, PaperValue, Run
from tests.render.sample import cell, filled

PLOTS = ("", "lines", "bars", "scatter", "trees", "maps")
ITEMS: dict[str, Experiment] = {
    item.plot: item for item in map(experiments.get, reversed(experiments.names()))
}


def lay(root: Path, run: Run, state: str) -> None:
    """A run in this state."""
    if state == text.HOLE:
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


def drawn(root: Path, item: Experiment, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What an item is drawn as at proxy scale: text by the ending of its file."""
    line = f"{item.name} --scale proxy --seeds 1 --results {root / 'results'} --out {root}"
    assert main(line.split()) == 0
    capsys.readouterr()
    found = {path.suffix: path.read_text() for path in root.glob("tables/proxy/*")}
    for path in root.glob("figures/proxy/*.svg"):
        found[".svg"] = " ".join(texts(path.read_text()))
    return found


def texts(svg: str) -> list[str]:
    """What can be read in a figure, in its parts."""
    return [part for text in ElementTree.fromstring(svg).itertext() if (part := text.strip())]


@pytest.mark.parametrize("state", text.REASONS)
@pytest.mark.parametrize("plot", PLOTS)
def test_the_state_of_the_runs_stands_in_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plot: str, state: str
) -> None:
    item = ITEMS[plot]
    (tmp_path / "results").mkdir()
    for run in plan.runs(item.cells, "proxy", 1):
        lay(tmp_path / "results", run, state)
    found = drawn(tmp_path, item, capsys)
    others = [word for word in text.REASONS if word != state]
    csv = pd.read_csv(tmp_path / f"tables/proxy/{item.name}.csv")
    del found[".csv"]
    assert found.keys() == {".md", ".tex"} | ({".svg"} if plot else set())
    for ending, shown in found.items():
        told = shown.replace("A diverged run ranks last.", "").lower()
        assert state in told, ending
        assert not [word for word in others if word in told], ending
    assert csv["n"].sum() == 0
    for word in text.LOST:
        assert (csv[word].tolist() if word in csv else [0] * len(csv)) == [
            int(word == state)
        ] * len(csv)


def some_lost(plot: str, *lost: str) -> pd.DataFrame:
    """Two cells, the one with a number, and the other without for these reasons."""
    frame = filled(two_cells(plot), {("a", "1", ""): [50.0]})
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
    for word in text.LOST:
        assert f"{word.capitalize()} and left out: 2 of 7 runs." in note
        assert word not in shown or word == "damaged"
    assert "damaged" in shown or (plot == "scatter" and "Damaged: b." in note)
    assert "1 diverged, 1 damaged, 1 stale" in tables.markdown(two_cells(""), frame, "paper")


def test_lost_seeds_stand_beside_those_that_are_there() -> None:
    frame = filled(two_cells(""), {("a", "1", ""): [50.0, 60.0]})
    frame.loc[(frame["row"] == "a") & (frame["column"] == "1"), "damaged"] = 1
    assert "55.00 ± 7.07 (2), 1 damaged" in tables.markdown(two_cells(""), frame, "paper")
    assert r"(2),\\1 damaged" in latex.latex(two_cells(""), frame, "paper")


def test_a_claim_about_lost_runs_says_so() -> None:
    claim = Claim("a sentence", "Section 1", (("a", "1"),), (("b", "1"),))
    frame = some_lost("", "damaged")
    (told,) = claims.told(replace_claims(claim), frame, "paper")
    assert told == "Undecided: “a sentence” (Section 1). a: 50.00 against b: damaged (1)."
    neither = Claim("a sentence", "Section 1", (("a", "2"),), (("b", "2"),))
    (told,) = claims.told(replace_claims(neither), frame, "paper")
    assert told.endswith("a against b (2): damaged.")


def replace_claims(*told: Claim) -> Experiment:
    item = two_cells("")
    return Experiment(**{**vars(item), "claims": told})


def test_released_weights_whose_test_is_damaged() -> None:
    one = cell("a", "1", published=PaperValue(81.4, "timm"), epochs=0)
    item = Experiment(**{**vars(two_cells("")), "cells": (one,)})
    frame = filled(item, {})
    assert released.told(item, frame)[0].endswith("Not run.")
    frame["damaged"] = 1
    assert released.told(item, frame)[0].endswith("Damaged.")
