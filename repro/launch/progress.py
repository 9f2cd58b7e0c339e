"""What a launcher shows: lines that stay as runs begin and end, and on a terminal a live block."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro import output
from repro.launch.local import Event
from repro.spec import Run

_NO_END = 1e9  # seconds to go that are no answer
_PLAIN_SECONDS = 30.0  # between two reports where the output is not a terminal


class Screen:
    """Standard error: lines that stay, and below them, on a terminal, a block that changes."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.height = 0  # of the block, in lines
        self.reported = time.monotonic()

    def print(self, *lines: str) -> None:
        """Lines that stay."""
        self._clear()
        for line in lines:
            print(output.line(line), file=sys.stderr, flush=True)

    def live(self, lines: Sequence[str]) -> None:
        """Replace the block; where the output is no terminal, print it now and then."""
        if not self.terminal:
            if time.monotonic() - self.reported >= _PLAIN_SECONDS:
                self.print(*lines)
                self.reported = time.monotonic()
            return
        self._clear()
        size = shutil.get_terminal_size()
        shown = [
            output.terminal(line)[: size.columns - 1] for line in lines
        ]  # a wrapped line cannot be cleared
        if len(shown) > size.lines - 2:
            shown = [*shown[: size.lines - 3], f"  ... and {len(lines) - size.lines + 3} more"]
        print("\n".join(shown), file=sys.stderr, flush=True)
        self.height = len(shown)

    def _clear(self) -> None:
        if self.height:
            print(f"\033[{self.height}A\033[J", end="", file=sys.stderr)
            self.height = 0


class Progress:
    """Prints the events of a launch of `total` runs, `jobs` at a time."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.ended, self.lost = total, 0, 0
        self.began = time.monotonic()
        self.running: dict[Run, Mapping[str, Any]] = {}
        self.pace = _Pace()
        self.screen = Screen()
        self.heading = f"training {total} run{'s' * (total > 1)}, {min(jobs, total)} at a time"

    def tell(self, event: Event) -> None:
        """Take an event and show what it changes."""
        if self.heading:  # the first event: until then, what there is to train may be refused
            self.screen.print(self.heading)
            self.heading = ""
        if event.kind in ("started", "running"):
            self.running[event.run] = event.facts
        else:
            self.running.pop(event.run, None)
            self.ended += 1
            if event.kind not in ("done", "diverged"):  # it tells nothing of the others' time
                self.lost, self.pace = self.lost + 1, _Pace()
            note = f": {event.note}" if event.note else ""
            self.screen.print(f"[{self.ended}/{self.total}] {event.run.id} {event.kind}{note}")
        left = self._time_to_go()
        lines = [bar(run.id, facts) for run, facts in self.running.items()]
        self.screen.live(lines + ([f"  {left}"] if left else []))

    def _time_to_go(self) -> str:
        """A guess from the runs' progress, as if all runs were alike; '' before there is one."""
        now = time.monotonic()
        known = {run: share(facts) for run, facts in self.running.items()}
        shares = {run: made for run, made in known.items() if made is not None}
        ended, total = self.ended - self.lost, self.total - self.lost
        left = self.pace.time_to_go(shares, set(self.running), ended, total, now)
        return "" if left is None else f"{clock(now - self.began)} spent, about {clock(left)} to go"


@dataclass
class _Pace:
    """Runs a second since the first report, so that the time it took to start does not count.

    What the first runs had done before their own first report does not count either.
    """

    since: float | None = None  # the first report
    first_runs: set[Run] = field(default_factory=set)
    before: dict[Run, float] = field(default_factory=dict)  # their shares at their first reports
    ended_before: int = 0
    newest: tuple[float, float] = (0.0, 0.0)  # runs done since, and when that was reported

    def time_to_go(
        self, shares: Mapping[Run, float], running: set[Run], ended: int, total: int, now: float
    ) -> float | None:
        """Seconds until all runs have ended; None before there is a second report."""
        if self.since is None and (shares or ended):
            self.since, self.first_runs, self.ended_before = now, running, ended
        for run in self.first_runs & shares.keys():
            self.before.setdefault(run, shares[run])
        done = ended + sum(shares.values())
        counted = done - self.ended_before - sum(self.before.values())
        if counted > self.newest[0]:
            self.newest = counted, now
        counted, at = self.newest
        if self.since is None or at <= self.since:
            return None
        return max(0.0, (total - done) * (at - self.since) / counted - (now - at))


def share(facts: Mapping[str, Any]) -> float | None:
    """The share of its steps that a run has made; None if that is not known."""
    steps = facts.get("steps")
    return min(1.0, facts.get("step", 0) / steps) if steps else None


def bar(name: str, facts: Mapping[str, Any]) -> str:
    """A run under way, as a line: how far, and where it trains, its epoch and loss."""
    far, epoch, loss = share(facts), facts.get("epoch"), facts.get("loss")
    if far is None:
        return f"  {'starting':47} {name}"
    drawn = "█" * round(20 * far) + "░" * (20 - round(20 * far))
    told = ""
    if epoch is not None and loss is not None:
        told = f"epoch {epoch:5.1f} loss {loss:{'7.3f' if abs(loss) < 1e5 else '7.1e'}}"
    return f"  {drawn} {far:4.0%} {told:24} {name}"


def time_to_go(facts: Mapping[str, Any]) -> float | None:
    """Seconds until a run has made its last step, at its pace; None if that is not known."""
    far, rate = share(facts), facts.get("rate")
    if far is None or not rate:
        return None
    seconds = float((1 - far) * facts["steps"] / rate)
    return seconds if seconds < _NO_END else None


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
