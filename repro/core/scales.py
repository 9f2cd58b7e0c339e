"""The runs of cells at the four scales: never a second set of specs.

paper   the run as in the paper
proxy   the same question on a CPU, in hours; verdicts are given only here and at paper scale
demo    the same on embedded images, in minutes, to see everything work
smoke   a few images, a few steps, to check that it runs

The run at a small scale comes from the paper (`repro.paper.Paper.at_scale`), or from its cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

from repro import paper
from repro.data import catalogue
from repro.paper import NoVersion
from repro.spec import Cell, Experiment, Run, Scale, SpecError

# Metrics of generated images if the features are not Inception's.
_BY_OTHER_FEATURES = {"fid": "proxy_frechet", "inception_score": "proxy_score"}


def home(experiment: Experiment) -> Scale:
    """The scale at which the item's cells are specified: the paper's, or else its first."""
    return experiment.cells[0].scales[0]


def runs_at_scale(cells: Iterable[Cell], scale: Scale) -> list[tuple[Cell, Run]]:
    """The cells that have a run at a scale, with that run.

    Raises SpecError if runs that differ in their recipe become one run.
    """
    pairs = [(cell, run) for cell in cells if (run := _run_of(cell, scale))]
    if scale != "smoke":  # its numbers mean nothing
        _check_sweeps([(cell, run) for cell, run in pairs if _is_derived(cell, scale)], scale)
    return pairs


def _run_of(cell: Cell, scale: Scale) -> Run | None:
    """The cell's run at a scale; None if it has none."""
    if scale not in cell.scales:
        return None
    if scale == cell.scales[0]:
        return cell.run
    if scale == "smoke" and cell.training_fraction != 1:  # a training of two steps has no curve
        return None
    if own := _own(cell, scale):
        return own
    try:
        return paper.current().at_scale(cell.run, scale)
    except NoVersion:
        return None


def _is_derived(cell: Cell, scale: Scale) -> bool:
    """Whether the run at a scale is derived from the cell's by the paper's rule."""
    return scale != cell.scales[0] and _own(cell, scale) is None


def _own(cell: Cell, scale: Scale) -> Run | None:
    """The run at a scale that the cell itself names."""
    return {"proxy": cell.proxy, "demo": cell.demo}.get(scale)


def _check_sweeps(derived: Sequence[tuple[Cell, Run]], scale: Scale) -> None:
    """Raise SpecError if runs that differ only in their recipes are one run at a small scale."""
    by_run = dict[Run, Cell]()
    for cell, run in derived:
        first = by_run.setdefault(run, cell)
        if changed := _changed_values(first.run, cell.run):
            raise SpecError(
                f"{first.row!r} and {cell.row!r} differ in {', '.join(changed)}, but are one run "
                f"at {scale} scale; give each Cell({scale}=...), or leave {scale} out of its scales"
            )


def _changed_values(one: Run, other: Run) -> list[str]:
    """The recipe values in which two runs differ, if they differ in nothing else."""
    if one == other or type(one) is not type(other):
        return []
    differing = [f.name for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]
    if differing != ["recipe"]:
        return []
    recipes = [getattr(run, "recipe") for run in (one, other)]  # noqa: B009
    if type(recipes[0]) is not type(recipes[1]):
        return []
    names = [f.name for f in fields(recipes[0])]
    return [name for name in names if len({getattr(r, name) for r in recipes}) > 1]


def metric_of(cell: Cell, run: Run) -> str:
    """The run's metric for the cell, which has another name if features are not Inception's."""
    other = _BY_OTHER_FEATURES.get(cell.metric, "")
    return other if other in run.metrics else cell.metric


def sources(cell: Cell, scale: Scale) -> tuple[tuple[str, str], ...]:
    """The source of each value of the cell's recipe at this scale."""
    return paper.current().sources(cell, scale)


def title(dataset: str) -> str:
    """The dataset's name in a table."""
    entry = catalogue.DATASETS.get(dataset)
    return paper.current().data_titles.get(dataset, entry.title if entry else dataset)
