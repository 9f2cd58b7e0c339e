"""What the measured cells say of the paper's sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from repro.measures import measure
from repro.render.text import HOLE, LOST, Row, column, number, own_columns, worst
from repro.spec import Claim, Experiment, Place, Scale, SpecError
from repro.verdict import LEVEL, deciding_pair, holds

TEST = (
    "Claims of the paper. One holds if every pair it compares bears it out by the exact one-sided "
    f"Mann-Whitney test over seeds at {LEVEL}: with three seeds each, if all of one lie above all "
    "of the other. It is contradicted if a pair is significantly the other way round. A diverged "
    "run ranks last."
)

_LAST = 1e9  # of a diverged run, where less is better; where more is, the negative

Full = tuple[str, str, str]  # row, column and panel of a cell


@dataclass(frozen=True)
class _Side:
    """One of the two things that a claim compares: its name, and a value for every seed."""

    name: str
    metric: str
    values: Sequence[float]
    lost: Sequence[str]  # the states of runs without a value

    def __str__(self) -> str:
        """'NesT-T: 96.10, 95.90, diverged'."""
        texts = ["diverged" if _is_last(v) else number(v, self.metric) for v in self.values]
        return f"{self.name}: {', '.join([*texts, *self.lost]) or HOLE}"


def told(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> list[str]:
    """A line a claim. Those about cells that a small scale does not have are not told there.

    Raises SpecError for a claim about cells that the experiment does not have.
    """
    known = {(cell.row, cell.column, cell.panel) for cell in experiment.cells}
    here = set(zip(frame["row"], frame["column"], frame["panel"], strict=True))
    own = own_columns(experiment, scale)
    frame = frame.assign(column=frame["column"].map(lambda name: own.get(name, name)))
    lines = []
    for claim in experiment.claims:
        places = {_full(place) for place in (*claim.above, *claim.below)}
        if unknown := places - known:
            raise SpecError(f"{experiment.name}: a claim is about {min(unknown)}, which is no cell")
        if places <= here:
            lines.append(_line(_renamed(claim, own), frame, scale))
    return lines


def _renamed(claim: Claim, own: Mapping[str, str]) -> Claim:
    """The claim about columns as they are called at a scale."""

    def renamed(places: Sequence[Place]) -> tuple[Place, ...]:
        full = map(_full, places)
        return tuple((row, own.get(name, name), panel) for row, name, panel in full)

    return replace(claim, above=renamed(claim.above), below=renamed(claim.below))


def _line(claim: Claim, frame: pd.DataFrame, scale: Scale) -> str:
    """'Holds: “sentence” (place). NesT-T: 71.20, 70.10 against DeiT-T: 61.00, 60.00 (C10).'"""
    above, below = _sides(claim, frame)
    values = [side.values for side in above], [side.values for side in below]
    word = holds(*values, claim.margin).capitalize()
    a, b = deciding_pair(*values, claim.margin)
    at_scale = "" if scale == "paper" else f" at {scale} scale"
    said = f"{word}{at_scale}: “{claim.sentence}” ({claim.place})."
    shared = ", ".join(_shared(claim))
    if not (above[a].values or below[b].values):
        names = [" and ".join(side.name for side in sides) for sides in (above, below)]
        where = f" ({shared})" if shared else ""
        why = worst(state for side in (*above, *below) for state in side.lost or [HOLE])
        which = f"{names[0]} against {names[1]}{where}: {why}" if all(names) else why.capitalize()
        return f"{said} {which}."
    numbers = f"{above[a]} against {below[b]}{_margin(claim, above[a].metric)}"
    pairs = len(above) * len(below)
    return (
        f"{said} {numbers}{f' ({shared})' if shared else ''}."
        + f" Of {pairs} pairs, this decides." * (pairs > 1)
    )


def _margin(claim: Claim, metric: str) -> str:
    if not claim.margin:
        return ""
    size = number(abs(claim.margin), metric)
    return f", by more than {size}" if claim.margin > 0 else f", less {size}"


def _shared(claim: Claim) -> list[str]:
    """What of row, column and panel all cells of the claim have alike."""
    parts = zip(*map(_full, (*claim.above, *claim.below)), strict=True)
    return [part[0] for part in parts if len(set(part)) == 1 and part[0]]


def _sides(claim: Claim, frame: pd.DataFrame) -> tuple[list[_Side], list[_Side]]:
    """What is to be larger, and than what."""
    shared = _shared(claim)
    above, below = ([_side(frame, _full(place), shared) for place in places]
                    for places in (claim.above, claim.below))  # fmt: skip
    if claim.kind == "difference":
        return [_less(above[0], below[1])], [_less(below[0], above[1])]
    return above, below


def _less(a: _Side, b: _Side) -> _Side:
    """What lies between two cells, seed by seed; where `b` diverged, nothing is known."""
    pairs = [(v, w) for v, w in zip(a.values, b.values, strict=False) if not _is_last(w)]
    values = [v if _is_last(v) else v - w for v, w in pairs]
    return _Side(f"{a.name} less {b.name}", a.metric, values, (*a.lost, *b.lost))


def _side(frame: pd.DataFrame, place: Full, shared: Sequence[str]) -> _Side:
    cells = column(frame, (place[2], place[1]))
    cell: Row = cells[cells["row"] == place[0]].to_dict("records")[0]
    last = {"most": [-_LAST], "least": [_LAST], "": []}[measure(cell["metric"]).best]
    name = ", ".join(part for part in place if part and part not in shared)
    lost = [
        state for state in LOST for _ in range(cell[state]) if not (last and state == "diverged")
    ]
    values = [*cell["values"], *last * cell["diverged"]]
    return _Side(name, cell["metric"], values, lost)


def _is_last(value: float) -> bool:
    return abs(value) == _LAST


def _full(place: Place) -> Full:
    """(row, column, panel) of (row, column) or (row, column, panel)."""
    row, name, *panel = place
    return row, name, panel[0] if panel else ""
