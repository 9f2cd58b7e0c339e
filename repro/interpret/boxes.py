"""Boxes of a map at every threshold, and their overlap: the protocol of wsolevaluation.

Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, 2020, and its code
(clovaai/wsolevaluation). All coordinates are on a square of `SIDE` px. A box is int
(x0, y0, x1, y1) with both corners included, as in that code's IoU. There, a predicted box ends at
x + w and y + h, one pixel too far on each axis unless the map ends there; so does ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 224  # px

Boxes = npt.NDArray[np.int64]  # (..., 4)
Grey = npt.NDArray[np.uint8]


def scale_boxes(boxes: Boxes, sizes: npt.NDArray[np.int64], side: int = SIDE) -> Boxes:
    """Boxes (B, 4) of images of `sizes` (B, 2) or (2,), width and height, on a square of `side` px.

    The aspect ratio is lost and coordinates are truncated, as in the protocol.
    """
    exact = boxes.astype(np.float64) * side / np.concatenate([sizes, sizes], axis=-1)
    return np.asarray(exact.astype(np.int64))


def whole_image(side: int = SIDE) -> Boxes:
    """The box of the whole image, (4,)."""
    return np.array([0, 0, side - 1, side - 1])


def centre_box(share: float = 0.8, side: int = SIDE) -> Boxes:
    """A centred square whose side is `share` of the image's, (4,); 23 to 201 for .8.

    Its corners are the exact ones, 22.4 and 201.6 for .8, rounded inwards.
    """
    margin = round((1 - share) / 2 * side, 6)
    first, last = math.ceil(margin), min(math.floor(side - margin), side - 1)
    return np.array([first, first, last, last])


def overlap(boxes: Boxes, targets: Boxes) -> tuple[Boxes, Boxes]:
    """Pixels in the intersection and in the union of (M, 4) with (K, 4): two int64 (M, K)."""
    a, b = boxes[:, None], targets[None]
    extent = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    shared = extent.clip(0).prod(-1)
    return shared, _area(a) + _area(b) - shared


def _area(boxes: Boxes) -> Boxes:
    return np.asarray((boxes[..., 2:] - boxes[..., :2] + 1).prod(-1))


@dataclass(frozen=True)
class MapBoxes:
    """The boxes of one uint8 map at every cut. A cut c selects the pixels greater than c.

    Cuts between two neighbouring values of the map select the same pixels: they share one *step*.
    """

    boxes: Boxes  # (M, 4), by step: one for each contour, or (0, 0, 0, 0) if there is none
    first: npt.NDArray[np.int64]  # (S,): the index in `boxes` of each step's first
    largest: npt.NDArray[np.int64]  # (S,): the index in `boxes` of the largest contour's
    step: npt.NDArray[np.int64]  # (256,): the step of each cut from 0 to 255

    def at(self, cut: int) -> Boxes:
        """All boxes at a cut, (k, 4)."""
        step = self.step[cut]
        end = self.first[step + 1] if step + 1 < len(self.first) else len(self.boxes)
        return self.boxes[self.first[step] : end]


def boxes_of(grey: Grey) -> MapBoxes:
    """The bounding boxes of all contours, outer ones and those of holes, of a uint8 (H, W) map.

    The largest contour is the one whose polygon has the largest area, of ties the first; a thin
    ring can beat a smaller full disc.
    """
    present = np.flatnonzero(np.bincount(grey.ravel(), minlength=256))
    below = [-1] if present[0] > 0 else []  # a cut below every pixel selects the whole map
    corners: list[tuple[int, int, int, int]] = []  # x, y, w, h
    first, largest = [], []
    for cut in [*below, *present[:-1].tolist()]:
        mask = cv2.threshold(grey, cut, 255, cv2.THRESH_BINARY)[1]
        # RETR_TREE, since the order of equally large contours depends on the mode.
        contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        first.append(len(corners))
        largest.append(len(corners) + _largest(contours))
        corners += [cv2.boundingRect(contour) for contour in contours]  # type: ignore[misc]
    height, width = grey.shape
    boxes = np.array([*corners, (0, 0, 0, 0)])  # no pixel is greater than the largest
    boxes[:, 2:] = np.minimum(boxes[:, :2] + boxes[:, 2:], (width - 1, height - 1))
    ends = np.array([len(corners)])
    return MapBoxes(
        boxes,
        np.append(first, ends).astype(np.int64),
        np.append(largest, ends).astype(np.int64),
        np.searchsorted(present, np.arange(256), side="right") - 1 + len(below),
    )


def _largest(contours: object) -> int:
    """The index of the contour with the largest polygon, of ties the first."""
    areas = list(map(cv2.contourArea, contours))  # type: ignore[call-overload]
    return int(areas.index(max(areas)))
