"""The bridge from the command line to a finished generator; imports the torch half when needed."""

from __future__ import annotations

from pathlib import Path

from repro import results
from repro.launch import trained
from repro.results import ResultsError
from repro.spec import Generation


def draw(root: Path, name: str, count: int, seed: int) -> bytes:
    """A grid of `count` samples of a run, as PNG: a function of its weights and the seed.

    Raises ResultsError for a run that generates nothing, is not done, or has no weights here.
    """
    run = results.stored_run(root / name)
    if not isinstance(run, Generation):
        raise ResultsError(f"{name} generates no images; `repro status figure5` lists runs that do")
    path = trained.weights(root, run, None)

    from repro.data import pictures
    from repro.models import weights
    from repro.tasks import generation
    from repro.train import device

    here = device.choose()
    with trained.one_line(run):
        generator = generation.create(run.generator, run.seed)
        weights.load(generator, path)
        drawn = list(generation.samples(generator.to(here), seed, count, here))
    return pictures.grid(generation.joined(drawn))
