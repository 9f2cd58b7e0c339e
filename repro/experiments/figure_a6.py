"""Figure A6: the Inception Score of the runs of Figure 5, left. It is not in our copy."""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_left import CONVNET, OURS, TRANSGAN, curves
from repro.spec import Claim, Experiment

EXPERIMENT = Experiment(
    name="figure_a6",
    place="Figure A6",
    title="Score of generated images, ImageNet at 64 px",
    data="ImageNet at 64 px",
    caption="The trainings of Figure 5, left. More is better.",
    cells=curves("inception_score", recipes.HIT_DISCRIMINATOR, recipes.HIT),
    showcase=(OURS,),
    headings=("", "Generator"),
    plot="lines",
    x="steps",
    x_label="steps of training",
    claims=(
        Claim("Transposed NesT ... achieves the best ... Inception score", "Generative Modeling",
              ((OURS, "1000"),), ((TRANSGAN, "1000"), (CONVNET, "1000"))),
    ),
    decisions=recipes.DECISIONS,
)  # fmt: skip
