"""An experiment and what `results/` has of it, as the tidy frame that everything is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from repro import results
from repro.experiments.scales import exists, metric_of, run_of, sources, title
from repro.render.text import ACCURACIES
from repro.spec import Cell, Experiment, Run, Scale, chosen, dataset_of, with_seeds
from repro.verdict import summarize


def tidy(
    experiment: Experiment, scale: Scale, root: Path, seeds: int
) -> tuple[pd.DataFrame, list[str]]:
    """One row a cell in the paper's order, and warnings about results that are not usable.

    Cells that ask nothing at this scale are left out.

    Columns: `group`, `row`, `panel`, `column` (the paper's), `dataset` (here), `metric`, `paper`
    and `paper_starred` (what the paper prints), `published` and `published_place` (what others
    measured), `mean`, `spread` (standard deviation), `n`, `diverged` (runs), `drawn` (whether
    chance has a part in it), `values` (a tuple, in the order of the seeds), `difference` (mean -
    paper of an accuracy; at paper scale only, as elsewhere the data differ), `references` (what
    images were compared with, as JSON), `choices` (the values of the recipe that the paper leaves
    open).
    """
    rows, warnings = [], list[str]()
    for cell in (c for c in experiment.cells if exists(c, scale)):
        row, notes = _tidy_row(cell, scale, root, seeds)
        rows.append(row)
        warnings += notes
    return pd.DataFrame(rows), list(dict.fromkeys(warnings))  # cells share runs


def _tidy_row(cell: Cell, scale: Scale, root: Path, seeds: int) -> tuple[dict[str, Any], list[str]]:
    run, metric = run_of(cell, scale), metric_of(cell, scale)
    values, diverged, references, warnings = _values(root, with_seeds(run, seeds), metric, cell.at)
    summary = summarize(values, diverged)
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
        "n": summary.n,
        "diverged": summary.diverged,
        "drawn": run.is_drawn,
        "values": tuple(values),
        "difference": (summary.mean or 0) - (paper.value if paper else 0) if known else None,
        "references": references,
        "choices": " ".join(chosen(sources(cell, scale))),
    }, warnings


def _values(
    root: Path, runs: Sequence[Run], metric: str, at: float
) -> tuple[list[float], int, tuple[str, ...], list[str]]:
    """What the finished runs measured, how many diverged, compared with what, and warnings."""
    found, told = results.frame(root, runs, at)
    done = found[found["status"] == "done"]
    values = done.reindex(columns=["run", metric])  # where all diverged, there is no such column
    lacking = values["run"][values[metric].isna()]
    warnings = [
        f"{root / name} has a result without {metric!r}; move it away and run again"
        for name in lacking
    ]
    return (
        [float(v) for v in values[metric].dropna()],
        len(found) - len(done),
        tuple(done["reference"].dropna().unique()) if "reference" in done else (),
        [*told, *warnings],
    )
