"""Figure 5, left, with SAGAN's discriminator and recipe: does the order depend on them?"""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_left import EXPERIMENT as LEFT
from repro.experiments.figure5_left import curves
from repro.spec import Decision

EXPERIMENT = replace(
    LEFT,
    name="figure5_left_sagan",
    place="Supplement to Figure 5, left",
    title=f"{LEFT.title}, with SAGAN's recipe",
    cells=curves("fid", recipes.SAGAN_DISCRIMINATOR, recipes.SAGAN),
    decisions=(
        Decision("recipe and discriminator", "SAGAN's, for all three generators",
                 "HiT-GAN's, as in figure5_left", "the paper cites SAGAN"),
        *recipes.DECISIONS[1:],
    ),
)  # fmt: skip
