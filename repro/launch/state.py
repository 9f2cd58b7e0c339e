"""What has become of each run: from our files first, and one call of squeue for those in a queue.

done, diverged   it has a result
running          somebody trains it and gives signs of life
queued           SLURM has it, or a launcher on some machine, and will start it
never started    SLURM has it and says that it cannot start it, or forgot it before it began
preempted, timed out, lost, out of memory, failed, cancelled, interrupted
                 how the last attempt ended, if none is to follow by itself
started          it was begun, nobody knows by whom
missing          nothing is there
damaged, stale   its folder is not in order (see `repro.results`)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro import results
from repro.launch import ending, lease, queue, submission, waiting
from repro.launch.submission import Place
from repro.spec import Run

_OF_CAUSE: Mapping[ending.Cause, str] = {
    "error": "failed",
    "time limit": "timed out",
    "taken over": "lost",
}
_OF_SLURM = {"CANCELLED": "cancelled", "TIMEOUT": "timed out", "OUT_OF_MEMORY": "out of memory",
             "NODE_FAIL": "lost", "PREEMPTED": "preempted", "DEADLINE": "timed out"}  # fmt: skip

_NOTABLE_SILENCE = 30.0  # seconds without a heartbeat; one comes every 5
_TROUBLE = ("damaged", "stale")
_SETTLED = ("done", "diverged", *_TROUBLE)


@dataclass(frozen=True)
class State:
    """What has become of a run. `note` says why, or what to do; `facts` are its lease's."""

    run: Run
    name: str
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    # SLURM's, as squeue lists it now. One that it has forgotten may be another's by now: a
    # controller that crashes can give the same number twice.
    job: str = ""
    launcher: str = ""  # the process that will start it, if a local one does

    @property
    def settled(self) -> bool:
        """Whether launching has nothing to do: there is a result, or a trouble to clear first."""
        return self.name in _SETTLED

    @property
    def in_trouble(self) -> bool:
        """Whether its folder has to be put in order first; the note says how."""
        return self.name in _TROUBLE

    @property
    def is_under_way(self) -> bool:
        return self.name in ("running", "queued")

    @property
    def ended_badly(self) -> bool:
        begun = ("missing", "started", "interrupted")
        return not (self.settled or self.is_under_way or self.name in begun)


def look(root: Path, runs: Iterable[Run]) -> list[State]:
    """What there is of each run under `root`. SLURM is asked once, and only if it may have one.

    A SLURM that does not answer is no error: the states then are as the files have them.
    """
    runs = list(runs)
    outcomes = [results.outcome(root, run) for run in runs]
    open_ones = [run.id for run, o in zip(runs, outcomes, strict=True) if o.state not in _SETTLED]
    places = submission.places(root) if open_ones else {}
    listed = _ask([place for run in open_ones for place in places.get(run, ())])
    launchers = waiting.launchers(root) if open_ones else {}
    return [
        _state(
            root,
            run,
            found,
            _place(places.get(run.id, ()), listed),
            listed,
            launchers.get(run.id, ""),
        )
        for run, found in zip(runs, outcomes, strict=True)
    ]


Listed = Mapping[tuple[str, int, int], queue.Entry] | None


def _ask(places: Sequence[Place]) -> Listed:
    """squeue's word on our jobs; None if it has none."""
    if not places:
        return {}
    try:
        return submission.listed(queue.jobs({place.submission.user for place in places}))
    except queue.QueueError:
        return None


def _place(places: Sequence[Place], listed: Listed) -> Place | None:
    """The submission that counts: the newest whose job SLURM has, or else the newest.

    The clocks of two login nodes may differ, so the newest on file need not be the last one.
    """
    entries = ((place, (listed or {}).get(place.key)) for place in places)
    alive = [place for place, entry in entries if entry and (entry.waits or entry.runs)]
    known = alive or places
    return known[-1] if known else None


def _state(
    root: Path,
    run: Run,
    found: results.Outcome,
    place: Place | None,
    listed: Listed,
    launcher: str,
) -> State:
    if found.state in _SETTLED:
        return State(run, found.state, found.note)
    folder = results.folder(root, run)
    content, wrong = lease.look(folder)
    facts, entry = content or {}, None
    if place:
        entry = (listed or {}).get(place.key)
    if facts.get("released") and not facts.get("cause"):  # it ended well while SLURM was asked
        found = results.outcome(root, run)
        if found.state in _SETTLED:
            return State(run, found.state, found.note)
    told = not (place and entry) or submission.is_handed_over(root, place.submission, entry.id)
    cancelled = lease.is_asked_to_stop(folder)
    launcher = "" if cancelled else launcher  # it will not start that one
    seen = _Seen(facts, place, entry, listed is not None, cancelled, told, launcher)
    name, note = _unfinished(seen)
    if name == "missing" and found.state == "started":
        name = "started"
    if name == "running" and not seen.is_alive:
        facts = {}  # they are of an attempt before
    before = run.starts_from
    orphan = before is not None and results.outcome(root, before).state != "done"
    if name == "cancelled" and not seen.cancelled and before and orphan:  # SLURM cancels these
        name, note = "never started", f"{before.id}, from which it starts, has no result"
    note = "; ".join(part for part in (note, wrong) if part)
    return State(run, name, note, facts, entry.id if entry else "", launcher)


@dataclass(frozen=True)
class _Seen:
    """All that is known of a run without a result."""

    facts: Mapping[str, Any]  # its newest lease
    place: Place | None  # its newest submission
    entry: queue.Entry | None  # squeue's word on that
    slurm_answers: bool
    cancelled: bool
    told: bool = True  # whether its job knows what to do
    launcher: str = ""  # the local launcher that will start it

    @property
    def ours(self) -> bool:
        """Whether the lease is the submission's."""
        place = self.place
        return place is not None and self.facts.get("submission") == place.submission.token

    @property
    def is_news(self) -> bool:
        """Whether the lease tells of something later than the submission."""
        place = self.place
        return bool(self.facts) and (
            self.ours or place is None or self.facts.get("beat", 0) > place.submission.created
        )

    @property
    def is_alive(self) -> bool:
        """Whether somebody trains the run: SLURM knows of its own jobs, the heartbeat of others."""
        if not self.facts or self.facts.get("released"):
            return False
        if self.ours and self.slurm_answers:
            return self.entry is not None and self.entry.runs
        return lease.seems_held(self.facts)

    def unless_cancelled(self, name: str) -> str:
        """The state, or 'cancelled' of a run that SLURM killed before it could say so itself."""
        return "cancelled" if name == "lost" and self.cancelled else name


def _unfinished(seen: _Seen) -> tuple[str, str]:
    """Name and note of the state of a run that has no result."""
    facts, entry, end = seen.facts, seen.entry, lease.ending(seen.facts)
    if seen.is_alive:
        silent = time.time() - facts.get("beat", 0)
        return "running", f"silent for {silent:.0f} s" if silent > _NOTABLE_SILENCE else ""
    if entry and entry.never_starts:
        return "never started", f"{entry.reason}; cancel it, and mend the site file"
    if entry and (entry.waits or entry.runs) and not seen.told:
        return "never started", "its launcher died while submitting; launch it again"
    again = f"again, after: {end.cause}" if end and seen.ours else ""
    if entry and entry.waits:
        return "queued", again or ("" if entry.reason == "None" else entry.reason)
    if entry and entry.runs and not (seen.ours and end):
        return "running", "starting"
    if entry and entry.runs and end and end.cause in ending.FURTHER:
        return "queued", again  # it is about to be requeued
    if seen.launcher:
        return "queued", f"it waits for {seen.launcher}"
    if end and seen.is_news:
        return seen.unless_cancelled(_OF_CAUSE.get(end.cause, end.cause)), end.note
    said = f"SLURM: {entry.state} {entry.reason}".removesuffix(" None") if entry else ""
    if facts and seen.is_news and not facts.get("released"):
        name = seen.unless_cancelled(_OF_SLURM.get(entry.state, "lost") if entry else "lost")
        holder = f"process {facts.get('pid')} on {facts.get('host')}"
        return name, said or f"no word from {holder} any more; launch it again"
    if seen.place is None:
        return "cancelled" if seen.cancelled else "missing", ""
    if seen.cancelled or (entry and entry.state == "CANCELLED"):
        return "cancelled", ""
    if not seen.slurm_answers:
        return "queued", "as of its submission; SLURM does not answer"
    known = "does not know it any more" if seen.place.job else "has no job of it"
    return "never started", f"{said or f'SLURM {known}'}; launch it again"


def known_runs(root: Path) -> set[str]:
    """The ids of runs of which there is anything: a folder, or a submission."""
    folders = {path.name for path in root.iterdir()} if root.is_dir() else set()
    return folders - {submission.FOLDER} | submission.places(root).keys()
