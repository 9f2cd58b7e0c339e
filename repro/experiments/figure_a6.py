"""Figure A6: the Inception Score of the runs of Figure 5, left. It is not in our copy."""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_left import CONVNET, GENERATIVE, OURS, TRANSGAN, curves
from repro.spec import Claim, Experiment

EXPERIMENT = Experiment(
    name="figure_a6",
    place="Figure A6",
    has_gaps=True,
    title="Score of generated images, ImageNet at 64 px",
    data="ImageNet at 64 px",
    caption="The trainings of Figure 5, left. More is better.",
    cells=curves("inception_score", recipes.HIT_DISCRIMINATOR, recipes.HIT),
    representative_rows=(OURS,),
    headings=("", "Generator"),
    plot="lines",
    x="steps",
    x_label="steps of training",
    claims=(
        Claim("achieves the best FID and Inception score", GENERATIVE,
              f"the score of {OURS} above those of {TRANSGAN} and {CONVNET} at the end",
              ((OURS, "1000"),), ((TRANSGAN, "1000"), (CONVNET, "1000"))),
    ),
    decisions=recipes.DECISIONS,
)  # fmt: skip
