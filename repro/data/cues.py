"""Synthetic images whose class is defined by a known cue: a local pattern, or a shape.

An object is five cells of 4 px, one of the eight pentominoes that fit into 3 x 3 cells, filled with
a chequered pattern of two colours, one of eight. Outline and pattern are independent, so the same
images give two tasks: with a *local* cue the class is the pattern, visible in any 3 x 3 px of an
object; with a *shape* cue it is the outline, which a single cell does not reveal. Backgrounds are
*plain*, one colour with faint noise, or *textured*.

As in `composed`, there are `singles` for training and `fours` with exact masks, and an image is a
function of task, split, seed and index: integer arithmetic, the same bytes on any machine.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from repro.data.catalogue import DATASETS, SYNTHETIC
from repro.data.composed import DARKEST, LIGHTEST, Fours, textures
from repro.data.images import RGB, Images, OfficialSplit, make_images
from repro.data.randomness import bits, derive_seed, sample_keys, uniform

Cue = Literal["local", "shape"]
Background = Literal["plain", "textured"]
ImageKind = Literal["singles", "fours"]

NAMES: dict[str, tuple[Cue, Background]] = {
    f"cues-{cue}-{background}": (cue, background)
    for cue in get_args(Cue)
    for background in get_args(Background)
}
_SIZE = DATASETS[SYNTHETIC[0]]
COUNTS: dict[OfficialSplit, int] = {"train": _SIZE.train_images, "test": _SIZE.test_images}
MEANS: dict[Background, RGB] = {  # of the train singles
    "plain": (0.2198, 0.2177, 0.2131),
    "textured": (0.2176, 0.2205, 0.2137),
}
STDS: dict[Background, RGB] = {
    "plain": (0.1673, 0.1569, 0.1563),
    "textured": (0.1695, 0.1582, 0.1588),
}

SIDE, CELL, CHECK = 32, 4, 2  # px: an image, a cell of an outline, a square of a pattern
MARGIN = 1  # px, minimum around every object in its window, the image or a quadrant
NOISE = 4  # levels, maximum deviation of a plain background from its colour
_CHUNK = 512  # images rendered at once; does not affect the result

OUTLINES: dict[str, tuple[str, ...]] = {  # rows of cells, by the letter that each resembles
    "F": (".##", "##.", ".#."),
    "P": ("##", "##", "#."),
    "T": ("###", ".#.", ".#."),
    "U": ("#.#", "###"),
    "V": ("#..", "#..", "###"),
    "W": ("#..", "##.", ".##"),
    "X": (".#.", "###", ".#."),
    "Z": ("##.", ".#.", ".##"),
}
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 90, 250),
    "yellow": (240, 220, 50),
    "white": (235, 235, 235),
}
PATTERNS = (  # none is determined by a single colour
    ("red", "green"),
    ("red", "blue"),
    ("red", "yellow"),
    ("green", "blue"),
    ("green", "white"),
    ("blue", "white"),
    ("blue", "yellow"),
    ("yellow", "white"),
)
CLASSES: dict[Cue, tuple[str, ...]] = {
    "local": tuple(f"{one} and {other}" for one, other in PATTERNS),
    "shape": tuple(OUTLINES),
}


class CueStream(IntEnum):
    """The random streams of an image's key, in addition to those of `textures`."""

    BACKGROUND = 101
    NOISE = 102
    OUTLINES = 103  # a permutation, of which the first one or four are used
    PATTERNS = 104
    PLACES = 105  # top, left of each object


def singles(name: str, split: OfficialSplit) -> Images:
    """Images of one object each, at least 1 px from the border: (N, 3, 32, 32).

    `name` is one of NAMES; both cues have the same images. For 'fit' and 'validation' see
    `datasets.load`.
    """
    cue, background = NAMES[name]
    pixels = _singles(background, split).pixels
    labels = labels_of(name, split).numpy().copy()
    mean, std = MEANS[background], STDS[background]
    return make_images(pixels.numpy().copy(), labels, CLASSES[cue], mean, std)


def labels_of(name: str, split: OfficialSplit) -> Tensor:
    """The labels of `singles`, int64 (N,)."""
    keys = image_keys("singles", split, 0, torch.arange(COUNTS[split]))
    return _permutation_heads(keys, _class_stream(name), 1)[:, 0]


def boxes(name: str, split: OfficialSplit) -> Tensor:
    """The box of each object of `singles`, int64 (N, 4): x0, y0, x1, y1, inclusive."""
    return _singles(NAMES[name][1], split).boxes[:, 0]


def fours(name: str, split: OfficialSplit, count: int, seed: int = 0, *, first: int = 0) -> Fours:
    """The images `first` to `first + count - 1` of a seed: an object in each quadrant.

    The four patterns differ, and so do the four outlines; each object is at least 1 px from the
    border of its quadrant. ValueError for a count below 1.
    """
    if count < 1 or first < 0:
        raise ValueError(f"cues: {count} images from number {first} on")
    keys = image_keys("fours", split, seed, torch.arange(first, first + count))

    images = _render(keys, NAMES[name][1], 4)
    return images._replace(labels=_permutation_heads(keys, _class_stream(name), 4))


def image_keys(kind: ImageKind, split: OfficialSplit, seed: int, index: Tensor) -> Tensor:
    """The keys (B,) of the images `index` (B,), from which all of their randomness derives."""
    numbers = get_args(ImageKind).index(kind), get_args(OfficialSplit).index(split)
    return sample_keys(derive_seed(seed, *numbers), 1, index)  # 1: `composed` has 0


def pattern(number: int) -> Tensor:
    """The pattern `number` over a whole window, uint8 (3, 12, 12)."""
    colours = torch.tensor([COLOURS[name] for name in PATTERNS[number]])
    square = torch.arange(3 * CELL) // CHECK
    checks = (square[:, None] + square) % 2
    return colours[checks].permute(2, 0, 1).to(torch.uint8)


def outline(letter: str) -> Tensor:
    """The pixels of an outline, bool (12, 12), at its top left."""
    cells = torch.zeros(3, 3, dtype=torch.bool)
    for y, row in enumerate(OUTLINES[letter]):
        for x, cell in enumerate(row):
            cells[y, x] = cell == "#"
    return cells.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)


@cache
def _singles(background: Background, split: OfficialSplit) -> Fours:
    """All singles; cached, do not write to them."""
    keys = image_keys("singles", split, 0, torch.arange(COUNTS[split]))
    parts = [_render(part, background, 1) for part in keys.split(_CHUNK)]
    return Fours(*map(torch.cat, zip(*parts, strict=True)))


def _render(keys: Tensor, background: Background, objects: Literal[1, 4]) -> Fours:
    """Render images with keys (B,), with one object each or one in every quadrant.

    The labels are outlines.
    """
    outlines, patterns = (
        _permutation_heads(keys, s, objects) for s in (CueStream.OUTLINES, CueStream.PATTERNS)
    )
    solid = torch.stack([outline(letter) for letter in OUTLINES])
    filled = torch.stack([pattern(number) for number in range(len(PATTERNS))])
    tops, lefts = _positions(keys, solid[outlines], objects)
    pixels = _backgrounds(keys, background)
    masks = torch.zeros(len(keys), objects, SIDE, SIDE, dtype=torch.bool)
    rows, columns = (torch.arange(SIDE) - start[..., None] for start in (tops, lefts))
    images = torch.arange(len(keys))[:, None, None]
    for i in range(objects):
        y, x = rows[:, i, :, None], columns[:, i, None, :]
        within = (y >= 0) & (y < 3 * CELL) & (x >= 0) & (x < 3 * CELL)
        y, x = y.clamp(0, 3 * CELL - 1), x.clamp(0, 3 * CELL - 1)
        masks[:, i] = within & solid[outlines[:, i]][images, y, x]
        colours = filled[patterns[:, i]].permute(0, 2, 3, 1)[images, y, x].permute(0, 3, 1, 2)
        pixels = torch.where(masks[:, i, None], colours, pixels)
    return Fours(pixels, outlines, _boxes(masks), masks)


def _positions(keys: Tensor, solid: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """Random top and left (B, K) of outlines (B, K, 12, 12) within their windows."""
    window = SIDE if objects == 1 else SIDE // 2
    draws = uniform(keys, CueStream.PLACES, 2 * objects).double().view(-1, objects, 2)
    quadrant = torch.arange(objects)
    starts = []
    for axis, first in enumerate((quadrant // 2, quadrant % 2)):
        extent = solid.any(3 - axis).sum(2)  # outlines have no gaps
        room = window - 2 * MARGIN - extent + 1
        starts.append(first * window + MARGIN + (draws[..., axis] * room).long())
    return starts[0], starts[1]


def _backgrounds(keys: Tensor, background: Background) -> Tensor:
    """uint8 (B, 3, 32, 32)."""
    if background == "textured":
        return textures(keys, SIDE)
    span = LIGHTEST - DARKEST + 1
    colour = DARKEST + (uniform(keys, CueStream.BACKGROUND, 3).double() * span).long()
    noise = uniform(keys, CueStream.NOISE, 3 * SIDE**2).double() * (2 * NOISE + 1)
    levels = colour[:, :, None, None] + noise.long().view(-1, 3, SIDE, SIDE) - NOISE
    return levels.to(torch.uint8)


def _boxes(masks: Tensor) -> Tensor:
    """Tight boxes (B, K, 4) of masks (B, K, S, S), as in `Fours`."""
    ends = []
    for axis in (2, 3):  # across, down
        line = masks.any(axis).int()
        ends.append((line.argmax(2), masks.shape[-1] - 1 - line.flip(2).argmax(2)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], dim=2)


def _permutation_heads(keys: Tensor, stream: CueStream, count: int) -> Tensor:
    """The first `count` of a random permutation of 8, int64 (B, count)."""
    return bits(keys[:, None], stream, torch.arange(8)).argsort(stable=True, dim=1)[:, :count]


def _class_stream(name: str) -> CueStream:
    """The random stream that determines the class."""
    return CueStream.PATTERNS if NAMES[name][0] == "local" else CueStream.OUTLINES
