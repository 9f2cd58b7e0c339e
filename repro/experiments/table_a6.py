"""Table A6: the architectures for image generation. Its contents are not in our copy.

Here it counts every generator and discriminator, which also gives their runs a price.
"""

from __future__ import annotations

from repro.experiments import adversarial_recipes as recipes
from repro.experiments.figure5_middle import OPERATORS, OURS, model_of
from repro.spec import Cell, Experiment, Model, Profiling

GENERATORS, DISCRIMINATORS = "Generators", "Discriminators"

_MODELS: tuple[tuple[str, str, Model], ...] = (
    *((GENERATORS, row, model) for row, model in recipes.GENERATORS.items()),
    *((GENERATORS, f"Transposed NesT, {row}", model_of(operator))
      for row, operator in OPERATORS.items() if row != OURS),
    (GENERATORS, "Transposed NesT, variant B", Model("transposed_nest_64_b")),
    (GENERATORS, "Transposed NesT, variant C", Model("transposed_nest_64_c")),
    (DISCRIMINATORS, "HiT-GAN's", recipes.HIT_DISCRIMINATOR),
    (DISCRIMINATORS, "SAGAN's", recipes.SAGAN_DISCRIMINATOR),
)  # fmt: skip


def _cells() -> tuple[Cell, ...]:
    counted = [
        (group, row, Profiling(model=model, classes=int(group == DISCRIMINATORS), image_size=64))
        for group, row, model in _MODELS
    ]
    return tuple(
        Cell(group=group, row=row, column=column, run=run, metric=metric, demo=run)
        for group, row, run in counted
        for column, metric in (("#Params", "parameters"), ("GMACs", "macs"))
    )


EXPERIMENT = Experiment(
    name="table_a6",
    place="Table A6",
    has_gaps=True,
    title="Architectures for image generation",
    caption="GMACs: 10⁹ multiply-adds of the forward pass of one image of 64 px.",
    cells=_cells(),
    headings=("Part", "Architecture"),
    decisions=recipes.DECISIONS[1:5],
)
