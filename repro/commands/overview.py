"""Many runs and their states as small tables: `plan`, `--dry-run` and `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repro.core.plan import Request
from repro.core.terminal import Part, Table
from repro.spec import Run, Scale

if TYPE_CHECKING:
    from repro.cost.price import Price
    from repro.launch.state import RunState

_QUIET = ("done", "missing", "queued", "started")  # only counted
# The order of the columns of `status`; other states come between.
_FIRST, _LAST = ("done", "running", "queued"), ("started", "missing")

_MAX_ROWS = 24  # of an item, in a plan

RunView = Mapping[tuple[str, Scale], Sequence["RunState"]]


def plan_parts(
    request: Request,
    states: Iterable[RunState],
    prices: Mapping[Run, Price] | None = None,
    gpus: Mapping[Scale, str] | None = None,
    every_run: bool = False,
) -> Iterator[Part]:
    """The runs by state and their price: of several items, of the rows of one, or each run.

    `gpus`: the GPU for the prices of each scale. `every_run`: a line per run, by item and row.
    """
    costs = _Costs(prices or {}, gpus or {})
    by_run = {run_state.run: run_state for run_state in states}
    found = [(g, [by_run[run] for run in g.runs if run in by_run]) for g in request.groups]
    rows = [(group, row_states) for group, row_states in found if row_states]
    by_item: dict[tuple[str, Scale], list[_Row]] = {}
    for group, row_states in rows:
        by_item.setdefault((group.item, group.scale), []).append((group.row, row_states))
    total = [run_state for _, row_states in rows for run_state in row_states]
    if every_run:
        for (item, scale), item_rows in by_item.items():
            yield _heading(item, scale)
            yield from _run_parts(item_rows, scale, costs)
    elif len({item for item, _ in by_item}) > 1:
        yield _items_table(by_item, costs)
    else:
        for (item, scale), item_rows in by_item.items():
            yield _heading(item, scale)
            yield _rows_table(item_rows[:_MAX_ROWS], scale, costs)
            if (more := len(item_rows) - _MAX_ROWS) > 0:
                yield f"  and {more} more rows (--runs lists the runs of all)"
    if not every_run:
        yield from _run_lines(total)
    number = f"{len(total)} run{'s' * (len(total) != 1)}"
    yield f"{number}: {_counts(total)}" if total else number


_Row = tuple[str, list["RunState"]]  # its name, and its runs


@dataclass(frozen=True)
class _Costs:
    """The prices of runs, and the GPU that they are for at each scale."""

    prices: Mapping[Run, Price]
    gpus: Mapping[Scale, str]

    def of_runs(self, states: Iterable[RunState], scale: Scale) -> str:
        """The price of those without a result; '' if there is none."""
        from repro.cost import price

        costs = [self.prices[s.run] for s in states if s.run in self.prices]
        return price.brief(costs, self.gpus[scale]) if costs else ""

    def of_run(self, run: Run, scale: Scale) -> str:
        """The price of a run and its origin; '' if it has none."""
        from repro.cost import price

        cost = self.prices.get(run)
        return price.describe(cost, self.gpus[scale]) if cost else ""


def _heading(item: str, scale: Scale) -> str:
    return item if scale == "paper" else f"{item}, {scale} scale"


def _items_table(by_item: Mapping[tuple[str, Scale], Sequence[_Row]], costs: _Costs) -> Table:
    """A row for each item and scale."""
    runs = {key: [s for _, states in rows for s in states] for key, rows in by_item.items()}
    names = [[*key] for key in runs]
    prices = [costs.of_runs(states, scale) for (_, scale), states in runs.items()]
    return _states_table(("item", "scale"), names, list(runs.values()), prices)


def _rows_table(rows: Sequence[_Row], scale: Scale, costs: _Costs) -> Table:
    """A row for each row of an item."""
    prices = [costs.of_runs(states, scale) for _, states in rows]
    names = [[name] for name, _ in rows]
    return _states_table(("row",), names, [states for _, states in rows], prices, indent=2)


def _states_table(
    headings: Sequence[str],
    names: Sequence[Sequence[str]],
    runs: Sequence[Sequence[RunState]],
    prices: Sequence[str] = (),
    indent: int = 0,
) -> Table:
    """A row for each of `names`: a column per state with the number of runs, and their price."""
    states = list(_by_name(run_state for row_states in runs for run_state in row_states))
    has_prices = any(prices)
    rows = []
    for place, (row, row_states) in enumerate(zip(names, runs, strict=True)):
        counts = _by_name(row_states)
        numbers = [str(counts.get(state, "")) for state in states]
        rows.append([*row, *numbers, *([prices[place]] if has_prices else [])])
    columns = range(len(headings), len(headings) + len(states))
    return Table([*headings, *states, *(["price"] * has_prices)], rows, columns, indent=indent)


def _counts(states: Iterable[RunState]) -> str:
    """'4 done, 2 missing'."""
    return ", ".join(f"{number} {name}" for name, number in _by_name(states).items())


def _by_name(states: Iterable[RunState]) -> dict[str, int]:
    """The number of runs in each state, in the order of `status`."""
    counts = Counter(run_state.name for run_state in states)
    middle = sorted(set(counts) - {*_FIRST, *_LAST})
    return {name: counts[name] for name in (*_FIRST, *middle, *_LAST) if counts[name]}


def _run_parts(rows: Sequence[_Row], scale: Scale, costs: _Costs) -> Iterator[Part]:
    """The runs of each row of an item, with their states and prices."""
    for row, states in rows:
        yield f"  {row}"
        runs = [[s.run.id, _describe(s), costs.of_run(s.run, scale)] for s in states]
        yield Table(("", "", ""), runs, indent=4)


def _run_lines(states: Iterable[RunState]) -> Iterator[str]:
    """A line about each run that needs one, once."""
    for run_state in {s.run: s for s in states}.values():
        if not _is_quiet(run_state):
            yield f"  {run_state.run.id}: {_describe(run_state)}"


def _is_quiet(run_state: RunState) -> bool:
    """Whether a run needs no line besides the counts."""
    return run_state.name in _QUIET and (run_state.name == "queued" or not run_state.note)


def _describe(run_state: RunState) -> str:
    from repro.launch.slurm.watch import describe

    return describe(run_state)


# --- status --------------------------------------------------------------------------------------


def status_parts(view: RunView, of_all: bool) -> Iterator[Part]:
    """A table with a row per item and scale and a column per state; lines about runs below it.

    With `of_all` items, those without any run are only counted in the last line.
    """
    rows = {
        key: states
        for key, states in view.items()
        if not of_all or any(run_state.name != "missing" for run_state in states)
    }
    if rows:
        yield _states_table(("item", "scale"), [[*key] for key in rows], list(rows.values()))
    for (item, scale), states in rows.items():
        reasons = Counter(s.note for s in states if s.name == "queued" and s.note)
        for reason, number in reasons.most_common(5):
            yield f"  {item}, {scale} scale, queued: {number} × {reason}"
    yield from _run_lines(run_state for states in rows.values() for run_state in states)
    if hidden := len(view) - len(rows):
        yield f"{hidden} of {len(view)} rows have no runs yet; name an item to see all of its rows"
