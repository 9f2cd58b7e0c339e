"""The report of a paper, from its results: blocks in several processes, the rest meanwhile."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

from repro import outdated, paper, results
from repro.core import ledger, plan
from repro.core.claims import VERDICTS
from repro.core.plan import Request
from repro.core.scales import home, runs_at_scale
from repro.core.workers import pool
from repro.cost import price
from repro.cost.price import Price
from repro.report import curves
from repro.report.content import (
    Block,
    LedgerEntry,
    LedgerSection,
    Missing,
    OutdatedGroup,
    PlacedBlock,
    Report,
    ScaleCounts,
    Section,
)
from repro.spec import SCALES, Experiment, Run, Scale

_UNFINISHED = ("missing", "started")

Seeds = Callable[[Experiment, Scale], int]
Item = tuple[Experiment, Scale, int]  # with its number of seeds


def collect(
    root: Path,
    names: Sequence[str],
    scales: Sequence[Scale],
    seeds: Seeds,
    devices: Mapping[Scale, str],
    *,
    with_csv: bool = False,
    workers: int | None = None,
) -> Report:
    """The report of these items at these scales, from the results under `root`.

    An item is shown at the scale that specifies it, and where it has a run.

    Args:
        seeds: the number of seeds of an item at a scale.
        devices: by scale, the GPU or 'cpu' on which missing runs are priced.
        with_csv: whether the tables are needed as CSV as well.
        workers: processes; None: one a core, up to four; 1: this one alone.
    """
    experiments = [paper.current().get(name) for name in names]
    shown = _items_with_runs(experiments, scales, seeds, results.run_ids(root))
    with pool(len(shown), workers) as executor:
        pending = _submit(executor, shown, root, with_csv)
        request = _request(shown)
        states = {run: results.outcome(root, run).state for run in request.runs}
        prices = _prices(root, request, states, devices)
        finished = [run for run, state in states.items() if state not in _UNFINISHED]
        checked = _outdated(root, finished)
        groups, warnings = curves.groups(root, shown)
        blocks = {key: each.result() for key, each in pending.items()}
    sections = _sections(experiments, shown, blocks, prices, devices)
    runs = {name: run for each in blocks.values() for name, run in each.runs.items()}
    warnings += [line for each in blocks.values() for line in each.warnings]
    evidence = "".join(f"{name} {run.sha256}\n" for name, run in sorted(runs.items()))
    current = paper.current()
    common = dict.fromkeys(each for item in experiments for each in current.decisions(item))
    return Report(
        paper=current.name,
        title=current.title,
        digest=hashlib.sha256(evidence.encode()).hexdigest()[:16],
        num_results=len(runs),
        sections=sections,
        counts=_counts(blocks[e.name, scale] for e, scale, _ in shown),
        curves=tuple(groups),
        ledger_title=current.decisions_title,
        common_decisions=tuple(common),
        ledger=tuple(filter(None, map(_ledger, experiments))),
        missing=tuple(_missing_rows(request, prices, devices)),
        devices=devices,
        outdated=checked,
        prices={
            run.id: price.describe(cost, devices[request.runs[run]]) for run, cost in prices.items()
        },
        runs=runs,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _items_with_runs(
    experiments: Sequence[Experiment],
    scales: Sequence[Scale],
    seeds: Seeds,
    stored_ids: Container[str],
) -> list[Item]:
    """The items at these scales that are specified there or have a run in the results folder."""
    items = [
        (experiment, scale, seeds(experiment, scale))
        for experiment in experiments
        for scale in scales
        if runs_at_scale(experiment.cells, scale)
    ]
    return [item for item in items if item[1] == home(item[0]) or _has_run(item, stored_ids)]


# --- blocks --------------------------------------------------------------------------------------


def _submit(
    executor: Executor, items: Sequence[Item], root: Path, with_csv: bool
) -> dict[tuple[str, Scale], Future[Block]]:
    """The blocks to come, those with figures first, since they take longest."""
    return {
        (experiment.name, scale): executor.submit(
            _build, experiment.name, scale, root, seeds, with_csv
        )
        for experiment, scale, seeds in sorted(items, key=lambda item: not item[0].plot)
    }


def _build(name: str, scale: Scale, root: Path, seeds: int, with_csv: bool) -> Block:
    from repro.report.block import build  # pandas, which this process does without

    return build(name, scale, root, seeds, with_csv=with_csv)


def _has_run(item: Item, stored_ids: Container[str]) -> bool:
    """Whether any run that the item needs has a folder."""
    return any(run.id in stored_ids for run in plan.runs(item[0].cells, item[1], item[2]))


def _sections(
    experiments: Iterable[Experiment],
    shown: Sequence[Item],
    blocks: Mapping[tuple[str, Scale], Block],
    prices: Mapping[Run, Price],
    devices: Mapping[Scale, str],
) -> tuple[Section, ...]:
    sections, cells, claims = list[Section](), 0, 0
    for experiment in experiments:
        placed = list[PlacedBlock]()
        for item, scale, seeds in shown:
            if item.name == experiment.name:
                block = blocks[item.name, scale]
                to_do = [r for r in plan.runs(item.cells, scale, seeds) if r in prices]
                missing = _missing(item, scale, "", to_do, prices, devices)
                placed.append(PlacedBlock(block, cells, claims, missing))
                cells += len(block.cells)
                claims += len(block.claims)
        if placed:
            section = Section(experiment.name, experiment.place, experiment.title, tuple(placed))
            sections.append(section)
    return tuple(sections)


def _counts(blocks: Iterable[Block]) -> tuple[ScaleCounts, ...]:
    by_scale = dict[Scale, list[Block]]()
    for block in blocks:
        by_scale.setdefault(block.scale, []).append(block)
    return tuple(
        ScaleCounts(
            scale,
            sum(len(block.cells) for block in of_scale),
            sum(block.num_measured for block in of_scale),
            _verdicts(of_scale),
        )
        for scale in SCALES
        if (of_scale := by_scale.get(scale))
    )


def _verdicts(blocks: Iterable[Block]) -> dict[str, int]:
    counts = Counter(claim.verdict for block in blocks for claim in block.claims)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


# --- what is missing, and its price --------------------------------------------------------------


def _request(items: Iterable[Item]) -> Request:
    """All runs of the items, once each; of a run that several items share, the first has it."""
    seeds = {(item.name, scale): count for item, scale, count in items}
    scales = list(dict.fromkeys(scale for _, scale in seeds))
    parts = [
        plan.request(
            [paper.current().get(name) for name, at in seeds if at == scale],
            [scale],
            lambda item, at: seeds[item.name, at],
        )
        for scale in scales
    ]
    runs = {run: scale for part in reversed(parts) for run, scale in part.runs.items()}
    return Request(runs, tuple(group for part in parts for group in part.groups))


def _prices(
    root: Path, request: Request, states: Mapping[Run, str], devices: Mapping[Scale, str]
) -> dict[Run, Price]:
    costs = dict[Run, Price]()
    for scale, device in devices.items():
        runs = [r for r, at in request.runs.items() if at == scale and states[r] in _UNFINISHED]
        costs |= price.prices(root, runs, device)
    return costs


def _missing_rows(
    request: Request, prices: Mapping[Run, Price], devices: Mapping[Scale, str]
) -> Iterable[Missing]:
    for group in request.groups:
        to_do = [run for run in group.runs if run in prices]
        item = paper.current().get(group.item)
        if row := _missing(item, group.scale, group.row, to_do, prices, devices):
            yield row


def _missing(
    item: Experiment,
    scale: Scale,
    row: str,
    to_do: Sequence[Run],
    prices: Mapping[Run, Price],
    devices: Mapping[Scale, str],
) -> Missing | None:
    if not to_do:
        return None
    cost = price.brief([prices[run] for run in to_do], devices[scale])
    return Missing(item.name, item.place, scale, row, len(to_do), cost)


# --- decisions and outdated results --------------------------------------------------------------


def _ledger(experiment: Experiment) -> LedgerSection | None:
    entries = tuple(
        LedgerEntry(
            tuple((name, ledger.plain(value)) for name, value in each.values.items()),
            ledger.some(each.rows), each.source, each.is_ours,
        )
        for each in ledger.values(experiment)
    )  # fmt: skip
    if not entries and not experiment.decisions:
        return None
    heading = f"{experiment.place}. {experiment.title}"
    return LedgerSection(experiment.name, heading, experiment.decisions, entries)


def _outdated(root: Path, runs: Iterable[Run]) -> tuple[OutdatedGroup, ...]:
    """The results that are not current, by state and reason, the largest groups first."""
    groups = dict[tuple[str, tuple[str, ...], str, str], list[str]]()
    for each in outdated.check(root, runs):
        if each.state != "current":
            key = each.state, each.changed, each.why, each.waiver
            groups.setdefault(key, []).append(each.run)
    named = [OutdatedGroup(*key, runs=tuple(sorted(of_key))) for key, of_key in groups.items()]
    return tuple(sorted(named, key=lambda group: (-len(group.runs), group.runs)))
