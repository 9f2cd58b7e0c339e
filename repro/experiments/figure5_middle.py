"""Figure 5, middle: the un-sampling operator of Transposed NesT's block de-aggregation.

The text names pixel shuffle (PS), Conv3x3 (C3), nearest neighbour (NN) and combinations; which ones
the picture has is not in our copy, and no number of it is printed.
"""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_left import run_of
from repro.spec import Cell, Claim, Decision, Experiment, Model, Profiling

OURS = "PS"
OPERATORS = {
    OURS: "pixel_shuffle",
    "PS + C3": "pixel_shuffle_conv",
    "C3 + PS": "conv_pixel_shuffle",
    "NN": "nearest",
    "NN + C3": "nearest_conv",
}
DISTANCE, SIZE = "ImageNet, 64 px", "size"


def model_of(operator: str) -> Model:
    """The generator; that of the other panels is spelled as there."""
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
    title="Un-sampling in Transposed NesT",
    caption="The operators in the order in which they act; all act on the image plane.",
    cells=_cells(),
    showcase=(OURS, "NN"),
    headings=("", "Un-sampling"),
    plot="bars",
    x_label="un-sampling",
    claims=tuple(
        Claim(f"Pixel shuffle works the best (against {row})", "Generative Modeling",
              ((row, "Fréchet distance", DISTANCE),),
              ((OURS, "Fréchet distance", DISTANCE),))
        for row in OPERATORS if row != OURS
    ),
    decisions=(
        *recipes.DECISIONS,
        Decision("widths that differ by other than a factor of four", "a linear layer after PS and "
                 "NN, unless a convolution makes the next width", "a linear layer everywhere",
                 "HiT-GAN's rule; it keeps the sizes within 4 % but for C3 + PS (16.6 %)"),
    ),
)  # fmt: skip
