"""`--wait`: show the states of submitted runs until none is queued or running."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from repro.core import output
from repro.launch import state
from repro.launch.progress import Screen, eta_seconds, format_duration, fraction_done
from repro.launch.state import RunState
from repro.spec import Run

REFRESH_SECONDS = 5.0  # each refresh is one squeue call: spare the controller
_MAX_RESUBMISSIONS = 5  # per run
_RESUBMITTED_STATES = ("preempted", "timed out", "lost")


def watch_until_settled(
    root: Path, runs: Sequence[Run], submit: Callable[[Sequence[Run]], object]
) -> None:
    """Show the states of the runs until none is queued or running.

    A stopped run that its node could not requeue is submitted again.
    """
    with Screen() as screen:
        _watch(root, runs, submit, screen)


def _watch(
    root: Path, runs: Sequence[Run], submit: Callable[[Sequence[Run]], object], screen: Screen
) -> None:
    last_names, resubmissions = dict[Run, str](), Counter[Run]()
    while True:
        states = state.query(root, runs)
        ended = [s for s in states if not s.is_under_way]
        changed = [s for s in ended if s.name != last_names.get(s.run)]
        for number, run_state in enumerate(changed, len(ended) - len(changed) + 1):
            if run_state.run in last_names or not run_state.is_settled:
                note = f": {run_state.note}" if run_state.note else ""
                screen.print(f"[{number}/{len(runs)}] {run_state.run.id} {run_state.name}{note}")
        last_names = {run_state.run: run_state.name for run_state in states}
        to_resubmit = [
            s.run
            for s in states
            if s.name in _RESUBMITTED_STATES and resubmissions[s.run] < _MAX_RESUBMISSIONS
        ]
        if to_resubmit:
            submit(to_resubmit)
            resubmissions.update(to_resubmit)
            continue
        if not any(s.is_under_way for s in states):
            return
        running = [(s.run.id, s.facts) for s in states if s.name == "running"]
        screen.show(running, _summary(states))
        time.sleep(REFRESH_SECONDS)


def _summary(states: Sequence[RunState]) -> str:
    counts = Counter(s.name for s in states).most_common()
    return f"{', '.join(f'{number} {name}' for name, number in counts)} of {len(states)}"


def describe(run_state: RunState) -> str:
    """The state of a run in a line: its progress, or what is wrong."""
    return output.line(_description(run_state))


def _description(run_state: RunState) -> str:
    facts, job = run_state.facts, f", job {run_state.job}" if run_state.job else ""
    if run_state.name != "running":
        return run_state.name + (f", {run_state.note}" if run_state.note else "")
    location = (
        f"process {facts['pid']} on {facts.get('host')}{job}"
        if "pid" in facts
        else job.lstrip(", ")
    )
    if fraction_done(facts) is None:
        return f"starting, {location}"
    epoch = f", epoch {facts['epoch']:.1f}" if facts.get("epoch") is not None else ""
    steps_done = f"step {facts.get('step', 0)} of {facts['steps']}{epoch}"
    pace = f", {facts['rate']:.3g} steps/s" if facts.get("rate") else ""
    seconds_left = eta_seconds(facts)
    eta = f", {format_duration(seconds_left)} to go" if seconds_left is not None else ""
    note = f", {run_state.note}" if run_state.note else ""
    return f"{steps_done}{pace}{eta}, {location}{note}"
