"""An experiment and what `results/` has of it, as the tidy frame that everything is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from repro import results
from repro.experiments.scales import asked, metric_of, sources, title
from repro.measures import ACCURACIES
from repro.render.text import LOST
from repro.spec import Cell, Cited, Experiment, Run, Scale, chosen, dataset_of, with_seeds
from repro.verdict import summarize


def tidy(
    experiment: Experiment, scale: Scale, root: Path, seeds: int
) -> tuple[pd.DataFrame, list[str]]:
    """One row a cell in the paper's order, and warnings about results that are not usable.

    Cells that ask nothing at this scale are left out.

    Columns: `group`, `row`, `panel`, `column` (the paper's), `dataset` (here), `metric`, `paper`
    and `paper_starred` (what the paper prints), `published` and `published_place` (what others
    measured), `mean`, `spread` (standard deviation), `low` and `high` (of a bootstrap over images,
    averaged over seeds), `n` and each state in LOST (runs), `drawn` (whether chance has a part in
    it), `values` (a tuple, in the order of the seeds), `difference` (mean - paper of an accuracy;
    at paper scale only, as elsewhere the data differ), `references` (what images were compared
    with, as JSON), `choices` (the values of the recipe that the paper leaves open), `computed` (of
    each run its id, device and precision).
    """
    rows, warnings = [], list[str]()
    for cell, run in asked(experiment.cells, scale):
        row, notes = _tidy_row(cell, run, scale, root, seeds)
        rows.append(row)
        warnings += notes
    if scale == "paper":
        rows += [_cited(cited, metrics(experiment)[cited.column]) for cited in experiment.cited]
    return pd.DataFrame(rows), list(dict.fromkeys(warnings))  # cells share runs


def metrics(experiment: Experiment) -> dict[str, str]:
    """What each column of an experiment measures."""
    return {cell.column: cell.metric for cell in experiment.cells}


def _cited(cited: Cited, metric: str) -> dict[str, Any]:
    """The row of a number that others published, of what is not run here."""
    of_cell = {"group": "", "row": cited.row, "column": cited.column, "metric": metric}
    known = {"published": cited.value, "published_place": "published"}
    empty = {"panel": "", "dataset": "", "paper": None, "paper_starred": False, "choices": ""}
    nothing = {"mean": None, "spread": None, "low": None, "high": None, "difference": None}
    return of_cell | known | empty | nothing | {
        "n": 0, **dict.fromkeys(LOST, 0), "drawn": False, "values": (), "references": (),
        "computed": (),
    }  # fmt: skip


def _tidy_row(
    cell: Cell, run: Run, scale: Scale, root: Path, seeds: int
) -> tuple[dict[str, Any], list[str]]:
    metric = metric_of(cell, run)
    found, warnings = _values(root, with_seeds(run, seeds), metric, cell.at)
    values = found.values
    summary = summarize(values)
    paper, published = cell.paper, cell.published
    comparable = scale == "paper" and metric in ACCURACIES
    known = comparable and paper is not None and summary.mean is not None
    return {
        "group": cell.group,
        "row": cell.row,
        "panel": cell.panel,
        "column": cell.column,
        "dataset": title(dataset_of(run)),
        "metric": metric,
        "paper": paper.value if paper else None,
        "paper_starred": bool(paper and paper.starred),
        "published": published.value if published else None,
        "published_place": published.place if published else "",
        "mean": summary.mean,
        "spread": summary.spread,
        "low": found.low,
        "high": found.high,
        "n": summary.n,
        **found.lost,
        "drawn": run.is_drawn,
        "values": tuple(values),
        "difference": (summary.mean or 0) - (paper.value if paper else 0) if known else None,
        "references": found.references,
        "computed": found.computed,
        "choices": " ".join(chosen(sources(cell, scale))),
    }, warnings


@dataclass(frozen=True)
class _Values:
    """What the runs of a cell measured."""

    values: list[float]
    low: float | None  # the mean of the lower ends of their intervals, where they have any
    high: float | None
    lost: Mapping[str, int]  # how many runs of each state in LOST
    references: tuple[str, ...]
    computed: tuple[tuple[str, str, str], ...]


def _values(root: Path, runs: Sequence[Run], metric: str, at: float) -> tuple[_Values, list[str]]:
    """What the finished runs measured, how many are lost, compared with what; and warnings."""
    found, warnings = results.frame(root, runs, at)
    done = found[found["status"] == "done"]
    ends = [f"{metric}_low", f"{metric}_high"]
    values = done.reindex(columns=[metric, *ends])  # where all are lost, there is none
    means = [values[end].astype(float).mean() for end in ends]
    low, high = (None if pd.isna(mean) else float(mean) for mean in means)
    references = tuple(done["reference"].dropna().unique()) if "reference" in done else ()
    of_seeds = [float(value) for value in values[metric]]
    computed = found.reindex(columns=["run", "device", "numeric_precision"]).itertuples(index=False)
    rows = tuple(tuple(row) for row in computed)
    lost = {state: int((found["status"] == state).sum()) for state in LOST}
    return _Values(of_seeds, low, high, lost, references, rows), list(warnings)
