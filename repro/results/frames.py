"""Data frames of the metrics of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import paper, spec
from repro.core import plan, records
from repro.core.scales import runs_at_scale
from repro.results.files import folder, origin, read_metrics, run_ids
from repro.results.outcome import ABOUT, chained_digest, outcome
from repro.spec import Cell, Experiment, Run, Scale

if TYPE_CHECKING:
    import pandas as pd

_CELL_COLUMNS = ["item", "method", "panel", "column", "dataset", "seed", "run", "status",
                 "training_fraction"]  # fmt: skip


def frame(
    items: str | Sequence[str] = "all",
    scale: Scale = "paper",
    *,
    seeds: int | None = None,
    root: Path | str = "results",
) -> pd.DataFrame:
    """The metrics of the paper's items, one row per cell and seed.

        repro.results.frame(scale="proxy").groupby(["method", "dataset"]).top1.mean()

    Columns: `item`, `method`, `panel`, `column` (of the paper's table) and `dataset` (of the run);
    `seed`, `run` (its id) and `status` ('done', 'diverged', 'damaged', 'stale', 'started' or
    'missing'); `training_fraction`, the part of training before the measurement (1, except for
    points of a curve); each value of the recipe, such as `recipe.lr`; the metrics, such as `top1`
    in percent, NaN without a result; and `device`, `numeric_precision`, `site`, `sha256` and
    `reference`, as in `measurement_rows`.

    Args:
        items: names or patterns, as on the command line; 'all' for every item.
        seeds: how many, from 0; None: the scale's default, or more if `root` has more.
        root: the results folder.

    KeyError for an unknown item. Of a damaged result, `outcome` gives the reason.
    """
    import pandas as pd

    root, words = Path(root), [items] if isinstance(items, str) else items
    names = dict.fromkeys(name for word in words for name in paper.current().matching(word))
    cells = [row for name in names for row in _cells(paper.current().get(name), scale, seeds, root)]
    if not cells:
        return pd.DataFrame(columns=[*_CELL_COLUMNS, "top1"])
    table = pd.DataFrame([_cell_row(*cell, root) for cell in cells])
    parts = []
    for fraction in dict.fromkeys(cell.training_fraction for _, cell, _ in cells):
        runs = dict.fromkeys(run for _, cell, run in cells if cell.training_fraction == fraction)
        metrics, _ = measurements(root, runs, fraction)
        parts.append(metrics.drop(columns=["seed", "status"]).assign(training_fraction=fraction))
    table = table.merge(pd.concat(parts), on=["run", "training_fraction"], how="left")
    last = [name for name in (*ABOUT, "reference") if name in table]
    return table[[name for name in table if name not in last] + last]


def _cells(
    experiment: Experiment, scale: Scale, seeds: int | None, root: Path
) -> Iterator[tuple[str, Cell, Run]]:
    """The item's name, a cell and its run, for every cell and seed."""
    count = seeds or plan.seeds_shown(experiment, scale, run_ids(root))
    for cell, first in runs_at_scale(experiment.cells, scale):
        yield from ((experiment.name, cell, run) for run in spec.with_seeds(first, count))


def _cell_row(item: str, cell: Cell, run: Run, root: Path) -> dict[str, object]:
    """The columns of a cell and seed, except the metrics."""
    state = outcome(root, run).state
    row = (item, cell.row, cell.panel, cell.column, spec.dataset_of(run), run.seed, run.id, state,
           cell.training_fraction)  # fmt: skip
    return dict(zip(_CELL_COLUMNS, row, strict=True)) | _recipe(run)


def _recipe(run: Run) -> dict[str, object]:
    """The values of a training's recipe, or of the tested classifier's."""
    recipe = getattr(run.tested_classifier or run, "recipe", None)
    values = dataclasses.asdict(recipe) if recipe else {}
    return {f"recipe.{name}": value for name, value in values.items()}


def measurements(
    root: Path, runs: Iterable[Run], training_fraction: float = 1.0
) -> tuple[pd.DataFrame, Sequence[str]]:
    """`measurement_rows` as a frame, which has columns even without rows."""
    import pandas as pd  # half a second: only where a table needs it

    rows, warnings = measurement_rows(root, runs, training_fraction)
    columns = ["run", "seed", "status", "top1"]
    return pd.DataFrame(rows, columns=None if rows else columns), warnings


def measurement_rows(
    root: Path, runs: Iterable[Run], training_fraction: float = 1.0
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per run with a result, valid or not, and warnings about the invalid ones.

    Keys: `run` (its id), `seed`, `status` ('done', 'diverged', 'damaged' or 'stale'), `reference`
    (as JSON, where images were compared with a data set), `device` and `numeric_precision` ('' if
    not recorded), `site` (see `origin`), `sha256` (`evidence_digest`), and each metric after this
    fraction of the training steps.
    """
    rows, warnings = [], []
    for run in runs:
        run_outcome = outcome(root, run)
        if run_outcome.state in ("missing", "started"):
            continue
        metrics, about = dict[str, Any](), dict[str, Any]()
        if run_outcome.result is None:
            warnings.append(run_outcome.note)
        else:
            metrics |= (
                run_outcome.result["metrics"]
                if training_fraction == 1
                else _metrics_at(folder(root, run), training_fraction)
            )
            about |= run_outcome.result.get("provenance", {})
        row = {"run": run.id, "seed": run.seed, "status": run_outcome.state}
        row["sha256"] = chained_digest(root, run, run_outcome.sha256)
        row["site"] = origin(folder(root, run)) if run_outcome.result else ""
        row["device"] = about.get("device", "")
        row["numeric_precision"] = about.get("precision", "")  # 'precision' is a metric
        if reference := about.get("reference"):
            row["reference"] = records.encode(reference)
        rows.append(metrics | row)
    return rows, warnings


def _metrics_at(path: Path, training_fraction: float) -> Mapping[str, float | None]:
    """The line of a run's metrics after this fraction of its steps; {} without one."""
    lines = read_metrics(path)
    last = lines[-1]["step"] if lines else 0
    step = round(training_fraction * (last or 0))
    return next((line for line in lines if line["step"] == step), {})
