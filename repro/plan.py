"""From experiments to the runs that they need. Needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Group:
    """The runs of a row of an item, but those that a row before it has as well."""

    item: str
    row: str
    scale: Scale
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Request:
    """The runs that a command is about, with their scale, in the order in which to train them."""

    runs: Mapping[Run, Scale]
    groups: tuple[Group, ...] = ()
    claims: tuple[tuple[Run, ...], ...] = ()  # of each claim the runs that decide it

    @property
    def scales(self) -> list[Scale]:
        return list(dict.fromkeys(self.runs.values()))

    def only(self, kept: Iterable[Run]) -> Request:
        """The same for some of the runs."""
        kept = set(kept)
        groups = (replace(g, runs=tuple(r for r in g.runs if r in kept)) for g in self.groups)
        return Request(
            {run: scale for run, scale in self.runs.items() if run in kept},
            tuple(group for group in groups if group.runs),
            self.claims,
        )


def request(
    found: Sequence[Experiment],
    scales: Sequence[Scale],
    seeds: Callable[[Experiment, Scale], int],
    only: Sequence[str] = (),
) -> Request:
    """What the items need at these scales; `only`: of these rows."""
    every, claims, groups = dict[Run, Scale](), list[tuple[Run, ...]](), list[Group]()
    for scale in scales:
        cells = [(select(item, only), seeds(item, scale)) for item in found]
        ordered = _in_order([s for part, number in cells for s in _seeded(part, scale, number)])
        every |= {run: every.get(run, scale) for run in ordered}
        for item, (part, number) in zip(found, cells, strict=True):
            claims += map(tuple, claimed(item, scale, number))
            for row in dict.fromkeys(cell.row for cell in part):
                needed = runs([cell for cell in part if cell.row == row], scale, number)
                groups.append(Group(item.name, row, scale, tuple(needed)))
    return Request(every, tuple(_without_repeats(groups)), tuple(claims))


def _without_repeats(groups: Iterable[Group]) -> Iterator[Group]:
    seen = set[Run]()
    for group in groups:
        if new := tuple(run for run in group.runs if run not in seen):
            seen.update(new)
            yield replace(group, runs=new)


def runs(cells: Iterable[Cell], scale: Scale, seeds: int) -> list[Run]:
    """Every run the cells need, once each: the first seed of all of them comes first, and a run
    comes after the one that it starts from."""
    return _in_order(_seeded(cells, scale, seeds))


def _seeded(cells: Iterable[Cell], scale: Scale, seeds: int) -> list[Sequence[Run]]:
    """The seeds of the run of each cell."""
    return [with_seeds(run, seeds) for _, run in asked(cells, scale)]


def _in_order(seeded: Iterable[Sequence[Run]]) -> list[Run]:
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
