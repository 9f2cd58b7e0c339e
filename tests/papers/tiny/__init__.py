"""A paper of its own in few lines: what docs/adding-a-paper.md walks through."""

from __future__ import annotations

from dataclasses import replace

from repro import paper
from repro.paper import NoVersion, Paper
from repro.spec import Classification, Run, Scale, Split

from .nearest import NearestMean

__all__ = ["PAPER", "NearestMean"]


def at_scale(run: Run, scale: Scale) -> Run:
    """The data are embedded: a small version is a narrow network that is trained for less."""
    if not isinstance(run, Classification):
        return run
    if scale == "demo":
        raise NoVersion(run.id)
    recipe = replace(run.recipe, epochs=2 if scale == "proxy" else 1)
    part: Split = "validation" if scale == "smoke" else "train"
    return replace(run, model=run.model.updated(width=1), recipe=recipe, train_split=part)


PAPER = Paper(
    name="Tiny",
    title="a paper of one table and one figure",
    experiments=paper.folder(__name__, __file__),
    at_scale=at_scale,
    models=("tiny.models",),
)
