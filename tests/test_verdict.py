"""The statistics, against the standard library's and closed forms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.verdict import deciding_pair, holds, mann_whitney, rank_correlation, summarize

_values = st.lists(st.floats(0, 100), min_size=2, max_size=20)


@given(_values)
def test_summary(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.mean == pytest.approx(statistics.mean(values))
    assert summary.spread == pytest.approx(statistics.stdev(values), abs=1e-9)
    assert summary.n == len(values)


def test_summary_of_few() -> None:
    assert summarize([]).mean is None
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


# --- claims --------------------------------------------------------------------------------------

_few = st.lists(st.integers(0, 8).map(lambda i: i / 100), max_size=5)  # with ties
_margins = st.integers(-9, 9).map(lambda i: i / 100)


def brute_force(above: list[float], below: list[float]) -> float:
    """Mann and Whitney's U over every way to deal the values out, ties counted as halves."""

    def u(first: Sequence[float], second: Sequence[float]) -> float:
        return sum((a > b) + (a == b) / 2 for a in first for b in second)

    everything = [*above, *below]
    dealt = []
    for chosen in combinations(range(len(everything)), len(above)):
        rest = [v for i, v in enumerate(everything) if i not in chosen]
        dealt.append(u([everything[i] for i in chosen], rest))
    return sum(value >= u(above, below) for value in dealt) / len(dealt)


@given(_few, _few)
def test_mann_whitney_is_exact(above: list[float], below: list[float]) -> None:
    assert mann_whitney(above, below) == pytest.approx(brute_force(above, below))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (1, 5), (4, 2), (12, 15)])
def test_mann_whitney_of_what_is_apart(n: int, m: int) -> None:
    above, below = [90.0 + i for i in range(n)], [float(i) for i in range(m)]
    assert mann_whitney(above, below) == pytest.approx(1 / math.comb(n + m, n))
    assert mann_whitney(below, above) == 1
    assert mann_whitney([], below) == mann_whitney(above, []) == 1


def test_three_seeds_each_are_the_least_that_decide() -> None:
    assert holds([[3.0, 4.0, 5.0]], [[0.0, 1.0, 2.0]]) == "holds"
    assert holds([[0.0, 1.0, 2.0]], [[3.0, 4.0, 5.0]]) == "contradicted"
    assert holds([[3.0, 4.0, 5.0]], [[0.0, 1.0, 3.0]]) == "undecided"  # a tie is a half
    assert holds([[3.0, 4.0]], [[0.0, 1.0, 2.0]]) == "undecided"
    assert holds([[3.0]], [[0.0]]) == holds([[]], [[]]) == holds([], []) == "undecided"


def test_every_pair_has_to_hold_and_one_contradicts() -> None:
    high, middle, low = [7.0, 8.0, 9.0], [4.0, 5.0, 6.0], [1.0, 2.0, 3.0]
    assert holds([high, middle], [low, low]) == "holds"
    assert holds([high, middle], [low, middle]) == "undecided"
    assert holds([high, low], [low, middle]) == "contradicted"
    assert deciding_pair([high, middle], [low, low]) == (1, 0)
    assert deciding_pair([high, middle], [low, middle]) == (1, 1)
    assert deciding_pair([high, low], [low, middle]) == (1, 1)
    assert deciding_pair([high, middle], [low, []]) in ((0, 1), (1, 1))


@given(st.lists(_few, min_size=1, max_size=3), st.lists(_few, min_size=1, max_size=3), _margins)
def test_the_deciding_pair_alone_decides(
    above: list[list[float]], below: list[list[float]], margin: float
) -> None:
    i, j = deciding_pair(above, below, margin)
    assert holds([above[i]], [below[j]], margin) == holds(above, below, margin)


_seeds = st.lists(st.integers(0, 40).map(lambda i: i / 100), min_size=3, max_size=5)
_opposite = {"holds": "contradicted", "contradicted": "holds", "undecided": "undecided"}


@given(_seeds, _seeds, _margins)
def test_a_pair_the_other_way_round(a: list[float], b: list[float], margin: float) -> None:
    assert holds([b], [a], -margin) == _opposite[holds([a], [b], margin)]


@given(_seeds, _seeds, st.tuples(_margins, _margins))
def test_a_larger_margin_never_helps(
    a: list[float], b: list[float], margins: tuple[float, float]
) -> None:
    better = ["contradicted", "undecided", "holds"]
    less, more = (better.index(holds([a], [b], margin)) for margin in sorted(margins))
    assert more <= less


def test_a_margin_that_is_met_exactly_is_a_tie() -> None:
    """70.4 less 0.3 is 70.1, though not quite in binary."""
    assert 70.4 - 0.3 > 70.1
    above, below = [70.4, 82.0, 83.0], [70.1, 60.0, 61.0]
    assert holds([above], [below], 0.3) == "undecided"
    assert holds([above], [below], 0.29) == "holds"
