"""From experiments to the runs that they need. Needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import zip_longest

from repro.experiments.scales import asked
from repro.spec import Cell, Experiment, Place, Run, Scale, with_seeds


def select(experiment: Experiment, patterns: Sequence[str]) -> tuple[Cell, ...]:
    """The cells whose row matches one of the patterns, or all if there are none.

    'showcase' stands for the experiment's own choice of rows.
    """
    rows = [row for p in patterns for row in (experiment.showcase if p == "showcase" else (p,))]
    wanted = {row for pattern in rows for row in matching(experiment.rows, pattern)}
    return tuple(c for c in experiment.cells if not patterns or c.row in wanted)


def matching(rows: Iterable[str], pattern: str) -> list[str]:
    """The rows that are the pattern, begin with it and a hyphen, or match it with * and ?."""
    return [row for row in rows if _matches(row, pattern)]


def _matches(row: str, pattern: str) -> bool:
    row, pattern = row.lower().replace("×", "x"), pattern.lower().replace("×", "x")
    return row == pattern or fnmatch(row, pattern) or row.startswith(f"{pattern}-")


def runs(cells: Iterable[Cell], scale: Scale, seeds: int) -> list[Run]:
    """Every run the cells need, once each: the first seed of all of them comes first, and a run
    comes after the one that it starts from."""
    seeded = [with_seeds(run, seeds) for _, run in asked(cells, scale)]
    wanted = (run for same_seed in zip_longest(*seeded) for run in same_seed if run)
    return list(dict.fromkeys(run for last in wanted for run in _lineage(last)))


def claimed(experiment: Experiment, scale: Scale, seeds: int) -> list[list[Run]]:
    """The runs that decide each claim of an item."""
    by_place: dict[Place, Cell] = {}
    for cell in experiment.cells:
        by_place[cell.row, cell.column] = by_place[cell.row, cell.column, cell.panel] = cell
    return [
        runs([by_place[place] for place in (*claim.above, *claim.below)], scale, seeds)
        for claim in experiment.claims
    ]


def _lineage(run: Run) -> list[Run]:
    """The run and those before it, the first of them first."""
    return [*(_lineage(run.starts_from) if run.starts_from else []), run]


def seeds_known(cells: Iterable[Cell], scale: Scale, known: Container[str], least: int) -> int:
    """How many seeds of these cells were ever asked for, by the ids that are known; at least so
    many."""
    bases = [run for _, run in asked(cells, scale)]
    seeds = least
    while any(replace(run, seed=seeds).id in known for run in bases):
        seeds += 1
    return seeds
