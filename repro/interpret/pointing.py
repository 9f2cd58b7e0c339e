"""Does a map, or a path, point at the object? Scores of each image, against masks or boxes.

Every score comes with its chance level, or with flags for ties and empty maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from repro.interpret.gradcat import GradCat
from repro.interpret.taps import InterpretError

Rule = Literal["any", "most"]

TOLERANCE = 15  # px, for images of about 224 px (Zhang et al. 2018; TorchRay)


class Pointing(NamedTuple):
    """For each image (B,): the score from 0 to 1, and whether several pixels tied as largest."""

    hit: Tensor
    tied: Tensor


class Hit(NamedTuple):
    """For each image (B,): whether its block hits, and the share of all blocks that would."""

    hit: Tensor
    chance: Tensor


def box_masks(boxes: Sequence[Tensor], height: int, width: int) -> Tensor:
    """The union of each image's boxes (K, 4) as bool (B, height, width).

    A box is (x0, y0, x1, y1) in pixels and holds both corners, as in `repro.interpret.boxes`.
    """
    y, x = torch.arange(height), torch.arange(width)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, each in zip(masks, boxes, strict=True):
        x0, y0, x1, y1 = torch.as_tensor(each).reshape(-1, 4)[:, :, None].unbind(1)
        rows, columns = (y0 <= y) & (y <= y1), (x0 <= x) & (x <= x1)
        mask |= (rows[:, :, None] & columns[:, None, :]).any(0)
    return masks


def pointing_game(maps: Tensor, masks: Tensor, tolerance: float = TOLERANCE) -> Pointing:
    """Whether the largest value of maps (B, H, W) lies at most `tolerance` px from the object.

    `masks` is bool (B, H, W) or (B, 1, H, W). If values tie as largest, the score is the share of
    them that hit, so a constant map scores at chance. The published score is the mean over classes
    of the mean over a class's images. InterpretError for an empty mask, a mask of another size or
    a map that is not finite.
    """
    masks = _check_maps(maps, masks)
    best = maps == maps.amax((1, 2), keepdim=True)
    near = _dilate(masks, tolerance)
    count = best.sum((1, 2))
    return Pointing((best & near).sum((1, 2)) / count, count > 1)


def energy_pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """The share (B,) of a map's positive mass that lies on the object (Wang et al. 2020).

    NaN for a map without positive values. Chance is the object's share of the image.
    """
    masks = _check_maps(maps, masks)
    mass = maps.relu()
    return (mass * masks).sum((1, 2)) / mass.sum((1, 2))


def quadrant_hit(tree: GradCat, masks: Tensor, rule: Rule = "any") -> Hit:
    """Whether the first step of each path enters a quadrant that holds the object.

    Args:
        masks: bool (B, H, W) or (B, 1, H, W), of the image's size or any that divides into blocks.
        rule: 'any': at least one of the object's pixels; 'most': no other block has more of them.

    An undecided path hits nothing. InterpretError for an empty mask, or one that does not divide.
    """
    return _block_hit(tree, masks, 1, rule)


def leaf_hit(tree: GradCat, masks: Tensor, rule: Rule = "any") -> Hit:
    """Whether each path ends in a leaf block that holds the object; see `quadrant_hit`."""
    return _block_hit(tree, masks, tree.path.shape[1], rule)


def _block_hit(tree: GradCat, masks: Tensor, depth: int, rule: Rule) -> Hit:
    if rule not in ("any", "most"):
        raise InterpretError(f"rule is 'any' or 'most', not {rule!r}")
    masks = _check_masks(masks).to(tree.path.device)
    side, (b, height, width) = 2**depth, masks.shape
    if b != len(tree.path) or height % side or width % side:
        raise InterpretError(
            f"masks {tuple(masks.shape)}, {len(tree.path)} trees of {side}² blocks"
        )
    pixels = masks.reshape(b, side, height // side, side, width // side).sum((2, 4)).flatten(1)
    good = pixels > 0 if rule == "any" else pixels == pixels.amax(1, keepdim=True)
    row, column = tree.block(depth).unbind(1)
    number = (row * side + column).clamp(min=0)
    return Hit(good.gather(1, number[:, None])[:, 0] & (row >= 0), good.float().mean(1))


def _dilate(masks: Tensor, tolerance: float) -> Tensor:
    """The pixels whose centres lie at most `tolerance` px from the mask."""
    far = [
        cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > tolerance
        for mask in masks.cpu().numpy().astype(np.uint8)
    ]
    return torch.from_numpy(~np.stack(far)).to(masks.device)


def _check_masks(masks: Tensor) -> Tensor:
    """Masks as (B, H, W); InterpretError if one is empty."""
    flat = masks[:, 0] if masks.ndim == 4 and masks.shape[1] == 1 else masks
    if flat.ndim != 3 or flat.dtype != torch.bool:
        raise InterpretError(f"masks must be bool (B, H, W), not {masks.dtype} {masks.shape}")
    empty = ~flat.flatten(1).any(1)
    if empty.any():
        raise InterpretError(f"the mask of image {int(empty.int().argmax())} is empty")
    return flat


def _check_maps(maps: Tensor, masks: Tensor) -> Tensor:
    masks = _check_masks(masks).to(maps.device)
    if masks.shape != maps.shape:
        raise InterpretError(f"maps are {tuple(maps.shape)}, masks {tuple(masks.shape)}: resize")
    finite = maps.flatten(1).isfinite().all(1)
    if not finite.all():
        raise InterpretError(f"the map of image {int(finite.int().argmin())} is not finite")
    return masks
