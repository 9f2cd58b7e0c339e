"""Trees of blocks, and the paths of classes from the root to a leaf.

One tree per picture. At every step, the four candidate blocks of a class show their values for it;
the block that its path enters is filled with its colour. A class also has a number, and its own
lane on every edge, to identify it without colour.
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

from repro.core.numbers import rounded
from repro.render import page
from repro.render import tree_layout as at
from repro.render.page import DARK, EDGE, FAINT, GREY, POINT, TINY, Spot, draw_label
from repro.render.plots import COLOURS
from repro.render.tree_layout import ROOT, Block, Layout

MAX_CLASSES = 4  # per tree

_CELL, _MAX_WIDTH = 0.94, 0.5  # the width of a value: a fraction of its slot, at most in inches
_LANE_WIDTH = 2.4 * POINT  # inches between the lines of two classes
_LINE, _SMALL_TEXT = 1.8, 6.5  # points: lines, and values below the first step
_MAX_ONE_COLUMN = 4  # more trees of one class each are drawn in two columns
_TREE_GAP = 0.22  # inches between trees
_ROOT_WIDTH = 0.86  # inches
_TAG_SIDE = 0.114  # inches: the box of a class's number


@dataclass(frozen=True)
class Tree:
    """A picture, and the paths of k classes down its blocks, in L steps."""

    pixels: NDArray[np.uint8]  # (S, S, 3)
    objects: tuple[str, ...]  # the classes in the picture; () if unknown
    classes: tuple[str, ...]  # k, from 1 to 4, the most probable first
    probabilities: tuple[float, ...]  # k
    paths: NDArray[np.int64]  # (k, L): child 0..3 (TL, TR, BL, BR) from the root down; -1: none
    nodes: tuple[NDArray[np.float32], ...]  # L grids (k, 2, 2), (k, 4, 4), ...: all values

    def path_blocks(self, place: int) -> list[Block]:
        """The blocks on the path of a class, from the root as far as it is decided."""
        blocks = [ROOT]
        for child in self.paths[place].tolist():
            if child < 0:
                break
            blocks.append(blocks[-1].children()[child])
        return blocks


def draw(trees: Sequence[Tree], title: str, note: str) -> Figure:
    """A figure of the trees, for `page.svg` and `page.png`; without any, title and note.

    Raises ValueError for a tree with inconsistent shapes or values.
    """
    for number, tree in enumerate(trees, start=1):
        if problem := _inconsistency(tree):
            raise ValueError(f"tree {number} of {len(trees)}: {problem}")
    halves = len(trees) > _MAX_ONE_COLUMN and all(len(tree.classes) == 1 for tree in trees)
    areas = at.HALVES if halves else (at.PAGE,)
    with page.style_context():
        rows = [
            [_Drawing(tree, area) for tree, area in zip(trees[i:], areas, strict=False)]
            for i in range(0, len(trees), len(areas))
        ]
        heights = [max(one.layout.height for one in row) for row in rows]
        figure, axes = page.new_sheet(title, note, sum(heights) + _TREE_GAP * (len(rows) - 0.5))
        top = 0.0
        for row, height in zip(rows, heights, strict=True):
            if top:
                y = top - _TREE_GAP / 2
                axes.plot([EDGE, at.PAGE.right], [y, y], color="#dddddd", linewidth=0.6)
            for one in row:
                one.draw(axes, top)
            top += height + _TREE_GAP
    return figure


def _inconsistency(tree: Tree) -> str:
    """Why a tree is invalid; '' if it is valid."""
    k, steps, side = len(tree.classes), len(tree.nodes), len(tree.pixels)
    if not 1 <= k <= MAX_CLASSES:
        return f"{k} classes; there are colours for 1 to {MAX_CLASSES}"
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
    """Draws a tree at the coordinates of its layout, shifted to its top."""

    def __init__(self, tree: Tree, area: at.Area) -> None:
        self.tree, self.area = tree, area
        wide = (area.left + area.right - _ROOT_WIDTH) / 2 - area.edge - 0.05
        objects = f"Shows {', '.join(tree.objects)}" * bool(tree.objects)
        self.title = page.fit(objects, wide, 8, 3)
        self.legend = [page.truncate(name, 13, 2) for name in tree.classes]
        lines = sum(map(len, self.legend)) * page.line_height(8) + 0.03 * len(self.legend)
        paths = [tree.path_blocks(place) for place in range(len(tree.classes))]
        above = len(self.title) * page.line_height(8)
        self.layout = Layout(area, paths, len(tree.nodes), above, lines)

    def draw(self, axes: Axes, top: float) -> None:
        self.axes, self.top = axes, top
        page.write_lines(axes, self.area.edge, top, self.title)
        self._draw_input(top + self.layout.input)
        self._draw_legend(top + self.layout.names)
        self._draw_edges()
        root = self.layout.x[ROOT], top + self.layout.y[0]
        page.draw_pill(axes, *root, _ROOT_WIDTH, at.ROW, "#e3e3e3")
        draw_label(axes, root[0], root[1] + at.ROW / 2, "whole image")
        for step in range(1, self.layout.steps + 1):
            self._draw_step(step, top + self.layout.y[step])
        self._draw_undecided()
        self._draw_patches(top + self.layout.patch)

    def _draw_input(self, y: float) -> None:
        """Draw the picture with frames around the leaves where paths end."""
        side, whole, edge = 2**self.layout.steps, self.area.picture, self.area.edge
        leaf = whole / side
        page.draw_picture(self.axes, self.tree.pixels, edge, y, whole)
        grid: dict[str, Any] = {"color": "white", "linewidth": 0.5, "alpha": 0.55, "zorder": 4}
        for line in np.arange(1, side) * leaf:
            self.axes.plot([edge + line] * 2, [y, y + whole], **grid)
            self.axes.plot([edge, edge + whole], [y + line] * 2, **grid)
        for block, places in self.layout.leaves.items():
            corner = edge + block.column * leaf, y + block.row * leaf
            self._draw_frames(corner, leaf, places, inwards=True)
        if len(self.layout.paths) > 1:
            for place, (down, across) in self.layout.tags.items():
                pitch = whole / at.TAGS
                self._draw_tag(edge + (across + 0.5) * pitch, y + (down + 0.5) * pitch, place)

    def _draw_legend(self, y: float) -> None:
        """Draw the number, probability and name of each class."""
        for place, name in enumerate(self.legend):
            middle = y + page.line_height(8) / 2
            edge = self.area.edge
            self._draw_tag(edge + _TAG_SIDE / 2, middle, place)
            share = _percent(self.tree.probabilities[place])
            draw_label(self.axes, edge + at.NAMES, middle, share, 8, ha="right")
            y = page.write_lines(self.axes, edge + 0.17, y, name) + 0.03

    def _draw_edges(self) -> None:
        layout = self.layout
        for block in list(layout.x)[1:]:
            up = block.parent()
            start = layout.x[up], layout.bottom(up)
            end = layout.x[block], layout.y[block.step]
            self._draw_edge(start, end, 0, "#d4d4d4", 0.7)
            for place in layout.classes_through(block):
                self._draw_edge(start, end, self._lane(place), COLOURS[place], _LINE)
        for x, (leaf, places) in zip(layout.patches, layout.leaves.items(), strict=True):
            for place in places:
                start, end = (layout.x[leaf], layout.bottom(leaf)), (x, layout.patch)
                self._draw_edge(start, end, self._lane(place), COLOURS[place], _LINE)

    def _lane(self, place: int) -> float:
        return _LANE_WIDTH * (place - (len(self.layout.paths) - 1) / 2)

    def _draw_edge(self, start: Spot, end: Spot, lane: float, colour: str, points: float) -> None:
        """Draw a curve with vertical ends; curves of different lanes run side by side."""
        t = np.linspace(0, 1, 25)
        wide, high = end[0] - start[0], end[1] - start[1]
        across, down = wide * 6 * t * (1 - t), np.full_like(t, high)
        long = np.hypot(across, down)
        x = start[0] + wide * t**2 * (3 - 2 * t) + lane * down / long
        y = self.top + start[1] + high * t - lane * across / long
        above = 1 + (points == _LINE)
        self.axes.plot(x, y, color=colour, linewidth=points, solid_capstyle="butt", zorder=above)

    def _draw_step(self, step: int, y: float) -> None:
        """Draw the blocks of a step with their values, all with one power of ten."""
        layout, tree = self.layout, self.tree
        blocks = layout.blocks(step)
        shown = [
            _value(tree, block, place) for block in blocks for place in layout.valued_classes(block)
        ]
        power = _power(shown)
        name = [f"step {step}", *([f"×10{_superscript(power)}"] if power else [])]
        first = y + (at.ROW - page.line_height(TINY)) / 2
        page.write_lines(self.axes, self.area.steps, first, name, TINY, ha="center", color=GREY)
        width = min(_MAX_WIDTH, _CELL * layout.slot(step))
        size = TINY if step == 1 else _SMALL_TEXT
        for block in blocks:
            x = layout.x[block]
            if not layout.valued_classes(block):
                page.draw_pill(self.axes, x, y, width, at.ROW, FAINT)
            for row, place in enumerate(layout.valued_classes(block)):
                entered = block in layout.paths[place]
                colour = COLOURS[place] if entered else _lighten(COLOURS[place])
                page.draw_pill(self.axes, x, y + row * at.ROW + 0.005, width, at.ROW - 0.01, colour)
                middle, ink = y + (row + 0.5) * at.ROW, "white" if entered else DARK
                value = _short(_value(tree, block, place) / 10.0**power)
                draw_label(self.axes, x, middle, value, size, color=ink)
                if block == Block(1, 0, 0) and len(layout.paths) > 1:
                    self._draw_tag(x - width / 2 - 0.1, middle, place)

    def _draw_undecided(self) -> None:
        """Draw the word 'undecided' below each block where a path ends before a leaf."""
        for step in range(self.layout.steps):
            for place in self.layout.undecided_classes(step):
                block, middle = self.layout.paths[place][-1], self.top + self.layout.word_y(place)
                x = min(max(self.layout.x[block], self.area.left + 0.2), self.area.right - 0.3)
                stem = [self.layout.x[block] + self._lane(place)] * 2
                ends = [self.top + self.layout.foot(block), middle]
                self.axes.plot(stem, ends, color=COLOURS[place], linewidth=_LINE)
                page.draw_pill(self.axes, x, middle - 0.062, 0.6, 0.124, "white")
                box = (x - 0.3, middle - 0.062), (0.6, 0.124)
                page.draw_frame(self.axes, *box, COLOURS[place], 0.8, linestyle=":")
                draw_label(self.axes, x, middle, "undecided")

    def _draw_patches(self, y: float) -> None:
        """Draw the pixels of the leaves where paths end."""
        side = len(self.tree.pixels) // 2**self.layout.steps
        leaves = self.layout.leaves.items()
        for middle, (leaf, places) in zip(self.layout.patches, leaves, strict=True):
            rows, columns = (slice(n * side, (n + 1) * side) for n in leaf[1:])
            patch = self.area.patch
            x = middle - patch / 2
            page.draw_picture(self.axes, self.tree.pixels[rows, columns], x, y, patch)
            self._draw_frames((x, y), patch, places)
            if len(self.layout.paths) > 1:
                gap = _TAG_SIDE + 0.03
                for i, place in enumerate(places):
                    x = middle + (i - (len(places) - 1) / 2) * gap
                    self._draw_tag(x, y + patch + 0.07 + at.TAG / 2, place)

    def _draw_frames(
        self, corner: Spot, side: float, places: list[int], inwards: bool = False
    ) -> None:
        """Draw nested frames, one per class; inside a picture with a white outline."""
        for i, place in enumerate(places):
            off = (-1 if inwards else 1) * (0.8 + 2.4 * i) * POINT
            box = (corner[0] - off, corner[1] - off), (side + 2 * off,) * 2
            if inwards:
                page.draw_frame(self.axes, *box, "white", 3.2)
            page.draw_frame(self.axes, *box, COLOURS[place], 2, zorder=5.1)

    def _draw_tag(self, x: float, y: float, place: int) -> None:
        """Draw the number of a class on its colour; with a single class, the colour only."""
        page.draw_pill(
            self.axes, x, y - _TAG_SIDE / 2, _TAG_SIDE, _TAG_SIDE, COLOURS[place], zorder=5.5
        )
        if len(self.layout.paths) > 1:
            draw_label(self.axes, x, y, str(place + 1), color="white", weight="bold")


def _lighten(colour: str) -> str:
    return to_hex((0.87 + 0.13 * np.array(to_rgb(colour))).tolist())


# --- numbers -------------------------------------------------------------------------------------


def _value(tree: Tree, block: Block, place: int) -> float:
    return float(tree.nodes[block.step - 1][place, block.row, block.column])


def _power(values: Sequence[float]) -> int:
    """The power of ten of the largest value; 0 if values are readable without one."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 0 if not largest or 0.1 <= largest < 99.5 else math.floor(math.log10(largest))


def _short(value: float) -> str:
    """A number with at most two decimals: '12', '1.2', '-0.12', '0.01'."""
    size = abs(value)
    return rounded(value, 0 if size >= 9.95 else 1 if size >= 0.995 else 2)


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _percent(share: float) -> str:
    """'97%', '3.2%', '<0.1%'."""
    percent = 100 * share
    return f"{rounded(percent, int(percent < 9.95))}%" if percent >= 0.05 else "<0.1%"
