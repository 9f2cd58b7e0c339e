"""Our numbers against the paper's: reproduced, better, worse or inconclusive."""

from __future__ import annotations

import pandas as pd

from repro.core.cells import Row
from repro.core.claims import sample_of
from repro.core.measures import ACCURACIES, measure
from repro.core.verdict import Comparison, compare
from repro.render.text import digits, format_measured, format_printed

MARGIN = 0.3  # points; the authors state a variance of about 0.3 % over runs (official issue 8)

HEADING = (
    f"Comparison with the paper's numbers (rules: docs/verdicts.md). Margin: {MARGIN} points of "
    "accuracy, one unit of the last printed digit of a count."
)


def lines(frame: pd.DataFrame) -> list[str]:
    """A line for every cell with a number of ours and one of the paper."""
    comparable = frame[frame["paper"].notna() & (frame["n"] > 0)]
    return [text for cell in comparable.to_dict("records") if (text := _line(cell))]


def _line(cell: Row) -> str:
    """'Ours, ImageNet: inconclusive, 2 more seeds needed; 95.80 ± 0.31 (3), paper 96.04.'"""
    paper = format_printed(cell["paper"], cell["metric"], digits([cell["paper"]]))
    name = ", ".join(part for part in (cell["row"], cell["panel"], cell["column"]) if part)
    return f"{name}: {_word(cell)}; {format_measured(cell)}, paper {paper}."


def _word(cell: Row) -> str:
    form, metric = measure(cell["metric"]), cell["metric"]
    if metric.endswith("_images_per_second"):
        return "inconclusive, as speeds are only comparable on the same device"
    if cell["diverged"]:
        return "inconclusive, as runs diverged"
    if form.whole:
        unit = form.divisor / 10 ** _decimals(cell["paper"] / form.divisor)
        is_near = abs(cell["mean"] - cell["paper"]) <= unit
        return "reproduced" if is_near else "differs"
    if metric not in ACCURACIES:
        return "inconclusive, as no margin is stated"
    return _result(compare(sample_of(cell), cell["paper"], MARGIN))


def _decimals(value: float) -> int:
    """The number of decimals: 1 for 77.8, 0 for 25.0."""
    return len(f"{value:.10g}".partition(".")[2])


def _result(comparison: Comparison) -> str:
    if comparison.word != "inconclusive":
        return comparison.word
    if comparison.further_seeds is None:
        return "inconclusive for any number of seeds, as single runs vary too much"
    more = comparison.further_seeds
    return f"inconclusive, {more} more seed{'s' * (more != 1)} needed"
