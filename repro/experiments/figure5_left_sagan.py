"""Figure 5, left, once more with SAGAN's discriminator and recipe: does the order hang on them?"""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_left import EXPERIMENT as LEFT
from repro.experiments.figure5_left import curves

EXPERIMENT = replace(
    LEFT,
    name="figure5_left_sagan",
    title="FID of generated ImageNet images of 64 px, with SAGAN's recipe",
    cells=curves("fid", recipes.SAGAN_DISCRIMINATOR, recipes.SAGAN),
)
