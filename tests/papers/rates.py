"""What if NesT-T is trained with another learning rate? Two runs, the second a changed copy."""

from dataclasses import replace

from repro.experiments import PAPER as NEST
from repro.experiments.scales import at_scale
from repro.paper import items
from repro.spec import Cell, Experiment

(BASE,) = [c for c in NEST.get("table1").cells if (c.row, c.column) == ("NesT-T", "C10")]


def with_rate(lr: float) -> Cell:
    """The cell of Table 1 at another rate, at paper scale and on the embedded images."""
    run = BASE.training
    demo = at_scale(run, "demo")
    return replace(
        BASE,
        row=f"NesT-T, lr {lr:g}",
        paper=None,
        run=replace(run, recipe=replace(run.recipe, lr=lr)),
        demo=replace(demo, recipe=replace(demo.recipe, lr=lr)),
        scales=("paper", "demo", "smoke"),
    )


PAPER = replace(
    NEST,
    experiments=items(
        Experiment(
            name="rates",
            place="What if",
            title="Accuracy of NesT-T on CIFAR-10 by its learning rate",
            caption="Table 1's run, and a copy with one value changed.",
            cells=(BASE, with_rate(2e-3)),
        )
    ),
)
