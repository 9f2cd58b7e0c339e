"""Intervals by resampling images: the percentile bootstrap (Efron and Tibshirani, 1993, 13.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
_ROWS = 100  # resamples per matrix product, which bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A mean over images, such as a proportion, and its confidence interval at `LEVEL`."""

    value: float
    low: float
    high: float


class Resamples:
    """How often each of `images` occurs in each of `count` resamples, a function of the seed.

    Row 0 is the sample itself. Two methods over the same images get the same resamples, so their
    differences are paired.
    """

    def __init__(self, images: int, count: int = 1000, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.weights = np.ones((1 + count, images), np.uint8)
        for row in self.weights[1:]:
            indices = generator.integers(images, size=images)
            row[:] = np.bincount(indices, minlength=images)

    def means(self, values: npt.NDArray[np.bool_ | np.floating]) -> npt.NDArray[np.float64]:
        """The mean over images of values (N,) or (N, C), in each resample: (1 + count, ...)."""
        # Sums of 0 and 1 are exact in float32 below 2^24.
        dtype: type[np.floating] = np.float32 if values.dtype == np.bool_ else np.float64
        numbers: npt.NDArray[np.floating] = values.astype(dtype)
        parts = [
            self.weights[start : start + _ROWS].astype(numbers.dtype) @ numbers
            for start in range(0, len(self.weights), _ROWS)
        ]
        return np.concatenate(parts).astype(np.float64) / len(values)


def estimate(means: npt.NDArray[np.float64]) -> Estimate:
    """The estimate from a statistic's values (1 + count,), of which the first is the sample's."""
    low, high = np.quantile(means[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(means[0]), float(low), float(high))
