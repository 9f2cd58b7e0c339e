"""Search for the learning rate of each generator at proxy scale: three trials each."""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments import proxy
from repro.experiments.figure5_left import run_of
from repro.spec import Cell, Experiment

COLUMNS = tuple(f"{rate:g}" for rate in proxy.GENERATOR_RATES)

EXPERIMENT = Experiment(
    name="search_generators",
    place="Generator learning rate search",
    title="Distance of generated images from CIFAR-10 by learning rate",
    caption=(
        f"Ours, not the paper's. {proxy.GENERATOR_TRIAL_STEPS:,} steps, one seed. Each generator "
        f"is trained at the best rate of its row; variants with other un-sampling operators use "
        f"that of Transposed NesT."
    ),
    cells=tuple(
        Cell(
            group="",
            row=row,
            column=column,
            run=proxy.generation(
                run_of(generator, recipes.HIT_DISCRIMINATOR, recipes.HIT.recipe),
                rate,
                proxy.GENERATOR_TRIAL_STEPS,
            ),
            metric="fid",
            scales=("proxy",),
        )
        for row, generator in recipes.GENERATORS.items()
        for column, rate in zip(COLUMNS, proxy.GENERATOR_RATES, strict=True)
    ),
    headings=("", "Generator"),
    best="row",
    seeds=1,
)
