"""The items of visual interpretability: what is asked at each scale, and how it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import experiments
from repro.core import plan
from repro.core.scales import runs_at_scale
from repro.experiments import figure3_right
from repro.render import tables
from repro.render.frame import tidy
from repro.spec import Classification, Explanation, Localization, Place, Scale, Traversal

ITEMS = ("figure2", "figure3_left", "figure3_right", "figure4", "figure_a5")
NOWHERE = Path("/nonexistent")


def full(place: Place) -> tuple[str, str, str]:
    row, column, *panel = place
    return row, column, panel[0] if panel else ""


def explanations(name: str, scale: Scale, seeds: int = 1) -> list[Explanation]:
    found = plan.runs(experiments.get(name).cells, scale, seeds)
    return [run for run in found if isinstance(run, Explanation)]


@pytest.mark.parametrize("name", ITEMS)
def test_a_row_has_one_run_and_a_claim_its_cells(name: str) -> None:
    experiment = experiments.get(name)
    places = {(cell.row, cell.column, cell.panel) for cell in experiment.cells}
    assert len(places) == len(experiment.cells)
    assert {full(p) for c in experiment.claims for p in (*c.above, *c.below)} <= places
    assert set(experiment.picture_rows) <= set(experiment.rows)
    assert {c.column for c in experiment.cited} <= set(experiment.columns)


@pytest.mark.parametrize("name", ITEMS)
def test_the_classifiers_are_table_2s(name: str) -> None:
    """Trained there, with the run's own seed; or the released ones, which have no seeds."""
    of_table2 = plan.runs(experiments.get("table2").cells, "paper", 3)
    runs_at_scale = [run.trained for run in explanations(name, "paper", 3) if run.trained]
    assert set(runs_at_scale) <= set(of_table2)
    assert {run.seed for run in runs_at_scale if run.recipe.epochs} == {0, 1, 2}
    assert {run.seed for run in runs_at_scale if not run.recipe.epochs} == {0}


@pytest.mark.parametrize("name", ITEMS)
def test_thresholds_and_objects_are_not_what_the_classifier_was_trained_on(name: str) -> None:
    for run in explanations(name, "demo"):
        assert run.split == "test"
        if run.trained:
            assert run.trained.train_split == "fit"
        if isinstance(run, Localization):
            assert run.tuning_split == "validation"
    for run in explanations(name, "paper"):
        if isinstance(run, Localization):
            assert run.tuning == "imagenetv2"
        elif isinstance(run, Traversal):
            assert run.ablated


def test_the_readings_share_one_classifier_and_its_seed() -> None:
    runs = plan.runs(experiments.get("figure2").cells, "demo", 5)
    trained = [run for run in runs if isinstance(run, Classification)]
    assert [run.seed for run in trained] == [0, 1, 2, 3, 4]
    assert len(runs) == 5 + 4 * 5
    first = plan.runs(experiments.get("figure2").cells, "demo", 1)
    assert {(r.sign, r.top_tap) for r in first if isinstance(r, Traversal)} == {
        (sign, tap) for sign in ("ascent", "literal") for tap in ("input", "norm")
    }


def test_released_weights_are_tested_at_paper_scale_only() -> None:
    cells = experiments.get("figure3_right").cells
    assert [cell for cell, _ in runs_at_scale(cells, "paper")] == list(cells)
    trained = [cell for cell in cells if not cell.row.endswith("released")]
    assert [cell for cell, _ in runs_at_scale(cells, "proxy")] == trained
    assert [cell for cell, _ in runs_at_scale(cells, "demo")] == [
        cell for cell in trained if cell.row not in figure3_right.CEILINGS
    ]
    assert len(trained) < len(cells)


def test_what_others_published_has_a_row_that_is_not_run() -> None:
    experiment = experiments.get("figure3_right")
    frame, _ = tidy(experiment, "paper", NOWHERE, 3)
    text = tables.markdown(experiment, frame, "paper")
    (line,) = (line for line in text.splitlines() if line.startswith("| ADL (ResNet-50)"))
    assert "not run" in line
    assert "63.7" in line
    assert "ACoL (ResNet-50) 62.3, ADL (ResNet-50) 63.7: README of clovaai/wsolevaluation" in text
    small, _ = tidy(experiment, "demo", NOWHERE, 3)
    assert not small["row"].str.startswith("ADL").any()


def test_an_interval_stands_in_brackets_and_the_best_is_one_of_the_rivals() -> None:
    experiment = experiments.get("figure2")
    frame, _ = tidy(experiment, "demo", NOWHERE, 5)
    quadrant = frame["column"] == "Quadrant (%)"
    for row, mean in zip(frame["row"].unique(), (16.0, 36.4, 26.9, 23.6, 25.0, 54.0), strict=True):
        at = quadrant & (frame["row"] == row)
        frame.loc[at, ["mean", "n", "low", "high"]] = [mean, 5, mean - 1, mean + 1.06]
    text = tables.markdown(experiment, frame, "demo")
    (best,) = (line for line in text.splitlines() if "**36.4" in line)
    assert best.startswith("| − gradient, input of the top")
    assert "**36.4 (5) [35.4, 37.5]**" in best
    assert "54.0 (5) [53.0, 55.1]" in text
    assert "**54.0" not in text
    assert "95 % bootstrap interval over images" in text


def test_the_size_of_a_small_scale() -> None:
    for name in ITEMS:
        for run in explanations(name, "smoke"):
            assert run.dataset == "imagenet-smoke"
            if isinstance(run, Traversal):
                assert run.pictures <= 4
            if isinstance(run, Localization) and run.classifier:
                assert run.tuning == "imagenetv2-smoke"
                assert run.probed == 1
        for _, found in runs_at_scale(experiments.get(name).cells, "demo"):
            assert isinstance(found, Explanation)
            assert found.dataset == "fashion-singles"
