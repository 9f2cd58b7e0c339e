"""Localization metrics: GT-known, top-1 error, MaxBoxAcc, MaxBoxAccV2, curves over the IoU.

All use one threshold per method and data set, never one per image; they differ in how it is chosen.
*oracle*: the best threshold for the evaluated images, as MaxBoxAcc is defined, an upper bound.
The name of another data set, such as ImageNetV2: the best threshold there. *fixed*: a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from repro.core.iou import IOUS_V2
from repro.interpret.bootstrap import Estimate, Resamples, estimate
from repro.interpret.box_iou import TAUS, Contours, Flags, Scores

IOU = 0.5  # of MaxBoxAcc, GT-known and top-1
CURVE = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a method, and how they were chosen."""

    choice: str  # 'oracle', 'fixed', or the tuning images, such as 'imagenetv2'
    largest: float  # for the largest contour's box at IoU .5; also for top-1
    every: tuple[float, ...]  # for every contour's box, at each of IOUS_V2


@dataclass(frozen=True)
class LocalizationMetrics:
    """The metrics of a method at its thresholds: proportions of images, with intervals."""

    thresholds: Thresholds
    gt_known: Estimate  # with oracle thresholds this is MaxBoxAcc
    top1_error: Estimate | None  # None without predictions
    v2: Estimate  # the mean of v2_at; with oracle thresholds this is MaxBoxAccV2
    v2_at: tuple[Estimate, ...]  # at each of IOUS_V2
    curve: tuple[Estimate, ...]  # GT-known at each IoU of CURVE, each with its own oracle threshold
    empty: int  # maps without a box, which count as misses


def tune_thresholds(scores: Scores, choice: str) -> Thresholds:
    """The best thresholds for these images; of ties the lowest."""
    every = tuple(_best_tau(scores, "every", iou) for iou in IOUS_V2)
    return Thresholds(choice, _best_tau(scores, "largest", IOU), every)


def fixed_thresholds(tau: float = 0.2) -> Thresholds:
    """One threshold for all; .2 is that of CAM (Zhou et al., 2016), for maps over their maximum."""
    return Thresholds("fixed", tau, (tau,) * len(IOUS_V2))


def accuracy(scores: Scores, contours: Contours, iou: float) -> npt.NDArray[np.float64]:
    """The proportion of images with a correct box at each of the 1,000 taus."""
    columns = np.searchsorted(scores.taus(), TAUS, side="right") - 1
    return np.asarray(scores.hits(contours, iou).mean(0)[columns])


def _best_tau(scores: Scores, contours: Contours, iou: float) -> float:
    return float(TAUS[accuracy(scores, contours, iou).argmax()])


def localization(
    scores: Scores,
    thresholds: Thresholds | None,
    correct: Flags | None = None,
    resamples: Resamples | None = None,
) -> LocalizationMetrics:
    """The metrics of one method; without thresholds those of the oracle.

    `correct` (N,) is whether each image was classified correctly. Top-1 needs that and a correct
    box, for which the map of the true class is enough. The oracle is chosen again in each resample;
    other thresholds are constants, so the intervals leave out the uncertainty of their choice.
    """
    if correct is not None and correct.shape != (len(scores),):
        raise ValueError(f"correct has shape {correct.shape}, for {len(scores)} images")
    means = _Means(scores, thresholds, resamples or Resamples(len(scores)))
    v2 = [means.at("every", iou, index) for index, iou in enumerate(IOUS_V2)]
    gt_known, both = means.with_class(correct)
    return LocalizationMetrics(
        thresholds or tune_thresholds(scores, "oracle"),
        estimate(gt_known),
        None if both is None else estimate(1 - both),
        estimate(np.mean(v2, axis=0)),
        tuple(map(estimate, v2)),
        tuple(estimate(means.at("largest", iou)) for iou in CURVE),
        int(scores.empty.sum()),
    )


@dataclass(frozen=True)
class _Means:
    """Accuracies in every resample, (R,), at fixed thresholds or at the best of each resample."""

    scores: Scores
    thresholds: Thresholds | None
    resamples: Resamples

    def at(self, contours: Contours, iou: float, index: int = 0) -> npt.NDArray[np.float64]:
        return np.asarray(self.resamples.means(self._hits(contours, iou, index)).max(1))

    def with_class(
        self, correct: Flags | None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """GT-known, and how often class and box are correct at GT-known's best thresholds."""
        hits = self._hits("largest", IOU)
        accuracies = self.resamples.means(hits)
        best = accuracies.argmax(1)[:, None]
        gt_known = np.take_along_axis(accuracies, best, 1)[:, 0]
        if correct is None:
            return gt_known, None
        both = self.resamples.means(hits & correct[:, None])
        return gt_known, np.take_along_axis(both, best, 1)[:, 0]

    def _hits(self, contours: Contours, iou: float, index: int = 0) -> Flags:
        if self.thresholds is None:
            return self.scores.hits(contours, iou)
        taus = self.thresholds
        tau = taus.largest if contours == "largest" else taus.every[index]
        return self.scores.hits_at(contours, iou, tau)[:, None]
