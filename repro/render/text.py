"""How numbers and columns read, in tables and figures alike."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from repro.measures import ACCURACIES, MEASURES, measure
from repro.spec import Experiment, Scale

HOLE = "not run"
UNKNOWN = "not in our copy of the paper"

Row = Mapping[Hashable, Any]  # of the tidy frame
Key = tuple[str, str]  # of a column of the table: panel and column


def known(cell: Row, name: str) -> float | None:
    """A number of the cell; None where the frame has none."""
    value = cell[name]
    return None if value is None or math.isnan(value) else float(value)


def number(value: float, metric: str) -> str:
    """A measured number: '71.20', '17.1M', '0.35M', '5,384', '3.81'."""
    form = measure(metric)
    shown, digits = value / form.divisor, form.digits
    if form.unit and abs(round(shown, digits)) < 1:
        digits += 1
    elif not digits and abs(shown) < 100:
        digits = 2 if abs(shown) < 10 else 1
    return f"{shown:z,.{digits}f}{form.unit}"


def measured(cell: Row) -> str:
    """'71.20 ± 0.35 (3)', '71.2 (1) [70.1, 72.3]', with how many diverged, or the hole."""
    diverged = f"{cell['diverged']} diverged" if cell["diverged"] else ""
    if not cell["n"]:
        return diverged or HOLE
    mean, metric = number(cell["mean"], cell["metric"]), cell["metric"]
    spread = known(cell, "spread")
    width = "" if spread is None else f" ± {number(spread, metric)}"
    seeds = f" ({cell['n']})" if cell["drawn"] else ""
    ends = [known(cell, end) for end in ("low", "high")]
    interval = ", ".join(number(end, metric) for end in ends if end is not None)
    shown = f"{mean}{width}{seeds}" + f" [{interval}]" * bool(interval)
    return shown + (f", {diverged}" if diverged else "")


def printed(value: float, metric: str, digits: int) -> str:
    """A number that was typed in: an accuracy with so many digits, others as they are."""
    form = measure(metric)
    if metric in MEASURES and metric not in ACCURACIES:
        return f"{value / form.divisor:,.10g}{form.unit}"
    return f"{value:.{digits}f}"


def digits(values: Iterable[float]) -> int:
    """How many decimals numbers were typed with, at least one: 2 for 95.97 and 97.20."""
    return max((len(repr(float(value)).partition(".")[2]) for value in values), default=1)


def heading(experiment: Experiment, scale: Scale) -> str:
    """'Table 1, proxy scale. Test accuracy on CIFAR'."""
    at_scale = "" if scale == "paper" else f", {scale} scale"
    return f"{experiment.place}{at_scale}. {experiment.title}"


def headers(frame: pd.DataFrame, scale: Scale) -> dict[Key, tuple[str, str]]:
    """What each column is called in the paper and here, in the order of the cells.

    At a small scale the data are other ones. Where a panel, or without panels a column, is the only
    one with its dataset, that is its name here.
    """
    keys = dict.fromkeys(zip(frame["panel"], frame["column"], strict=True))
    data = _own_data(frame) if scale != "paper" else {}
    names = {}
    for panel, column in keys:
        here = (data.get(panel, panel), column) if panel else ("", data.get(column, column))
        names[panel, column] = (_joined(panel, column), _joined(*here))
    return names


def panels(frame: pd.DataFrame, scale: Scale) -> dict[str, str]:
    """What each panel is called here, in the order of the cells: 'Glyphs-100 for CIFAR-100'."""
    data = _own_data(frame) if scale != "paper" else {}
    found = [str(panel) for panel in frame["panel"].unique()]
    return {name: f"{data[name]} for {name}" if name in data and name else name for name in found}


def column(frame: pd.DataFrame, key: Key) -> pd.DataFrame:
    """The cells of one column of one panel."""
    return frame[(frame["panel"] == key[0]) & (frame["column"] == key[1])]


def _joined(panel: str, column: str) -> str:
    return f"{panel}: {column}" if panel else column


def _own_data(frame: pd.DataFrame) -> dict[str, str]:
    """The panels, or without panels the columns, that are the only ones with their dataset."""
    by = "panel" if (frame["panel"] != "").any() else "column"
    data = {str(name): set(cells["dataset"]) for name, cells in frame.groupby(by, sort=False)}
    every = [dataset for found in data.values() for dataset in found]
    return {
        name: dataset
        for name, found in data.items()
        for dataset in found
        if dataset and len(found) == 1 and every.count(dataset) == 1
    }
