"""The bridge from the command line to a finished generator; imports the torch half when needed."""

from __future__ import annotations

from pathlib import Path

from repro import results, spec
from repro.results import ResultsError
from repro.spec import Generation


def draw(root: Path, name: str, count: int, seed: int) -> bytes:
    """A grid of `count` samples of a run, as PNG: a function of its weights and the seed.

    Raises ResultsError for a run that generates nothing, is not done, or has no weights here.
    """
    run = spec.from_json((root / name / results.SPEC).read_text())
    if not isinstance(run, Generation):
        raise ResultsError(f"{name} generates no images; `repro status figure5` lists runs that do")
    path = root / name / results.WEIGHTS
    if (state := results.outcome(root, run).state) != "done":
        raise ResultsError(f"{name} is {state}; `repro status` tells which runs are done")
    if not path.exists():
        raise ResultsError(
            f"{path} is missing: weights are not in git; train the run in another --results DIR"
        )
    from safetensors.torch import load_file

    from repro.data import pictures
    from repro.tasks import generation
    from repro.train import device

    here = device.choose()
    generator = generation.create(run.generator, run.seed).to(here)
    generator.load_state_dict(load_file(path))
    drawn = list(generation.samples(generator, seed, count, here))
    return pictures.grid(generation.joined(drawn))
