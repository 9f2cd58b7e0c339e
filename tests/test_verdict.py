"""The statistics, against the standard library's and closed forms."""

from __future__ import annotations

import math
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.verdict import rank_correlation, summarize

_values = st.lists(st.floats(0, 100), min_size=2, max_size=20)


@given(_values)
def test_summary(values: list[float]) -> None:
    summary = summarize(values, diverged=2)
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.spread == pytest.approx(statistics.stdev(values), abs=1e-9)
    assert (summary.n, summary.diverged) == (len(values), 2)


def test_summary_of_few() -> None:
    assert summarize([], 3).mean is None
    assert summarize([1.0]).spread is None


@given(_values.filter(lambda v: len(v) > 2))
def test_rank_correlation(values: list[float]) -> None:
    other = [v * v for v in values[::-1]]
    expected = pd.Series(values).rank().corr(pd.Series(other).rank())
    rho = rank_correlation(values, other)
    assert rho == pytest.approx(expected) if rho is not None else math.isnan(expected)


def test_rank_correlation_ends() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 21]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2], [1, 2]) is None
