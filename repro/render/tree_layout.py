"""Where the parts of a drawn tree of blocks are, in inches from its top left."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from repro.render.page import EDGE, TINY, WIDTH, leading

INPUT = 1.28  # the side of the picture
STEPS = EDGE + INPUT + 0.27  # the centre of the names of the steps
LEFT, RIGHT = STEPS + 0.2, WIDTH - EDGE  # of the tree
SLOT = (RIGHT - LEFT) / 16  # for a block, where they are narrowest
ROW, WORD = 0.135, 0.15  # the heights of a value, and of the word 'undecided'
FALL = 0.34  # from one step to the next
PATCH, PATCHES = 0.56, 0.95  # a leaf's pixels, and from one to the next
NAME = 0.15  # the height of a name below them
LEGEND = 0.09  # from the picture to the names below it


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
        self, ways: Sequence[Sequence[Block]], steps: int, title: float, legend: float
    ) -> None:
        self.ways, self.steps, self.legend = ways, steps, legend
        self.x = {ROOT: (LEFT + RIGHT) / 2}  # the centre of every block that is drawn
        for step in range(1, steps + 1):
            self._place(step)
        self.input = title + 0.05 * bool(title)  # the top of the picture
        self.y = [max(title - leading(8), 0)]  # the tops of the root and of each step's blocks
        for step in range(steps):
            self.y.append(self.y[-1] + self._depth(step) + FALL)
        self.patch = self.y[-1] + self._depth(steps) + 0.22  # the top of the leaves' pixels

    def _place(self, step: int) -> None:
        """The blocks of a step, all of up to 16; else those alone that a class looks at."""
        above = self.blocks(step - 1)
        if 4**step > 16:
            above = [block for block in above if self.through(block)]
        slot = 4 * SLOT if step == 1 else SLOT
        middles = spread([self.x[block] for block in above], 4 * slot, LEFT, RIGHT)
        for block, middle in zip(above, middles, strict=True):
            for place, child in enumerate(block.children()):
                self.x[child] = middle + (place - 1.5) * slot

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
        return spread([self.x[leaf] for leaf in self.leaves], PATCHES, LEFT - 0.15, RIGHT)

    @property
    def height(self) -> float:
        tree = self.y[-1] + max(self._depth(self.steps), 2 * leading(TINY))
        if self.leaves:
            tree = self.patch + PATCH + 0.07 + NAME * max(map(len, self.leaves.values()))
        return max(tree, self.input + INPUT + LEGEND + self.legend)

    def _values(self, step: int) -> float:
        """The height of the values in a step's blocks."""
        return ROW * max(1, *(len(self.valued(block)) for block in self.blocks(step)), 1)

    def _depth(self, step: int) -> float:
        """The height of a step's blocks and the words below them."""
        return self._values(step) + WORD * len(self.ended(step))
