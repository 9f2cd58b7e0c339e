"""From experiments to the runs that are missing. Needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from repro import results
from repro.experiments.scales import at_scale
from repro.launch import lease
from repro.spec import Cell, Experiment, Run, Scale, with_seeds


@dataclass(frozen=True)
class Planned:
    """A run that an experiment asks for, and what there is of it.

    `state` is that of `results.Outcome`, or 'running' with the facts of its lease.
    """

    run: Run
    state: str
    note: str = ""
    lease: dict[str, object] | None = None

    @property
    def to_do(self) -> bool:
        return self.state in ("missing", "started", "running")  # launching says who runs it


def select(experiment: Experiment, patterns: Sequence[str]) -> tuple[Cell, ...]:
    """The cells whose method matches one of the patterns: a name, its beginning, or with * and ?.

    All cells if there are no patterns. KeyError with the pattern that matches nothing.
    """
    if not patterns:
        return experiment.cells
    for pattern in patterns:
        if not any(_matches(row, pattern) for row in experiment.rows):
            raise KeyError(pattern)
    return tuple(c for c in experiment.cells if any(_matches(c.row, p) for p in patterns))


def _matches(row: str, pattern: str) -> bool:
    row, pattern = row.lower().replace("×", "x"), pattern.lower().replace("×", "x")
    return row == pattern or fnmatch(row, pattern) or row.startswith(f"{pattern}-")


def runs(cells: Iterable[Cell], scale: Scale, seeds: int) -> list[Run]:
    """Every run the cells need, once each; the first seed of all of them comes first."""
    seeded = [with_seeds(at_scale(cell.run, scale), seeds) for cell in cells]
    return list(dict.fromkeys(run for same_seed in zip(*seeded, strict=True) for run in same_seed))


def plan(root: Path, wanted: Iterable[Run]) -> list[Planned]:
    """What there is of each run under `root`."""
    return [look(root, run) for run in wanted]


def look(root: Path, run: Run) -> Planned:
    """What there is of one run."""
    found = results.outcome(root, run)
    if found.state == "started":
        content = lease.read(results.folder(root, run))
        if content and lease.is_held(content):
            return Planned(run, "running", lease=content)
    return Planned(run, found.state, found.note)
