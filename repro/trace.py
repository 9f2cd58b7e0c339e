"""From a number in a table to the runs behind it, and to the command that makes them again.

Without pandas and torch, so that a question is answered at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro import results
from repro.core.measures import measure
from repro.core.scales import home, metric_of, runs_at_scale, sources
from repro.core.verdict import summarize
from repro.spec import Cell, Claim, Decision, Experiment, Run, Scale, our_choices, with_seeds

AGAIN = "again"  # a folder for what is made a second time


@dataclass(frozen=True)
class RunTrace:
    """One seed: what was measured, where its files are, and how it was computed."""

    run: str
    seed: int
    status: str
    value: float | None
    low: float | None
    high: float | None
    folder: str
    sha256: str  # `results.evidence_digest`
    starts_from: str  # the run whose weights it needs; '' if none
    provenance: Mapping[str, Any]
    site: str  # that computed an imported run; '' for one of this results folder
    patch: str  # the file with the changes of a dirty tree, if it is here


@dataclass(frozen=True)
class RecipeValue:
    """A value of the recipe and where it is from."""

    name: str
    value: object
    source: str
    is_ours: bool


@dataclass(frozen=True)
class CellTrace:
    """Everything behind one number of a table."""

    address: str  # 'item/row/column'
    scale: Scale
    metric: str
    unit: str
    paper: float | None
    paper_place: str
    mean: float | None
    spread: float | None
    formula: str
    runs: tuple[RunTrace, ...]
    recipe: tuple[RecipeValue, ...]
    decisions: tuple[Decision, ...]
    decisions_scale: Scale  # at which they hold
    claims: tuple[Claim, ...]
    command: str


def addresses(experiment: Experiment, scale: Scale) -> dict[str, tuple[Cell, Run]]:
    """The cells of an item at a scale, by their address: 'item/row/panel/column'."""
    return {
        address_of(experiment, cell): (cell, run)
        for cell, run in runs_at_scale(experiment.cells, scale)
    }


def address_of(experiment: Experiment, cell: Cell) -> str:
    return "/".join(filter(None, (experiment.name, cell.row, cell.panel, cell.column)))


def trace(
    experiment: Experiment, cell: Cell, run: Run, scale: Scale, root: Path, seeds: int
) -> CellTrace:
    """Everything behind a cell's number, as it is under `root`, with the seeds 0 to `seeds` - 1."""
    metric = metric_of(cell, run)
    seeded = with_seeds(run, seeds)
    rows, _ = results.measurement_rows(root, seeded, cell.training_fraction)
    by_id = {row["run"]: row for row in rows}
    runs = [_seed(root, each, metric, by_id.get(each.id, {})) for each in seeded]
    values = [each.value for each in runs if each.value is not None]
    summary = summarize(values)
    return CellTrace(
        address=address_of(experiment, cell),
        scale=scale,
        metric=metric,
        unit=measure(metric).name,
        paper=cell.paper.value if cell.paper else None,
        paper_place=cell.paper.place if cell.paper else "",
        mean=summary.mean,
        spread=summary.spread,
        formula=formula(values, cell.training_fraction),
        runs=tuple(runs),
        recipe=tuple(recipe(cell, run, scale)),
        decisions=experiment.decisions,
        decisions_scale=home(experiment),
        claims=tuple(claims(experiment, cell, scale)),
        command=command(experiment, cell, scale, again=summary.mean is not None),
    )


def _seed(root: Path, run: Run, metric: str, row: Mapping[str, Any]) -> RunTrace:
    """A run with its measurement, from its row of `results.measurement_rows`."""
    trace = run_trace(root, run)
    if trace.status != "done":
        return trace
    low, high = row.get(f"{metric}_low"), row.get(f"{metric}_high")
    return replace(trace, value=row.get(metric), low=low, high=high)


def run_trace(root: Path, run: Run) -> RunTrace:
    """A run without a measurement: its files, and how it was computed."""
    outcome = results.outcome(root, run)
    provenance = outcome.result.get("provenance", {}) if outcome.result else {}
    patch = root / results.SNAPSHOTS / str(provenance.get("code", "")) / "patch"
    has_patch = bool(provenance.get("code")) and patch.is_file() and patch.stat().st_size > 0
    return RunTrace(
        run.id, run.seed, outcome.state, None, None, None, str(results.folder(root, run)),
        results.evidence_digest(root, run) if outcome.sha256 else "",
        run.starts_from.id if run.starts_from else "", provenance,
        results.origin(results.folder(root, run)) if outcome.result else "",
        str(patch) if has_patch else "",
    )  # fmt: skip


def formula(values: Sequence[float], training_fraction: float) -> str:
    """How the number follows from those of the runs."""
    at = "" if training_fraction == 1 else f", each after {training_fraction:.0%} of the steps"
    if len(values) < 2:
        return f"the value of one run{at}" if values else "no run is done"
    terms = " + ".join(f"{value:.10g}" for value in values)
    return f"({terms}) / {len(values)} ± their sample standard deviation{at}"


def recipe(cell: Cell, run: Run, scale: Scale) -> list[RecipeValue]:
    """The values of a cell's run at a scale whose source is stated, our choices first."""
    values, training = [], run.tested_classifier or run
    value_sources = sources(cell, scale)
    ours = our_choices(value_sources)
    for name, source in value_sources:
        try:
            value = training.recipe_value(name)
        except (KeyError, AttributeError):  # a run without a recipe, or without this value
            continue
        values.append(RecipeValue(name, value, source, name in ours))
    return sorted(values, key=lambda each: not each.is_ours)


def claims(experiment: Experiment, cell: Cell, scale: Scale) -> Iterator[Claim]:
    """The claims that the cell is part of."""
    places = {(cell.row, cell.column), (cell.row, cell.column, cell.panel)}
    return (
        claim for claim in experiment.claims if scale in claim.scales if places & set(claim.places)
    )


def command(experiment: Experiment, cell: Cell, scale: Scale, *, again: bool) -> str:
    """The command that makes the number from nothing; `again`: beside the present results."""
    words = ["repro", experiment.name, "--only", cell.row]
    words += [] if scale == "paper" else ["--scale", scale]
    profile = cell.run.as_profile
    runs_here = scale != "paper" or (profile is not None and profile.device in ("", "cpu"))
    words += ["--launch", "local" if runs_here else "slurm"]
    return shlex.join([*words, *(("--results", AGAIN, "--out", AGAIN) if again else ())])
