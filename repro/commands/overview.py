"""Many runs and their states as few lines, for a terminal: `plan`, `--dry-run` and `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from repro.core.plan import Group, Request
from repro.spec import Run, Scale

if TYPE_CHECKING:
    from repro.cost.price import Price
    from repro.launch.state import RunState

_QUIET = ("done", "missing", "queued", "started")  # only counted
# The order of the columns of `status`; other states come between.
_FIRST, _LAST = ("done", "running", "queued"), ("started", "missing")

RunView = Mapping[tuple[str, Scale], Sequence["RunState"]]


def plan_lines(
    request: Request,
    states: Iterable[RunState],
    prices: Mapping[Run, Price] | None = None,
    gpus: Mapping[Scale, str] | None = None,
    every_run: bool = False,
) -> Iterator[str]:
    """A line per row of each item with its runs by state and their price; then the totals.

    `gpus`: the GPU for the prices of each scale. `every_run`: also a line per run.
    """
    by_run = {run_state.run: run_state for run_state in states}
    rows = [
        (group, [by_run[run] for run in group.runs if run in by_run]) for group in request.groups
    ]
    rows = [(group, row_states) for group, row_states in rows if row_states]
    names = max((len(group.row) for group, _ in rows), default=0)
    numbers = max((len(_counts(row_states)) for _, row_states in rows), default=0)
    heading = ""
    for group, row_states in rows:
        if heading != (heading := _heading(group)):
            yield heading
        cost = _cost(row_states, group, prices or {}, gpus or {})
        yield f"  {group.row:{names}}  {_counts(row_states):{numbers}}  {cost}".rstrip()
        yield from _run_lines(row_states, group, prices or {}, gpus or {}, every_run)
    total = [run_state for _, row_states in rows for run_state in row_states]
    number = f"{len(total)} run{'s' * (len(total) != 1)}"
    yield f"{number}: {_counts(total)}" if total else number


def _heading(group: Group) -> str:
    return group.item if group.scale == "paper" else f"{group.item}, {group.scale} scale"


def _counts(states: Iterable[RunState]) -> str:
    """'4 done, 2 missing'."""
    return ", ".join(f"{number} {name}" for name, number in _by_name(states).items())


def _by_name(states: Iterable[RunState]) -> dict[str, int]:
    """The number of runs in each state, in the order of `status`."""
    counts = Counter(run_state.name for run_state in states)
    middle = sorted(set(counts) - {*_FIRST, *_LAST})
    return {name: counts[name] for name in (*_FIRST, *middle, *_LAST) if counts[name]}


def _cost(
    states: Sequence[RunState], group: Group, prices: Mapping[Run, Price], gpus: Mapping[Scale, str]
) -> str:
    from repro.cost import price

    costs = [prices[s.run] for s in states if s.run in prices]
    return price.brief(costs, gpus[group.scale]) if costs else ""


def _run_lines(
    states: Sequence[RunState],
    group: Group,
    prices: Mapping[Run, Price],
    gpus: Mapping[Scale, str],
    every_run: bool,
) -> Iterator[str]:
    """Lines about running and failed runs; with `every_run` about all, with their prices."""
    from repro.cost import price

    width = max(len(run_state.run.id) for run_state in states)
    for run_state in states:
        if every_run:
            cost = (
                price.describe(prices[run_state.run], gpus[group.scale])
                if run_state.run in prices
                else ""
            )
            yield f"    {run_state.run.id:{width}}  {_describe(run_state)}  {cost}".rstrip()
        elif not _is_quiet(run_state):
            yield f"    {run_state.run.id}: {_describe(run_state)}"


def _is_quiet(run_state: RunState) -> bool:
    """Whether a run needs no line besides the counts."""
    return run_state.name in _QUIET and (run_state.name == "queued" or not run_state.note)


def _describe(run_state: RunState) -> str:
    from repro.launch.slurm.watch import describe

    return describe(run_state)


# --- status --------------------------------------------------------------------------------------


def status_lines(view: RunView, of_all: bool) -> Iterator[str]:
    """A table with a line per item and scale and a column per state, and lines about failed runs.

    With `of_all` items, those without any run are only counted in the last line.
    """
    rows = {
        key: states
        for key, states in view.items()
        if not of_all or any(run_state.name != "missing" for run_state in states)
    }
    if rows:
        yield from _table(rows)
    if hidden := len(view) - len(rows):
        yield f"{hidden} of {len(view)} rows have no runs yet; name an item to see all of its rows"


def _table(view: RunView) -> Iterator[str]:
    states = list(_by_name(run_state for row_states in view.values() for run_state in row_states))
    item = max(len("item"), *(len(name) for name, _ in view))
    widths = [max(5, len(name)) for name in states]
    heads = "  ".join(f"{name:>{width}}" for name, width in zip(states, widths, strict=True))
    yield f"{'item':{item}}  scale  {heads}"
    before = ""
    for (name, scale), row_states in view.items():
        label, before = "" if name == before else name, name
        counts = _by_name(row_states)
        cells = (str(counts.get(state, "")) for state in states)
        numbers = "  ".join(f"{n:>{width}}" for n, width in zip(cells, widths, strict=True))
        yield f"{label:{item}}  {scale:5}  {numbers}".rstrip()
        reasons = Counter(s.note for s in row_states if s.name == "queued" and s.note)
        yield from (f"  queued: {n} × {reason}" for reason, n in reasons.most_common(5))
        yield from (f"  {s.run.id}: {_describe(s)}" for s in row_states if not _is_quiet(s))
