"""An item at a scale: its table with the evidence of each cell, its figure, and its claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from repro import paper, trace
from repro.core import ledger, plan, records
from repro.core.cells import Row
from repro.core.claims import JudgedClaim, judge_claims
from repro.core.measures import measure
from repro.core.numbers import number
from repro.core.scales import runs_at_scale
from repro.render import claims, notes, tables
from repro.render.frame import MeasuredRun, tidy
from repro.render.item import render_figure
from repro.render.tables import DIFFERENCE, NO_CELL, Column, Style
from repro.render.text import format_measured, heading
from repro.report.content import (
    Block,
    CellEvidence,
    CellKind,
    ClaimTest,
    RowGroup,
    RunEvidence,
    SeedValue,
    Table,
    TableCell,
    TableRow,
)
from repro.spec import VERDICT_SCALES, Cell, Experiment, Place, Run, Scale, with_seeds

_MAX_TEXT = 400  # characters of a value of the provenance

_Cells = Mapping[tuple[object, ...], int]  # (group, row, panel, column) -> index


class _Best(str):
    """The text of the best cell of a column."""


_STYLE = Style(str, str, _Best)


def build(name: str, scale: Scale, root: Path, seeds: int, *, with_csv: bool = False) -> Block:
    """The block of an item at a scale, from the results under `root`."""
    experiment = paper.current().get(name)
    frame, warnings = tidy(experiment, scale, root, seeds)
    rows = frame.to_dict("records")
    pairs = runs_at_scale(experiment.cells, scale)
    judged = judge_claims(experiment, frame, scale) if scale in VERDICT_SCALES else []
    index = {_key(row): i for i, row in enumerate(rows[: len(pairs)])}
    claimed = _claims_by_place(judged)
    measured = sum(bool(row["n"]) for row in rows[: len(pairs)])
    return Block(
        item=name,
        scale=scale,
        heading=heading(experiment, scale),
        table=_table(experiment, frame, scale, index),
        notes=tuple(notes.of_table(experiment, frame, scale)),
        figure=str(render_figure(experiment, frame, scale, root)) if measured else "",
        csv=tables.csv(frame) if with_csv else "",
        cells=tuple(
            _evidence(experiment, cell, run, row, scale, seeds, claimed)
            for (cell, run), row in zip(pairs, rows, strict=False)
        ),
        num_measured=measured,
        runs=_runs(root, (run for _, first in pairs for run in with_seeds(first, seeds))),
        claims=tuple(_claim(each, scale, _by_place(index)) for each in judged),
        budgets=_budgets(judged),
        warnings=tuple(warnings),
    )


# --- the table -----------------------------------------------------------------------------------


def _key(row: Row) -> tuple[object, ...]:
    return row["group"], row["row"], row["panel"], row["column"]


def _table(experiment: Experiment, frame: pd.DataFrame, scale: Scale, index: _Cells) -> Table:
    columns, rows = tables.layout(experiment, frame, scale, _STYLE)
    grouped = groupby(rows, key=lambda row: row.group if experiment.headings[0] else "")
    return Table(
        headings=tables.headings(experiment),
        columns=tuple(column.title for column in columns),
        groups=tuple(
            RowGroup(group, tuple(
                TableRow(row.name, tuple(_cells(columns, row.cells, index))) for row in members
            ))
            for group, members in grouped
        ),
    )  # fmt: skip


def _cells(
    columns: Sequence[Column], cells: Sequence[Row | None], index: _Cells
) -> Iterator[TableCell]:
    for column, cell in zip(columns, cells, strict=True):
        if cell is None:
            yield TableCell(NO_CELL, "none")
            continue
        kind, text = _kind(column), column.show(cell)
        evidence = index.get(_key(cell), -1) if kind == "here" else -1
        yield TableCell(str(text), kind, evidence, isinstance(text, _Best))


def _kind(column: Column) -> CellKind:
    kinds: dict[str, CellKind] = {"paper": "paper", "here": "here", DIFFERENCE: "difference"}
    return kinds.get(column.source, "published")


# --- evidence ------------------------------------------------------------------------------------


def _evidence(
    experiment: Experiment,
    cell: Cell,
    run: Run,
    row: Row,
    scale: Scale,
    seeds: int,
    claimed: Mapping[Place, Sequence[int]],
) -> CellEvidence:
    measured = {each.run: each for each in row["runs"]}
    places = [(cell.row, cell.column), (cell.row, cell.column, cell.panel)]
    printed = cell.paper
    return CellEvidence(
        place=(experiment.name, *filter(None, (cell.row, cell.panel, cell.column))),
        unit=measure(row["metric"]).name,
        value=format_measured(row),
        paper=f"{printed.value:g} ({printed.place})" if printed else "",
        formula=trace.formula(row["values"], cell.training_fraction),
        seeds=tuple(
            _seed(seeded.id, measured.get(seeded.id), row["metric"])
            for seeded in with_seeds(run, seeds)
        ),
        recipe=tuple(
            (each.name, ledger.plain(each.value), each.source, each.is_ours)
            for each in trace.recipe(cell, run, scale)
        ),
        claims=tuple(dict.fromkeys(i for place in places for i in claimed.get(place, ()))),
        command=trace.command(experiment, cell, scale, again=bool(row["n"])),
    )


def _seed(run: str, measured: MeasuredRun | None, metric: str) -> SeedValue:
    if measured is None:
        return SeedValue(run, "not run", "")
    ends = [number(end, metric) for end in (measured.low, measured.high) if end is not None]
    value = "" if measured.value is None else number(measured.value, metric)
    return SeedValue(run, measured.status, value + (f" [{', '.join(ends)}]" if ends else ""))


def _runs(root: Path, runs: Iterable[Run]) -> dict[str, RunEvidence]:
    """The runs that have a result, sound or not, and those that they start from, by id."""
    evidence = dict[str, RunEvidence]()
    for run in dict.fromkeys(each for last in runs for each in plan.lineage(last)):
        about = trace.run_trace(root, run)
        if about.status not in ("missing", "started"):
            evidence[run.id] = RunEvidence(
                run.seed, about.status, about.folder, about.sha256,
                tuple((name, _text(value)) for name, value in sorted(about.provenance.items())),
                about.site, about.starts_from, about.patch,
            )  # fmt: skip
    return evidence


def _text(value: Any) -> str:
    """A value of the provenance, of any size, as a short text."""
    text = value if isinstance(value, str) else records.encode(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


# --- claims --------------------------------------------------------------------------------------


def _claims_by_place(judged: Sequence[JudgedClaim]) -> dict[Place, list[int]]:
    """The indices of the claims that a cell is part of, by its place."""
    indices = dict[Place, list[int]]()
    for i, each in enumerate(judged):
        for place in dict.fromkeys(each.claim.places):
            indices.setdefault(place, []).append(i)
    return indices


def _by_place(index: _Cells) -> dict[Place, int]:
    by_place = dict[Place, int]()
    for (_, row, panel, column), i in index.items():
        by_place[str(row), str(column), str(panel)] = i
        by_place.setdefault((str(row), str(column)), i)
    return by_place


def _claim(judged: JudgedClaim, scale: Scale, index: Mapping[Place, int]) -> ClaimTest:
    claim = judged.claim
    places = [tuple(place) for place in dict.fromkeys((*claim.above, *claim.below))]
    return ClaimTest(
        claim.quote, claim.place, claim.tested, judged.verdict, claims.line(judged, scale),
        tuple(index[place] for place in places if place in index),
    )  # fmt: skip


def _budgets(judged: Sequence[JudgedClaim]) -> dict[str, Sequence[str]]:
    quotes = dict.fromkeys(each.claim.quote for each in judged)
    of_quote = {
        quote: claims.across_budgets(e for e in judged if e.claim.quote == quote)
        for quote in quotes
    }
    return {quote: lines for quote, lines in of_quote.items() if lines}
