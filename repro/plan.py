"""From experiments to the runs that they need. Needs neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import zip_longest
from pathlib import Path

from repro import results
from repro.experiments.scales import exists, run_of
from repro.spec import Cell, Experiment, Run, Scale, with_seeds

_SEEDS_LOOKED_AT = 8  # for what a run has taken before


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
    """Every run the cells need, once each: the first seed of all of them comes first, and a run
    comes after the one that it starts from."""
    wanted_cells = [cell for cell in cells if exists(cell, scale)]
    seeded = [with_seeds(run_of(cell, scale), seeds) for cell in wanted_cells]
    wanted = (run for same_seed in zip_longest(*seeded) for run in same_seed if run)
    return list(dict.fromkeys(run for last in wanted for run in _lineage(last)))


def _lineage(run: Run) -> list[Run]:
    """The run and those before it, the first of them first."""
    return [*(_lineage(run.starts_from) if run.starts_from else []), run]


def seeds_known(cells: Iterable[Cell], scale: Scale, known: Container[str], least: int) -> int:
    """How many seeds of these cells were ever asked for, by the ids that are known; at least so
    many."""
    bases = [run_of(cell, scale) for cell in cells if exists(cell, scale)]
    seeds = least
    while any(replace(run, seed=seeds).id in known for run in bases):
        seeds += 1
    return seeds


def price(root: Path, wanted: Iterable[Run]) -> str:
    """What runs will take, in a line: as long as their other seeds did, where there are any.

    In hours of a process: of a GPU each, or on a CPU of a process that trains on its cores.
    """
    hours = {"GPU": 0.0, "CPU": 0.0}
    known, unknown, means = 0, 0, dict[Run, tuple[str, float] | None]()
    for run in wanted:
        base = replace(run, seed=0)
        if base not in means:
            means[base] = _hours(root, base)
        if found := means[base]:
            hours[found[0]] += found[1]
            known += 1
        else:
            unknown += 1
    parts = [f"about {total:.2g} {kind}-hours" for kind, total in hours.items() if total]
    priced = f"{' and '.join(parts)} for {known} of them, by seeds that are done" if parts else ""
    missing = f"not known for {unknown}, which no seed has been through here" if unknown else ""
    return "; ".join(part for part in (priced, missing) if part)


def _hours(root: Path, base: Run) -> tuple[str, float] | None:
    """The kind of device and the mean hours of the seeds of a run that are done."""
    found = []
    for seed in range(_SEEDS_LOOKED_AT):
        result = results.outcome(root, replace(base, seed=seed)).result
        if result and {"seconds", "device"} <= result.get("provenance", {}).keys():
            facts = result["provenance"]
            kind = "CPU" if facts["device"].startswith("CPU") else "GPU"
            found.append((kind, facts["seconds"] * facts.get("ranks", 1) / 3600))
    if not found:
        return None
    same = [hours for kind, hours in found if kind == found[-1][0]]
    return found[-1][0], sum(same) / len(same)
