"""A finished result must have all metrics and files of its kind; otherwise it is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repro import experiments, results
from repro.core import measures, output, plan
from repro.core.scales import metric_of, runs_at_scale
from repro.kinds import localization, traversal
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
from tests.command_line import Capture, run_command

ITEMS = [experiments.get(name) for name in experiments.names()]


def runs_of_every_kind() -> dict[str, tuple[Experiment, Run]]:
    """A run of every kind and set of metrics, with an item that renders it."""
    found = dict[str, tuple[Experiment, Run]]()
    for item in ITEMS:
        for _, run in runs_at_scale(item.cells, "demo"):
            found.setdefault(f"{run.kind}-{len(run.metrics)}", (item, run))
    return found


RUNS_WITH_ITEMS = runs_of_every_kind()
RUNS: dict[str, Run] = {name: run for name, (_, run) in RUNS_WITH_ITEMS.items()}
RUNS |= {
    "untested": next(
        run for item in ITEMS for _, cell in runs_at_scale(item.cells, "paper")
        if isinstance(run := cell.starts_from, Classification) and run.test_split == "none"
    ),
    "by-inception": next(
        run for item in ITEMS for _, run in runs_at_scale(item.cells, "paper")
        if isinstance(run, Generation) and run.features == "inception"
    ),
    "on-gpu": next(
        run for item in ITEMS for _, run in runs_at_scale(item.cells, "paper")
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


def test_runs_cover_every_kind() -> None:
    kinds = {kind for kind in RUN_KINDS.values() if kind.__module__.startswith("repro.")}
    assert {type(run) for run in RUNS.values()} == kinds
    assert {type(run) for _, run in RUNS_WITH_ITEMS.values()} == kinds


@pytest.mark.parametrize("scale", SCALES)
def test_runs_must_have_everything_that_is_rendered(scale: Any) -> None:
    """Otherwise a finished run could leave a hole."""
    for item in ITEMS:
        for cell, run in runs_at_scale(item.cells, scale):
            assert metric_of(cell, run) in run.metrics, (item.name, cell.row, cell.column)
            if cell.training_fraction != 1:
                steps = tuple(run.evaluations)
                assert round(cell.training_fraction * steps[-1]) in steps
            if cell.row in item.picture_rows:
                needed = {"trees": traversal.TREES, "maps": localization.MAPS}[item.plot]
                assert needed in run.required_files


def test_every_metric_that_a_run_must_have_is_known() -> None:
    """Its range is checked, and its numbers are short."""
    losses = {"loss", "train_loss"}
    for run in RUNS.values():
        bases = {name.removesuffix("_low").removesuffix("_high") for name in run.metrics}
        assert bases - losses <= measures.MEASURES.keys()


def remove_entry(folder: Path, part: str, name: str) -> None:
    """Remove a metric or a digest from the result in a folder."""
    path = folder / results.RESULT
    content = json.loads(path.read_text())
    del content[part][name]
    path.write_text(json.dumps(content))


def diverge(folder: Path) -> None:
    path = folder / results.RESULT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "diverged"}))


@pytest.mark.parametrize("name", RUNS)
def test_a_result_without_a_metric_is_damaged(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    folder = finished.finish(tmp_path, run)
    assert results.outcome(tmp_path, run).state == "done"
    whole = (folder / results.RESULT).read_bytes()
    for metric in run.metrics:
        remove_entry(folder, "metrics", metric)
        found = results.outcome(tmp_path, run)
        assert found.state == "damaged"
        assert f"damaged (no {metric!r} among its metrics); move {folder} away" in found.note
        diverge(folder)
        assert results.outcome(tmp_path, run).state == "diverged"
        (folder / results.RESULT).write_bytes(whole)


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.required_files])
def test_a_result_without_a_file_is_damaged(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    folder = finished.finish(tmp_path, run)
    for file in run.required_files:
        (folder / file).unlink()
        remove_entry(folder, "files", file)
        found = results.outcome(tmp_path, run)
        assert found.state == "damaged"
        assert f"{folder / file} is damaged (it is missing)" in found.note
        diverge(folder)
        assert results.outcome(tmp_path, run).state == "diverged"


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if any(run.evaluations)])
def test_a_result_without_an_evaluation_is_damaged(tmp_path: Path, name: str) -> None:
    run = RUNS[name]
    lines = finished.files(run, finished.metrics(run, {}))[results.METRICS].splitlines(True)
    metric = run.metrics[0]
    for number, step in enumerate(run.evaluations):
        less = json.loads(lines[number])
        del less[metric]
        poor = json.dumps(less).encode() + b"\n"
        for line, message in (
            (b"", f"no line for step {step}"),
            (poor, f"no {metric!r} in the line of step {step}"),
        ):
            root = tmp_path / f"{step}-{len(line)}"
            content = b"".join([*lines[:number], line, *lines[number + 1 :]])
            finished.finish(root, run, extra_files={results.METRICS: content})
            found = results.outcome(root, run)
            assert found.state == "damaged"
            assert message in found.note


@pytest.mark.parametrize("name", RUNS_WITH_ITEMS)
def test_every_command_reports_a_damaged_result(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A result without one of its metrics: `status`, `plan`, `failures`, `retry` and the table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    item, target = RUNS_WITH_ITEMS[name]
    for run in plan.runs(item.cells, "demo", 1):
        folder = finished.finish(tmp_path / "results", run)
        if run == target:
            lost = folder
    remove_entry(lost, "metrics", target.metrics[0])
    note = results.outcome(Path("results"), target).note
    scale = "--scale demo --seeds 1"
    (rows,) = json.loads(run_command(capsys, f"status {item.name} {scale} --json")[1])
    planned = json.loads(run_command(capsys, f"plan {item.name} {scale} --json")[1])
    for found in (rows["runs"], planned):
        states = {row["run"]: (row["state"], row["note"]) for row in found}
        assert states.pop(target.id) == ("damaged", note)
        assert {state for state, _ in states.values()} <= {"done"}
    assert (
        f"{target.id}: damaged, {note}\n" == run_command(capsys, f"failures {item.name} {scale}")[1]
    )
    for line in (f"retry {item.name} {scale}", f"{item.name} {scale} --launch local"):
        assert run_command(capsys, line) == (2, "", f"repro: {note}\n")
    status, out, err = run_command(capsys, f"{item.name} {scale}")
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
    assert f"{name!r} at the last step differs from the result" in found.note


def test_evaluations_of_a_huge_number_of_steps_are_checked_lazily(
    tmp_path: Path,
) -> None:
    run = RUNS["by-inception"]
    assert isinstance(run, Generation)
    endless = replace(run, recipe=replace(run.recipe, steps=10**18, evaluate_every_steps=1))
    line = json.dumps({**finished.metrics(run, {}), "step": 1}).encode() + b"\n"
    folder = results.begin(tmp_path, endless)
    done = {"status": "done", "metrics": finished.metrics(run, {})}
    results.finish(folder, done, {results.METRICS: line})
    assert "no line for step 2" in results.outcome(tmp_path, endless).note
