"""What a launcher shows: lines that stay as runs begin and end, and on a terminal a live block."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from repro.launch.local import Event
from repro.spec import Run

_PLAIN_SECONDS = 30.0  # between two reports where the output is not a terminal


class Progress:
    """Prints the events of a launch of `total` runs, `jobs` at a time."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.ended, self.live = total, 0, 0
        self.began = self.reported = time.monotonic()
        self.running: dict[Run, dict[str, Any]] = {}
        self.terminal = sys.stderr.isatty()
        self.heading = f"training {total} run{'s' * (total > 1)}, {min(jobs, total)} at a time"

    def tell(self, event: Event) -> None:
        """Take an event and show what it changes."""
        if self.heading:  # the first event: until then, what there is to train may be refused
            self._print(self.heading)
            self.heading = ""
        if event.kind in ("started", "running"):
            self.running[event.run] = event.facts
        else:
            self.running.pop(event.run, None)
            self.ended += 1
            note = f": {event.note}" if event.note else ""
            self._print(f"[{self.ended}/{self.total}] {event.run.id} {event.kind}{note}")
        if self.terminal:
            self._redraw()
        elif time.monotonic() - self.reported >= _PLAIN_SECONDS:
            self._print(*(self._line(run) for run in self.running))
            self.reported = time.monotonic()

    def _line(self, run: Run) -> str:
        facts = self.running[run]
        if not facts.get("steps"):
            return f"  {'starting':47} {run.id}"
        share, loss = facts["step"] / facts["steps"], facts["loss"]
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        return f"  {bar} {share:4.0%} epoch {facts['epoch']:5.1f} loss {loss:7.3f} {run.id}"

    def _print(self, *lines: str) -> None:
        self._clear()
        for line in lines:
            print(line, file=sys.stderr, flush=True)

    def _redraw(self) -> None:
        self._clear()
        left = self._time_to_go()
        lines = [*map(self._line, self.running)] + ([f"  {left}"] if left else [])
        width = shutil.get_terminal_size().columns - 1  # a wrapped line would not be cleared
        print("\n".join(line[:width] for line in lines), file=sys.stderr, flush=True)
        self.live = len(lines)

    def _clear(self) -> None:
        if self.live:
            print(f"\033[{self.live}A\033[J", end="", file=sys.stderr)
            self.live = 0

    def _time_to_go(self) -> str:
        """A guess from the runs' progress, as if all runs were alike; '' before there is one."""
        shares = [f["step"] / f["steps"] for f in self.running.values() if f.get("steps")]
        done = self.ended + sum(shares)
        if done < 0.05:
            return ""
        spent = time.monotonic() - self.began
        return f"{clock(spent)} spent, about {clock(spent * (self.total - done) / done)} to go"


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
