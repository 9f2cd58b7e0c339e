"""The layout of a tree of blocks, in inches from its top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from repro.render.page import EDGE, TINY, WIDTH, line_height

ROW, WORD = 0.135, 0.15  # heights of a value and of the word 'undecided'
GAP = 0.2  # between the last step and the leaves' pixels, and beside the names of the steps
PATCHES = 0.95  # distance between the pixels of two leaves
TAG = 0.15  # height of the numbers of classes below them
LEGEND, NAMES = 0.09, 1.28  # the gap between the picture and its names, and their width
TAGS = 8  # class numbers that fit side by side on the picture


@dataclass(frozen=True)
class Area:
    """The area of a tree on a page, and the sizes of its parts, in inches."""

    edge: float  # left
    right: float
    picture: float  # side
    slots: int  # blocks that fit side by side
    fall: float  # between one step and the next
    patch: float  # side of a leaf's pixels

    @property
    def steps(self) -> float:
        """The x of the centre of the steps' names."""
        return self.edge + self.picture + 0.27

    @property
    def left(self) -> float:
        """The left end of the tree."""
        return self.steps + GAP


PAGE = Area(EDGE, WIDTH - EDGE, 1.28, 16, 0.34, 0.56)
# Two trees side by side, of one class each: only its four candidate blocks of a step are drawn.
HALVES = tuple(
    Area(left + EDGE, left + WIDTH / 2 - EDGE, 0.95, 4, 0.2, 0.46) for left in (0, WIDTH / 2)
)


class Block(NamedTuple):
    """A node of the tree: a block of the grid of 2^step by 2^step."""

    step: int
    row: int
    column: int

    def parent(self) -> Block:
        return Block(self.step - 1, self.row // 2, self.column // 2)

    def children(self) -> list[Block]:
        """TL, TR, BL, BR."""
        rows, columns = (2 * self.row, 2 * self.row + 1), (2 * self.column, 2 * self.column + 1)
        return [Block(self.step + 1, row, column) for row in rows for column in columns]


ROOT = Block(0, 0, 0)


def place_apart(targets: Sequence[float], width: float, low: float, high: float) -> list[float]:
    """Centres of items of a width, in order, between `low` and `high`, near their targets.

    Least squares: isotonic regression, by pooling neighbours that would overlap, then clipped to
    the limits.
    """
    pools: list[list[float]] = []
    for place, x in enumerate(targets):
        pools.append([x - place * width])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = [float(np.mean(pool)) for pool in pools for _ in pool]
    last = high - width / 2 - (len(flat) - 1) * width
    return [min(max(x, low + width / 2), last) + place * width for place, x in enumerate(flat)]


class Layout:
    """The layout of a tree with the paths of k classes.

    paths: the blocks of each class, from the root. title, legend: the heights of the texts above
    and below the picture.
    """

    def __init__(
        self, area: Area, paths: Sequence[Sequence[Block]], steps: int, title: float, legend: float
    ) -> None:
        self.area, self.paths, self.steps, self.legend = area, paths, steps, legend
        self.x = {ROOT: (area.left + area.right) / 2}  # the centre of every block that is drawn
        for step in range(1, steps + 1):
            self._place_step(step)
        self.input = title + 0.05 * bool(title)  # the top of the picture
        self.y = [max(title - line_height(8), 0)]  # the tops of the root and of each step's blocks
        for step in range(steps):
            self.y.append(self.y[-1] + self._step_height(step) + area.fall)
        self.patch = self.y[-1] + self._step_height(steps) + GAP  # the top of the leaves' pixels

    def _place_step(self, step: int) -> None:
        """Place the blocks of a step; if not all fit, only the candidates of some class."""
        area, above = self.area, self.blocks(step - 1)
        if 4**step > area.slots:
            above = [block for block in above if self.classes_through(block)]
        slot = self.slot(step)
        middles = place_apart([self.x[block] for block in above], 4 * slot, area.left, area.right)
        for block, middle in zip(above, middles, strict=True):
            for place, child in enumerate(block.children()):
                self.x[child] = middle + (place - 1.5) * slot

    def slot(self, step: int) -> float:
        """The width that a block of a step may take."""
        return (self.area.right - self.area.left) / (4 if step == 1 else self.area.slots)

    def blocks(self, step: int) -> list[Block]:
        """The drawn blocks of a step, from left to right."""
        return [block for block in self.x if block.step == step]

    def classes_through(self, block: Block) -> list[int]:
        """The classes whose paths contain a block."""
        return [place for place, path in enumerate(self.paths) if block in path]

    def valued_classes(self, block: Block) -> list[int]:
        """The classes whose values a block shows, one below the other."""
        return self.classes_through(block.parent()) if block.step else []

    def undecided_classes(self, step: int) -> list[int]:
        """The classes whose paths end at a step before the leaves."""
        short = step < self.steps
        return [place for place, path in enumerate(self.paths) if short and path[-1].step == step]

    def word_y(self, place: int) -> float:
        """The middle of an undecided class's word, each on a line of its own."""
        step = self.paths[place][-1].step
        row = self.undecided_classes(step).index(place)
        return self.y[step] + self._values_height(step) + (row + 0.5) * WORD + 0.02

    def bottom(self, block: Block) -> float:
        """The y where the edges to a block's children begin: below its values and words."""
        words = [
            self.word_y(place)
            for place in self.undecided_classes(block.step)
            if block in self.paths[place]
        ]
        return max([self.foot(block), *words])

    def foot(self, block: Block) -> float:
        """The y below the values of a block."""
        return self.y[block.step] + ROW * max(1, len(self.valued_classes(block)))

    @cached_property
    def leaves(self) -> dict[Block, list[int]]:
        """The leaves where paths end, from left to right, with the classes of these paths."""
        return {
            block: places
            for block in self.blocks(self.steps)
            if (places := self.classes_through(block))
        }

    @cached_property
    def patches(self) -> list[float]:
        """The x of the centres of the leaves' pixels."""
        low, high = self.area.left - 0.15, self.area.right
        return place_apart([self.x[leaf] for leaf in self.leaves], PATCHES, low, high)

    @cached_property
    def tags(self) -> dict[int, tuple[int, int]]:
        """Row and column of each class's number, on a grid of TAGS by TAGS over the picture.

        In its leaf, from the top left on; if that is full, at the nearest free place outside the
        other leaves where a path ends.
        """
        tags: dict[int, tuple[int, int]] = {}
        for leaf, places in self.leaves.items():
            for place in places:
                free = [at for at in np.ndindex(TAGS, TAGS) if at not in tags.values()]
                tags[place] = min(free, key=partial(self._tag_cost, leaf))
        return tags

    def _tag_cost(self, leaf: Block, at: tuple[int, int]) -> tuple[bool, bool, float]:
        """The cost of a place on the grid for a leaf's number."""
        side = 2**self.steps
        inside = Block(self.steps, at[0] * side // TAGS, at[1] * side // TAGS)
        down, across = (a - n * TAGS // side for a, n in zip(at, leaf[1:], strict=True))
        return inside != leaf, inside in self.leaves, float(np.hypot(down, across))

    @property
    def height(self) -> float:
        tree = self.y[-1] + max(self._step_height(self.steps), 2 * line_height(TINY))
        if self.leaves:
            tree = self.patch + self.area.patch + 0.07
            tree += TAG * (len(self.paths) > 1)
        return max(tree, self.names + self.legend)

    @property
    def names(self) -> float:
        """The top of the names below the picture; if these are wider, below the steps' names."""
        below = self.input + self.area.picture
        if self.area.picture < NAMES:
            below = max(below, self.y[-1] + 2 * line_height(TINY))
        return below + LEGEND

    def _values_height(self, step: int) -> float:
        """The height of the values in a step's blocks."""
        return ROW * max(1, *(len(self.valued_classes(block)) for block in self.blocks(step)), 1)

    def _step_height(self, step: int) -> float:
        """The height of a step's blocks and the words below them."""
        return self._values_height(step) + WORD * len(self.undecided_classes(step))
