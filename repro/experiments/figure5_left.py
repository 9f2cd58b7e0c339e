"""Figure 5, left: FID of the three generators over the steps of training.

The curves are a picture, and no number of theirs is printed.
"""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.recipes import SourcedOf
from repro.spec import AdversarialRecipe, Cell, Claim, Experiment, Generation, Model

OURS, TRANSGAN, CONVNET = "Transposed NesT", "TransGAN", "Convnet"
POINTS = 10
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
            column=f"{use.recipe.steps * point // POINTS // 1000}k",
            run=run_of(generator, discriminator, use.recipe),
            sources=use.listed,
            metric=metric,
            at=point / POINTS,
        )
        for row, generator in recipes.GENERATORS.items()
        for point in range(1, POINTS + 1)
    )


EXPERIMENT = Experiment(
    name="figure5_left",
    place="Figure 5, left",
    title="FID of generated ImageNet images of 64 px",
    caption="One training each, measured ten times. Less is better.",
    cells=curves("fid", recipes.HIT_DISCRIMINATOR, recipes.HIT),
    showcase=(OURS,),
    headings=("", "Generator"),
    plot="lines",
    x_label="steps of training",
    y_label="FID",
    claims=(
        Claim("Transposed NesT ... achieves the best FID", "Generative Modeling",
              ((TRANSGAN, "1000k"), (CONVNET, "1000k")), ((OURS, "1000k"),)),
        Claim("Transposed NesT obtains significantly faster convergence (at 100k steps)",
              "Generative Modeling",
              ((TRANSGAN, "100k"), (CONVNET, "100k")), ((OURS, "100k"),)),
    ),
    decisions=recipes.DECISIONS,
)  # fmt: skip
