"""What our runs say: plain statistics, no files and no drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """Some runs that differ in their seed alone.

    `mean` is None without a finished run, `spread` (the sample standard deviation) with fewer than
    two. `diverged` runs are counted, not averaged.
    """

    n: int
    diverged: int
    mean: float | None
    spread: float | None


def summarize(values: Sequence[float], diverged: int = 0) -> Summary:
    """The summary of the finished runs' values and the number of diverged ones."""
    n = len(values)
    if n == 0:
        return Summary(0, diverged, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(1, diverged, mean, None)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Summary(n, diverged, mean, spread)


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
