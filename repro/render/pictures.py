"""Figures of attribution maps and trees, from the arrays that the first seed's run stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from matplotlib.figure import Figure

from repro import results
from repro.core.cells import HOLE, worst
from repro.core.scales import runs_at_scale
from repro.kinds import localization, traversal
from repro.render import maps, page, trees
from repro.render.maps import ExplainedImage
from repro.render.notes import data_note
from repro.render.text import heading
from repro.spec import Experiment, Run, Scale

Arrays = Mapping[str, Any]

TREES = (
    "Number on a block: mean of activation times gradient within it, for the class of that colour. "
    "A path enters the largest of four. Values of different steps are not comparable."
)
_ABSENT = "no such image"  # for a run that stores fewer

MAPS = "Each map is scaled from its minimum to its maximum."


def svg(experiment: Experiment, scale: Scale, root: Path) -> str:
    """The experiment's pictures; if none of its runs has any, a page that says so."""
    title = heading(experiment, scale)
    return page.svg(_figure(experiment, scale, root, title), title)


def pdf(experiment: Experiment, scale: Scale, root: Path) -> bytes:
    """The same for LaTeX."""
    title = heading(experiment, scale)
    return page.pdf(_figure(experiment, scale, root, title), title)


def files(
    name: str,
    tree_arrays: Arrays | None,
    class_maps: Sequence[Arrays],
    method: str,
    classes: Sequence[str],
) -> dict[str, bytes]:
    """The figures for one image, by file name suffix.

    `tree_arrays`: the tree, if there is one; `class_maps`: a map for each class.
    """
    figures = {}
    if tree_arrays is not None:
        title = f"GradCAT. {name}"
        figures["gradcat"] = title, trees.draw([tree(tree_arrays, 0, len(classes))], title, TREES)
    title = f"{method}. {name}"
    of_classes = tuple(one["maps"][0] for one in class_maps)
    picture = replace(
        explained_image([class_maps[0]], 0), maps=of_classes, predicted=("",) * len(classes)
    )
    figures["maps"] = title, maps.draw([picture], classes, title, MAPS)
    return {
        f"{kind}.{ending}": content
        for kind, (title, figure) in figures.items()
        for ending, content in (
            ("svg", page.svg(figure, title).encode()),
            ("png", page.png(figure, title)),
        )
    }


def _figure(experiment: Experiment, scale: Scale, root: Path, title: str) -> Figure:
    runs = [_run(experiment, scale, row) for row in experiment.picture_rows]
    data = data_note(experiment, scale, "")
    if experiment.plot == "trees":
        every = [_arrays(root, runs[0], traversal.TREES)]
        shown = [
            tree(arrays, number, experiment.num_traced_classes)
            for number in experiment.pictures
            for arrays in every
            if _has(arrays, number)
        ]
        if shown:
            return trees.draw(shown, title, f"{TREES} {data}".strip())
    else:
        every = [_arrays(root, run, localization.MAPS) for run in runs]
        numbers = [n for n in experiment.pictures if any(_has(arrays, n) for arrays in every)]
        if numbers:
            pictures = [explained_image(every, number) for number in numbers]
            return maps.draw(pictures, experiment.picture_rows, title, f"{MAPS} {data}".strip())
    why = worst(arrays for arrays in every if isinstance(arrays, str))
    with page.style_context():
        return page.new_sheet(title, f"{why.capitalize()}{' yet' * (why == HOLE)}.", 0.1)[0]


def _arrays(root: Path, run: Run, name: str) -> Arrays | str:
    """The arrays that a run stores; the state of the run if there are none."""
    arrays = results.arrays(root, run, name)
    return worst([results.outcome(root, run).state]) if arrays is None else arrays


def tree(arrays: Arrays, number: int, num_classes: int) -> trees.Tree:
    """A stored image of a run, with the paths of its most probable classes."""
    names, part = arrays["names"], slice(num_classes)
    levels = sorted(key for key in arrays if key.startswith("nodes"))
    return trees.Tree(
        pixels=arrays["pixels"][number],
        objects=tuple(str(names[label]) for label in arrays["shows"][number]),
        classes=tuple(str(names[label]) for label in arrays["classes"][number][part]),
        probabilities=tuple(float(p) for p in arrays["probabilities"][number][part]),
        paths=arrays["paths"][number][part],
        nodes=tuple(arrays[level][number][part] for level in levels),
    )


def explained_image(every: Sequence[Arrays | str], number: int) -> ExplainedImage:
    """An image with the map of each run, or the reason why a run has none."""
    with_image = [arrays if _has(arrays, number) else None for arrays in every]
    one = next(arrays for arrays in with_image if arrays is not None)
    first = int(one["counts"][:number].sum())
    boxes = np.asarray(one["boxes"], np.int64).reshape(-1, 4)
    return ExplainedImage(
        pixels=one["pixels"][number],
        class_name=str(one["shows"][number]),
        boxes=boxes[first : first + int(one["counts"][number])],
        maps=tuple(
            arrays if isinstance(arrays, str) else arrays["maps"][number] if has else _ABSENT
            for arrays, has in zip(every, with_image, strict=True)
        ),
        predicted=tuple(
            str(arrays["predicted"][number]) if arrays else "" for arrays in with_image
        ),
    )


def _has(arrays: Arrays | str, number: int) -> TypeGuard[Arrays]:
    return not isinstance(arrays, str) and number < len(arrays["pixels"])


def _run(experiment: Experiment, scale: Scale, row: str) -> Run:
    """The run of the first cell of a row."""
    return next(run for cell, run in runs_at_scale(experiment.cells, scale) if cell.row == row)
