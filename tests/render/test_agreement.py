"""Our numbers beside the paper's: reproduced, better, worse, inconclusive."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from repro.render import agreement, tables
from repro.spec import Experiment
from tests.render.sample import cell, fill_frame


def agreement_lines(
    values: Sequence[float | None], paper: float, metric: str = "top1", **changed: bool
) -> list[str]:
    one = cell("NesT-T", "C10", metric=metric, paper=paper)
    item = Experiment(name="n", place="T", title="t", caption="c", cells=(one,))
    return agreement.lines(fill_frame(item, {("NesT-T", "C10", ""): values}).assign(**changed))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([96.0, 96.05, 96.1], "reproduced; 96.05 ± 0.05 (3)"),
        ([97.0, 97.1, 97.2], "better; 97.10 ± 0.10 (3)"),
        ([95.0, 95.1, 95.2], "worse; 95.10 ± 0.10 (3)"),
        ([96.1], "inconclusive, 2 more seeds needed; 96.10 (1)"),
        ([95.7, 96.0, 96.3], "inconclusive, 4 more seeds needed; 96.00 ± 0.30 (3)"),
        ([94.0, 95.5, 97.0], "inconclusive for any number of seeds, as single runs vary too much; "
         "95.50 ± 1.50 (3)"),
        ([96.0, 96.05, 96.1, None], "inconclusive, as runs diverged; 96.05 ± 0.05 (3), 1 "
         "diverged"),
    ],
)  # fmt: skip
def test_accuracies(values: list[float | None], word: str) -> None:
    assert agreement_lines(values, 96.04) == [f"NesT-T, C10: {word}, paper 96.04."]


@pytest.mark.parametrize(
    ("count", "paper", "word"),
    [
        (25.56e6, 25e6, "reproduced"),  # cut off rather than rounded
        (26.10e6, 25e6, "differs"),
        (77.84e6, 77.8e6, "reproduced"),
        (78.10e6, 77.8e6, "differs"),
    ],
)
def test_counts_to_the_last_digit_that_is_printed(count: float, paper: float, word: str) -> None:
    (line,) = agreement_lines([count], paper, "parameters")
    assert line.startswith(f"NesT-T, C10: {word}; ")


def test_what_cannot_be_compared() -> None:
    (speed,) = agreement_lines([500.0], 523.7, "forward_images_per_second")
    assert "inconclusive, as speeds are only comparable on the same device; " in speed
    (distance,) = agreement_lines([20.0, 21.0, 22.0], 21.0, "fid", is_stochastic=True)
    assert "inconclusive, as no margin is stated; " in distance
    assert agreement_lines([], 96.04) == []


def test_at_paper_scale_alone() -> None:
    one = cell("NesT-T", "C10", paper=96.04)
    item = Experiment(name="n", place="T", title="t", caption="c", cells=(one,))
    values = {("NesT-T", "C10", ""): [96.0, 96.05, 96.1]}
    assert agreement.HEADING in tables.markdown(item, fill_frame(item, values), "paper")
    assert "Beside" not in tables.markdown(item, fill_frame(item, values, "proxy"), "proxy")
