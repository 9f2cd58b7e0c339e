"""The results of an experiment as a tidy frame, the input of every table and figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from repro import results
from repro.core.cells import LOST
from repro.core.evidence import Evidence
from repro.core.measures import ACCURACIES
from repro.core.scales import metric_of, runs_at_scale, sources, title
from repro.core.verdict import summarize
from repro.spec import Cell, Cited, Experiment, Run, Scale, dataset_of, our_choices, with_seeds


def tidy(
    experiment: Experiment, scale: Scale, root: Path, seeds: int
) -> tuple[pd.DataFrame, list[str]]:
    """One row per cell in the paper's order, and warnings about unusable results.

    Cells without a run at this scale are left out.

    Columns: `group`, `row`, `panel`, `column` (the paper's), `dataset` (here), `metric`, `paper`
    and `paper_starred` (what the paper prints), `control` (ours, not the paper's),
    `published` and `published_place` (results of others), `mean`, `spread` (standard deviation),
    `low` and `high` (of a bootstrap over images, averaged over seeds), `n` and each state in LOST
    (runs), `is_stochastic` (whether the run is stochastic), `values` (a tuple, in the order of the
    seeds), `difference` (mean - paper of an accuracy; at paper scale only, as elsewhere the data
    differ), `references` (the reference images of distances, as JSON), `choices` (the values of the
    recipe that the paper leaves open), `runs` (a MeasuredRun for each result), `evidence` (the
    finished runs, for verdicts; its `run` is the cell's, of seed 0).
    """
    rows, warnings = [], list[str]()
    for cell, run in runs_at_scale(experiment.cells, scale):
        row, notes = _tidy_row(cell, run, scale, root, seeds)
        rows.append(row)
        warnings += notes
    if scale == "paper":
        rows += [_cited(cited, metrics(experiment)[cited.column]) for cited in experiment.cited]
    return pd.DataFrame(rows), list(dict.fromkeys(warnings))  # cells share runs


def metrics(experiment: Experiment) -> dict[str, str]:
    """Column -> metric."""
    return {cell.column: cell.metric for cell in experiment.cells}


def _cited(cited: Cited, metric: str) -> dict[str, Any]:
    """The row of a published number of a method that is not run here."""
    of_cell = {"group": "", "row": cited.row, "column": cited.column, "metric": metric}
    published = {"published": cited.value, "published_place": "published"}
    empty = {"panel": "", "dataset": "", "paper": None, "paper_starred": False,
             "control": False, "choices": ""}  # fmt: skip
    nothing = {"mean": None, "spread": None, "low": None, "high": None, "difference": None}
    return of_cell | published | empty | nothing | {
        "n": 0, **dict.fromkeys(LOST, 0), "is_stochastic": False, "values": (), "references": (),
        "runs": (), "evidence": None,
    }  # fmt: skip


def _tidy_row(
    cell: Cell, run: Run, scale: Scale, root: Path, seeds: int
) -> tuple[dict[str, Any], list[str]]:
    metric = metric_of(cell, run)
    measurements, warnings = _values(root, with_seeds(run, seeds), metric, cell.training_fraction)
    values = measurements.values
    summary = summarize(values)
    paper, published = cell.paper, cell.published
    difference = None
    if scale == "paper" and metric in ACCURACIES and paper and summary.mean is not None:
        difference = summary.mean - paper.value
    return {
        "group": cell.group,
        "row": cell.row,
        "panel": cell.panel,
        "column": cell.column,
        "dataset": title(dataset_of(run)),
        "metric": metric,
        "paper": paper.value if paper else None,
        "paper_starred": bool(paper and paper.starred),
        "control": cell.control,
        "published": published.value if published else None,
        "published_place": published.place if published else "",
        "mean": summary.mean,
        "spread": summary.spread,
        "low": measurements.low,
        "high": measurements.high,
        "n": summary.n,
        **measurements.lost,
        "is_stochastic": run.is_stochastic,
        "values": tuple(values),
        "difference": difference,
        "references": measurements.references,
        "runs": measurements.runs,
        "choices": " ".join(our_choices(sources(cell, scale))),
        "evidence": Evidence(root, run, measurements.seeds, metric, cell.training_fraction),
    }, warnings


@dataclass(frozen=True)
class MeasuredRun:
    """One seed of a cell. The numbers are None unless the run is done."""

    seed: int
    run: str  # its id
    status: str  # 'done', or one of LOST
    value: float | None
    low: float | None
    high: float | None
    device: str
    precision: str
    reference: str  # of a distance, as JSON
    sha256: str  # `results.evidence_digest`
    site: str = ""  # that computed an imported run; '' for one of this results folder


@dataclass(frozen=True)
class _Values:
    """Measurements of the runs of a cell."""

    values: list[float]
    seeds: tuple[int, ...]  # of the values
    low: float | None  # the mean of the lower ends of their intervals, where they have any
    high: float | None
    lost: Mapping[str, int]  # number of runs in each state of LOST
    references: tuple[str, ...]
    runs: tuple[MeasuredRun, ...]


def _values(
    root: Path, runs: Sequence[Run], metric: str, training_fraction: float
) -> tuple[_Values, list[str]]:
    """Measurements of the runs, and warnings."""
    rows, warnings = results.measurement_rows(root, runs, training_fraction)
    measured = tuple(_measured_run(row, metric) for row in rows)
    finished_runs = [run for run in measured if run.status == "done"]
    lacking = [run.run for run in finished_runs if run.value is None]
    if lacking:
        warnings.append(
            f"{lacking[0]} has no metric {metric!r}; correct the metric of the cell, or the task"
        )
    return _Values(
        values=[math.nan if run.value is None else run.value for run in finished_runs],
        seeds=tuple(run.seed for run in finished_runs),
        low=_mean(run.low for run in finished_runs),
        high=_mean(run.high for run in finished_runs),
        lost={state: sum(run.status == state for run in measured) for state in LOST},
        references=tuple(dict.fromkeys(run.reference for run in finished_runs if run.reference)),
        runs=measured,
    ), warnings


def _mean(numbers: Iterable[float | None]) -> float | None:
    """Of the numbers that there are."""
    return summarize([number for number in numbers if number is not None]).mean


def _measured_run(row: Mapping[str, Any], metric: str) -> MeasuredRun:
    """One seed, from its row of `results.measurement_rows`."""
    names = (metric, f"{metric}_low", f"{metric}_high") if row["status"] == "done" else ()
    numbers = [row.get(name) for name in names] or [None] * 3
    value, low, high = (None if number is None else float(number) for number in numbers)
    return MeasuredRun(
        row["seed"], row["run"], row["status"], value, low, high, row["device"],
        row["numeric_precision"], row.get("reference", ""), row["sha256"], row["site"],
    )  # fmt: skip
