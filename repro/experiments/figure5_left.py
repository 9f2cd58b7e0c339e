"""Figure 5, left: FID of the three generators over the steps of training.

The paper shows curves and prints none of their numbers.
"""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.recipes import SourcedOf
from repro.spec import AdversarialRecipe, Cell, Claim, Experiment, Generation, Model

OURS, TRANSGAN, CONVNET = "Transposed NesT", "TransGAN", "Convnet"
POINTS = 10
GENERATIVE = "Generative Modeling with Transposed NesT"
DATASET = "imagenet-64px"


def run_of(generator: Model, discriminator: Model, recipe: AdversarialRecipe) -> Generation:
    """A generator, trained on ImageNet at 64 px."""
    return Generation(
        generator=generator, discriminator=discriminator, dataset=DATASET, recipe=recipe
    )


def curves(
    metric: str, discriminator: Model, use: SourcedOf[AdversarialRecipe]
) -> tuple[Cell, ...]:
    """A metric of every generator at ten points of its training."""
    return tuple(
        Cell(
            group="",
            row=row,
            column=str(use.recipe.steps * point // POINTS // 1000),
            run=run_of(generator, discriminator, use.recipe),
            sources=use.listed,
            metric=metric,
            training_fraction=point / POINTS,
        )
        for row, generator in recipes.GENERATORS.items()
        for point in range(1, POINTS + 1)
    )


EXPERIMENT = Experiment(
    name="figure5_left",
    place="Figure 5, left",
    has_gaps=True,
    title="Distance of generated images from real ones, ImageNet at 64 px",
    data="ImageNet at 64 px",
    caption="One training per generator, measured ten times. Lower is better.",
    cells=curves("fid", recipes.HIT_DISCRIMINATOR, recipes.HIT),
    representative_rows=(OURS,),
    headings=("", "Generator"),
    plot="lines",
    x="steps",
    x_label="steps of training",
    claims=(
        Claim("achieves the best FID and Inception score", GENERATIVE,
              f"the distance of {OURS} below those of {TRANSGAN} and {CONVNET} at the end",
              ((TRANSGAN, "1000"), (CONVNET, "1000")), ((OURS, "1000"),)),
        Claim("Transposed NesT obtains significantly faster convergence", GENERATIVE,
              f"the distance of {OURS} below those of {TRANSGAN} and {CONVNET} after a tenth of "
              "the steps",
              ((TRANSGAN, "100"), (CONVNET, "100")), ((OURS, "100"),)),
    ),
    decisions=recipes.DECISIONS,
)  # fmt: skip
