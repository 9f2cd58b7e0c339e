"""Stay and look on: how runs on a cluster are, again and again, until nothing is under way."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from repro import output
from repro.launch import state
from repro.launch.progress import Screen, bar, clock, share, time_to_go
from repro.launch.state import State
from repro.spec import Run

REFRESH_SECONDS = 5.0  # a look is one squeue: be kind to the controller
_AGAIN = 5  # times that a run is submitted again for a waiting user
_WORTH_IT = ("preempted", "timed out", "lost")


def until_settled(
    root: Path, runs: Sequence[Run], submit: Callable[[Sequence[Run]], object]
) -> None:
    """Show how the runs are until none is under way.

    A run that was stopped and that its node could not requeue is submitted again.
    """
    screen, told, again = Screen(), dict[Run, str](), Counter[Run]()
    while True:
        states = state.look(root, runs)
        over = [s for s in states if not s.is_under_way]
        news = [s for s in over if s.name != told.get(s.run)]
        for number, found in enumerate(news, len(over) - len(news) + 1):
            if found.run in told or not found.settled:
                note = f": {found.note}" if found.note else ""
                screen.print(f"[{number}/{len(runs)}] {found.run.id} {found.name}{note}")
        told = {found.run: found.name for found in states}
        stopped = [s.run for s in states if s.name in _WORTH_IT and again[s.run] < _AGAIN]
        if stopped:
            submit(stopped)
            again.update(stopped)
            continue
        if not any(s.is_under_way for s in states):
            return
        screen.live(_block(states))
        time.sleep(REFRESH_SECONDS)


def _block(states: Sequence[State]) -> list[str]:
    running = [s for s in states if s.name == "running"]
    counts = Counter(s.name for s in states)
    summary = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    return [f"{summary} of {len(states)}", *(bar(s.run.id, s.facts) for s in running)]


def tell(found: State) -> str:
    """How a run is, in a line: how far, or what is wrong."""
    return output.line(_tell(found))


def _tell(found: State) -> str:
    facts, job = found.facts, f", job {found.job}" if found.job else ""
    if found.name != "running":
        return found.name + (f", {found.note}" if found.note else "")
    where = (
        f"process {facts['pid']} on {facts.get('host')}{job}"
        if "pid" in facts
        else job.lstrip(", ")
    )
    if share(facts) is None:
        return f"starting, {where}"
    epoch = f", epoch {facts['epoch']:.1f}" if facts.get("epoch") is not None else ""
    far = f"step {facts.get('step', 0)} of {facts['steps']}{epoch}"
    pace = f", {facts['rate']:.3g} steps/s" if facts.get("rate") else ""
    left = time_to_go(facts)
    go = f", {clock(left)} to go" if left is not None else ""
    silent = f", {found.note}" if found.note else ""
    return f"{far}{pace}{go}, {where}{silent}"
