"""Figure 2: GradCAT on a picture of four objects; and counted, which the paper does not do.

How often does the path for a class enter the quadrant, and the leaf, in which an object of that
class is? By every reading of Algorithm 1 that its text leaves open.
"""

from __future__ import annotations

from repro.experiments import seeing
from repro.experiments.seeing import named
from repro.spec import Cell, Claim, Decision, Experiment

DEFAULT, CHANCE = "+ gradient, input of the top", "by chance"
READINGS = {
    DEFAULT: {"sign": "ascent", "top_tap": "input"},
    "− gradient, input of the top": {"sign": "literal", "top_tap": "input"},
    "+ gradient, after the norm": {"sign": "ascent", "top_tap": "norm"},
    "− gradient, after the norm": {"sign": "literal", "top_tap": "norm"},
}
QUADRANT, LEAF = "Quadrant (%)", "Leaf (%)"
MEASURES = {
    QUADRANT: "quadrant",
    LEAF: "leaf",
    "Largest leaf (%)": "leaf_most",
    "Costliest leaf (%)": "best_leaf",
    "Rank corr. with ablation": "faithful",
}


def _cells(group: str) -> list[Cell]:
    found = [
        Cell(group="", row=named(row, group), column=column, metric=metric,
             run=seeing.traversal(group, **reading))
        for row, reading in READINGS.items()
        for column, metric in MEASURES.items()
    ]  # fmt: skip
    chance = seeing.traversal(group, **READINGS[DEFAULT])
    if group == seeing.HERE:  # the pictures are the same
        found += [
            Cell(group="", row=CHANCE, column=column, run=chance, metric=f"{metric}_chance")
            for column, metric in MEASURES.items()
            if metric in ("quadrant", "leaf", "leaf_most")
        ]
    return found


EXPERIMENT = Experiment(
    name="figure2",
    place="Figure 2",
    title="GradCAT on pictures of four objects",
    caption=(
        "Four photographs of different classes, squeezed to a quadrant each. Every object's class "
        "is followed from the root to a leaf. An object counts as entered with the part of its box."
    ),
    cells=tuple(_cells(seeing.HERE) + _cells(seeing.RELEASED)),
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
