"""What was tested of released weights, how, and whether it agrees with others' test of them."""

from __future__ import annotations

import pandas as pd

from repro.render.text import column, known, number, reason, rounded
from repro.spec import Cell, Classification, Evaluation, Experiment
from repro.verdict import agrees

TOLERANCE = 0.05  # percent: 25 of 50,000 images, for other decoders and kernels

HEADING = (
    f"Released weights: which, how they are tested, and whether that agrees to ±{TOLERANCE} with "
    "what others had with them."
)


def told(experiment: Experiment, frame: pd.DataFrame) -> list[str]:
    """A line for every cell whose weights others have tested as well."""
    return [_line(cell, frame) for cell in experiment.cells if cell.published]


def _line(cell: Cell, frame: pd.DataFrame) -> str:
    """'DeiT-S: timm:deit_small..., 224 px, crop 0.9, bicubic. Agrees: 79.85, timm 79.844.'"""
    assert cell.published
    assert isinstance(cell.run, Classification)
    how = _preprocessing(cell.run.evaluation) if cell.run.evaluation else "as stored"
    about = f"{cell.row}: {cell.run.pretrained}, {how}."
    cells = column(frame, (cell.panel, cell.column))
    found = cells[cells["row"] == cell.row].to_dict("records")[0]
    mean = known(found, "mean")
    if mean is None:
        return f"{about} {reason(found).capitalize()}."
    word = "Agrees" if agrees(mean, cell.published.value, TOLERANCE) else "Differs"
    here = number(mean, cell.metric)
    there = rounded(cell.published.value, 3)
    return f"{about} {word}: {here}, {cell.published.place} {there}."


def _preprocessing(how: Evaluation) -> str:
    crop = f"crop {how.crop_fraction:g}" if how.crop_fraction else "squeezed square"
    return f"{how.image_size} px, {crop}, {how.resize}"
