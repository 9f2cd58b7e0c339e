"""The paper: one module per table or figure. This folder is the registry: to add one, add a file
that defines `EXPERIMENT`, and list nothing. `PAPER` is what the engine is given of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repro import paper
from repro.paper import Paper, Sources
from repro.spec import Cell, Classification, Decision, Experiment, Run, Scale

# Each function imports what it needs: to list the items, none of it is.


def _at_scale(run: Run, scale: Scale) -> Run:
    from repro.experiments import scales

    return scales.version_at(run, scale)


def _sources(cell: Cell, scale: Scale) -> Sources:
    from repro.experiments import scales

    return scales.sources(cell, scale)


def _awaits(item: str, scale: Scale) -> str:
    from repro.experiments import proxy

    return proxy.search_of(item) if scale == "proxy" else ""


def _decisions(experiment: Experiment) -> Sequence[Decision]:
    from repro.experiments import architecture

    return architecture.decisions(experiment)


def _releases() -> Mapping[str, Classification]:
    from repro.experiments import table2

    return {tag: table2.release_of(method) for method, (tag, *_) in table2.RELEASES.items()}


def _scale_notes() -> Mapping[Scale, str]:
    from repro.experiments import scales

    return scales.SCALE_NOTES


PAPER = Paper(
    name="NesT",
    title="the paper NesT, reproduced as a program",
    experiments=paper.folder(__name__, __file__),
    at_scale=_at_scale,
    sources=_sources,
    awaits=_awaits,
    scale_notes=_scale_notes,
    decisions=_decisions,
    decisions_title="NesT, in every item",
    releases=_releases,
)

names, get, matching = PAPER.names, PAPER.get, PAPER.matching
