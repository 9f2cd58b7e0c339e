"""A finished result has what its kind of run has; without it, every verb calls it damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repro import artifacts, experiments, measures, output, plan, results
from repro.experiments.scales import asked, metric_of
from repro.spec import (
    RUN_KINDS,
    SCALES,
    Classification,
    Experiment,
    Generation,
    Localization,
    Profiling,
    Run,
    Traversal,
)
from tests import finished
from tests.test_cli import Capture, call

ITEMS = [experiments.get(name) for name in experiments.names()]


def places() -> dict[str, tuple[Experiment, Run]]:
    """A run of every kind, and of every other set of metrics, with an item that draws it."""
    found = dict[str, tuple[Experiment, Run]]()
    for item in ITEMS:
        for _, run in asked(item.cells, "proxy"):
            found.setdefault(f"{run.kind}-{len(run.metrics)}", (item, run))
    return found


PLACES = places()
RUNS: dict[str, Run] = {name: run for name, (_, run) in PLACES.items()}
RUNS |= {
    "untested": next(
        run for item in ITEMS for _, cell in asked(item.cells, "paper")
        if isinstance(run := cell.starts_from, Classification) and run.test_split == "none"
    ),
    "by-inception": next(
        run for item in ITEMS for _, run in asked(item.cells, "paper")
        if isinstance(run, Generation) and run.features == "inception"
    ),
    "on-gpu": next(
        run for item in ITEMS for _, run in asked(item.cells, "paper")
        if isinstance(run, Profiling) and run.device not in ("", "cpu")
    ),
}  # fmt: skip
RUNS |= {
    f"{name}-unprobed": replace(run, probed=0)
    for name, run in RUNS.items()
    if isinstance(run, Localization) and run.probed
} | {
    f"{name}-unablated": replace(run, ablated=0)
    for name, run in RUNS.items()
    if isinstance(run, Traversal) and run.ablated
}


def test_every_kind_is_here() -> None:
    assert {type(run).__name__ for run in RUNS.values()} == RUN_KINDS.keys()
    assert {type(run).__name__ for _, run in PLACES.values()} == RUN_KINDS.keys()


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_drawn_of_a_run_is_what_it_must_have(scale: Any) -> None:
    """So that a finished run leaves no hole."""
    for item in ITEMS:
        for cell, run in asked(item.cells, scale):
            assert metric_of(cell, run) in run.metrics, (item.name, cell.row, cell.column)
            if cell.at != 1:
                steps = tuple(run.evaluations)
                assert round(cell.at * steps[-1]) in steps
            if cell.row in item.drawn:
                needed = {"trees": artifacts.TREES, "maps": artifacts.MAPS}[item.plot]
                assert needed in artifacts.needed(run)


def test_every_metric_that_a_run_must_have_is_known() -> None:
    """Its range is checked, and its numbers are short."""
    losses = {"loss", "train_loss"}
    for run in RUNS.values():
        bases = {name.removesuffix("_low").removesuffix("_high") for name in run.metrics}
        assert bases - losses <= measures.MEASURES.keys()


def without(folder: Path, part: str, name: str) -> None:
    """The result in a folder loses one of its metrics or of its digests."""
    path = folder / results.RESULT
    content = json.loads(path.read_text())
    del content[part][name]
    path.write_text(json.dumps(content))


def diverge(folder: Path) -> None:
    path = folder / results.RESULT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "diverged"}))


@pytest.mark.parametrize("name", RUNS)
def test_each_metric_is_missed(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    folder = finished.finish(tmp_path, run)
    assert results.outcome(tmp_path, run).state == "done"
    whole = (folder / results.RESULT).read_bytes()
    for metric in run.metrics:
        without(folder, "metrics", metric)
        found = results.outcome(tmp_path, run)
        assert found.state == "damaged"
        assert f"damaged (no {metric!r} among its metrics); move {folder} away" in found.note
        diverge(folder)
        assert results.outcome(tmp_path, run).state == "diverged"
        (folder / results.RESULT).write_bytes(whole)


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if artifacts.needed(run)])
def test_each_file_is_missed(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    folder = finished.finish(tmp_path, run)
    for file in artifacts.needed(run):
        (folder / file).unlink()
        without(folder, "files", file)
        found = results.outcome(tmp_path, run)
        assert found.state == "damaged"
        assert f"{folder / file} is damaged (it is missing)" in found.note
        diverge(folder)
        assert results.outcome(tmp_path, run).state == "diverged"


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if any(run.evaluations)])
def test_each_evaluation_is_missed(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    lines = finished.files(run, finished.metrics(run, {}))[results.METRICS].splitlines(True)
    metric = run.metrics[0]
    for number, step in enumerate(run.evaluations):
        less = json.loads(lines[number])
        del less[metric]
        poor = json.dumps(less).encode() + b"\n"
        for there, said in (
            (b"", f"no line of step {step}"),
            (poor, f"no {metric!r} in the line of step {step}"),
        ):
            root = tmp_path / f"{step}-{len(there)}"
            kept = b"".join([*lines[:number], there, *lines[number + 1 :]])
            finished.finish(root, run, kept={results.METRICS: kept})
            found = results.outcome(root, run)
            assert found.state == "damaged"
            assert said in found.note


@pytest.mark.parametrize("name", PLACES)
def test_every_verb_calls_it_damaged(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A result without one of its metrics: `status`, `plan`, `failures`, `retry` and the table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    item, wanted = PLACES[name]
    for run in plan.runs(item.cells, "proxy", 1):
        folder = finished.finish(tmp_path / "results", run)
        if run == wanted:
            lost = folder
    without(lost, "metrics", wanted.metrics[0])
    note = results.outcome(Path("results"), wanted).note
    scale = "--scale proxy --seeds 1"
    (rows,) = json.loads(call(capsys, f"status {item.name} {scale} --json")[1])
    planned = json.loads(call(capsys, f"plan {item.name} {scale} --json")[1])
    for found in (rows["runs"], planned):
        states = {row["run"]: (row["state"], row["note"]) for row in found}
        assert states.pop(wanted.id) == ("damaged", note)
        assert {state for state, _ in states.values()} <= {"done"}
    assert f"{wanted.id}: damaged, {note}\n" == call(capsys, f"failures {item.name} {scale}")[1]
    for line in (f"retry {item.name} {scale}", f"{item.name} {scale} --launch local"):
        assert call(capsys, line) == (2, "", f"repro: {note}\n")
    status, out, err = call(capsys, f"{item.name} {scale}")
    assert (status, err) == (0, f"repro: warning: {output.line(note)}\n")
    assert "1 damaged" in out
    assert "not run" not in out


def test_the_last_evaluation_is_the_result(tmp_path: Path) -> None:
    run = next(run for run in RUNS.values() if any(run.evaluations))
    finished.finish(tmp_path, run)
    folder = results.folder(tmp_path, run)
    result = json.loads((folder / results.RESULT).read_text())
    name = run.metrics[0]
    result["metrics"][name] += 0.01
    (folder / results.RESULT).write_text(json.dumps(result))
    found = results.outcome(tmp_path, run)
    assert found.state == "damaged"
    assert f"{name!r} of its last step is not that of the result" in found.note


def test_a_spec_of_endless_evaluations_is_judged_by_the_lines_that_are_there(
    tmp_path: Path,
) -> None:
    run = RUNS["by-inception"]
    assert isinstance(run, Generation)
    endless = replace(run, recipe=replace(run.recipe, steps=10**18, evaluate_every_steps=1))
    line = json.dumps({**finished.metrics(run, {}), "step": 1}).encode() + b"\n"
    folder = results.begin(tmp_path, endless)
    done = {"status": "done", "metrics": finished.metrics(run, {})}
    results.finish(folder, done, {results.METRICS: line})
    assert "no line of step 2" in results.outcome(tmp_path, endless).note
