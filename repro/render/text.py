"""Titles, headers and cells as text, for tables and figures alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from repro.core.cells import HOLE, LOST, Row, value_of
from repro.core.columns import scaled_columns, step_unit
from repro.core.measures import ACCURACIES, MEASURES, measure
from repro.core.numbers import number
from repro.core.scales import runs_at_scale, title
from repro.spec import Experiment, Scale, dataset_of

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = "not in our copy of the paper"

Key = tuple[str, str]  # of a column of the table: panel and column


def format_measured(cell: Row) -> str:
    """'71.20 ± 0.35 (3)', '71.2 (1) [70.1, 72.3]', with the number of lost runs, or the hole."""
    lost = ", ".join(f"{cell[state]} {state}" for state in LOST if cell[state])
    if not cell["n"]:
        return lost or HOLE
    mean, metric = number(cell["mean"], cell["metric"]), cell["metric"]
    spread = value_of(cell, "spread")
    width = "" if spread is None else f" ± {number(spread, metric)}"
    seeds = f" ({cell['n']})" if cell["is_stochastic"] else ""
    ends = [value_of(cell, end) for end in ("low", "high")]
    interval = ", ".join(number(end, metric) for end in ends if end is not None)
    shown = f"{mean}{width}{seeds}" + f" [{interval}]" * bool(interval)
    return shown + (f", {lost}" if lost else "")


def format_printed(value: float, metric: str, digits: int) -> str:
    """A number typed into a spec: an accuracy with `digits` decimals, others as they are."""
    form = measure(metric)
    if metric in MEASURES and metric not in ACCURACIES:
        return f"{value / form.divisor:,.10g}{form.unit}"
    return f"{value:.{digits}f}"


def digits(values: Iterable[float]) -> int:
    """The number of decimals of typed numbers, at least one: 2 for 95.97 and 97.20."""
    return max((len(repr(float(value)).partition(".")[2]) for value in values), default=1)


def heading(experiment: Experiment, scale: Scale) -> str:
    """'<place>, demo scale. Test accuracy on Fashion-MNIST-6k and Glyphs-100'."""
    return f"{place(experiment, scale)}. {subject(experiment, scale)}"


def place(experiment: Experiment, scale: Scale) -> str:
    """Where the paper has it, and the scale if it is not the paper's: '<place>, demo scale'."""
    return experiment.place if scale == "paper" else f"{experiment.place}, {scale} scale"


def subject(experiment: Experiment, scale: Scale) -> str:
    """The title, with the data of this scale in place of the paper's.

    At proxy scale, which has verdicts, substitutes are marked: 'on CIFAR-10, not ImageNet'.
    """
    if scale == "paper" or not experiment.data:
        return experiment.title
    cells = runs_at_scale(experiment.cells, scale)
    names = dict.fromkeys(title(dataset_of(run)) for _, run in cells)
    here = " and ".join(name for name in names if name)
    if scale == "proxy" and any(dataset_of(run) != dataset_of(cell.run) for cell, run in cells):
        here = f"{here}, not {experiment.data}"
    return experiment.title.replace(experiment.data, here)


def axis_label(experiment: Experiment, scale: Scale) -> str:
    """The label of the x axis, with its unit at this scale."""
    unit = step_unit(run for _, run in runs_at_scale(experiment.cells, scale))
    thousands = experiment.x == "steps" and unit > 1
    return f"{experiment.x_label} (thousands)" if thousands else experiment.x_label


def headers(
    experiment: Experiment, frame: pd.DataFrame, scale: Scale
) -> dict[Key, tuple[str, str]]:
    """The name of each column in the paper and here, in the order of the cells.

    At a small scale, data and training lengths differ. A panel (or, without panels, a column) that
    is the only one with its dataset is named after the dataset.
    """
    keys = dict.fromkeys(zip(frame["panel"], frame["column"], strict=True))
    data = _own_data(frame) if scale != "paper" else {}
    data |= scaled_columns(experiment, scale)
    names = {}
    for panel, column in keys:
        own = column if panel else data.get(column, column)
        names[panel, column] = (_join(panel, column), _join(data.get(panel, panel), own))
    return names


def panels(frame: pd.DataFrame, scale: Scale) -> dict[str, str]:
    """The name of each panel here, in the order of the cells: 'Glyphs-100 for CIFAR-100'."""
    data = _own_data(frame) if scale != "paper" else {}
    names = [str(panel) for panel in frame["panel"].unique()]
    return {name: f"{data[name]} for {name}" if name in data and name else name for name in names}


def column(frame: pd.DataFrame, key: Key) -> pd.DataFrame:
    """The cells of one column of one panel."""
    return frame[(frame["panel"] == key[0]) & (frame["column"] == key[1])]


def _join(panel: str, column: str) -> str:
    return f"{panel}: {column}" if panel else column


def _own_data(frame: pd.DataFrame) -> dict[str, str]:
    """Panel (or, without panels, column) -> its dataset, if no other one has it."""
    by = "panel" if (frame["panel"] != "").any() else "column"
    data = {str(name): set(cells["dataset"]) for name, cells in frame.groupby(by, sort=False)}
    every = [dataset for datasets in data.values() for dataset in datasets]
    return {
        name: dataset
        for name, datasets in data.items()
        for dataset in datasets
        if dataset and len(datasets) == 1 and every.count(dataset) == 1
    }
