"""Table 1: a network beside the nearest class mean, with the claim that it is better."""

from __future__ import annotations

from repro.spec import Cell, Claim, Classification, Experiment, Model, PaperValue, Recipe

from .nearest import NearestMean

DATASET, COLUMN = "fashion-mnist-6k", "Fashion"
NETWORK, MEANS = "ShuffleNet", "Nearest mean"
RECIPE = Recipe(epochs=30, batch_size=64, lr=2e-3, weight_decay=0.05, warmup_epochs=0.5)
SOURCES = (("epochs", "paper, Table 1"), ("lr", "our choice: of 1e-3, 2e-3 and 4e-3 the best"))
TRAINING = Classification(
    model=Model.of("tiny_shufflenet", width=4), dataset=DATASET, recipe=RECIPE
)

EXPERIMENT = Experiment(
    name="table1",
    place="Table 1",
    title="Accuracy on Fashion-MNIST",
    caption="6,000 images to train on.",
    cells=(
        Cell(row=NETWORK, column=COLUMN, run=TRAINING, sources=SOURCES,
             paper=PaperValue(87.5, "Table 1")),
        Cell(row=MEANS, column=COLUMN, run=NearestMean(dataset=DATASET),
             paper=PaperValue(67.7, "Table 1")),
    ),
    claims=(
        Claim("A small network is far better than class means", "Abstract",
              "ShuffleNet above the nearest mean", ((NETWORK, COLUMN),), ((MEANS, COLUMN),)),
    ),
)  # fmt: skip
