"""Scoring an attribution map by boxes at 1,000 thresholds: ours, and a plain sweep.

The maps are 14 x 14 noise, bicubically upsampled to 224 x 224 and min-max scaled, each with one to
three boxes; noise has more contours than a network's maps. The sweep takes one threshold after
another, with every contour's box, as wsolevaluation's evaluator does; ours also computes the
largest contour's in the same pass. Both must agree on every IoU.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import torch

from repro.bench import BenchError, BenchOptions
from repro.bench.measure import interleave, seconds
from repro.bench.record import Comparison
from repro.core.iou import IOU_UNITS
from repro.interpret.box_iou import TAUS, Maps, Scores, cuts_of, score, upsample
from repro.interpret.boxes import Boxes

MAPS = 10  # per round
CPU = torch.device("cpu")


def reference(image: Maps, truths: Boxes) -> npt.NDArray[np.float64]:
    """The best IoU (1000,) of a map at each threshold, over all contours and true boxes."""
    side = len(image)
    grey = (image * 255).astype(np.uint8)
    box_arrays, counts = [], []
    for tau in TAUS:
        mask = cv2.threshold(grey, int(tau * np.max(grey)), 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        boxes = [[0, 0, 0, 0]] if len(contours) == 0 else []
        for contour in contours:
            x, y, width, height = cv2.boundingRect(contour)
            boxes.append([x, y, min(x + width, side - 1), min(y + height, side - 1)])
        box_arrays.append(np.asarray(boxes))
        counts.append(len(boxes))
    a, b = np.concatenate(box_arrays)[:, None].astype(np.float64), truths[None].astype(np.float64)
    across = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1
    down = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1
    shared = np.maximum(0, across) * np.maximum(0, down)
    of_a, of_b = ((c[..., 2] - c[..., 0] + 1) * (c[..., 3] - c[..., 1] + 1) for c in (a, b))
    best = (shared / (of_a + of_b - shared)).max(1)
    return np.array([part.max() for part in np.split(best, np.cumsum(counts)[:-1])])


def agree(ours: Scores, references: list[npt.NDArray[np.float64]]) -> bool:
    """Whether all IoUs are equal at ours' resolution, ten-thousandths."""
    cuts = cuts_of(TAUS, ours.top)
    mine = np.take_along_axis(ours.iou[:, 1].astype(np.int64), cuts, 1)
    theirs = np.floor(np.stack(references) * IOU_UNITS + 1e-6).astype(np.int64)
    return bool((mine == theirs).all())


def measure(options: BenchOptions) -> Iterator[Comparison]:
    cv2.setNumThreads(1)
    generator = np.random.default_rng(0)
    names = [f"noise {number}" for number in range(MAPS)]
    maps = upsample(generator.normal(size=(MAPS, 14, 14)).astype(np.float32), names)
    boxes = [_boxes(generator) for _ in names]
    plain = maps.astype(np.float64)

    def ours() -> Scores:
        return score(maps, boxes, names)

    def theirs() -> list[npt.NDArray[np.float64]]:
        return [reference(image, truths) for image, truths in zip(plain, boxes, strict=True)]

    if not agree(ours(), theirs()):
        raise BenchError("our IoUs are not those of the sweep")
    timers = {
        "ours": lambda: 1e3 * seconds(ours, CPU) / MAPS,
        "theirs": lambda: 1e3 * seconds(theirs, CPU) / MAPS,
    }
    times = interleave(timers, options.rounds)
    yield Comparison(
        name="maps of 224 x 224 px",
        unit="ms a map",
        ours=times["ours"],
        peer="1,000 thresholds one by one",
        theirs=times["theirs"],
    )


def _boxes(generator: np.random.Generator) -> Boxes:
    """One to three boxes (N, 4), corners inclusive."""
    count = int(generator.integers(1, 4))
    first = generator.integers(0, 150, (count, 2))
    last = first + generator.integers(20, 74, (count, 2))
    return np.concatenate([first, last], axis=1).astype(np.int64)
