"""How numbers and columns read, in tables and figures alike."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import pandas as pd

from repro.experiments.scales import asked, title
from repro.measures import ACCURACIES, MEASURES, measure
from repro.spec import Classification, Experiment, Generation, Run, Scale, dataset_of

HOLE = "not run"
LOST = ("diverged", "damaged", "stale")  # runs without a number, by their state in `results`
REASONS = ("damaged", "stale", HOLE, "diverged")  # why there is no number; the first counts
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
    shown, digits = exact(value) / Decimal(form.divisor), form.digits
    if form.unit and shown.is_finite() and abs(_nearest(shown, digits)) < 1:
        digits += 1
    elif not digits and abs(shown) < 100:
        digits = 2 if abs(shown) < 10 else 1
    return rounded(shown, digits) + form.unit


def rounded(value: float | Decimal, digits: int, form: str = "z,") -> str:
    """A number with so many decimals, half rounded away from zero: 0.125 is '0.13', -0.5 is '-1'.

    Half is judged on the shortest decimal that names the float, which is what a reader sees in a
    file: 2.675 is '2.68'. `form` is the format's sign and separator. Infinity is '∞'.
    """
    value = value if isinstance(value, Decimal) else exact(value)
    if not value.is_finite():
        return "nan" if value.is_nan() else "∞" if value > 0 else "-∞"
    return f"{_nearest(value, digits):{form}.{digits}f}"


def exact(value: float) -> Decimal:
    """The shortest decimal that names the float."""
    return Decimal(repr(float(value)))


def _nearest(value: Decimal, digits: int) -> Decimal:
    """The nearest number with so many decimals."""
    return value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP, Context(prec=400))


def measured(cell: Row) -> str:
    """'71.20 ± 0.35 (3)', '71.2 (1) [70.1, 72.3]', with how many are lost, or the hole."""
    lost = ", ".join(f"{cell[state]} {state}" for state in LOST if cell[state])
    if not cell["n"]:
        return lost or HOLE
    mean, metric = number(cell["mean"], cell["metric"]), cell["metric"]
    spread = known(cell, "spread")
    width = "" if spread is None else f" ± {number(spread, metric)}"
    seeds = f" ({cell['n']})" if cell["drawn"] else ""
    ends = [known(cell, end) for end in ("low", "high")]
    interval = ", ".join(number(end, metric) for end in ends if end is not None)
    shown = f"{mean}{width}{seeds}" + f" [{interval}]" * bool(interval)
    return shown + (f", {lost}" if lost else "")


def reason(*cells: Row) -> str:
    """Why something drawn from these cells has no number: a word of REASONS."""
    return worst(state for cell in cells for state in _states(cell))


def _states(cell: Row) -> list[str]:
    """What a cell without a number has instead; none for one with a number."""
    return [] if cell["n"] else [state for state in LOST if cell[state]] or [HOLE]


def worst(states: Iterable[str]) -> str:
    """The first word of REASONS that is the state of one of these runs; HOLE if none is."""
    found = set(states)
    return next((word for word in REASONS if word in found), HOLE)


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
    """'Table 1, proxy scale. Test accuracy on Fashion-MNIST-6k and Glyphs-100'."""
    return f"{place(experiment, scale)}. {subject(experiment, scale)}"


def place(experiment: Experiment, scale: Scale) -> str:
    """'Table 1, proxy scale'."""
    return experiment.place if scale == "paper" else f"{experiment.place}, {scale} scale"


def subject(experiment: Experiment, scale: Scale) -> str:
    """The title, with the data of this scale in place of the paper's."""
    if scale == "paper" or not experiment.data:
        return experiment.title
    names = dict.fromkeys(title(dataset_of(run)) for _, run in asked(experiment.cells, scale))
    here = " and ".join(name for name in names if name)
    return experiment.title.replace(experiment.data, here)


def axis_label(experiment: Experiment, scale: Scale) -> str:
    """The label of the x axis, with its unit at this scale."""
    unit = _step_unit([run for _, run in asked(experiment.cells, scale)])
    thousands = experiment.x == "steps" and unit > 1
    return f"{experiment.x_label} (thousands)" if thousands else experiment.x_label


def own_columns(experiment: Experiment, scale: Scale) -> dict[str, str]:
    """The columns that are a run's steps or epochs, with the numbers of the runs at this scale.

    Empty where the columns are something else, and where those numbers do not tell them apart.
    """
    cells = asked(experiment.cells, scale)
    unit = _step_unit([run for _, run in cells])
    found = {}
    for cell, run in cells:
        if experiment.x == "steps" and isinstance(run, Generation):
            found[cell.column] = f"{run.recipe.steps * cell.at / unit:g}"
        elif experiment.x == "epochs" and isinstance(run, Classification):
            found[cell.column] = f"{run.recipe.epochs:g}"
    return found if len(set(found.values())) == len(found) else {}


def _step_unit(runs: Iterable[Run]) -> int:
    """A thousand where trainings are of ten thousand steps and more."""
    longest = max((run.recipe.steps for run in runs if isinstance(run, Generation)), default=0)
    return 1000 if longest >= 10_000 else 1


def headers(
    experiment: Experiment, frame: pd.DataFrame, scale: Scale
) -> dict[Key, tuple[str, str]]:
    """What each column is called in the paper and here, in the order of the cells.

    At a small scale the data are other ones, and trainings are of other lengths. Where a panel, or
    without panels a column, is the only one with its dataset, that is its name here.
    """
    keys = dict.fromkeys(zip(frame["panel"], frame["column"], strict=True))
    data = _own_data(frame) if scale != "paper" else {}
    data |= own_columns(experiment, scale)
    names = {}
    for panel, column in keys:
        own = column if panel else data.get(column, column)
        names[panel, column] = (_joined(panel, column), _joined(data.get(panel, panel), own))
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
