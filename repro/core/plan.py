"""From experiments to the runs that they need. Needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import zip_longest

from repro import paper
from repro.core.scales import runs_at_scale
from repro.spec import Cell, Experiment, Place, Run, Scale, with_seeds


def select(experiment: Experiment, patterns: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that match one of the patterns, 'ROW' or 'ROW/COLUMN'; all cells without patterns.

    The pattern 'showcase' selects the experiment's representative rows.
    """
    each = [
        part
        for pattern in patterns
        for part in (experiment.representative_rows if pattern == "showcase" else (pattern,))
    ]
    return tuple(c for c in experiment.cells if not patterns or any(_selects(p, c) for p in each))


def _selects(pattern: str, cell: Cell) -> bool:
    """Whether the pattern matches the cell's row, or its row and column; rows may contain '/'."""
    row, slash, column = pattern.rpartition("/")
    return _matches(cell.row, pattern) or (
        bool(slash) and _matches(cell.row, row) and _matches(cell.column, column)
    )


def matching(rows: Iterable[str], pattern: str) -> list[str]:
    """The rows that equal the pattern, begin with it and a hyphen, or match it with * and ?."""
    return [row for row in rows if _matches(row, pattern)]


def _matches(row: str, pattern: str) -> bool:
    row, pattern = row.lower().replace("×", "x"), pattern.lower().replace("×", "x")
    return row == pattern or fnmatch(row, pattern) or row.startswith(f"{pattern}-")


@dataclass(frozen=True)
class Group:
    """The runs of a row of an item, without those of earlier rows."""

    item: str
    row: str
    scale: Scale
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Request:
    """The runs of a command with their scales, in training order."""

    runs: Mapping[Run, Scale]
    groups: tuple[Group, ...] = ()
    claims: tuple[tuple[Run, ...], ...] = ()  # for each claim the runs that decide it

    @property
    def scales(self) -> list[Scale]:
        return list(dict.fromkeys(self.runs.values()))

    def only(self, runs: Iterable[Run]) -> Request:
        """The request reduced to these runs."""
        selected = set(runs)
        groups = (replace(g, runs=tuple(r for r in g.runs if r in selected)) for g in self.groups)
        return Request(
            {run: scale for run, scale in self.runs.items() if run in selected},
            tuple(group for group in groups if group.runs),
            self.claims,
        )


def request(
    experiments: Sequence[Experiment],
    scales: Sequence[Scale],
    seeds: Callable[[Experiment, Scale], int],
    only: Sequence[str] = (),
) -> Request:
    """The runs of the items at these scales; `only`: row patterns."""
    every, claims, groups = dict[Run, Scale](), list[tuple[Run, ...]](), list[Group]()
    for scale in scales:
        cells = [(select(experiment, only), seeds(experiment, scale)) for experiment in experiments]
        ordered = _in_order([s for part, number in cells for s in _seeded(part, scale, number)])
        every |= {run: every.get(run, scale) for run in ordered}
        for experiment, (part, number) in zip(experiments, cells, strict=True):
            claims += map(tuple, runs_of_claims(experiment, scale, number))
            for row in dict.fromkeys(cell.row for cell in part):
                needed = runs([cell for cell in part if cell.row == row], scale, number)
                groups.append(Group(experiment.name, row, scale, tuple(needed)))
    return Request(every, tuple(_without_repeats(groups)), tuple(claims))


def _without_repeats(groups: Iterable[Group]) -> Iterator[Group]:
    earlier = set[Run]()
    for group in groups:
        if new := tuple(run for run in group.runs if run not in earlier):
            earlier.update(new)
            yield replace(group, runs=new)


def runs(cells: Iterable[Cell], scale: Scale, seeds: int) -> list[Run]:
    """Every run of the cells, once each, by seed, and each run after the one it starts from."""
    return _in_order(_seeded(cells, scale, seeds))


def _seeded(cells: Iterable[Cell], scale: Scale, seeds: int) -> list[Sequence[Run]]:
    """The seeds of the run of each cell."""
    return [with_seeds(run, seeds) for _, run in runs_at_scale(cells, scale)]


def _in_order(seeded: Iterable[Sequence[Run]]) -> list[Run]:
    ordered = (run for same_seed in zip_longest(*seeded) for run in same_seed if run)
    return list(dict.fromkeys(run for last in ordered for run in lineage(last)))


def runs_of_claims(experiment: Experiment, scale: Scale, seeds: int) -> list[list[Run]]:
    """The deciding runs of each claim of an item whose cells exist at the scale."""
    by_place: dict[Place, Cell] = {}
    for cell, _ in runs_at_scale(experiment.cells, scale):
        by_place[cell.row, cell.column] = by_place[cell.row, cell.column, cell.panel] = cell
    return [
        runs([by_place[place] for place in claim.places], scale, seeds)
        for claim in experiment.claims
        if scale in claim.scales
        if all(place in by_place for place in claim.places)
    ]


def lineage(run: Run) -> list[Run]:
    """The run after the runs that it starts from."""
    return [*(lineage(run.starts_from) if run.starts_from else []), run]


def default_seeds(experiment: Experiment, scale: Scale) -> int:
    """How many seeds of an item are trained at a scale."""
    own = experiment.seeds if scale == "proxy" else 0
    return own or paper.current().seeds.get(scale, paper.SEEDS[scale])


def seeds_shown(experiment: Experiment, scale: Scale, run_ids: Container[str]) -> int:
    """How many seeds of an item are shown: all of these `run_ids`, at least those of the scale."""
    bases = [run for _, run in runs_at_scale(experiment.cells, scale)]
    seeds = default_seeds(experiment, scale)
    while any(replace(run, seed=seeds).id in run_ids for run in bases):
        seeds += 1
    return seeds
