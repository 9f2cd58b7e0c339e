"""Localization in numbers: GT-known, top-1 error, MaxBoxAcc, MaxBoxAccV2, curves over the IoU.

All of them ask for one threshold per method and data set, never one per image; they differ in how
it was chosen. *oracle*: the best one on the very images that are evaluated, as MaxBoxAcc is
defined, an upper bound. Another set's, as ImageNetV2's: the best one there, applied here. *fixed*:
given beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from repro.interpret.bootstrap import Estimate, Resamples, estimate
from repro.interpret.localization import TAUS, Contours, Flags, Scores

IOU = 0.5  # of MaxBoxAcc, GT-known and top-1
IOUS_V2 = (0.3, 0.5, 0.7)
CURVE = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))


@dataclass(frozen=True)
class Thresholds:
    """The taus of a method, and how they were chosen."""

    choice: str  # 'oracle', 'fixed', or the images they were chosen on, as 'imagenetv2'
    largest: float  # for the largest contour's box at IoU .5; top-1 takes it as well
    every: tuple[float, ...]  # for every contour's box, at each of IOUS_V2


@dataclass(frozen=True)
class Localization:
    """What a method reaches with its thresholds. Shares of images, each with its interval."""

    thresholds: Thresholds
    gt_known: Estimate  # with oracle thresholds this is MaxBoxAcc
    top1_error: Estimate | None  # None where nothing was classified
    v2: Estimate  # the mean of v2_at; with oracle thresholds this is MaxBoxAccV2
    v2_at: tuple[Estimate, ...]  # at each of IOUS_V2
    curve: tuple[Estimate, ...]  # GT-known at each IoU of CURVE; the oracle chooses for each anew
    empty: int  # maps without a box, which miss


def chosen_on(scores: Scores, choice: str) -> Thresholds:
    """The best thresholds for these images, the least of equals."""
    every = tuple(_best_tau(scores, "every", iou) for iou in IOUS_V2)
    return Thresholds(choice, _best_tau(scores, "largest", IOU), every)


def fixed(tau: float = 0.2) -> Thresholds:
    """One tau for everything; .2 is that of CAM (Zhou et al., 2016), with maps over their max."""
    return Thresholds("fixed", tau, (tau,) * len(IOUS_V2))


def accuracy(scores: Scores, contours: Contours, iou: float) -> npt.NDArray[np.float64]:
    """The share of images with a right box at each of the 1,000 taus."""
    columns = np.searchsorted(scores.taus(), TAUS, side="right") - 1
    return np.asarray(scores.hits(contours, iou).mean(0)[columns])


def _best_tau(scores: Scores, contours: Contours, iou: float) -> float:
    return float(TAUS[accuracy(scores, contours, iou).argmax()])


def localization(
    scores: Scores,
    thresholds: Thresholds | None,
    classified: Flags | None = None,
    resamples: Resamples | None = None,
) -> Localization:
    """The numbers of one method; without thresholds those of the oracle.

    `classified` says for each image (N,) whether the class was right: top-1 needs both, and one map
    an image, that of its true class, is enough for it. An oracle chooses anew in each resample;
    other thresholds are taken as given, and their intervals say nothing of their choice.
    """
    if classified is not None and classified.shape != (len(scores),):
        raise ValueError(f"{classified.shape} classified of {len(scores)} images")
    means = _Means(scores, thresholds, resamples or Resamples(len(scores)))
    v2 = [means.of("every", iou, place) for place, iou in enumerate(IOUS_V2)]
    gt_known, both = means.with_class(classified)
    return Localization(
        thresholds or chosen_on(scores, "oracle"),
        estimate(gt_known),
        None if both is None else estimate(1 - both),
        estimate(np.mean(v2, axis=0)),
        tuple(map(estimate, v2)),
        tuple(estimate(means.of("largest", iou)) for iou in CURVE),
        int(scores.empty.sum()),
    )


@dataclass(frozen=True)
class _Means:
    """Accuracies in every resample, (R,), at given thresholds or at the best of each resample."""

    scores: Scores
    thresholds: Thresholds | None
    resamples: Resamples

    def of(self, contours: Contours, iou: float, place: int = 0) -> npt.NDArray[np.float64]:
        return np.asarray(self.resamples.means(self._hits(contours, iou, place)).max(1))

    def with_class(
        self, classified: Flags | None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """GT-known, and both class and box right at the thresholds that are best for GT-known."""
        hits = self._hits("largest", IOU)
        known = self.resamples.means(hits)
        best = known.argmax(1)[:, None]
        gt_known = np.take_along_axis(known, best, 1)[:, 0]
        if classified is None:
            return gt_known, None
        both = self.resamples.means(hits & classified[:, None])
        return gt_known, np.take_along_axis(both, best, 1)[:, 0]

    def _hits(self, contours: Contours, iou: float, place: int = 0) -> Flags:
        if self.thresholds is None:
            return self.scores.hits(contours, iou)
        taus = self.thresholds
        tau = taus.largest if contours == "largest" else taus.every[place]
        return self.scores.hits_at(contours, iou, tau)[:, None]
