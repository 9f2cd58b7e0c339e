"""Weakly supervised localization: from maps to the best IoU of each image at every threshold.

The protocol is that of wsolevaluation (see `boxes`): a map is resized to 224 x 224 px, scaled to
[0, 1] and truncated to uint8; a threshold tau selects the pixels above int(tau * maximum). There
are 1,000 taus but at most 255 such cuts, and only those that change the mask are evaluated.
Maps are not stored: the IoUs, 1 kB an image, suffice for everything in `box_accuracy`. `score`
takes plain arrays, so that processes can share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from repro.core.iou import IOU_UNITS
from repro.data.imagenet.ground_truth import GroundTruth
from repro.interpret.boxes import SIDE, Boxes, MapBoxes, boxes_of, overlap, scale_boxes

Maps = npt.NDArray[np.floating]  # (N, H, W)
Flags = npt.NDArray[np.bool_]

TAUS = np.arange(0, 1, 0.001)  # of a map's largest value
CUTS = 256

Scaling = Literal["range", "max"]  # of a map, before it is thresholded
Contours = Literal["largest", "every"]  # whose boxes count: MaxBoxAcc's, MaxBoxAccV2's
CONTOURS: tuple[Contours, ...] = ("largest", "every")


@dataclass(frozen=True)
class Scores:
    """The best IoU of every image with any of its ground-truth boxes, at every cut."""

    iou: npt.NDArray[np.uint16]  # (N, 2, 256), in 1 / IOU_UNITS, by CONTOURS and cut
    top: npt.NDArray[np.uint8]  # (N,), the largest value of each map as uint8

    def __len__(self) -> int:
        return len(self.top)

    @property
    def empty(self) -> Flags:
        """Which maps (N,) are zero everywhere: without a box, they count as misses."""
        return np.asarray(self.top == 0)

    def taus(self) -> npt.NDArray[np.float64]:
        """The lowest tau of each set of taus that cut all of these maps alike, (C,)."""
        return TAUS[self._distinct()[1]]

    def hits(self, contours: Contours, iou: float) -> Flags:
        """Whether a box of each image reaches `iou`, (N, C), at each of `taus()`."""
        cuts, columns = self._distinct()
        enough = self.iou[:, CONTOURS.index(contours)] >= _iou_units(iou)
        hits = np.empty((len(self), len(columns)), np.bool_)
        for top, cuts_of_top in cuts.items():
            images = self.top == top
            hits[images] = enough[images][:, cuts_of_top[columns]]
        return hits

    def hits_at(self, contours: Contours, iou: float, tau: float) -> Flags:
        """Whether a box of each image (N,) reaches `iou` at one tau."""
        return np.asarray(self.best_at(contours, tau) >= _iou_units(iou))

    def best_at(self, contours: Contours, tau: float) -> npt.NDArray[np.uint16]:
        """The best IoU of each image (N,) at one tau, in 1 / IOU_UNITS."""
        cut = cuts_of(np.array([tau]), self.top)[:, 0]
        return np.asarray(self.iou[np.arange(len(self)), CONTOURS.index(contours), cut])

    def _distinct(self) -> tuple[dict[int, npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
        """The cuts (1000,) of maps by their largest value, and the indices of distinct taus."""
        tops = np.unique(self.top)
        cuts = cuts_of(TAUS, tops)
        columns = np.flatnonzero(np.diff(cuts, axis=1, prepend=-1).any(0))
        return dict(zip(tops.tolist(), cuts, strict=True)), columns


def cuts_of(taus: npt.NDArray[np.float64], tops: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """int(tau * top) of every map and tau, (N, T); the product is a float64, as in the protocol."""
    return (tops[:, None].astype(np.float64) * taus).astype(np.int64)


def _iou_units(iou: float) -> int:
    units = round(iou * IOU_UNITS)
    if abs(units - iou * IOU_UNITS) > 1e-6:
        raise ValueError(f"IoU {iou}: not a multiple of 1/{IOU_UNITS}")

    return units


def targets(truth: GroundTruth, side: int = SIDE) -> list[Boxes]:
    """The ground-truth boxes of every image in pixels of its square map, (K, 4) each."""
    sizes = truth.sizes.repeat(np.diff(truth.first), axis=0)
    return np.split(scale_boxes(truth.boxes, sizes, side), truth.first[1:-1])


def upsample(
    raw: Maps, names: Sequence[str], by: Scaling = "range", side: int = SIDE
) -> npt.NDArray[np.float32]:
    """Maps (N, h, w) resized to (N, side, side) by bicubic interpolation and scaled to [0, 1].

    `range`: min-max scaling, as in wsolevaluation. `max`: negative values become 0, and the rest is
    divided by the maximum, as older work does with a tau of .2. A map without values above 0
    becomes zero everywhere. ValueError names the image whose map is not finite.
    """
    _check(raw, names)
    maps = np.empty((len(raw), side, side), np.float32)
    for index, image in enumerate(raw):
        large = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        maps[index] = large - large.min() if by == "range" else large.clip(0)
    top = maps.max((1, 2), keepdims=True)
    maps /= np.where(top > 0, top, 1)
    return maps


def score(maps: Maps, truths: Sequence[Boxes], names: Sequence[str]) -> Scores:
    """The scores of maps (N, H, W) from 0 to 1 against the boxes (K, 4) of each, in their pixels.

    A map that is zero everywhere has the box (0, 0, 0, 0) at all thresholds, as in the protocol,
    and is counted in `Scores.empty`. ValueError names the image whose map is not finite or leaves
    [0, 1], or that has no boxes or boxes outside the map.
    """
    if not len(maps) == len(truths) == len(names):
        raise ValueError(f"{len(maps)} maps, {len(truths)} lists of boxes, {len(names)} names")
    _check(maps, names)
    for image, boxes, name in zip(maps, truths, names, strict=True):
        if image.min() < 0 or image.max() > 1:
            span = f"{image.min():.4g} to {image.max():.4g}"
            raise ValueError(f"the map of {name} has values from {span}; scale them to [0, 1]")
        _check_boxes(boxes, (image.shape[1], image.shape[0]), name)
    grey = (maps.astype(np.float64) * 255).astype(np.uint8)  # truncates
    best = [_best(boxes_of(one), boxes) for one, boxes in zip(grey, truths, strict=True)]
    return Scores(np.stack(best), grey.max((1, 2)))


def score_box(box: Boxes, truths: Sequence[Boxes]) -> Scores:
    """The scores of the same box (4,) for every image, whatever the threshold: a baseline."""
    counts = [len(boxes) for boxes in truths]
    iou = _pairwise_iou_units(box[None], np.concatenate(truths))[0]
    best = np.maximum.reduceat(iou, np.cumsum([0, *counts[:-1]]))
    everywhere = np.broadcast_to(best[:, None, None], (len(truths), len(CONTOURS), CUTS))
    return Scores(everywhere, np.full(len(truths), CUTS - 1, np.uint8))


def concatenate(parts: Sequence[Scores]) -> Scores:
    """The scores of batches, one after another."""
    return Scores(np.concatenate([p.iou for p in parts]), np.concatenate([p.top for p in parts]))


def _pairwise_iou_units(boxes: Boxes, truths: Boxes) -> npt.NDArray[np.uint16]:
    shared, union = overlap(boxes, truths)
    return (shared * IOU_UNITS // union).astype(np.uint16)


def _best(predicted: MapBoxes, truths: Boxes) -> npt.NDArray[np.uint16]:
    """The best IoU (2, 256) with any true box: of the largest contour's box, of all boxes."""
    iou = _pairwise_iou_units(predicted.boxes, truths).max(1)
    largest, every = iou[predicted.largest], np.maximum.reduceat(iou, predicted.first)
    return np.stack([largest[predicted.step], every[predicted.step]])


def _check(maps: Maps, names: Sequence[str]) -> None:
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps must be (N, H, W) and not empty, not {maps.shape}")
    finite = np.isfinite(maps).all((1, 2))
    if not finite.all():
        raise ValueError(f"the map of {names[int(finite.argmin())]} is not finite (NaN or inf)")


def _check_boxes(boxes: Boxes, size: tuple[int, int], name: str) -> None:
    """A true box may end on the edge (224), as coordinates in annotations may."""
    low, high = boxes[:, :2], boxes[:, 2:]
    if len(boxes) == 0:
        raise ValueError(f"{name} has no ground-truth box")
    if (low < 0).any() or (low > high).any() or (high > size).any():
        sizes = f"{boxes.tolist()} for {size[0]} x {size[1]} px"
        raise ValueError(f"boxes of {name} lie outside its map: {sizes}; scale them to its pixels")
