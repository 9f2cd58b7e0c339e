"""What is wrong with an experiment that a paper defines, as one line; used when it is loaded."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import get_args, get_type_hints

from repro.core.run import Run, from_json, to_json
from repro.spec import SCALES, Cell, Claim, Experiment, PaperValue, SpecError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,199}")
_PLOTS = get_args(get_type_hints(Experiment)["plot"])


def problem_of(experiment: Experiment) -> str:
    """The first problem and the next step; '' if there is none."""
    return next(_problems(experiment), "")


def _is_a(value: object, types: type | tuple[type, ...]) -> bool:
    """isinstance of a value that is annotated so, in a file that nobody may have type-checked."""
    return isinstance(value, types)


def _problems(item: Experiment) -> Iterator[str]:
    if not _NAME.fullmatch(item.name) or item.name == "all":
        yield (
            "not a name of an item; use lower-case letters, digits and underscores, and not 'all'"
        )
    if not _is_a(item.cells, tuple) or not item.cells:
        yield "no cells; `cells` is a tuple of at least one Cell"
        return
    for cell in item.cells:
        if not _is_a(cell, Cell):
            yield f"{cell!r} is not a Cell"
            return
        yield from (f"{cell.row!r}, {cell.column!r}: {why}" for why in _problems_of_cell(cell))
    places = Counter((cell.row, cell.column, cell.panel) for cell in item.cells)
    yield from (
        f"two cells at {place}; name the rows apart" for place, n in places.items() if n > 1
    )
    valid_places = {
        place for row, column, panel in places for place in ((row, column), (row, column, panel))
    }
    for claim in item.claims:
        yield from (f"the claim {claim.quote!r}: {why}" for why in _problems_of_claim(claim))
        yield from (
            f"a claim refers to {place}, which is not a cell"
            for place in claim.places
            if place not in valid_places
        )
    for cited in item.cited:
        if cited.column not in item.columns:
            yield f"{cited.row!r} is cited in the column {cited.column!r}, which no cell has"
    if item.plot not in _PLOTS:
        yield f"no plot {item.plot!r}; choose from {', '.join(filter(None, _PLOTS))}"


def _problems_of_cell(cell: Cell) -> Iterator[str]:
    if not cell.scales or not set(cell.scales) <= set(SCALES):
        yield f"`scales` is {cell.scales}; choose from {', '.join(SCALES)}"
    for value in filter(None, (cell.paper, cell.published)):
        if not _is_number(value):
            yield f"the paper's value is {getattr(value, 'value', value)!r}, not a finite number"
    yield from filter(None, map(_problem_of_run, filter(None, (cell.run, cell.proxy, cell.demo))))


def _is_number(value: PaperValue) -> bool:
    return (
        _is_a(value, PaperValue) and _is_a(value.value, (int, float)) and math.isfinite(value.value)
    )


def _problem_of_run(run: Run) -> str:
    """What keeps a run from being named, stored and priced."""
    kind = type(run)
    if not _is_a(run, Run):
        return f"{run!r} is not a Run"
    if "__dataclass_params__" not in vars(kind):
        return f"{kind.__name__} is not a frozen dataclass; decorate it"
    try:
        if not _ID.fullmatch(run.id):
            return (
                f"the run's id is {run.id[:80]!r}; its slug has to be at most 190 lower-case "
                "letters, digits and hyphens"
            )
        if from_json(to_json(run)) != run:
            return f"the run {run.id} is another one when it is read again from its spec"
        _ = run.is_stochastic, run.training_steps, run.footprint, run.work
    except SpecError as error:
        return str(error)
    except Exception as error:  # of a kind's own code too
        return f"not a run that can be carried out: {type(error).__name__}: {error}"
    return ""


def _problems_of_claim(claim: Claim) -> Iterator[str]:
    if not claim.above:
        yield "`above` is empty; name a cell"
    if not claim.below and claim.min_effect is None:
        yield "without `below` it needs a `min_effect`"
    if claim.kind == "difference" and (len(claim.above), len(claim.below)) != (2, 2):
        yield "a difference needs two cells in `above` and two in `below`"
