"""Many runs and their states as few lines, for a terminal: `plan`, `--dry-run` and `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from repro.plan import Group, Request
from repro.spec import Run, Scale

if TYPE_CHECKING:
    from repro.launch.state import State
    from repro.price import Price

_QUIET = ("done", "missing", "queued", "started")  # shown as counts alone
# The order of the columns of `status`; whatever else there is comes between.
_FIRST, _LAST = ("done", "running", "queued"), ("started", "missing")

Looked = Mapping[tuple[str, Scale], Sequence["State"]]


def plan_lines(
    request: Request,
    states: Iterable[State],
    prices: Mapping[Run, Price] | None = None,
    gpus: Mapping[Scale, str] | None = None,
    every_run: bool = False,
) -> Iterator[str]:
    """A line a row of each item: its runs by state, and their price. Then the number of all.

    `gpus`: what the prices of a scale are for. With `every_run` a line a run as well.
    """
    of = {found.run: found for found in states}
    rows = [(group, [of[run] for run in group.runs if run in of]) for group in request.groups]
    rows = [(group, found) for group, found in rows if found]
    names = max((len(group.row) for group, _ in rows), default=0)
    numbers = max((len(_counts(found)) for _, found in rows), default=0)
    heading = ""
    for group, found in rows:
        if heading != (heading := _heading(group)):
            yield heading
        cost = _cost(found, group, prices or {}, gpus or {})
        yield f"  {group.row:{names}}  {_counts(found):{numbers}}  {cost}".rstrip()
        yield from _run_lines(found, group, prices or {}, gpus or {}, every_run)
    total = [found for _, states_of in rows for found in states_of]
    number = f"{len(total)} run{'s' * (len(total) != 1)}"
    yield f"{number}: {_counts(total)}" if total else number


def _heading(group: Group) -> str:
    return group.item if group.scale == "paper" else f"{group.item}, {group.scale} scale"


def _counts(states: Iterable[State]) -> str:
    """'4 done, 2 missing'."""
    return ", ".join(f"{number} {name}" for name, number in _by_name(states).items())


def _by_name(states: Iterable[State]) -> dict[str, int]:
    """How many are in each state, in the order of `status`."""
    counts = Counter(found.name for found in states)
    middle = sorted(set(counts) - {*_FIRST, *_LAST})
    return {name: counts[name] for name in (*_FIRST, *middle, *_LAST) if counts[name]}


def _cost(
    states: Sequence[State], group: Group, prices: Mapping[Run, Price], gpus: Mapping[Scale, str]
) -> str:
    from repro import price

    found = [prices[s.run] for s in states if s.run in prices]
    return price.brief(found, gpus[group.scale]) if found else ""


def _run_lines(
    states: Sequence[State],
    group: Group,
    prices: Mapping[Run, Price],
    gpus: Mapping[Scale, str],
    every_run: bool,
) -> Iterator[str]:
    """The runs that are in training or in trouble; or each, with its price."""
    from repro import price

    width = max(len(found.run.id) for found in states)
    for found in states:
        if every_run:
            cost = price.told(prices[found.run], gpus[group.scale]) if found.run in prices else ""
            yield f"    {found.run.id:{width}}  {_said(found)}  {cost}".rstrip()
        elif not _is_quiet(found):
            yield f"    {found.run.id}: {_said(found)}"


def _is_quiet(found: State) -> bool:
    """Whether the counts say all that there is to say of a run."""
    return found.name in _QUIET and (found.name == "queued" or not found.note)


def _said(found: State) -> str:
    from repro.launch.watch import tell

    return tell(found)


# --- status --------------------------------------------------------------------------------------


def status_lines(looked: Looked, of_all: bool) -> Iterator[str]:
    """A table with a line an item and scale, a column a state; below it what is in trouble.

    With `of_all` items, those of which nothing is begun are counted in the last line.
    """
    shown = {
        key: states
        for key, states in looked.items()
        if not of_all or any(found.name != "missing" for found in states)
    }
    if shown:
        yield from _table(shown)
    if untouched := len(looked) - len(shown):
        yield f"{untouched} of {len(looked)} have no run begun; name an item to see its counts"


def _table(looked: Looked) -> Iterator[str]:
    states = list(_by_name(found for states in looked.values() for found in states))
    item = max(len("item"), *(len(name) for name, _ in looked))
    widths = [max(5, len(name)) for name in states]
    heads = "  ".join(f"{name:>{width}}" for name, width in zip(states, widths, strict=True))
    yield f"{'item':{item}}  scale  {heads}"
    before = ""
    for (name, scale), found in looked.items():
        label, before = "" if name == before else name, name
        counts = _by_name(found)
        cells = (str(counts.get(state, "")) for state in states)
        numbers = "  ".join(f"{n:>{width}}" for n, width in zip(cells, widths, strict=True))
        yield f"{label:{item}}  {scale:5}  {numbers}".rstrip()
        reasons = Counter(s.note for s in found if s.name == "queued" and s.note)
        yield from (f"  queued: {n} × {reason}" for reason, n in reasons.most_common(5))
        yield from (f"  {s.run.id}: {_said(s)}" for s in found if not _is_quiet(s))
