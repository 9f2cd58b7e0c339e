"""`--images 256px`: items on ImageNet, read from stored crops of 256 px."""

from __future__ import annotations

from dataclasses import replace

from repro.core.datasets import CROPS_256PX
from repro.spec import Experiment


def on_256px_crops(experiment: Experiment) -> Experiment:
    """The item with 256-px centre crops instead of ImageNet-1K's photographs, as another item.

    They are read many times as fast. Random crops are taken from them: pixels outside the centre
    crop are never used, crops have at most 256 px, and pixels are resampled twice.
    """
    datasets = {"imagenet": f"imagenet-{CROPS_256PX}"}
    cells = tuple(replace(cell, run=cell.run.with_datasets(datasets)) for cell in experiment.cells)
    if cells == experiment.cells:
        return experiment
    return replace(
        experiment,
        name=f"{experiment.name}_{CROPS_256PX}",
        title=f"{experiment.title}, read from 256-px crops",
        cells=cells,
    )
