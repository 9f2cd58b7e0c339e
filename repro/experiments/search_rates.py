"""Search for the learning rate of each method at proxy scale, on validation images."""

from __future__ import annotations

from repro.experiments import proxy
from repro.experiments.table1 import METHODS
from repro.spec import Cell, Experiment

COLUMNS = tuple(f"{rate / 100:g}" for rate in proxy.SGD_RATES)  # AdamW's are a hundredth

EXPERIMENT = Experiment(
    name="search_rates",
    place="Learning rate search",
    title="Validation accuracy on CIFAR-10 by peak learning rate",
    caption=(
        f"Ours, not the paper's. {proxy.TRIAL_EPOCHS} epochs on five sixths of the training "
        f"images, validated on the rest; test images are not used. The rates of the convnets, "
        f"which use SGD, are a hundred times those of the columns. Each method is trained at the "
        f"best rate of its row."
    ),
    headings=("Arch. base", "Method"),
    cells=tuple(
        Cell(
            group=group,
            row=method,
            column=column,
            run=proxy.trial(model, rate),
            scales=("proxy",),
        )
        for group, method, model, *_ in METHODS
        for column, rate in zip(COLUMNS, proxy.rates_of(model), strict=False)
    ),
    best="row",
    seeds=1,
)
