"""Launch progress: lines that stay as runs start and end, and below them the runs under way."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from repro.core import output, terminal
from repro.launch.local import Event
from repro.spec import Run

if TYPE_CHECKING:
    from rich.table import Table

_MAX_ETA_SECONDS = 1e9  # a longer estimate is meaningless
_PLAIN_INTERVAL_SECONDS = 30.0  # between reports without a terminal
_NARROW_COLUMNS = 60  # of a terminal without space for bars
_MAX_BAR_COLUMNS = 20

Facts = Mapping[str, Any]  # of a run's lease


class Screen:
    """Standard error: permanent lines, and below them, on a terminal, a bar for each active run.

    Elsewhere the active runs are printed every `_PLAIN_INTERVAL_SECONDS`. A context manager.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._block: terminal.Block | None = None
        self._last_report = time.monotonic()

    def __enter__(self) -> Self:
        if terminal.is_terminal(sys.stderr):
            self._block = self._stack.enter_context(terminal.Block(sys.stderr))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._block = None
        self._stack.close()

    def print(self, line: str) -> None:
        """Print a permanent line."""
        if self._block:
            self._block.print(line)
        else:
            print(output.line(line), file=sys.stderr, flush=True)

    def show(self, runs: Sequence[tuple[str, Facts]], summary: str) -> None:
        """Show the active runs, by name and facts, and a line about all runs."""
        if self._block:
            columns, lines = self._block.size
            shown = runs if len(runs) <= lines - 2 else runs[: max(0, lines - 3)]
            more = len(runs) - len(shown)
            parts = [_bars(shown, columns)] if shown else []
            self._block.draw(*parts, *([f"and {more} more"] if more else []), summary)
        elif time.monotonic() - self._last_report >= _PLAIN_INTERVAL_SECONDS:
            for line in (*(progress_line(name, facts) for name, facts in runs), f"  {summary}"):
                self.print(line)
            self._last_report = time.monotonic()


def _bars(runs: Sequence[tuple[str, Facts]], columns: int) -> Table:
    """A line for each run: its bar, percentage, epoch, loss and name, as far as they fit."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False, expand=True)
    wide = columns >= _NARROW_COLUMNS
    for _ in range(4 if wide else 1):
        table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # what is left
    width = min(_MAX_BAR_COLUMNS, columns // 8)
    for name, facts in runs:
        fraction = fraction_done(facts)
        cells = [terminal.text(text) for text in (*_details(facts), name)]
        bar = ProgressBar(total=1, completed=fraction or 0, width=width)
        table.add_row(*([bar, *cells] if wide else [cells[0], cells[-1]]))
    return table


def _details(facts: Facts) -> tuple[str, str, str]:
    """The percentage, the epoch and the loss of a run as text; '' where there is none."""
    fraction, epoch, loss = fraction_done(facts), facts.get("epoch"), facts.get("loss")
    if fraction is None:
        return "starting", "", ""
    return (
        f"{fraction:.0%}",
        "" if epoch is None else f"epoch {epoch:.1f}",
        "" if loss is None else f"loss {loss:{'.3f' if abs(loss) < 1e5 else '.1e'}}",
    )


class Progress:
    """Prints the events of a launch of `total` runs, `jobs` at a time. A context manager."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.ended, self.failed = total, 0, 0
        self.began = time.monotonic()
        self.running: dict[Run, Facts] = {}
        self.pace = _Pace()
        self.screen = Screen()
        self.heading = f"training {total} run{'s' * (total > 1)}, {min(jobs, total)} at a time"

    def __enter__(self) -> Self:
        self.screen.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.screen.__exit__(kind, error, traceback)

    def show(self, event: Event) -> None:
        """Handle an event and show what it changes."""
        if self.heading:  # the first event: before it, the launch may still be refused
            self.screen.print(self.heading)
            self.heading = ""
        if event.kind in ("started", "running"):
            self.running[event.run] = event.facts
        else:
            self.running.pop(event.run, None)
            self.ended += 1
            if event.kind not in (
                "done",
                "diverged",
            ):  # its duration says nothing about the other runs
                self.failed, self.pace = self.failed + 1, _Pace()
            note = f": {event.note}" if event.note else ""
            self.screen.print(f"[{self.ended}/{self.total}] {event.run.id} {event.kind}{note}")
        self.screen.show([(run.id, facts) for run, facts in self.running.items()], self._summary())

    def _summary(self) -> str:
        """Time spent, and once there is an estimate time left, as if all runs were alike."""
        now = time.monotonic()
        shares = dict(self._shares())
        ended, total = self.ended - self.failed, self.total - self.failed
        eta = self.pace.eta_seconds(shares, set(self.running), ended, total, now)
        spent = f"{format_duration(now - self.began)} spent"
        return spent if eta is None else f"{spent}, about {format_duration(eta)} to go"

    def _shares(self) -> Iterator[tuple[Run, float]]:
        """The share of its time that each active run has spent, if it is known."""
        for run, facts in self.running.items():
            if (share := share_of_time(facts)) is not None:
                yield run, share


@dataclass
class _Pace:
    """Runs per second since the first report, which excludes startup time.

    Progress that the first runs had made before their first report is excluded as well.
    """

    since: float | None = None  # time of the first report
    first_runs: set[Run] = field(default_factory=set)
    initial_fractions: dict[Run, float] = field(default_factory=dict)  # at their first reports
    ended_before: int = 0
    latest: tuple[float, float] = (0.0, 0.0)  # runs done since then, and the time of that report

    def eta_seconds(
        self, shares: Mapping[Run, float], running: set[Run], ended: int, total: int, now: float
    ) -> float | None:
        """Seconds until all runs end; None before the second report."""
        if self.since is None and (shares or ended):
            self.since, self.first_runs, self.ended_before = now, running, ended
        for run in self.first_runs & shares.keys():
            self.initial_fractions.setdefault(run, shares[run])
        runs_done = ended + sum(shares.values())
        counted = runs_done - self.ended_before - sum(self.initial_fractions.values())
        if counted > self.latest[0]:
            self.latest = counted, now
        counted, at = self.latest
        if self.since is None or at <= self.since:
            return None
        return max(0.0, (total - runs_done) * (at - self.since) / counted - (now - at))


def fraction_done(facts: Facts) -> float | None:
    """The fraction of its steps that a run has made; None if unknown."""
    steps = facts.get("steps")
    return min(1.0, facts.get("step", 0) / steps) if steps else None


def share_of_time(facts: Facts) -> float | None:
    """The share of a run's time, evaluations included, that is over; None if unknown.

    Start-up is no part of it. Before there is a pace, it is the fraction of steps.
    """
    left, whole = facts.get("seconds_left", 0.0), facts.get("seconds_whole")
    return min(1.0, max(0.0, 1 - float(left) / whole)) if whole else fraction_done(facts)


def progress_line(name: str, facts: Facts) -> str:
    """A plain line about an active run: its progress, and if it trains, its epoch and loss."""
    percentage, epoch, loss = _details(facts)
    return f"  {percentage:>8}  {epoch:>11}  {loss:>12}  {name}"


def eta_seconds(facts: Facts) -> float | None:
    """Seconds until a run ends, at its pace so far; None if unknown."""
    seconds: float | None = facts.get("seconds_left")
    return seconds if seconds is not None and seconds < _MAX_ETA_SECONDS else None


def format_duration(seconds: float) -> str:
    """Format seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
