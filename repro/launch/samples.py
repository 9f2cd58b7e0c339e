"""`repro sample`: images from a finished generator. Imports torch only when needed."""

from __future__ import annotations

from pathlib import Path

from repro import results
from repro.launch import trained_models
from repro.results import ResultsError


def draw(root: Path, name: str, count: int, seed: int) -> bytes:
    """A PNG grid of `count` images from a run's generator, determined by its weights and the seed.

    Raises ResultsError if the run is not a generator, has not finished, or has no weights here.
    """
    run = results.stored_run(root / name)
    if (model := run.sampled_model) is None:
        raise ResultsError(f"{name} is not a generator run; `repro status` lists runs")
    path = trained_models.weights(root, run, None)

    from repro.data import image_grid
    from repro.models import weights
    from repro.tasks import generation
    from repro.train import device

    here = device.choose()
    with trained_models.one_line(run):
        generator = generation.create(model, run.seed)
        weights.load(generator, path)
        batches = list(generation.samples(generator.to(here), seed, count, here))
    return image_grid.grid(generation.concatenate(batches))
