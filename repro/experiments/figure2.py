"""Figure 2: GradCAT on images of four objects, with hit rates, which the paper does not give.

How often does the path of a class enter the quadrant, and the leaf, of an object of that class?
Measured for every variant that the text of Algorithm 1 allows.
"""

from __future__ import annotations

from typing import Literal

from repro.experiments import cues, interpretability
from repro.experiments.interpretability import row_label
from repro.spec import Cell, Claim, Decision, Experiment, Sign, TopTap

DEFAULT, CHANCE, ABLATION = "+ gradient, input of the top", "Chance", "Exact ablation"
VARIANTS: dict[str, tuple[Sign, TopTap]] = {
    DEFAULT: ("ascent", "input"),
    "− gradient, input of the top": ("literal", "input"),
    "+ gradient, after the norm": ("ascent", "norm"),
    "− gradient, after the norm": ("literal", "norm"),
}
SENTENCE = (
    "The traversals can correctly find the model decision path along the tree to locate an image "
    "patch belonging to the objects of given target classes"
)
QUADRANT, LEAF, LARGEST = "Quadrant (%)", "Leaf (%)", "Largest leaf (%)"
MEASURES = {
    QUADRANT: "quadrant",
    LEAF: "leaf",
    LARGEST: "leaf_most",
    "Costliest leaf (%)": "best_leaf",
    "Rank corr. with ablation": "faithful",
}


# The same for every variant.
REFERENCES = {
    CHANCE: {QUADRANT: "quadrant_chance", LEAF: "leaf_chance", LARGEST: "leaf_most_chance"},
    ABLATION: {QUADRANT: "ablation_quadrant", LEAF: "ablation_leaf"},
}


def cells_of(objects: Literal[1, 4], pictures: int) -> tuple[Cell, ...]:
    """Every variant on images of `objects` objects, with chance and exact ablation."""
    cells = []
    for group in (interpretability.TRAINED, interpretability.RELEASED):
        runs = {
            row: interpretability.traversal(group, objects, pictures, *variant)
            for row, variant in VARIANTS.items()
        }
        for row, run in runs.items():
            cells += [
                Cell(group="", row=row_label(row, group), column=column, metric=metric, run=run)
                for column, metric in MEASURES.items()
            ]
        cells += [
            Cell(
                group="", row=row_label(row, group), column=column, metric=metric, run=runs[DEFAULT]
            )
            for row, metrics in REFERENCES.items()
            for column, metric in metrics.items()
            if group == interpretability.TRAINED
            or row != CHANCE  # which depends on the images only
        ]
    return tuple(cells)


EXPERIMENT = Experiment(
    name="figure2",
    place="Figure 2",
    has_gaps=True,
    title="GradCAT on images of four objects",
    caption=(
        "Four images of different classes, one squeezed into each quadrant. For each object, "
        "GradCAT with NesT-S follows its class from the root to a leaf. A block is a hit if it "
        "overlaps the object's box."
    ),
    at_proxy=f"{cues.OF_TREES} Measure: the quadrant that a path enters first.",
    cells=cells_of(objects=4, pictures=5_000) + cues.cells(4, "quadrant", VARIANTS),
    representative_rows=(DEFAULT,),
    headings=("", "GradCAT variant"),
    plot="trees",
    picture_rows=(DEFAULT,),
    pictures=(0, 1),
    num_traced_classes=4,
    seeds=cues.SEEDS,
    claims=tuple(
        Claim(SENTENCE, "Figure 2", f"paths enter {what} of the object more often than chance",
              ((DEFAULT, column),), ((CHANCE, column),),
              controls=(((ABLATION, column), (CHANCE, column)),))
        for column, what in ((QUADRANT, "the quadrant"), (LEAF, "a leaf"))
    ) + cues.claims(SENTENCE, "Figure 2", DEFAULT, "the quadrant"),
    decisions=(
        *interpretability.GRADCAT_DECISIONS,
        Decision("the images", "the first of the evaluated ones, not hand-picked",
                 "the paper's, which is not in our copy", "hand-picked images would be biased"),
        Decision("four objects", "images squeezed into quadrants, as in the grid pointing game "
                 "of Böhle et al. (2021)", "images that contain four objects",
                 "the place of each class is known, and the class alone identifies its object"),
    ),
)  # fmt: skip
