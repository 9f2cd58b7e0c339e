"""Figure 3, left: GradCAT on pictures of one object each; counted as well, on all of them."""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import figure2, seeing
from repro.spec import Cell, Claim, Experiment, Traversal

ROWS = {group: seeing.named("NesT-S", group) for group in (seeing.HERE, seeing.RELEASED)}


def one_object(group: str) -> Traversal:
    """GradCAT on ImageNet's validation images, by the reading that is the default."""
    run = seeing.traversal(group, **figure2.READINGS[figure2.DEFAULT])
    return replace(run, objects=1, pictures=0)


def cells() -> tuple[Cell, ...]:
    """What is counted, beside what chance would give."""
    found = []
    for group, row in ROWS.items():
        for column, metric in figure2.MEASURES.items():
            run = one_object(group)
            found.append(Cell(group="", row=row, column=column, run=run, metric=metric))
            if group == seeing.HERE and metric in ("quadrant", "leaf", "leaf_most"):
                found.append(
                    Cell(
                        group="",
                        row=figure2.CHANCE,
                        column=column,
                        run=run,
                        metric=f"{metric}_chance",
                    )
                )
    return tuple(found)


EXPERIMENT = Experiment(
    name="figure3_left",
    place="Figure 3, left",
    title="GradCAT on pictures of one object",
    caption=(
        "ImageNet's validation images, squeezed square; counted for the class of the image, drawn "
        "for the class that is predicted. The object is all that its boxes hold."
    ),
    cells=cells(),
    showcase=(ROWS[seeing.HERE],),
    headings=("", "Classifier"),
    plot="trees",
    drawn=(ROWS[seeing.HERE],),
    pictures=(0, 4, 8),
    traced=1,
    claims=(
        Claim(
            "the decision path can correctly locate the object corresponding to the model "
            "prediction",
            "Visual Interpretability, GradGAT results",
            ((ROWS[seeing.HERE], figure2.LEAF),),
            ((figure2.CHANCE, figure2.LEAF),),
        ),
    ),
    decisions=seeing.READING,
)
