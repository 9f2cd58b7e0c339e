"""What our runs say: plain statistics, no files and no drawing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

LEVEL = 0.05  # of every test here

Word = Literal["holds", "contradicted", "undecided"]


@dataclass(frozen=True)
class Summary:
    """Some runs that differ in their seed alone.

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


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rho: how alike two lists order the same things, from -1 to 1; ties share a rank.

    None for fewer than three things, or where a list does not order them.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}")
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    x, y = _ranks(a), _ranks(b)
    middle = (len(a) + 1) / 2
    covariance = math.fsum((p - middle) * (q - middle) for p, q in zip(x, y, strict=True))
    norms = [math.fsum((r - middle) ** 2 for r in ranks) for ranks in (x, y)]
    return covariance / math.sqrt(norms[0] * norms[1])


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in ordered}
    return [first[v] + (ordered.count(v) + 1) / 2 for v in values]


# --- claims --------------------------------------------------------------------------------------


def holds(
    above: Sequence[Sequence[float]], below: Sequence[Sequence[float]], margin: float = 0.0
) -> Word:
    """What the seeds' values say of 'each of `above` is larger than each of `below` by `margin`'.

    It holds if every pair is so by the Mann-Whitney test at `LEVEL`, which needs no correction for
    their number since all have to be; it is contradicted if any pair is the other way round. Two
    cells of three seeds decide only if all of one lie beyond all of the other; less never does.
    """
    pairs = [(_less(a, margin), _less(b, 0)) for a in above for b in below]
    if any(mann_whitney(b, a) <= LEVEL for a, b in pairs):
        return "contradicted"
    if pairs and all(mann_whitney(a, b) <= LEVEL for a, b in pairs):
        return "holds"
    return "undecided"


def deciding_pair(
    above: Sequence[Sequence[float]], below: Sequence[Sequence[float]], margin: float = 0.0
) -> tuple[int, int]:
    """Where in `above` and `below` the pair stands on which the claim hangs.

    One that contradicts it, else the one that supports it least; of equals, that of the smallest
    distance between the medians.
    """

    def support(place: tuple[int, int]) -> tuple[bool, float, float]:
        a, b = _less(above[place[0]], margin), _less(below[place[1]], 0)
        distance = median(a) - median(b) if a and b else -math.inf
        return mann_whitney(b, a) > LEVEL, -mann_whitney(a, b), distance

    return min(((i, j) for i in range(len(above)) for j in range(len(below))), key=support)


def mann_whitney(above: Sequence[float], below: Sequence[float]) -> float:
    """The exact one-sided p-value of 'the values of `above` tend to be larger'; ties count half.

    The share of all C(n + m, n) ways to deal out the n + m values in which the ranks of the n sum
    to at least what they do: 1 / C(n + m, n) if all of `above` are larger, 1 without values.
    """
    ranks = [
        round(2 * rank) for rank in _ranks([*above, *below])
    ]  # twice, so that halves are whole
    ways = Counter({(0, 0): 1})  # (how many are dealt, the sum of their ranks) -> in how many ways
    for rank in ranks:
        ways += Counter({(n + 1, total + rank): count for (n, total), count in ways.items()})
    n, observed = len(above), sum(ranks[: len(above)])
    extreme = sum(count for (k, total), count in ways.items() if k == n and total >= observed)
    return extreme / math.comb(len(ranks), n)


def _less(values: Sequence[float], margin: float) -> list[float]:
    """The values less the margin, rounded, so that 81.4 - 0.5 ties with 80.9."""
    return [round(value - margin, 6) for value in values]


def agrees(value: float, reference: float, tolerance: float) -> bool:
    """Whether a measurement of the same thing lies within the tolerance, its bound included."""
    return abs(value - reference) <= tolerance + 1e-9
