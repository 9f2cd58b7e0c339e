"""Figure 5, middle: the un-sampling operator of Transposed NesT's block de-aggregation.

The text names pixel shuffle (PS), Conv3x3 (C3), nearest neighbour (NN) and combinations. Our copy
does not show which of them are in the figure, and the paper prints none of its numbers.
"""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_left import GENERATIVE, run_of
from repro.spec import Cell, Claim, Decision, Experiment, MinEffect, Model, Profiling

OURS = "PS"
OPERATORS = {
    OURS: "pixel_shuffle",
    "PS + C3": "pixel_shuffle_conv",
    "C3 + PS": "conv_pixel_shuffle",
    "NN": "nearest",
    "NN + C3": "nearest_conv",
}
DISTANCE, SIZE = "ImageNet, 64 px", "size"
LARGE = MinEffect(3.0, "spreads", "'surprisingly large' is three standard deviations over seeds")


def model_of(operator: str) -> Model:
    """The generator with this operator; for pixel shuffle, the model of the other panels."""
    model = recipes.GENERATORS["Transposed NesT"]
    return model if operator == "pixel_shuffle" else model.updated(unsampling=operator)


def _cells() -> tuple[Cell, ...]:
    return tuple(
        cell
        for row, operator in OPERATORS.items()
        for cell in (
            Cell(
                group="",
                row=row,
                column="Fréchet distance",
                panel=DISTANCE,
                run=run_of(model_of(operator), recipes.HIT_DISCRIMINATOR, recipes.HIT.recipe),
                sources=recipes.HIT.listed,
                metric="fid",
            ),
            Cell(
                group="",
                row=row,
                column="#Params",
                panel=SIZE,
                run=Profiling(model=model_of(operator), classes=0, image_size=64),
                metric="parameters",
            ),
        )
    )


EXPERIMENT = Experiment(
    name="figure5_middle",
    place="Figure 5, middle",
    has_gaps=True,
    title="Un-sampling in Transposed NesT",
    caption="Operators are listed in the order of application; all act on the image plane.",
    cells=_cells(),
    representative_rows=(OURS, "NN"),
    headings=("", "Un-sampling"),
    plot="bars",
    x_label="un-sampling",
    claims=tuple(
        Claim("Pixel shuffle ... works the best and the margin is considered surprisingly large "
              "compared to other alternatives widely-used in convnets", GENERATIVE,
              f"the distance of {OURS} {'far ' if min_effect else ''}below that of {row}",
              ((row, "Fréchet distance", DISTANCE),),
              ((OURS, "Fréchet distance", DISTANCE),), min_effect)
        for min_effect in (None, LARGE)
        for row in OPERATORS if row != OURS
    ),
    decisions=(
        *recipes.DECISIONS,
        Decision("widths whose ratio is not four", "a linear layer after PS and "
                 "NN, unless a convolution sets the next width", "a linear layer everywhere",
                 "HiT-GAN's rule; sizes differ by at most 4 %, except C3 + PS (16.6 %)"),
    ),
)  # fmt: skip
