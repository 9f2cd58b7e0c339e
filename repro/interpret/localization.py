"""Weakly supervised localization: from maps to the best IoU of each image at every threshold.

The protocol is that of wsolevaluation (see `boxes`): a map is brought to 224 x 224 px, scaled to
[0, 1], cut to uint8; a threshold tau leaves the pixels above int(tau * its largest value). There
are 1,000 of them but at most 255 cuts, of which only those that change the mask are visited.
Maps are not kept; what is kept, half a kilobyte times two an image, answers every question that
`box_accuracy` asks. `score` takes plain arrays, so that processes can share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from repro.data.ground_truth import GroundTruth
from repro.interpret.boxes import SIDE, Boxes, MapBoxes, boxes_of, overlap, scaled

Maps = npt.NDArray[np.floating]  # (N, H, W)
Flags = npt.NDArray[np.bool_]

TAUS = np.arange(0, 1, 0.001)  # of a map's largest value
CUTS = 256
PARTS = 10_000  # an IoU is kept in ten-thousandths, cut off: exact at every .0001

Contours = Literal["largest", "every"]  # whose boxes count: MaxBoxAcc's, MaxBoxAccV2's
CONTOURS: tuple[Contours, ...] = ("largest", "every")


@dataclass(frozen=True)
class Scores:
    """The best IoU of every image with any of its ground-truth boxes, at every cut."""

    iou: npt.NDArray[np.uint16]  # (N, 2, 256), in 1 / PARTS, by CONTOURS and cut
    top: npt.NDArray[np.uint8]  # (N,), the largest value of each map as uint8

    def __len__(self) -> int:
        return len(self.top)

    @property
    def empty(self) -> Flags:
        """Which maps (N,) are zero everywhere: they have no box, and miss."""
        return np.asarray(self.top == 0)

    def taus(self) -> npt.NDArray[np.float64]:
        """The least tau of each set of taus that cut all of these maps alike, (C,)."""
        return TAUS[self._distinct()[1]]

    def hits(self, contours: Contours, iou: float) -> Flags:
        """Whether a box of each image reaches `iou`, (N, C), at each of `taus()`."""
        cuts, columns = self._distinct()
        enough = self.iou[:, CONTOURS.index(contours)] >= _parts(iou)
        found = np.empty((len(self), len(columns)), np.bool_)
        for top, at in cuts.items():
            images = self.top == top
            found[images] = enough[images][:, at[columns]]
        return found

    def hits_at(self, contours: Contours, iou: float, tau: float) -> Flags:
        """Whether a box of each image (N,) reaches `iou` at one tau."""
        return np.asarray(self.best_at(contours, tau) >= _parts(iou))

    def best_at(self, contours: Contours, tau: float) -> npt.NDArray[np.uint16]:
        """The best IoU of each image (N,) at one tau, in 1 / PARTS."""
        cut = cuts_of(np.array([tau]), self.top)[:, 0]
        return np.asarray(self.iou[np.arange(len(self)), CONTOURS.index(contours), cut])

    def _distinct(self) -> tuple[dict[int, npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
        """The cuts (1000,) of maps by their largest value, and the taus that make a difference."""
        tops = np.unique(self.top)
        cuts = cuts_of(TAUS, tops)
        columns = np.flatnonzero(np.diff(cuts, axis=1, prepend=-1).any(0))
        return dict(zip(tops.tolist(), cuts, strict=True)), columns


def cuts_of(taus: npt.NDArray[np.float64], tops: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """int(tau * top) of every map and tau, (N, T); the product is a float64, as in the protocol."""
    return (tops[:, None].astype(np.float64) * taus).astype(np.int64)


def _parts(iou: float) -> int:
    parts = round(iou * PARTS)
    if abs(parts - iou * PARTS) > 1e-6:
        raise ValueError(f"IoU {iou}: not a multiple of 1/{PARTS}, in which IoUs are kept")
    return parts


def targets(truth: GroundTruth, side: int = SIDE) -> list[Boxes]:
    """The boxes of every image on the square of the maps, (K, 4) each."""
    sizes = truth.sizes.repeat(np.diff(truth.first), axis=0)
    return np.split(scaled(truth.boxes, sizes, side), truth.first[1:-1])


def upsampled(
    raw: Maps, names: Sequence[str], by: Literal["range", "max"] = "range", side: int = SIDE
) -> npt.NDArray[np.float32]:
    """Maps (N, h, w) at (N, side, side), by bicubic interpolation, then from 0 to 1.

    `range`: less the least value, over what is then the largest, as wsolevaluation does. `max`:
    negative values are 0, and the rest is over the largest: the older way, with a tau of .2.
    A map without a largest value above 0 becomes zero everywhere. ValueError names the image
    whose map is not finite.
    """
    _check(raw, names)
    maps = np.empty((len(raw), side, side), np.float32)
    for at, image in enumerate(raw):
        large = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        maps[at] = large - large.min() if by == "range" else large.clip(0)
    top = maps.max((1, 2), keepdims=True)
    maps /= np.where(top > 0, top, 1)
    return maps


def score(maps: Maps, truths: Sequence[Boxes], names: Sequence[str]) -> Scores:
    """The scores of maps (N, H, W) from 0 to 1 against the boxes (K, 4) of each, in their pixels.

    A map that is zero everywhere has the box (0, 0, 0, 0) at all thresholds, as in the protocol,
    and is counted in `Scores.empty`. ValueError names the image whose map is not finite or leaves
    [0, 1], or whose boxes are none or lie outside the map.
    """
    if not len(maps) == len(truths) == len(names):
        raise ValueError(f"{len(maps)} maps, {len(truths)} lists of boxes, {len(names)} names")
    _check(maps, names)
    for image, boxes, name in zip(maps, truths, names, strict=True):
        if image.min() < 0 or image.max() > 1:
            found = f"{image.min():.4g} to {image.max():.4g}"
            raise ValueError(f"the map of {name} has values from {found}; bring them to [0, 1]")
        _check_boxes(boxes, (image.shape[1], image.shape[0]), name)
    grey = (maps.astype(np.float64) * 255).astype(np.uint8)  # fractions are cut off
    best = [_best(boxes_of(one), boxes) for one, boxes in zip(grey, truths, strict=True)]
    return Scores(np.stack(best), grey.max((1, 2)))


def score_box(box: Boxes, truths: Sequence[Boxes]) -> Scores:
    """The scores of the same box (4,) for every image, whatever the threshold: a baseline."""
    counts = [len(boxes) for boxes in truths]
    iou = _iou_parts(box[None], np.concatenate(truths))[0]
    best = np.maximum.reduceat(iou, np.cumsum([0, *counts[:-1]]))
    everywhere = np.broadcast_to(best[:, None, None], (len(truths), len(CONTOURS), CUTS))
    return Scores(everywhere, np.full(len(truths), CUTS - 1, np.uint8))


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of batches, one after another."""
    return Scores(np.concatenate([p.iou for p in parts]), np.concatenate([p.top for p in parts]))


def _iou_parts(boxes: Boxes, truths: Boxes) -> npt.NDArray[np.uint16]:
    shared, union = overlap(boxes, truths)
    return (shared * PARTS // union).astype(np.uint16)


def _best(found: MapBoxes, truths: Boxes) -> npt.NDArray[np.uint16]:
    """The best IoU (2, 256) with any true box: of the largest contour's box, of every one."""
    iou = _iou_parts(found.boxes, truths).max(1)
    largest, every = iou[found.largest], np.maximum.reduceat(iou, found.first)
    return np.stack([largest[found.step], every[found.step]])


def _check(maps: Maps, names: Sequence[str]) -> None:
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"maps must be (N, H, W) with something in them, not {maps.shape}")
    finite = np.isfinite(maps).all((1, 2))
    if not finite.all():
        raise ValueError(f"the map of {names[int(finite.argmin())]} is not finite (NaN or inf)")


def _check_boxes(boxes: Boxes, size: tuple[int, int], name: str) -> None:
    """A true box may end on the edge itself (224), as a coordinate may in an annotation."""
    low, high = boxes[:, :2], boxes[:, 2:]
    if len(boxes) == 0:
        raise ValueError(f"{name} has no ground-truth box")
    if (low < 0).any() or (low > high).any() or (high > size).any():
        found = f"{boxes.tolist()} for {size[0]} x {size[1]} px"
        raise ValueError(f"the boxes of {name} leave its map: {found}; bring them to its pixels")
