"""The figures that are pictures: what a classifier sees, as its run keeps it, of the first seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from matplotlib.figure import Figure

from repro import artifacts, results
from repro.experiments.scales import asked
from repro.render import maps, page, trees
from repro.render.maps import Seen
from repro.render.notes import data_note
from repro.render.text import HOLE, heading, worst
from repro.spec import Experiment, Run, Scale

Arrays = Mapping[str, Any]

TREES = (
    "The number on a block is the mean of activation times gradient in it, for the class of that "
    "colour; a way enters the largest of four. Values of different steps are not to be compared."
)
_ABSENT = "no such picture"  # of a run that keeps fewer

MAPS = "A map goes from its own least to its own largest value."


def svg(experiment: Experiment, scale: Scale, root: Path) -> str:
    """The experiment's pictures; where none of its runs has any, a hole that says so."""
    title = heading(experiment, scale)
    return page.svg(_figure(experiment, scale, root, title), title)


def pdf(experiment: Experiment, scale: Scale, root: Path) -> bytes:
    """The same for LaTeX."""
    title = heading(experiment, scale)
    return page.pdf(_figure(experiment, scale, root, title), title)


def files(
    name: str, kept: Arrays | None, seen_: Sequence[Arrays], method: str, classes: Sequence[str]
) -> dict[str, bytes]:
    """What is drawn of one picture that somebody asks about, by the ends of the files' names.

    `kept`: the tree, if there is one; `seen_`: a map for each class.
    """
    figures = {}
    if kept is not None:
        title = f"GradCAT. {name}"
        figures["gradcat"] = title, trees.drawn([tree(kept, 0, len(classes))], title, TREES)
    title = f"{method}. {name}"
    of_classes = tuple(one["maps"][0] for one in seen_)
    picture = replace(seen([seen_[0]], 0), maps=of_classes, predicted=("",) * len(classes))
    figures["maps"] = title, maps.drawn([picture], classes, title, MAPS)
    return {
        f"{kind}.{ending}": content
        for kind, (title, figure) in figures.items()
        for ending, content in (
            ("svg", page.svg(figure, title).encode()),
            ("png", page.png(figure, title)),
        )
    }


def _figure(experiment: Experiment, scale: Scale, root: Path, title: str) -> Figure:
    runs = [_run(experiment, scale, row) for row in experiment.drawn]
    data = data_note(experiment, scale, "")
    if experiment.plot == "trees":
        every = [_kept(root, runs[0], artifacts.TREES)]
        shown = [
            tree(kept, number, experiment.traced)
            for number in experiment.pictures
            for kept in every
            if _has(kept, number)
        ]
        if shown:
            return trees.drawn(shown, title, f"{TREES} {data}".strip())
    else:
        every = [_kept(root, run, artifacts.MAPS) for run in runs]
        there = [n for n in experiment.pictures if any(_has(kept, n) for kept in every)]
        if there:
            pictures = [seen(every, number) for number in there]
            return maps.drawn(pictures, experiment.drawn, title, f"{MAPS} {data}".strip())
    why = worst(kept for kept in every if isinstance(kept, str))
    with page.styled():
        return page.sheet(title, f"{why.capitalize()}{' yet' * (why == HOLE)}.", 0.1)[0]


def _kept(root: Path, run: Run, name: str) -> Arrays | str:
    """The arrays that a run keeps; without any, why."""
    kept = results.arrays(root, run, name)
    return worst([results.outcome(root, run).state]) if kept is None else kept


def tree(kept: Arrays, number: int, traced: int) -> trees.Tree:
    """A picture of a run's, with the ways of its most probable classes."""
    names, part = kept["names"], slice(traced)
    levels = sorted(key for key in kept if key.startswith("nodes"))
    return trees.Tree(
        pixels=kept["pixels"][number],
        shows=tuple(str(names[label]) for label in kept["shows"][number]),
        classes=tuple(str(names[label]) for label in kept["classes"][number][part]),
        probabilities=tuple(float(p) for p in kept["probabilities"][number][part]),
        paths=kept["paths"][number][part],
        nodes=tuple(kept[level][number][part] for level in levels),
    )


def seen(every: Sequence[Arrays | str], number: int) -> Seen:
    """A picture, with the map of each run that has it; of others, why they have not."""
    having = [kept if _has(kept, number) else None for kept in every]
    one = next(kept for kept in having if kept is not None)
    first = int(one["counts"][:number].sum())
    boxes = np.asarray(one["boxes"], np.int64).reshape(-1, 4)
    return Seen(
        pixels=one["pixels"][number],
        shows=str(one["shows"][number]),
        boxes=boxes[first : first + int(one["counts"][number])],
        maps=tuple(
            kept if isinstance(kept, str) else kept["maps"][number] if here else _ABSENT
            for kept, here in zip(every, having, strict=True)
        ),
        predicted=tuple(str(kept["predicted"][number]) if kept else "" for kept in having),
    )


def _has(kept: Arrays | str, number: int) -> TypeGuard[Arrays]:
    return not isinstance(kept, str) and number < len(kept["pixels"])


def _run(experiment: Experiment, scale: Scale, row: str) -> Run:
    """The run of a row."""
    return next(run for cell, run in asked(experiment.cells, scale) if cell.row == row)
