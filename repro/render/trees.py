"""Trees of blocks, and the ways that classes take down them: the paper's Figures 2 and 3 (left).

A row a picture. At every step the four blocks between which a class decides carry their values for
it; the one it enters is filled with its colour. A class also has a number, and its own lane on
every edge, so that none is told by its colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from repro.render import page
from repro.render import tree_layout as at
from repro.render.page import DARK, EDGE, FAINT, GREY, POINT, TINY, Spot, label
from repro.render.plots import COLOURS
from repro.render.text import rounded
from repro.render.tree_layout import ROOT, Block, Layout

MOST = 4  # classes of a tree

_CELL, _WIDE = 0.94, 0.5  # the width of a value: a share of its slot, and at most so many inches
_LANE = 2.4 * POINT  # from a class's line to the next one's
_LINE, _SMALLER = 1.8, 6.5  # points, of a line and of the values that are closest
_MANY = 4  # more trees than that, of one class each, are drawn in two columns
_BETWEEN = 0.22  # inches, from one tree to the next
_ROOT = 0.86  # the width of the root
_TAG = 0.114  # the side of a class's number


@dataclass(frozen=True)
class Tree:
    """A picture, and the ways that k classes take down its blocks, in L steps."""

    pixels: NDArray[np.uint8]  # (S, S, 3)
    shows: tuple[str, ...]  # what is in the picture, as it is labelled; () if that is not known
    classes: tuple[str, ...]  # k, from 1 to 4, the most probable first
    probabilities: tuple[float, ...]  # k
    paths: NDArray[np.int64]  # (k, L): child 0..3 (TL, TR, BL, BR) from the root down; -1: none
    nodes: tuple[NDArray[np.float32], ...]  # L grids (k, 2, 2), (k, 4, 4), ...: all values

    def way(self, place: int) -> list[Block]:
        """The blocks a class enters, from the root on, as far as that is decided."""
        blocks = [ROOT]
        for child in self.paths[place].tolist():
            if child < 0:
                break
            blocks.append(blocks[-1].children()[child])
        return blocks


def drawn(trees: Sequence[Tree], title: str, note: str) -> Figure:
    """The trees below each other, for `page.svg` and `page.png`; without any, title and note.

    ValueError for a tree whose parts do not fit together.
    """
    for number, tree in enumerate(trees, start=1):
        if wrong := _wrong(tree):
            raise ValueError(f"tree {number} of {len(trees)}: {wrong}")
    halves = len(trees) > _MANY and all(len(tree.classes) == 1 for tree in trees)
    rooms = at.HALVES if halves else (at.PAGE,)
    with page.styled():
        rows = [
            [_Drawing(tree, room) for tree, room in zip(trees[i:], rooms, strict=False)]
            for i in range(0, len(trees), len(rooms))
        ]
        heights = [max(one.layout.height for one in row) for row in rows]
        figure, axes = page.sheet(title, note, sum(heights) + _BETWEEN * (len(rows) - 0.5))
        top = 0.0
        for row, height in zip(rows, heights, strict=True):
            if top:
                y = top - _BETWEEN / 2
                axes.plot([EDGE, at.PAGE.right], [y, y], color="#dddddd", linewidth=0.6)
            for one in row:
                one.draw(axes, top)
            top += height + _BETWEEN
    return figure


def _wrong(tree: Tree) -> str:
    """What does not fit; '' if all does."""
    k, steps, side = len(tree.classes), len(tree.nodes), len(tree.pixels)
    if not 1 <= k <= MOST:
        return f"{k} classes; there are colours for 1 to {MOST}"
    if tree.pixels.shape != (side, side, 3) or not steps or side % 2**steps:
        return f"pixels {tree.pixels.shape} do not divide into square blocks in {steps} steps"
    if tree.paths.shape != (k, steps) or len(tree.probabilities) != k:
        return f"{k} classes, {len(tree.probabilities)} probabilities, paths {tree.paths.shape}"
    for step, grid in enumerate(tree.nodes, start=1):
        if grid.shape != (k, 2**step, 2**step):
            return f"values {grid.shape} at step {step}, not {(k, 2**step, 2**step)}"
    ended = tree.paths < 0
    if tree.paths.min() < -1 or tree.paths.max() > 3 or (ended[:, :-1] > ended[:, 1:]).any():
        return f"paths {tree.paths.tolist()}: a child is 0 to 3, or -1 with all below it"
    return ""


class _Drawing:
    """A tree that is drawn; all places on the page are its layout's, moved to its top."""

    def __init__(self, tree: Tree, room: at.Room) -> None:
        self.tree, self.room = tree, room
        wide = (room.left + room.right - _ROOT) / 2 - room.edge - 0.05
        shows = f"Shows {', '.join(tree.shows)}" * bool(tree.shows)
        self.title = page.fitted(shows, wide, 8, 3)
        self.legend = [page.shortened(name, 13, 2) for name in tree.classes]
        lines = sum(map(len, self.legend)) * page.leading(8) + 0.03 * len(self.legend)
        ways = [tree.way(place) for place in range(len(tree.classes))]
        above = len(self.title) * page.leading(8)
        self.layout = Layout(room, ways, len(tree.nodes), above, lines)

    def draw(self, axes: Axes, top: float) -> None:
        self.axes, self.top = axes, top
        page.write(axes, self.room.edge, top, self.title)
        self._input(top + self.layout.input)
        self._legend(top + self.layout.names)
        self._edges()
        root = self.layout.x[ROOT], top + self.layout.y[0]
        page.pill(axes, *root, _ROOT, at.ROW, "#e3e3e3")
        label(axes, root[0], root[1] + at.ROW / 2, "whole picture")
        for step in range(1, self.layout.steps + 1):
            self._step(step, top + self.layout.y[step])
        self._words()
        self._patches(top + self.layout.patch)

    def _input(self, y: float) -> None:
        """The picture with the leaves where the ways end."""
        side, whole, edge = 2**self.layout.steps, self.room.picture, self.room.edge
        leaf = whole / side
        page.picture(self.axes, self.tree.pixels, edge, y, whole)
        grid: dict[str, Any] = {"color": "white", "linewidth": 0.5, "alpha": 0.55, "zorder": 4}
        for line in np.arange(1, side) * leaf:
            self.axes.plot([edge + line] * 2, [y, y + whole], **grid)
            self.axes.plot([edge, edge + whole], [y + line] * 2, **grid)
        for block, places in self.layout.leaves.items():
            corner = edge + block.column * leaf, y + block.row * leaf
            self._frames(corner, leaf, places, inwards=True)
        if len(self.layout.ways) > 1:
            for place, (down, across) in self.layout.tags.items():
                pitch = whole / at.TAGS
                self._tag(edge + (across + 0.5) * pitch, y + (down + 0.5) * pitch, place)

    def _legend(self, y: float) -> None:
        """Which class is which, and how probable."""
        for place, name in enumerate(self.legend):
            middle = y + page.leading(8) / 2
            edge = self.room.edge
            self._tag(edge + _TAG / 2, middle, place)
            share = _percent(self.tree.probabilities[place])
            label(self.axes, edge + at.NAMES, middle, share, 8, ha="right")
            y = page.write(self.axes, edge + 0.17, y, name) + 0.03

    def _edges(self) -> None:
        layout = self.layout
        for block in list(layout.x)[1:]:
            up = block.parent()
            start = layout.x[up], layout.bottom(up)
            end = layout.x[block], layout.y[block.step]
            self._edge(start, end, 0, "#d4d4d4", 0.7)
            for place in layout.through(block):
                self._edge(start, end, self._lane(place), COLOURS[place], _LINE)
        for x, (leaf, places) in zip(layout.patches, layout.leaves.items(), strict=True):
            for place in places:
                start, end = (layout.x[leaf], layout.bottom(leaf)), (x, layout.patch)
                self._edge(start, end, self._lane(place), COLOURS[place], _LINE)

    def _lane(self, place: int) -> float:
        return _LANE * (place - (len(self.layout.ways) - 1) / 2)

    def _edge(self, start: Spot, end: Spot, lane: float, colour: str, points: float) -> None:
        """A curve that leaves and arrives upright; those of different lanes run side by side."""
        t = np.linspace(0, 1, 25)
        wide, high = end[0] - start[0], end[1] - start[1]
        across, down = wide * 6 * t * (1 - t), np.full_like(t, high)
        long = np.hypot(across, down)
        x = start[0] + wide * t**2 * (3 - 2 * t) + lane * down / long
        y = self.top + start[1] + high * t - lane * across / long
        above = 1 + (points == _LINE)
        self.axes.plot(x, y, color=colour, linewidth=points, solid_capstyle="butt", zorder=above)

    def _step(self, step: int, y: float) -> None:
        """The blocks of a step with their values, all in one unit."""
        layout, tree = self.layout, self.tree
        blocks = layout.blocks(step)
        shown = [_value(tree, block, place) for block in blocks for place in layout.valued(block)]
        power = _power(shown)
        name = [f"step {step}", *([f"×10{_raised(power)}"] if power else [])]
        first = y + (at.ROW - page.leading(TINY)) / 2
        page.write(self.axes, self.room.steps, first, name, TINY, ha="center", color=GREY)
        width = min(_WIDE, _CELL * layout.slot(step))
        size = TINY if step == 1 else _SMALLER
        for block in blocks:
            x = layout.x[block]
            if not layout.valued(block):
                page.pill(self.axes, x, y, width, at.ROW, FAINT)
            for row, place in enumerate(layout.valued(block)):
                entered = block in layout.ways[place]
                colour = COLOURS[place] if entered else _pale(COLOURS[place])
                page.pill(self.axes, x, y + row * at.ROW + 0.005, width, at.ROW - 0.01, colour)
                middle, ink = y + (row + 0.5) * at.ROW, "white" if entered else DARK
                value = _short(_value(tree, block, place) / 10.0**power)
                label(self.axes, x, middle, value, size, color=ink)
                if block == Block(1, 0, 0) and len(layout.ways) > 1:
                    self._tag(x - width / 2 - 0.1, middle, place)

    def _words(self) -> None:
        """The word 'undecided' below the block where a way ends before a leaf."""
        for step in range(self.layout.steps):
            for place in self.layout.ended(step):
                block, middle = self.layout.ways[place][-1], self.top + self.layout.word(place)
                x = min(max(self.layout.x[block], self.room.left + 0.2), self.room.right - 0.3)
                stem = [self.layout.x[block] + self._lane(place)] * 2
                ends = [self.top + self.layout.foot(block), middle]
                self.axes.plot(stem, ends, color=COLOURS[place], linewidth=_LINE)
                page.pill(self.axes, x, middle - 0.062, 0.6, 0.124, "white")
                box = (x - 0.3, middle - 0.062), (0.6, 0.124)
                page.frame(self.axes, *box, COLOURS[place], 0.8, linestyle=":")
                label(self.axes, x, middle, "undecided")

    def _patches(self, y: float) -> None:
        """The pixels of the leaves where ways end."""
        side = len(self.tree.pixels) // 2**self.layout.steps
        leaves = self.layout.leaves.items()
        for middle, (leaf, places) in zip(self.layout.patches, leaves, strict=True):
            rows, columns = (slice(n * side, (n + 1) * side) for n in leaf[1:])
            patch = self.room.patch
            x = middle - patch / 2
            page.picture(self.axes, self.tree.pixels[rows, columns], x, y, patch)
            self._frames((x, y), patch, places)
            for i, place in enumerate(places if len(self.layout.ways) > 1 else ()):
                below = y + patch + 0.07 + (i + 0.5) * at.NAME
                name = page.shortened(self.tree.classes[place], 11)
                self._tag(x + _TAG / 2 - 0.02, below, place)
                page.write(self.axes, x + _TAG + 0.03, below - page.leading(TINY) / 2, name, TINY)

    def _frames(self, corner: Spot, side: float, places: list[int], inwards: bool = False) -> None:
        """A frame for each class, one around the other; in a picture seen on any colour."""
        for i, place in enumerate(places):
            off = (-1 if inwards else 1) * (0.8 + 2.4 * i) * POINT
            box = (corner[0] - off, corner[1] - off), (side + 2 * off,) * 2
            if inwards:
                page.frame(self.axes, *box, "white", 3.2)
            page.frame(self.axes, *box, COLOURS[place], 2, zorder=5.1)

    def _tag(self, x: float, y: float, place: int) -> None:
        """The number of a class on its colour; of one class alone, the colour."""
        page.pill(self.axes, x, y - _TAG / 2, _TAG, _TAG, COLOURS[place], zorder=5.5)
        if len(self.layout.ways) > 1:
            label(self.axes, x, y, str(place + 1), color="white", weight="bold")


def _pale(colour: str) -> str:
    return to_hex((0.87 + 0.13 * np.array(to_rgb(colour))).tolist())


# --- numbers -------------------------------------------------------------------------------------


def _value(tree: Tree, block: Block, place: int) -> float:
    return float(tree.nodes[block.step - 1][place, block.row, block.column])


def _power(values: Sequence[float]) -> int:
    """The power of ten in which the largest has one digit; 0 where it is easily read as it is."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 0 if not largest or 0.1 <= largest < 99.5 else math.floor(math.log10(largest))


def _short(value: float) -> str:
    """Two digits of what is not small beside 1: '12', '1.2', '-0.12', '0.01'."""
    size = abs(value)
    return rounded(value, 0 if size >= 9.95 else 1 if size >= 0.995 else 2)


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _percent(share: float) -> str:
    """'97%', '3.2%', '<0.1%'."""
    percent = 100 * share
    return f"{rounded(percent, int(percent < 9.95))}%" if percent >= 0.05 else "<0.1%"
