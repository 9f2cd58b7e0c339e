"""Figure 2: GradCAT on a picture of four objects; and counted, which the paper does not do.

How often does the path for a class enter the quadrant, and the leaf, in which an object of that
class is? By every reading of Algorithm 1 that its text leaves open.
"""

from __future__ import annotations

from typing import Literal

from repro.experiments import seeing
from repro.experiments.seeing import named
from repro.spec import Cell, Claim, Decision, Experiment, Sign, TopTap

DEFAULT, CHANCE, ABLATION = "+ gradient, input of the top", "by chance", "by exact ablation"
READINGS: dict[str, tuple[Sign, TopTap]] = {
    DEFAULT: ("ascent", "input"),
    "− gradient, input of the top": ("literal", "input"),
    "+ gradient, after the norm": ("ascent", "norm"),
    "− gradient, after the norm": ("literal", "norm"),
}
QUADRANT, LEAF, LARGEST = "Quadrant (%)", "Leaf (%)", "Largest leaf (%)"
MEASURES = {
    QUADRANT: "quadrant",
    LEAF: "leaf",
    LARGEST: "leaf_most",
    "Costliest leaf (%)": "best_leaf",
    "Rank corr. with ablation": "faithful",
}


# Whatever the reading, the same.
BESIDE = {
    CHANCE: {QUADRANT: "quadrant_chance", LEAF: "leaf_chance", LARGEST: "leaf_most_chance"},
    ABLATION: {QUADRANT: "ablation_quadrant", LEAF: "ablation_leaf"},
}


def counted(objects: Literal[1, 4], pictures: int) -> tuple[Cell, ...]:
    """Every reading on pictures of so many objects, beside chance and exact ablation."""
    found = []
    for group in (seeing.HERE, seeing.RELEASED):
        runs = {
            row: seeing.traversal(group, objects, pictures, *reading)
            for row, reading in READINGS.items()
        }
        for row, run in runs.items():
            found += [
                Cell(group="", row=named(row, group), column=column, metric=metric, run=run)
                for column, metric in MEASURES.items()
            ]
        found += [
            Cell(group="", row=named(row, group), column=column, metric=metric, run=runs[DEFAULT])
            for row, metrics in BESIDE.items()
            for column, metric in metrics.items()
            if group == seeing.HERE or row != CHANCE  # that depends on the pictures alone
        ]
    return tuple(found)


EXPERIMENT = Experiment(
    name="figure2",
    place="Figure 2",
    title="GradCAT on pictures of four objects",
    caption=(
        "Four photographs of different classes, squeezed to a quadrant each. Every object's class "
        "is followed from the root to a leaf. An object counts as entered with the part of its box."
    ),
    cells=counted(objects=4, pictures=5_000),
    showcase=(DEFAULT,),
    headings=("", "NesT-S, GradCAT's reading"),
    plot="trees",
    drawn=(DEFAULT,),
    pictures=(0, 1),
    traced=4,
    claims=tuple(
        Claim("the traversals can correctly find the model decision path along the tree to locate "
              "an image patch belonging to the objects of given target classes", "Figure 2",
              ((DEFAULT, column),), ((CHANCE, column),))
        for column in (QUADRANT, LEAF)
    ),
    decisions=(
        *seeing.READING,
        Decision("the picture", "the first of those that are counted; not chosen by their looks",
                 "the paper's, which is not in our copy", "a picture that was looked for shows "
                 "what was looked for"),
        Decision("four objects", "photographs squeezed to quadrants, as in the grid pointing game "
                 "of Böhle et al. (2021)", "photographs that have four objects",
                 "then it is known where each class is, and nothing but the class tells"),
    ),
)  # fmt: skip
