"""Commands about the evidence behind numbers."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro import paper
from repro.commands.parsing import arguments, option, repeated, switch
from repro.commands.runs import selected_runs
from repro.commands.selection import absence_of, item_names, seeds_to_show, stored_run
from repro.commands.shared import Selection, WithItems, WithResults, WithSeeds
from repro.commands.usage import DIFFERS, UsageError, hint
from repro.commands.values import folder_of, scales_of
from repro.core import output, records, terminal
from repro.spec import SCALES, Cell, Experiment, Run, Scale

if TYPE_CHECKING:
    from repro.trace import CellTrace, RunTrace

_MAX_CELLS = 12  # in a list
_MAX_NAMES = 3  # modules or runs in a line


@dataclass(frozen=True, kw_only=True)
class Why(WithSeeds, WithResults):
    """where a number comes from: its runs, choices, claims and command: why ITEM/ROW/COLUMN

    Everything behind a number of a table: its formula, its runs with code, device, packages and
    data, the decisions that it depends on, the claims that it is part of, and the command that
    reproduces it. A cell is ITEM/ROW/COLUMN as in the table, a row ITEM/ROW. With --decisions:
    what the paper leaves open, what was chosen instead of what, and why, for whole items.
    """

    places: tuple[str, ...] = arguments(
        "a cell or a row of a table; with --decisions items", metavar="ITEM/ROW/COLUMN"
    )
    scale: Scale = option("default: paper", default="paper", choices=SCALES)
    decisions: bool = switch("what was decided for items, and why")
    json: bool = switch("for programs")

    def execute(self) -> int:
        if self.decisions:
            return self._list_decisions()

        from repro.trace import trace

        if not self.places:
            raise UsageError(
                "why what? `repro why ITEM/ROW/COLUMN` traces a number to its runs; "
                "`repro why --decisions [ITEM...]` lists the decisions"
            )
        cells = [cell for place in self.places for cell in _cells_at(place, self.scale)]
        seeds = seeds_to_show(self.seeds, self.results)
        traces = [
            trace(item, cell, run, self.scale, self.results, seeds(item, self.scale))
            for item, cell, run in cells
        ]
        if self.json:
            print(records.encode([asdict(each) for each in traces], indent=1))
            return 0
        for each in traces:
            print(*_trace_lines(each), "", sep="\n")
        return 0

    def _list_decisions(self) -> int:
        from repro.core import ledger

        names = item_names(self.places)
        experiments = [paper.current().get(name) for name in names or paper.current().names()]
        if self.json:
            print(
                records.encode([ledger.as_json(experiment) for experiment in experiments], indent=1)
            )
            return 0
        for experiment in experiments:
            print(*ledger.lines(experiment), "", sep="\n")
        print(*ledger.common_lines(experiments), sep="\n")
        return 0


def _cells_at(place: str, scale: Scale) -> list[tuple[Experiment, Cell, Run]]:
    """The cells of an address; those of a row, if it names one. UsageError if there is none."""
    from repro.trace import addresses

    name, _, rest = place.partition("/")
    items = paper.current().names()
    if name not in items:
        rows = [f"{item}/{row}" for item in items for row in paper.current().get(item).rows
                if _plain(row) == _plain(place)]  # fmt: skip
        near = f"it is a row of {', '.join(rows)}" if rows else hint(name, items)
        raise UsageError(f"no item {name!r}; {near}")
    experiment = paper.current().get(name)
    cells = addresses(experiment, scale)
    matches = [pair for address, pair in cells.items() if _is_at(_plain(place), _plain(address))]
    if not cells:
        raise UsageError(f"{name} has nothing at {scale} scale; name another --scale")
    if not matches or not rest:
        more = len(cells) - _MAX_CELLS
        some = ", ".join([*cells][:_MAX_CELLS]) + f" and {more} more" * (more > 0)
        near = hint(place, cells) if rest else f"there are {some}"
        raise UsageError(f"no cell {place!r} at {scale} scale; {near}")
    return [(experiment, cell, run) for cell, run in matches]


def _is_at(place: str, address: str) -> bool:
    return address == place or address.startswith(f"{place}/")


def _plain(name: str) -> str:
    """As a name may be typed: in any case, with x for ×."""
    return name.lower().replace("×", "x")


def _trace_lines(trace: CellTrace) -> Iterator[str]:
    from repro.core.numbers import number

    at_scale = "" if trace.scale == "paper" else f", {trace.scale} scale"
    mean = "not run" if trace.mean is None else number(trace.mean, trace.metric)
    spread = "" if trace.spread is None else f" ± {number(trace.spread, trace.metric)}"
    yield f"{trace.address}{at_scale}: {mean}{spread}"
    yield f"  {trace.unit}; {trace.formula}"
    if trace.paper is not None:
        yield f"  the paper: {trace.paper:g} ({trace.paper_place})"
    yield "runs"
    for run in trace.runs:
        yield from _run_lines(run, trace.metric)
    ours = [each for each in trace.recipe if each.is_ours]
    yield from _section("recipe, our choices", [
        f"{each.name} = {_value(each.value)}: {each.source}" for each in ours
    ])  # fmt: skip
    if others := len(trace.recipe) - len(ours):
        yield f"recipe, {others} other values: from the paper and other sources, see --json"
    of_scale = "" if trace.decisions_scale == trace.scale else f" at {trace.decisions_scale} scale"
    yield from _section(f"decisions{of_scale}", [
        f"{each.question}: {each.chosen} (instead of {each.instead})" for each in trace.decisions
    ])  # fmt: skip
    yield from _section("claims", [
        f"“{claim.quote}” ({claim.place}). Tested: {claim.tested}." for claim in trace.claims
    ])  # fmt: skip
    yield from ("to repeat it", f"  {trace.command}")


def _run_lines(run: RunTrace, metric: str) -> Iterator[str]:
    from repro.core.numbers import number

    value = run.status if run.value is None else number(run.value, metric)
    ends = [number(end, metric) for end in (run.low, run.high) if end is not None]
    yield f"  {run.run}  {value}" + (f" [{', '.join(ends)}]" if ends else "")
    if not run.sha256:
        return
    yield from _wrapped(f"{run.folder}, result sha256 {run.sha256[:16]}", 4)
    about = [f"{name} {_value(value)}" for name, value in sorted(run.provenance.items())]
    yield from _wrapped(", ".join(about), 4)
    if run.site:
        yield f"    computed at {run.site}"
    if run.starts_from:
        yield f"    starts from {run.starts_from}"
    if run.patch:
        yield f"    changes of the code: {run.patch}"


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield title
    for line in lines:
        yield from _wrapped(line, 2)


def _wrapped(text: str, indent: int) -> list[str]:
    return textwrap.wrap(output.line(text), 100, initial_indent=" " * indent,
                         subsequent_indent=" " * (indent + 2), break_on_hyphens=False,
                         break_long_words=False)  # fmt: skip


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, kw_only=True)
class Verify(WithResults, WithItems):
    """check that every table and figure follows from the runs, and that no file has changed

    Reads every run, recounts its metrics, renders every committed table and figure again, and
    compares byte for byte. Writes nothing. Ends with status 3 if something differs.
    """

    scale: tuple[str, ...] = repeated("may be repeated (default: all)", metavar="SCALE")
    out: Path = option("the folder of tables/ and figures/ (default: here)", default=Path(),
                       read=folder_of, metavar="DIR")  # fmt: skip
    json: bool = switch("for programs")

    def execute(self) -> int:
        from repro.verify import verify

        scales = scales_of(self.scale)

        if line := absence_of(self.results):
            raise UsageError(line)
        with terminal.waiting("reading the runs and rendering the items again"):
            outcome = verify(self.results, self.out, item_names(self.items), scales)
        if not outcome.num_files:
            where = f" at {' or '.join(scales)} scale" if scales else ""
            raise UsageError(f"no table or figure in {self.out}{where}; `repro ITEM` renders one")
        if self.json:
            print(records.encode(asdict(outcome), indent=1))
        else:
            for each in outcome.differences:
                place = "" if each.what.startswith(each.place) else f"{each.place}: "
                print(output.line(f"{place}{each.what}"))
            differences = (
                f"{len(outcome.differences)} differ" if outcome.differences else "all agree"
            )
            print(f"{outcome.num_runs:,} runs and {outcome.num_files:,} files: {differences}")
        return DIFFERS if outcome.differences else 0


@dataclass(frozen=True, kw_only=True)
class Outdated(Selection):
    """results that the current code may measure differently, and the modules that changed

    List the finished runs whose code has changed since, or whose data differ from those of newer
    runs. Changes of comments, docstrings and format do not count. A run whose code is not known any
    more is listed as unknown.
    """

    names: tuple[str, ...] = arguments("items, or runs by id or its prefix",
                                       metavar="ITEM|RUN")  # fmt: skip
    json: bool = switch("for programs")

    def execute(self) -> int:
        from repro.outdated import STATES, check

        runs = selected_runs(self.names, self) if self.names else _finished(self.results)
        checks = check(self.results, runs)
        if self.json:
            print(records.encode([asdict(each) for each in checks], indent=1))
            return 0
        groups = dict[str, list[str]]()
        for each in checks:
            if each.state != "current":
                by = _some(each.changed) if each.changed else each.why
                waiver = f"; accepted: {each.waiver}" if each.waiver else ""
                groups.setdefault(f"{each.state} ({by}){waiver}", []).append(each.run)
        for about, runs_of_group in groups.items():
            print(output.line(f"{_some(runs_of_group)}: {about}"))
        states = Counter(each.state for each in checks)
        accepted = sum(bool(each.waiver) for each in checks if each.state != "current")
        counts = ", ".join(f"{states[state]:,} {state}" for state in STATES)
        print(f"{len(checks):,} run{'s' * (len(checks) != 1)}: {counts}; {accepted:,} accepted")
        return 0


@dataclass(frozen=True, kw_only=True)
class Accept(Selection):
    """record why outdated results are kept: accept ITEM|RUN... --because TEXT

    Record why results that are not current are kept. It holds until the code changes again.
    """

    names: tuple[str, ...] = arguments("items, or runs by id or its prefix",
                                       metavar="ITEM|RUN")  # fmt: skip
    because: str = option("the reason, in one line", is_required=True, metavar="TEXT")

    def execute(self) -> int:
        from repro.outdated import accept
        from repro.results import WAIVERS

        if not self.because.strip() or not self.because.isprintable() or len(self.because) > 1000:
            raise UsageError("--because: one printable line of at most 1,000 characters")
        if not self.names:
            raise UsageError("accept what? Name items or runs")
        runs = selected_runs(self.names, self)
        count = accept(self.results, runs, self.because.strip())
        where = f"; {self.results / WAIVERS} has the reason" if count else ""
        print(output.line(f"{count:,} of {len(runs):,} runs were not current{where}"))
        return 0


def _finished(root: Path) -> list[Run]:
    """The runs that have a result. A damaged spec, or another run's, is a warning."""
    from repro import results

    if line := absence_of(root):
        raise UsageError(line)
    runs = []
    for name in sorted(results.run_ids(root)):
        if (root / name / results.RESULT).exists():
            try:
                runs.append(stored_run(name, root))
            except (results.ResultsError, UsageError) as error:
                output.warn(str(error))
    return runs


def _some(names: Sequence[str]) -> str:
    """'repro.a, repro.b and 3 more'."""
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
