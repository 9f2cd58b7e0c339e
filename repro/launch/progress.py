"""Launch progress: lines that stay as runs start and end, and on a terminal a live block."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro.core import output
from repro.launch.local import Event
from repro.spec import Run

_MAX_ETA_SECONDS = 1e9  # a longer estimate is meaningless
_PLAIN_INTERVAL_SECONDS = 30.0  # between reports without a terminal


class Screen:
    """Standard error: permanent lines, and below them, on a terminal, a block that is redrawn."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.height = 0  # of the block, in lines
        self.last_report = time.monotonic()

    def print(self, *lines: str) -> None:
        """Print permanent lines."""
        self._clear()
        for line in lines:
            print(output.line(line), file=sys.stderr, flush=True)

    def live(self, lines: Sequence[str]) -> None:
        """Redraw the block; without a terminal, print it every `_PLAIN_INTERVAL_SECONDS`."""
        if not self.terminal:
            if time.monotonic() - self.last_report >= _PLAIN_INTERVAL_SECONDS:
                self.print(*lines)
                self.last_report = time.monotonic()
            return
        self._clear()
        size = shutil.get_terminal_size()
        visible = [
            output.terminal(line)[: size.columns - 1] for line in lines
        ]  # a wrapped line could not be cleared
        if len(visible) > size.lines - 2:
            visible = [*visible[: size.lines - 3], f"  ... and {len(lines) - size.lines + 3} more"]
        print("\n".join(visible), file=sys.stderr, flush=True)
        self.height = len(visible)

    def _clear(self) -> None:
        if self.height:
            print(f"\033[{self.height}A\033[J", end="", file=sys.stderr)
            self.height = 0


class Progress:
    """Prints the events of a launch of `total` runs, `jobs` at a time."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.ended, self.failed = total, 0, 0
        self.began = time.monotonic()
        self.running: dict[Run, Mapping[str, Any]] = {}
        self.pace = _Pace()
        self.screen = Screen()
        self.heading = f"training {total} run{'s' * (total > 1)}, {min(jobs, total)} at a time"

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
        eta = self._eta_line()
        lines = [progress_line(run.id, facts) for run, facts in self.running.items()]
        self.screen.live(lines + ([f"  {eta}"] if eta else []))

    def _eta_line(self) -> str:
        """Time spent and time left, as if all runs were alike; '' before there is an estimate."""
        now = time.monotonic()
        fractions = {run: fraction_done(facts) for run, facts in self.running.items()}
        shares = {run: fraction for run, fraction in fractions.items() if fraction is not None}
        ended, total = self.ended - self.failed, self.total - self.failed
        eta = self.pace.eta_seconds(shares, set(self.running), ended, total, now)
        return (
            ""
            if eta is None
            else f"{format_duration(now - self.began)} spent, about {format_duration(eta)} to go"
        )


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


def fraction_done(facts: Mapping[str, Any]) -> float | None:
    """The fraction of its steps that a run has made; None if unknown."""
    steps = facts.get("steps")
    return min(1.0, facts.get("step", 0) / steps) if steps else None


def progress_line(name: str, facts: Mapping[str, Any]) -> str:
    """A line about an active run: its progress, and if it trains, its epoch and loss."""
    fraction, epoch, loss = fraction_done(facts), facts.get("epoch"), facts.get("loss")
    if fraction is None:
        return f"  {'starting':47} {name}"
    filled = "█" * round(20 * fraction) + "░" * (20 - round(20 * fraction))
    details = ""
    if epoch is not None and loss is not None:
        details = f"epoch {epoch:5.1f} loss {loss:{'7.3f' if abs(loss) < 1e5 else '7.1e'}}"
    return f"  {filled} {fraction:4.0%} {details:24} {name}"


def eta_seconds(facts: Mapping[str, Any]) -> float | None:
    """Seconds until a run makes its last step, at its current rate; None if unknown."""
    fraction, rate = fraction_done(facts), facts.get("rate")
    if fraction is None or not rate:
        return None
    seconds = float((1 - fraction) * facts["steps"] / rate)
    return seconds if seconds < _MAX_ETA_SECONDS else None


def format_duration(seconds: float) -> str:
    """Format seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
