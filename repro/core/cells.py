"""Cells of the tidy frame: their numbers, and why a cell has none."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

HOLE = "not run"
LOST = ("diverged", "damaged", "stale")  # states in `results` of runs without a number
REASONS = ("damaged", "stale", HOLE, "diverged")  # why there is no number, most severe first

Row = Mapping[Hashable, Any]  # of the tidy frame


def value_of(cell: Row, name: str) -> float | None:
    """A number of the cell; None where the frame has none."""
    value = cell[name]
    return None if value is None or math.isnan(value) else float(value)


def reason(*cells: Row) -> str:
    """Why these cells give no number: one of REASONS."""
    return worst(state for cell in cells for state in _states(cell))


def _states(cell: Row) -> list[str]:
    """The states that explain a missing number; none for a cell with a number."""
    return [] if cell["n"] else [state for state in LOST if cell[state]] or [HOLE]


def worst(states: Iterable[str]) -> str:
    """The most severe of REASONS among the states; HOLE if none is."""
    present = set(states)
    return next((word for word in REASONS if word in present), HOLE)
