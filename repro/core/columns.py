"""Columns that count steps or epochs: their numbers at another scale."""

from __future__ import annotations

from collections.abc import Iterable

from repro.core.scales import runs_at_scale
from repro.spec import Experiment, Run, Scale


def scaled_columns(experiment: Experiment, scale: Scale) -> dict[str, str]:
    """For columns that count steps or epochs: the paper's name -> the count at this scale.

    Empty where columns count something else, or where two of them have the same count.
    """
    cells = runs_at_scale(experiment.cells, scale)
    unit = step_unit(run for _, run in cells)
    names = {}
    for cell, run in cells:
        if run.length and run.length.unit == experiment.x:
            names[cell.column] = f"{run.length.count * cell.training_fraction / unit:g}"
    return names if len(set(names.values())) == len(names) else {}


def step_unit(runs: Iterable[Run]) -> int:
    """1000 where a training has 10,000 steps or more, else 1."""
    steps = (run.length.count for run in runs if run.length and run.length.unit == "steps")
    return 1000 if max(steps, default=0) >= 10_000 else 1
