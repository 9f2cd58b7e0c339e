"""The statistics behind verdicts, without I/O. docs/verdicts.md has the policy.

SciPy is slow to import, so functions import it when they need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # the highest rate of false verdicts of each kind
# With three seeds of unequal variances, Welch's test exceeds its level by up to a fourth.
NOMINAL = 0.038  # the level of each test; benchmarks/verdicts.py measures that LEVEL is kept
MIN_SEEDS = 3  # of a stochastic run; fewer decide nothing
MIN_RANKED = 6  # items in a rank correlation
MAX_SEEDS = 1000  # the most that is recommended

Word = Literal["holds", "contradicted", "undecided"]
Unit = Literal["points", "ratio", "spreads"]
Agreement = Literal["reproduced", "better", "worse", "inconclusive"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """The mean and spread of runs that differ only in their seed.

    `mean` is None without a finished run, `spread` (the sample standard deviation) with fewer than
    two.
    """

    n: int
    mean: float | None
    spread: float | None


def summarize(values: Sequence[float]) -> Summary:
    """The summary of the finished runs' values."""
    n = len(values)
    if n == 0:
        return Summary(0, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, mean, None)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Summary(n, mean, spread)


# --- measurements --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sample:
    """The measurements of runs that differ only in their seed, on one set of test images.

    Parameters
    ----------
    values
        One per seed.
    scores
        One per test image, shape (N,), averaged over the seeds and in the unit of the values, so
        that both have the same mean. None if they are not stored.
    tested_on
        Identifies the test images; scores of two samples are paired if it is equal.
    error
        Without scores: a standard error of the mean that more seeds do not lower.
    resolution
        How much one image of one seed changes a value; 0 if unknown.
    is_stochastic
        Whether another seed gives another value. If not, the first value is the mean.

    Raises ValueError if scores and values have different means.
    """

    values: tuple[float, ...]
    scores: NDArray[np.float64] | None = None
    tested_on: str = ""
    error: float = 0.0
    is_stochastic: bool = True
    resolution: float = 0.0

    def __post_init__(self) -> None:
        if self.scores is None or not self.values:
            return
        mean = float(self.scores.mean())
        if self.scores.ndim != 1 or not math.isclose(mean, self.mean, rel_tol=1e-6, abs_tol=1e-6):
            raise ValueError(f"scores have mean {mean:g}, values have mean {self.mean:g}")

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values) if self.is_stochastic else self.values[0]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def variance(self) -> float | None:
        """Over seeds; None with too few seeds, or if rounding made all values equal."""
        if not self.is_stochastic or self.n < MIN_SEEDS or len(set(self.values)) == 1:
            return None
        mean = self.mean
        return math.fsum((value - mean) ** 2 for value in self.values) / (self.n - 1)

    @property
    def least_variance(self) -> float:
        """The variance over seeds of equal values, as if one image of one seed had differed."""
        return self.resolution**2 / self.n


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of means with its variance in two parts."""

    estimate: float
    over_seeds: float  # variance
    over_images: float  # variance, which more seeds do not lower
    df: float  # degrees of freedom of `over_seeds`

    @property
    def error(self) -> float:
        """The standard error; 0 if the estimate is exact."""
        return math.sqrt(self.over_seeds + self.over_images)

    def p_greater(self, size: float) -> float:
        """The one-sided p-value of 'the true value is greater than `size`'."""
        return self._tail(self.estimate - size)

    def p_less(self, size: float) -> float:
        """The one-sided p-value of 'the true value is less than `size`'."""
        return self._tail(size - self.estimate)

    def _tail(self, distance: float) -> float:
        """From t for seeds, the normal for images; for both, averaged over the seeds' variance."""
        from scipy import special

        if self.error == 0:
            return float(round(distance, 9) <= 0)
        if self.over_images == 0:
            return float(special.stdtr(self.df, -distance / self.error))
        if self.over_seeds == 0:
            return float(special.ndtr(-distance / self.error))
        return float(special.ndtr(-distance / self.errors_at(_ratios(self.df))).mean())

    def errors_at(self, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        """The standard errors if the true deviation over seeds is `ratios` times its estimate."""
        return np.asarray(np.sqrt(self.over_seeds * ratios**2 + self.over_images))


@lru_cache(maxsize=4096)
def _ratios_of(df: float) -> NDArray[np.float64]:
    from scipy import special

    share = (np.arange(200) + 0.5) / 200
    return np.asarray(np.sqrt(df / (2 * special.gammaincinv(df / 2, share))))


def _ratios(df: float) -> NDArray[np.float64]:
    """200 equally probable ratios of a true standard deviation to its estimate."""
    return _ratios_of(round(df, 2))


Term = tuple[float, Sample]  # the weight of the sample's mean


def contrast(terms: Sequence[Term]) -> Contrast | None:
    """The weighted sum of means, with its variances over seeds and over test images.

    Degrees of freedom by Welch and Satterthwaite; if numbers of seeds differ, at most those of the
    smallest sample. A sample of equal values takes the pooled variance of the others, or its least
    variance if there is none. None if a sample has too few values or an unknown variance.
    """
    stochastic = [(weight, sample) for weight, sample in terms if sample.is_stochastic]
    pooled = _pooled_variance(sample for _, sample in stochastic)
    is_known = pooled is not None or all(sample.resolution for _, sample in stochastic)
    if not all(_has_enough_seeds(sample) for _, sample in terms) or not is_known:
        return None
    variances = [sample.variance or pooled or sample.least_variance for _, sample in stochastic]
    seeds = [(weight**2 * variance / sample.n, sample.n - 1)
             for variance, (weight, sample) in zip(variances, stochastic, strict=True)]  # fmt: skip
    estimate = math.fsum(weight * sample.mean for weight, sample in terms)
    over_seeds = math.fsum(part for part, _ in seeds)
    return Contrast(estimate, over_seeds, _over_images(terms), _satterthwaite(seeds))


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances; if theirs differ, at most the smallest."""
    denominator = math.fsum(part**2 / df for part, df in parts)
    if not denominator:
        return math.inf
    dfs = {df for _, df in parts}
    most = min(dfs) * (len(parts) if len(dfs) == 1 else 1)
    return min(math.fsum(part for part, _ in parts) ** 2 / denominator, most)


def _has_enough_seeds(sample: Sample) -> bool:
    return sample.n >= (MIN_SEEDS if sample.is_stochastic else 1)


def _pooled_variance(samples: Iterable[Sample]) -> float | None:
    """The known variances over seeds, averaged by their degrees of freedom; None without any."""
    variances = [(v, s.n - 1) for s in samples if (v := s.variance) is not None]
    if not variances:
        return None
    return math.fsum(v * df for v, df in variances) / sum(df for _, df in variances)


def _over_images(terms: Sequence[Term]) -> float:
    """The variance that more seeds do not lower; scores of the same images are paired."""
    unpaired = math.fsum(w**2 * s.error**2 for w, s in terms if s.scores is None)
    paired: dict[tuple[str, int], NDArray[np.float64]] = {}
    for weight, sample in terms:
        if sample.scores is not None:
            key = sample.tested_on, len(sample.scores)
            paired[key] = paired.get(key, 0.0) + weight * sample.scores
    return unpaired + math.fsum(float(x.var(ddof=1)) / len(x) for x in paired.values())


# --- claims --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pair:
    """The two sides of a claim: `above` should be larger; a side is the sum of its samples."""

    above: tuple[Sample, ...]
    below: tuple[Sample, ...]

    def contrast(self, ratio: float = 1.0) -> Contrast | None:
        """`above` minus `ratio` times `below`."""
        return contrast([*((1.0, s) for s in self.above), *((-ratio, s) for s in self.below)])

    def p_values(self, size: float = 0.0, unit: Unit = "points") -> tuple[float, float]:
        """One-sided: 'the effect is greater than this', and 'less'; 1 if it cannot be tested."""
        result = self.contrast(size if unit == "ratio" else 1.0)
        if result is None or (unit == "ratio" and not self._is_divisible):
            return 1.0, 1.0
        if unit == "spreads" and size:
            return self._p_values_by_spreads(result, size)
        least = size if unit == "points" else 0.0
        return result.p_greater(least), result.p_less(least)

    @property
    def _is_divisible(self) -> bool:
        """Whether `below` is clearly above zero; otherwise a ratio is meaningless."""
        result = contrast([(1.0, sample) for sample in self.below])
        return result is not None and result.p_greater(0.0) <= NOMINAL

    def p_greater(self, size: float = 0.0, unit: Unit = "points") -> float:
        """The p-value of 'the effect is greater than this'."""
        return self.p_values(size, unit)[0]

    def p_less(self, size: float = 0.0, unit: Unit = "points") -> float:
        """The p-value of 'the effect is less than this'."""
        return self.p_values(size, unit)[1]

    def _p_values_by_spreads(self, result: Contrast, size: float) -> tuple[float, float]:
        """Generalized p-values, as the unit, the spread, is estimated as well.

        They are averaged over the distribution of the true spread given its estimate. With one
        variance and no error over images, this is the noncentral t.
        """
        from scipy import special

        if (spread := self.spread) is None:
            return 1.0, 1.0
        # Of unequal spreads, the pooled one is less certain than its degrees of freedom say.
        ratios = _ratios(0.9 * result.df)
        distance = (result.estimate - size * spread * ratios) / result.errors_at(ratios)
        return float(special.ndtr(-distance).mean()), float(special.ndtr(distance).mean())

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, pooled."""
        variance = _pooled_variance((*self.above, *self.below))
        return None if variance is None else math.sqrt(variance)

    def effect(self, unit: Unit = "points") -> float | None:
        """How much larger `above` is: a difference, a ratio, or a difference in spreads."""
        if not all(sample.n for sample in (*self.above, *self.below)):
            return None
        above, below = (math.fsum(s.mean for s in side) for side in (self.above, self.below))
        if unit == "points":
            return above - below
        by = below if unit == "ratio" else self.spread
        return None if not by else (above if unit == "ratio" else above - below) / by

    def interval(self, unit: Unit = "points", looks: int = 1) -> Interval | None:
        """The effects that neither test excludes: at least 90 % of such intervals cover the truth.

        None if the effect or its error is unknown. An end may be infinite.
        """
        nominal = NOMINAL / looks
        effect, result = self.effect(unit), self.contrast()
        if effect is None or result is None:
            return None
        if result.error == 0:
            return effect, effect
        return (
            _crossing(lambda size: self.p_greater(size, unit) - nominal, effect, -1),
            _crossing(lambda size: self.p_less(size, unit) - nominal, effect, 1),
        )


def _crossing(excess: Callable[[float], float], start: float, sign: Literal[1, -1]) -> float:
    """The nearest zero of a function that is positive at `start`, in one direction; or infinity."""
    from scipy import optimize

    step = max(abs(start), 1.0) / 8
    for _ in range(24):
        if excess(start + sign * step) <= 0:
            return float(optimize.brentq(excess, start, start + sign * step))
        step *= 2
    return sign * math.inf


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the index of the decisive pair."""

    word: Word
    decisive: int


def judge(
    pairs: Sequence[Pair | None], size: float = 0.0, unit: Unit = "points", looks: int = 1
) -> Judgement:
    """The verdict on 'the effect is greater than `size` in each pair'.

    It holds if each pair alone shows it (intersection-union: no correction), and is contradicted if
    one shows the contrary, by Holm's correction for their number. None: a pair that may not decide.
    `looks`: how often the claim is judged, each time with more seeds unless it is decided.
    """
    nominal = NOMINAL / looks
    if not pairs:
        return Judgement("undecided", 0)
    both = [pair.p_values(size, unit) if pair else (1.0, 1.0) for pair in pairs]
    greater, less = [p[0] for p in both], [p[1] for p in both]
    if min(holm(less)) <= nominal:
        return Judgement("contradicted", less.index(min(less)))
    effects = [pair.effect(unit) if pair else None for pair in pairs]
    weakest = max(range(len(pairs)), key=lambda place: (
        greater[place], math.inf if (effect := effects[place]) is None else -effect
    ))  # fmt: skip
    holds = greater[weakest] <= nominal
    return Judgement("holds" if holds else "undecided", weakest)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values with Holm's correction for their number, in the given order."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = list(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


# --- comparison with a number of the paper -------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Our runs compared with a number that the paper prints.

    `further_seeds`: if inconclusive, how many more seeds like ours would decide; None if no number
    would, since the paper's single run varies as ours do.
    """

    word: Agreement
    further_seeds: int | None = None


def compare(
    sample: Sample, printed: float, margin: float, best: Literal["most", "least"] = "most"
) -> Comparison:
    """Compare our runs with one number of the paper, which is assumed to be a single run's.

    Reproduced: our mean is within `margin` of it (two one-sided tests). Better or worse: it is
    more than `margin` outside the prediction interval of a further run of ours. A deterministic
    value is compared without a test.
    """
    gain = sample.mean - printed if best == "most" else printed - sample.mean
    if not sample.is_stochastic:
        return Comparison(_agreement(gain, 0.0, 0.0, margin) or "inconclusive")
    if sample.n < MIN_SEEDS:
        return Comparison("inconclusive", MIN_SEEDS - sample.n)
    if sample.variance is None:
        return Comparison("inconclusive", 1)
    seeds = np.arange(sample.n, MAX_SEEDS + 1)
    t = _quantiles()[seeds - 2] * math.sqrt(sample.variance)
    means, runs = t / np.sqrt(seeds), t * np.sqrt(1 + 1 / seeds)
    if word := _agreement(gain, float(means[0]), float(runs[0]), margin):
        return Comparison(word)
    is_decided = (abs(gain) + means <= margin) | (abs(gain) - runs > margin)
    return Comparison("inconclusive", int(is_decided.argmax()) if is_decided.any() else None)


@lru_cache(maxsize=1)
def _quantiles() -> NDArray[np.float64]:
    """Quantiles of t for tests at NOMINAL, from one degree of freedom on."""
    from scipy import special

    return np.asarray(special.stdtrit(np.arange(1, MAX_SEEDS), 1 - NOMINAL))


def _agreement(gain: float, mean: float, run: float, margin: float) -> Agreement | None:
    """The word for our gain; `mean`, `run`: half widths for our mean and for a further run."""
    if round(abs(gain) + mean - margin, 9) <= 0:
        return "reproduced"
    if abs(gain) - run > margin:
        return "better" if gain > 0 else "worse"
    return None


def agrees(value: float, reference: float, tolerance: float) -> bool:
    """Whether two measurements of one quantity differ by at most the tolerance."""
    return abs(value - reference) <= tolerance + 1e-9


# --- order ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of two lists, and its 95 % interval."""

    rho: float
    interval: Interval


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> RankCorrelation | None:
    """The rank correlation of two lists; ties share a rank.

    The interval is Fisher's z with the variance of Bonett and Wright (2000),
    (1 + rho² / 2) / (n - 3). There, a rho of ±1 counts as half a step less.
    None for fewer than MIN_RANKED values, or if a list has only one distinct value.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}")
    n = len(a)
    if n < MIN_RANKED or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    from scipy import special, stats

    rho = float(stats.spearmanr(a, b).statistic)
    most = 1 - 6 / (n * (n**2 - 1))
    z = math.atanh(min(max(rho, -most), most))
    half = float(special.ndtri(0.975)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return RankCorrelation(rho, (math.tanh(z - half), math.tanh(z + half)))


def scores_of(correct: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The percentage of seeds that classify each image correctly, (N,), from each seed's (N,)."""
    return np.asarray(100 * np.stack(correct).mean(axis=0), dtype=np.float64)
