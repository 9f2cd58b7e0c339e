"""The statistics, against SciPy's tests, closed forms, and papers whose truth is known."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks import verdicts
from repro.core.verdict import (
    LEVEL,
    NOMINAL,
    Pair,
    Sample,
    Unit,
    compare,
    contrast,
    holm,
    judge,
    rank_correlation,
    scores_of,
    summarize,
)

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


# --- contrasts -----------------------------------------------------------------------------------

# Numbers with two decimals, as accuracies of a few thousand images are; three seeds and more.
_seeds = st.lists(st.integers(0, 9_999).map(lambda i: i / 100), min_size=3, max_size=6, unique=True)
_units: st.SearchStrategy[Unit] = st.sampled_from(["points", "ratio", "spreads"])


def sample(*values: float) -> Sample:
    return Sample(values)


def pair(above: Sequence[float], below: Sequence[float]) -> Pair:
    return Pair((Sample(tuple(above)),), (Sample(tuple(below)),))


@given(_seeds, _seeds)
def test_without_images_it_is_welchs_t(a: list[float], b: list[float]) -> None:
    b = [*b, *map(float, range(100, 103))][: len(a)]  # as many
    more, less = (
        stats.ttest_ind(a, b, equal_var=False, alternative=way).pvalue
        for way in ("greater", "less")
    )
    assert pair(a, b).p_values() == pytest.approx((more, less))


def test_unequal_numbers_of_seeds_have_the_degrees_of_freedom_of_the_fewest() -> None:
    """Where the few happen to lie together, Satterthwaite's would be those of the many."""
    many = [float(value) for value in range(15)]
    found = pair(many, [6.0, 6.01, 6.02]).contrast()
    assert found is not None
    assert found.df == 2
    assert stats.ttest_ind(many, [6.0, 6.01, 6.02], equal_var=False).df > 13


@given(_seeds, st.floats(0, 100))
def test_beside_a_constant_it_is_the_t_of_one_sample(a: list[float], constant: float) -> None:
    known = Pair((Sample(tuple(a)),), (Sample((constant,) * 5, is_stochastic=False),))
    assert known.p_greater() == pytest.approx(
        stats.ttest_1samp(a, constant, alternative="greater").pvalue
    )


def test_images_alone_are_paired() -> None:
    """Two released models: no seeds, and a paired t over the images that both were tested on."""
    draw = np.random.default_rng(0)
    easy = 60 + 10 * draw.standard_normal(500)  # what both find hard or easy cancels
    a, b = easy + draw.standard_normal(500) + 0.1, easy + draw.standard_normal(500)
    samples = [Sample((float(x.mean()),), x, "the same", is_stochastic=False) for x in (a, b)]
    expected = stats.ttest_rel(a, b, alternative="greater").pvalue
    assert Pair((samples[0],), (samples[1],)).p_greater() == pytest.approx(expected, rel=0.05)
    other = replace(samples[1], tested_on="others")
    apart = contrast([(1.0, samples[0]), (-1.0, other)])
    assert apart is not None
    assert apart.over_images == pytest.approx((a.var(ddof=1) + b.var(ddof=1)) / 500)


def test_the_variances_add() -> None:
    scores = np.arange(100.0) - 49.5
    both = contrast([(1.0, Sample((-1.0, 0.0, 1.0), scores)), (-2.0, Sample((5.0, 6.0, 7.0)))])
    assert both is not None
    assert both.over_seeds == pytest.approx(1 / 3 + 4 / 3)
    assert both.over_images == pytest.approx(scores.var(ddof=1) / 100)
    assert both.estimate == pytest.approx(-12)
    known = contrast([(1.0, Sample((-1.0, 0.0, 1.0), error=0.5)), (2.0, Sample((1.0, 2.0, 3.0)))])
    assert known is not None
    assert known.over_images == pytest.approx(0.25)


@given(_seeds, _seeds, st.floats(0.01, 30))
def test_with_images_it_is_between_t_and_normal(a: list[float], b: list[float], x: float) -> None:
    """And nearer to either where that part of the variance is the larger one."""
    found = contrast([(1.0, sample(*a)), (-1.0, sample(*b))])
    assert found is not None
    for share in (1e-9, 0.1, 0.5, 0.9, 1 - 1e-9):
        mixed = replace(found, over_seeds=1 - share, over_images=share, estimate=x)
        ends = stats.norm.sf(x), stats.t.sf(x, found.df)
        assert ends[0] * 0.9 - 1e-12 <= mixed.p_greater(0.0) <= ends[1] * 1.05 + 2e-3
        assert mixed.p_greater(0.0) == pytest.approx(1 - mixed.p_less(0.0))


def test_scores_have_the_mean_of_the_values() -> None:
    with pytest.raises(ValueError, match="scores have mean 50, values have mean 60"):
        Sample((60.0, 60.0), np.full(10, 50.0))
    hits = [np.array([True, False, True, True]), np.array([True, True, False, True])]
    assert scores_of(hits).tolist() == [100, 50, 50, 100]


def test_fewer_than_three_seeds_never_decide() -> None:
    for few in ((), (90.0,), (90.0, 91.0)):
        assert pair(few, [1.0, 2.0, 3.0]).p_values() == (1, 1)
        assert judge([pair([1.0, 2.0, 3.0], few)]).word == "undecided"
    assert judge([pair([90.0, 91.0, 92.0], [1.0, 2.0, 3.0])]).word == "holds"


def test_equal_values_are_not_certain() -> None:
    """They take the other's variance; of two that do not vary, nothing is known."""
    varied, equal = [90.0, 91.0, 92.0], [89.0, 89.0, 89.0]
    assert pair(varied, equal).p_values() == pytest.approx(pair(varied, [88, 89, 90]).p_values())
    assert pair(equal, [1.0, 1.0, 1.0]).p_values() == (1, 1)
    assert pair(equal, [1.0, 1.0, 1.0]).interval() is None


def test_equal_values_beside_a_constant_are_off_by_an_image() -> None:
    """As if the last image of the last seed had been wrong; without their number, unknown."""
    chance = Sample((34.8,), is_stochastic=False)
    equal = Pair((Sample((100.0,) * 3, resolution=1.0),), (chance,))
    off = Pair((Sample((100.0, 100.0, 99.0)),), (chance,))
    (contrast, expected) = equal.contrast(), off.contrast()
    assert contrast
    assert expected
    assert contrast.over_seeds == pytest.approx(expected.over_seeds)
    assert contrast.df == expected.df
    assert judge([equal]).word == "holds"
    assert judge([Pair((Sample((100.0,) * 3),), (chance,))]).word == "undecided"
    assert judge([Pair((Sample((36.0,) * 3, resolution=2.0),), (chance,))]).word == "undecided"


def test_counts_are_compared_without_a_test() -> None:
    small, large = (Sample((value,), is_stochastic=False) for value in (17_066_968.0, 28_288_354.0))
    assert judge([Pair((large,), (small,))]).word == "holds"
    assert judge([Pair((small,), (large,))]).word == "contradicted"
    assert judge([Pair((large,), (small,))], 1.6, "ratio").word == "holds"
    assert judge([Pair((large,), (small,))], 1.7, "ratio").word == "contradicted"
    assert Pair((large,), (small,)).interval("ratio") == pytest.approx((1.6575, 1.6575), abs=1e-4)


# --- claims --------------------------------------------------------------------------------------

HIGH, MIDDLE, LOW = [70.0, 70.5, 71.0], [60.0, 60.5, 61.0], [50.0, 50.5, 51.0]


def test_every_pair_has_to_hold_and_one_contradicts() -> None:
    assert judge([pair(HIGH, LOW), pair(MIDDLE, LOW)]).word == "holds"
    assert judge([pair(HIGH, LOW), pair(MIDDLE, MIDDLE)]).word == "undecided"
    assert judge([pair(HIGH, LOW), pair(MIDDLE, MIDDLE)]).decisive == 1
    assert judge([pair(HIGH, LOW), None]).word == "undecided"
    found = judge([pair(HIGH, LOW), None, pair(LOW, MIDDLE)])
    assert (found.word, found.decisive) == ("contradicted", 2)
    assert judge([]).word == "undecided"


def test_of_pairs_that_are_as_certain_the_one_with_the_smallest_effect_decides() -> None:
    far, near = (Pair((Sample((x,), is_stochastic=False),), (Sample((1.0,), is_stochastic=False),))
                 for x in (90.0, 50.0))  # fmt: skip
    assert far.p_values() == near.p_values()
    for pairs, place in (((far, near), 1), ((near, far), 0)):
        judgement = judge(pairs)
        assert (judgement.word, judgement.decisive) == ("holds", place)


def test_a_contradiction_is_corrected_for_the_pairs() -> None:
    """One of four has to be four times as significant as one alone."""
    found = pair([50.0, 51.0, 52.0], [52.3, 53.3, 54.3])
    assert NOMINAL / 4 < found.p_less() <= NOMINAL
    assert judge([found]).word == "contradicted"
    assert judge([found, *[pair(HIGH, LOW)] * 3]).word == "undecided"


def test_two_looks_share_the_level() -> None:
    found = pair([50.0, 51.0, 52.0], [52.3, 53.3, 54.3])
    assert NOMINAL / 2 < found.p_less() <= NOMINAL
    assert judge([found]).word == "contradicted"
    assert judge([found], looks=2).word == "undecided"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm(p_values: list[float]) -> None:
    """By its definition: reject in order while p is at most level / (number that is left)."""
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected, ordered = 0, sorted(p_values)
        while rejected < len(ordered) and ordered[rejected] * (len(ordered) - rejected) <= level:
            rejected += 1
        assert sum(p <= level for p in adjusted) == rejected
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


_OPPOSITE = {"holds": "contradicted", "contradicted": "holds", "undecided": "undecided"}
_sizes = st.integers(-500, 500).map(lambda i: i / 100)


@given(_seeds, _seeds, _sizes)
def test_a_pair_the_other_way_round(a: list[float], b: list[float], size: float) -> None:
    assert judge([pair(b, a)], -size).word == _OPPOSITE[judge([pair(a, b)], size).word]


def _least_effect(size: float, unit: Unit) -> float:
    """A least effect; no claim asks for a ratio below zero, where p-values need not fall."""
    return abs(size) if unit == "ratio" else size


@given(_seeds, _seeds, st.tuples(_sizes, _sizes), _units)
def test_to_ask_for_more_never_helps(
    a: list[float], b: list[float], sizes: tuple[float, float], unit: Unit
) -> None:
    better = ["contradicted", "undecided", "holds"]
    found = pair(np.add(a, 1).tolist(), np.add(b, 1).tolist())
    effects = sorted(_least_effect(size, unit) for size in sizes)
    less, more = (better.index(judge([found], size, unit).word) for size in effects)
    assert more <= less


@given(_seeds, _seeds, _sizes.filter(bool), _units)
def test_the_interval_excludes_what_is_decided(
    a: list[float], b: list[float], size: float, unit: Unit
) -> None:
    found, size = pair(np.add(a, 1).tolist(), np.add(b, 1).tolist()), _least_effect(size, unit)
    interval, effect = found.interval(unit), found.effect(unit)
    assert interval is not None
    assert effect is not None
    assert interval[0] <= effect <= interval[1]
    if min(abs(end - size) for end in interval) > 1e-6:
        inside = interval[0] < size < interval[1]
        assert (judge([found], size, unit).word == "undecided") == inside


@given(_seeds, _seeds, st.floats(0.5, 3))
def test_a_ratio_is_a_difference_to_so_many_times(
    a: list[float], b: list[float], ratio: float
) -> None:
    b = [value + 1000 for value in b]  # a ratio to what may be zero says nothing
    scaled = [ratio * value for value in b]
    assert pair(a, b).p_values(ratio, "ratio") == pytest.approx(pair(a, scaled).p_values())


def test_a_ratio_to_what_may_be_zero_says_nothing() -> None:
    found = pair([90.0, 91.0, 92.0], [-1.0, 0.0, 2.0])
    assert found.p_values(2.0, "ratio") == (1, 1)
    assert found.interval("ratio") == (-math.inf, math.inf)


@pytest.mark.parametrize("size", [-2.0, 1.0, 3.0])
def test_spreads_are_tested_by_the_noncentral_t(size: float) -> None:
    """Where both vary alike, of all but a tenth of the degrees of freedom."""
    found = pair([90.0, 91.0, 92.0, 93.0], [87.0, 88.0, 89.0, 90.0])
    known = found.contrast()
    assert known is not None
    assert found.spread is not None
    center = size * found.spread / known.error
    t = known.estimate / known.error
    expected = stats.nct.sf(t, 0.9 * 6, center)  # of equal spreads, 3 + 3
    assert found.p_greater(size, "spreads") == pytest.approx(expected, abs=2e-3)
    assert found.p_less(size, "spreads") == pytest.approx(1 - expected, abs=2e-3)


def test_of_a_difference_all_four_count() -> None:
    samples = [sample(*values) for values in (HIGH, MIDDLE, LOW, MIDDLE)]
    found = Pair((samples[0], samples[1]), (samples[2], samples[3]))
    assert found.effect() == pytest.approx(20)
    known = found.contrast()
    assert known is not None
    assert known.over_seeds == pytest.approx(4 * 0.25 / 3)
    assert known.df == pytest.approx(8)


# --- papers whose truth is known -----------------------------------------------------------------

PAPERS = 600


def assert_rate(percent: float) -> None:
    """That so many in a hundred do not speak against a rate of LEVEL; one test in 100,000 fails."""
    false = round(percent * PAPERS / 100)
    assert stats.binomtest(false, PAPERS, LEVEL, alternative="greater").pvalue > 1e-5, percent


@pytest.mark.parametrize("world", [*verdicts.worlds()], ids=str)
def test_false_verdicts_are_rare(world: verdicts.World) -> None:
    found = verdicts.rates(world, PAPERS)
    assert found["undecided"] < 100, "a test that never decides proves nothing"
    for word in ("holds", "contradicted"):
        assert_rate(found.get(word, 0.0))


def test_a_rate_that_is_too_high_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that counts no test images calls twice as many papers false."""
    world = verdicts.World("", images=1.5, seeds=(5, 5))
    assert_rate(verdicts.rates(world, PAPERS)["holds"])
    monkeypatch.setattr("repro.core.verdict._over_images", lambda terms: 0.0)
    with pytest.raises(AssertionError):
        assert_rate(verdicts.rates(world, PAPERS)["holds"])


def test_true_claims_hold() -> None:
    clear = verdicts.World("", seeds=(5, 5), images=0.8, beyond=5.0)
    assert verdicts.rates(clear, PAPERS)["holds"] > 90


# --- a number of the paper -----------------------------------------------------------------------


def spread_by(spread: float, mean: float, n: int) -> Sample:
    """Values of this mean and standard deviation."""
    line = np.arange(n) - (n - 1) / 2
    return Sample(tuple((mean + spread * line / line.std(ddof=1)).tolist()))


def test_beside_a_number_of_the_paper() -> None:
    assert compare(spread_by(0.05, 96.0, 3), 96.1, 0.3).word == "reproduced"
    assert compare(spread_by(0.1, 97.0, 3), 96.1, 0.3).word == "better"
    assert compare(spread_by(0.1, 95.0, 3), 96.1, 0.3).word == "worse"
    assert compare(spread_by(0.1, 95.0, 3), 96.1, 0.3, "least").word == "better"
    assert compare(spread_by(1.0, 95.5, 3), 96.1, 0.3).word == "inconclusive"
    assert compare(sample(96.1), 96.1, 0.3).further_seeds == 2
    assert compare(sample(96.1, 96.1, 96.1), 96.1, 0.3).further_seeds == 1
    weights = Sample((81.43,), is_stochastic=False)
    assert [compare(weights, value, 0.3).word for value in (81.5, 83.0, 81.0)] == [
        "reproduced", "worse", "better"]  # fmt: skip


def test_a_prediction_interval_is_wider_than_that_of_the_mean() -> None:
    """Twenty seeds know their mean well, but the paper's is a single run."""
    ours = spread_by(0.5, 95.0, 20)
    assert stats.ttest_1samp(ours.values, 95.9 - 0.3).pvalue < 1e-4
    assert compare(ours, 95.9, 0.3).word == "inconclusive"
    assert compare(ours, 95.9, 0.3).further_seeds is None


@given(st.floats(0.05, 2), st.floats(-2, 2), st.integers(3, 8))
def test_so_many_seeds_decide(spread: float, beyond: float, n: int) -> None:
    found = compare(spread_by(spread, beyond, n), 0.0, 0.5)
    if found.further_seeds is None:
        return
    assert found.word == "inconclusive"
    more = n + found.further_seeds
    assert compare(spread_by(spread, beyond, more), 0.0, 0.5).word != "inconclusive"
    assert compare(spread_by(spread, beyond, more - 1), 0.0, 0.5).word == "inconclusive"


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_papers_numbers_are_rarely_misjudged(seeds: int) -> None:
    assert_rate(verdicts.agreements(seeds, "number", 1.0, PAPERS).get("reproduced", 0))
    found = verdicts.agreements(seeds, "run", 1.0, PAPERS)
    assert_rate(found.get("better", 0) + found.get("worse", 0))


# --- order ---------------------------------------------------------------------------------------


@given(_values.filter(lambda v: len(v) > 5))
def test_rank_correlation(values: list[float]) -> None:
    other = [v * v for v in values[::-1]]
    expected = pd.Series(values).rank().corr(pd.Series(other).rank())
    found = rank_correlation(values, other)
    if found is None:
        assert math.isnan(expected)
        return
    assert found.rho == pytest.approx(expected)
    flipped = rank_correlation(values, [-v for v in other])
    assert flipped is not None
    assert flipped.interval == pytest.approx(tuple(-end for end in found.interval[::-1]))


def test_rank_correlation_ends() -> None:
    six = list(range(6))
    found = rank_correlation(six, six)
    assert found is not None
    assert found.rho == pytest.approx(1)
    assert 0.5 < found.interval[0] < found.interval[1] < 1
    assert rank_correlation(six[:5], six[:5]) is None
    assert rank_correlation(six, [1] * 6) is None


def test_the_interval_of_a_rank_correlation_covers_the_truth() -> None:
    """Of normal pairs, whose rho is 6 / pi * asin(r / 2)."""
    draw, r, covered = np.random.default_rng(0), 0.6, 0
    truth = 6 / math.pi * math.asin(r / 2)
    for _ in range(1000):
        a = draw.standard_normal(10)
        found = rank_correlation(a.tolist(), (r * a + 0.8 * draw.standard_normal(10)).tolist())
        assert found is not None
        covered += found.interval[0] <= truth <= found.interval[1]
    assert 930 < covered < 990


# --- the page ------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
MEASURED = (ROOT / "benchmarks" / "verdicts.txt").read_text()


def test_the_page_has_the_table_that_was_measured() -> None:
    (table,) = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "verdicts.md").read_text(), re.DOTALL)
    assert table == MEASURED


def test_what_was_measured_keeps_the_level() -> None:
    """Of every world that the script has, in 10,000 papers each."""
    assert MEASURED.startswith("Of 10,000 papers, in percent.")
    row = re.compile(r"^(.{31}) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", re.MULTILINE)
    false, true = MEASURED.split("True claims")
    rows = row.findall(false)
    there = [(name.strip(), *map(float, about[:3])) for name, *about in rows]
    assert there == [(w.name, w.pairs, w.seeds[0], w.images) for w in verdicts.worlds()]
    for *_, holds, contradicted in rows:
        assert float(holds) <= 100 * LEVEL
        assert float(contradicted) <= 100 * LEVEL
    beside = re.findall(r" (\d+) +([\d.]+)$", true.split("Beside a number")[1], re.MULTILINE)
    assert len(beside) == 6
    assert all(float(rate) <= 100 * LEVEL for _, rate in beside)
    assert all(float(contradicted) < 0.1 for *_, contradicted in row.findall(true))
