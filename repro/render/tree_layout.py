"""Where the parts of a drawn tree of blocks are, in inches from its top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from repro.render.page import EDGE, TINY, WIDTH, leading

ROW, WORD = 0.135, 0.15  # the heights of a value, and of the word 'undecided'
GAP = 0.2  # from the last step to the leaves' pixels, and beside the names of the steps
PATCHES = 0.95  # from one leaf's pixels to the next
NAME = 0.15  # the height of a name below them
LEGEND, NAMES = 0.09, 1.28  # from the picture to the names below it, and how wide these are
TAGS = 8  # class numbers that fit beside each other on the picture


@dataclass(frozen=True)
class Room:
    """Where on a page trees are, and how large their parts are, in inches."""

    edge: float  # the left end
    right: float
    picture: float  # its side
    slots: int  # for blocks beside each other
    fall: float  # from one step to the next
    patch: float  # the side of a leaf's pixels

    @property
    def steps(self) -> float:
        """The centre of the names of the steps."""
        return self.edge + self.picture + 0.27

    @property
    def left(self) -> float:
        """Where the tree begins."""
        return self.steps + GAP


PAGE = Room(EDGE, WIDTH - EDGE, 1.28, 16, 0.34, 0.56)
# Two beside each other, of one class each: of a step, only the four blocks it looks at are drawn.
HALVES = tuple(
    Room(left + EDGE, left + WIDTH / 2 - EDGE, 0.95, 4, 0.2, 0.46) for left in (0, WIDTH / 2)
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


def spread(wanted: Sequence[float], width: float, low: float, high: float) -> list[float]:
    """Centres of things of a width, in order, in a room, each as near as may be to where wanted.

    Least squares: isotonic regression, by pooling neighbours that would overlap, and then no
    further than the room goes.
    """
    pools: list[list[float]] = []
    for place, x in enumerate(wanted):
        pools.append([x - place * width])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = [float(np.mean(pool)) for pool in pools for _ in pool]
    last = high - width / 2 - (len(flat) - 1) * width
    return [min(max(x, low + width / 2), last) + place * width for place, x in enumerate(flat)]


class Layout:
    """The tree of k classes' ways, each from the root on, as far as it is decided.

    `title` and `legend` are the heights of what is written above and below the picture.
    """

    def __init__(
        self, room: Room, ways: Sequence[Sequence[Block]], steps: int, title: float, legend: float
    ) -> None:
        self.room, self.ways, self.steps, self.legend = room, ways, steps, legend
        self.x = {ROOT: (room.left + room.right) / 2}  # the centre of every block that is drawn
        for step in range(1, steps + 1):
            self._place(step)
        self.input = title + 0.05 * bool(title)  # the top of the picture
        self.y = [max(title - leading(8), 0)]  # the tops of the root and of each step's blocks
        for step in range(steps):
            self.y.append(self.y[-1] + self._depth(step) + room.fall)
        self.patch = self.y[-1] + self._depth(steps) + GAP  # the top of the leaves' pixels

    def _place(self, step: int) -> None:
        """The blocks of a step, all if there is room; else those alone that a class looks at."""
        room, above = self.room, self.blocks(step - 1)
        if 4**step > room.slots:
            above = [block for block in above if self.through(block)]
        slot = self.slot(step)
        middles = spread([self.x[block] for block in above], 4 * slot, room.left, room.right)
        for block, middle in zip(above, middles, strict=True):
            for place, child in enumerate(block.children()):
                self.x[child] = middle + (place - 1.5) * slot

    def slot(self, step: int) -> float:
        """The width for a block of a step."""
        return (self.room.right - self.room.left) / (4 if step == 1 else self.room.slots)

    def blocks(self, step: int) -> list[Block]:
        """Those of a step that are drawn, from left to right."""
        return [block for block in self.x if block.step == step]

    def through(self, block: Block) -> list[int]:
        """The classes whose ways lead through a block."""
        return [place for place, way in enumerate(self.ways) if block in way]

    def valued(self, block: Block) -> list[int]:
        """The classes that look at a block, whose values for it are written below each other."""
        return self.through(block.parent()) if block.step else []

    def ended(self, step: int) -> list[int]:
        """The classes that are undecided after a step."""
        short = step < self.steps
        return [place for place, way in enumerate(self.ways) if short and way[-1].step == step]

    def word(self, place: int) -> float:
        """The middle of an undecided class's word: on a line of its own, as blocks are close."""
        step = self.ways[place][-1].step
        row = self.ended(step).index(place)
        return self.y[step] + self._values(step) + (row + 0.5) * WORD + 0.02

    def bottom(self, block: Block) -> float:
        """Where the edges to a block's children begin: below its values, and below its words."""
        words = [self.word(place) for place in self.ended(block.step) if block in self.ways[place]]
        return max([self.foot(block), *words])

    def foot(self, block: Block) -> float:
        """Where the values of a block end."""
        return self.y[block.step] + ROW * max(1, len(self.valued(block)))

    @cached_property
    def leaves(self) -> dict[Block, list[int]]:
        """The leaves where ways end, from left to right, and whose ways these are."""
        return {
            block: places for block in self.blocks(self.steps) if (places := self.through(block))
        }

    @cached_property
    def patches(self) -> list[float]:
        """The centres of the leaves' pixels."""
        low, high = self.room.left - 0.15, self.room.right
        return spread([self.x[leaf] for leaf in self.leaves], PATCHES, low, high)

    @cached_property
    def tags(self) -> dict[int, tuple[int, int]]:
        """Row and column of each class's number, on a grid of TAGS by TAGS over the picture.

        In its leaf, from the top left on; where that is full, at the nearest place that is free
        and in no other leaf where a way ends.
        """
        found: dict[int, tuple[int, int]] = {}
        for leaf, places in self.leaves.items():
            for place in places:
                free = [at for at in np.ndindex(TAGS, TAGS) if at not in found.values()]
                found[place] = min(free, key=partial(self._far, leaf))
        return found

    def _far(self, leaf: Block, at: tuple[int, int]) -> tuple[bool, bool, float]:
        """How ill a place on the grid suits a leaf's number: the least is the best."""
        side = 2**self.steps
        inside = Block(self.steps, at[0] * side // TAGS, at[1] * side // TAGS)
        down, across = (a - n * TAGS // side for a, n in zip(at, leaf[1:], strict=True))
        return inside != leaf, inside in self.leaves, float(np.hypot(down, across))

    @property
    def height(self) -> float:
        tree = self.y[-1] + max(self._depth(self.steps), 2 * leading(TINY))
        if self.leaves:
            tree = self.patch + self.room.patch + 0.07
            if len(self.ways) > 1:  # else its name is below the picture, and no other
                tree += NAME * max(map(len, self.leaves.values()))
        return max(tree, self.names + self.legend)

    @property
    def names(self) -> float:
        """The top of the names below the picture; where they are wider, below the steps' names."""
        below = self.input + self.room.picture
        if self.room.picture < NAMES:
            below = max(below, self.y[-1] + 2 * leading(TINY))
        return below + LEGEND

    def _values(self, step: int) -> float:
        """The height of the values in a step's blocks."""
        return ROW * max(1, *(len(self.valued(block)) for block in self.blocks(step)), 1)

    def _depth(self, step: int) -> float:
        """The height of a step's blocks and the words below them."""
        return self._values(step) + WORD * len(self.ended(step))
