"""Figure 1: the nearest mean of more and more images, once a run and not along a training."""

from __future__ import annotations

from repro.spec import Cell, Experiment

from .nearest import NearestMean

DATASETS = {"Fashion": "fashion-mnist-6k", "Glyphs": "glyphs"}
IMAGES = (1_000, 2_000, 4_000)

EXPERIMENT = Experiment(
    name="figure1",
    place="Figure 1",
    title="Accuracy by the number of training images",
    caption="Each point is the mean over seeds, which choose the images.",
    headings=("", "Data"),
    cells=tuple(
        Cell(row=row, column=str(images), run=NearestMean(dataset=name, images=images))
        for row, name in DATASETS.items()
        for images in IMAGES
    ),
    plot="lines",
    x_label="training images",
)
