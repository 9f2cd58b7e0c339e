"""Tests of released weights: the preprocessing, and agreement with published results."""

from __future__ import annotations

import pandas as pd

from repro.core.cells import reason, value_of
from repro.core.numbers import number, rounded
from repro.core.verdict import agrees
from repro.render.text import column, digits
from repro.spec import Cell, Evaluation, Experiment

TOLERANCE = 0.05  # points: 25 of 50,000 images, to allow for other decoders and kernels

HEADING = (
    f"Released weights: preprocessing, and agreement with published results to ±{TOLERANCE} points "
    "plus their rounding."
)


def lines(experiment: Experiment, frame: pd.DataFrame) -> list[str]:
    """A line for every cell with a published result for the same weights."""
    return [_line(cell, frame) for cell in experiment.cells if cell.published]


def _line(cell: Cell, frame: pd.DataFrame) -> str:
    """'Ours: timm:<tag>, 224 px, crop 0.9, bicubic. Agrees: 79.85, timm 79.844.'"""
    assert cell.published
    run = cell.training
    how = _preprocessing(run.evaluation) if run.evaluation else "as stored"
    options = "".join(f"{name} {value}, " for name, value in run.model.options)
    about = f"{cell.row}: {run.pretrained}, {options}{how}."
    cells = column(frame, (cell.panel, cell.column))
    row = cells[cells["row"] == cell.row].to_dict("records")[0]
    mean = value_of(row, "mean")
    if mean is None:
        return f"{about} {reason(row).capitalize()}."
    place = cell.published.place
    places = digits(cells["published"][cells["published_place"] == place])
    tolerance = TOLERANCE + 0.5 * 10.0**-places
    word = "Agrees" if agrees(mean, cell.published.value, tolerance) else "Differs"
    here = number(mean, cell.metric)
    there = rounded(cell.published.value, places)
    return f"{about} {word}: {here}, {place} {there}."


def _preprocessing(how: Evaluation) -> str:
    crop = f"crop {how.crop_fraction:g}" if how.crop_fraction else "squeezed to a square"
    rule = ", rounded as in TensorFlow" if how.crop_rule == "tensorflow" else ""
    return f"{how.image_size} px, {crop}, {how.resize}{rule}"
