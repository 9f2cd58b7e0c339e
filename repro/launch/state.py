"""The state of each run: from its files, and one call of squeue for submitted runs.

done, diverged   it has a result
running          a process trains it and sends heartbeats
queued           SLURM or a local launcher will start it
never started    SLURM cannot start it, or forgot it before it started
preempted, timed out, lost, out of memory, failed, cancelled, interrupted
                 how the last attempt ended, if no retry is scheduled
started          its folder exists, but there is no record of an attempt
missing          nothing exists
damaged, stale   its folder needs repair (see `repro.results`)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro import results
from repro.launch import failures, lease, local_queue
from repro.launch.slurm import queue, submission
from repro.launch.slurm.submission import SubmittedRun
from repro.spec import Run

_STATE_OF_CAUSE: Mapping[failures.Cause, str] = {
    "error": "failed",
    "time limit": "timed out",
    "taken over": "lost",
}
_STATE_IN_SLURM = {"CANCELLED": "cancelled", "TIMEOUT": "timed out",
                   "OUT_OF_MEMORY": "out of memory",
             "NODE_FAIL": "lost", "PREEMPTED": "preempted", "DEADLINE": "timed out"}  # fmt: skip

_LATE_HEARTBEAT_SECONDS = 30.0  # the interval is 5 s
_DAMAGED = ("damaged", "stale")
_SETTLED = ("done", "diverged", *_DAMAGED)


@dataclass(frozen=True)
class RunState:
    """The state of a run. `note` gives the reason or the next step; `facts` are those of its
    lease."""

    run: Run
    name: str
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    # SLURM's job ID, as squeue lists it now. A forgotten ID may belong to another job: a controller
    # that crashed can assign the same ID twice.
    job: str = ""
    launcher: str = ""  # the local process that will start it, if any

    @property
    def is_settled(self) -> bool:
        """Whether a launch has nothing to do: the run has a result, or needs repair first."""
        return self.name in _SETTLED

    @property
    def needs_repair(self) -> bool:
        """Whether its folder needs repair first; the note says how."""
        return self.name in _DAMAGED

    @property
    def is_under_way(self) -> bool:
        return self.name in ("running", "queued")

    @property
    def has_failed(self) -> bool:
        begun = ("missing", "started", "interrupted")
        return not (self.is_settled or self.is_under_way or self.name in begun)


def query(root: Path, runs: Iterable[Run]) -> list[RunState]:
    """The state of each run under `root`. Calls squeue at most once, and only for submitted runs.

    If SLURM does not respond, states come from the files alone.
    """
    runs = list(runs)
    outcomes = [results.outcome(root, run) for run in runs]
    unfinished = [run.id for run, o in zip(runs, outcomes, strict=True) if o.state not in _SETTLED]
    submissions = submission.find_runs(root) if unfinished else {}
    job_index = _query_slurm([one for run in unfinished for one in submissions.get(run, ())])
    launcher_of = local_queue.launchers(root) if unfinished else {}
    return [
        _run_state(
            root,
            run,
            outcome,
            _current_submission(submissions.get(run.id, ()), job_index),
            job_index,
            launcher_of.get(run.id, ""),
        )
        for run, outcome in zip(runs, outcomes, strict=True)
    ]


JobIndex = Mapping[tuple[str, int, int], queue.QueuedJob] | None


def _query_slurm(submissions: Sequence[SubmittedRun]) -> JobIndex:
    """Our jobs according to squeue; None if it does not respond."""
    if not submissions:
        return {}
    try:
        return submission.index_jobs(queue.jobs({one.submission.user for one in submissions}))
    except queue.QueueError:
        return None


def _current_submission(
    submissions: Sequence[SubmittedRun], job_index: JobIndex
) -> SubmittedRun | None:
    """The newest submission with an active job, or else the newest one.

    Clocks of login nodes may differ, so the newest on file need not be the last one.
    """
    jobs = ((one, (job_index or {}).get(one.key)) for one in submissions)
    active = [one for one, job in jobs if job and (job.is_pending or job.is_running)]
    candidates = active or submissions
    return candidates[-1] if candidates else None


def _run_state(
    root: Path,
    run: Run,
    outcome: results.Outcome,
    submitted: SubmittedRun | None,
    job_index: JobIndex,
    launcher: str,
) -> RunState:
    if outcome.state in _SETTLED:
        return RunState(run, outcome.state, outcome.note)
    folder = results.folder(root, run)
    content, problem = lease.read_or_explain(folder)
    facts, job = content or {}, None
    if submitted:
        job = (job_index or {}).get(submitted.key)
    if facts.get("released") and not facts.get("cause"):  # it finished during the query
        outcome = results.outcome(root, run)
        if outcome.state in _SETTLED:
            return RunState(run, outcome.state, outcome.note)
    has_payload = not (submitted and job) or submission.has_payload(
        root, submitted.submission, job.id
    )
    cancelled = lease.is_cancel_requested(folder)
    launcher = "" if cancelled else launcher  # it skips cancelled runs
    observed = _Observation(
        facts, submitted, job, job_index is not None, cancelled, has_payload, launcher
    )
    name, note = _state_without_result(observed)
    if name == "missing" and outcome.state == "started":
        name = "started"
    if name == "running" and not observed.is_alive:
        facts = {}  # they belong to an earlier attempt
    before = run.starts_from
    orphan = before is not None and results.outcome(root, before).state != "done"
    if (
        name == "cancelled" and not observed.cancelled and before and orphan
    ):  # SLURM cancels dependents
        name, note = "never started", f"its pretrained run {before.id} has no result"
    note = "; ".join(part for part in (note, problem) if part)
    return RunState(run, name, note, facts, job.id if job else "", launcher)


@dataclass(frozen=True)
class _Observation:
    """All that is known about a run without a result."""

    facts: Mapping[str, Any]  # its newest lease
    submitted: SubmittedRun | None  # its newest submission
    job: queue.QueuedJob | None  # its job according to squeue
    slurm_answers: bool
    cancelled: bool
    has_payload: bool = True  # whether its job can load what to run
    launcher: str = ""  # the local launcher that will start it

    @property
    def owns_lease(self) -> bool:
        """Whether the lease belongs to the submission."""
        submitted = self.submitted
        return submitted is not None and self.facts.get("submission") == submitted.submission.token

    @property
    def lease_is_newer(self) -> bool:
        """Whether the lease reports something later than the submission."""
        submitted = self.submitted
        return bool(self.facts) and (
            self.owns_lease
            or submitted is None
            or self.facts.get("beat", 0) > submitted.submission.created
        )

    @property
    def is_alive(self) -> bool:
        """Whether a process trains the run: according to SLURM for its jobs, to the heartbeat for
        others."""
        if not self.facts or self.facts.get("released"):
            return False
        if self.owns_lease and self.slurm_answers:
            return self.job is not None and self.job.is_running
        return lease.seems_locked(self.facts)

    def unless_cancelled(self, name: str) -> str:
        """The state, or 'cancelled' if SLURM killed a cancelled run before it could report that."""
        return "cancelled" if name == "lost" and self.cancelled else name


def _state_without_result(observed: _Observation) -> tuple[str, str]:
    """Name and note of the state of a run that has no result."""
    facts, job, failure = observed.facts, observed.job, lease.failure_of(observed.facts)
    if observed.is_alive:
        silence = time.time() - facts.get("beat", 0)
        return (
            "running",
            f"no heartbeat for {silence:.0f} s" if silence > _LATE_HEARTBEAT_SECONDS else "",
        )
    if job and job.never_starts:
        return "never started", f"{job.reason}; cancel it and fix the site file"
    if job and (job.is_pending or job.is_running) and not observed.has_payload:
        return "never started", "its launcher died while submitting; relaunch it"
    again = f"requeued after: {failure.cause}" if failure and observed.owns_lease else ""
    if job and job.is_pending:
        return "queued", again or ("" if job.reason == "None" else job.reason)
    if job and job.is_running and not (observed.owns_lease and failure):
        return "running", "starting"
    if job and job.is_running and failure and failure.cause in failures.MAX_RETRIES:
        return "queued", again  # about to be requeued
    if observed.launcher:
        return "queued", f"waiting for {observed.launcher}"
    if failure and observed.lease_is_newer:
        return observed.unless_cancelled(
            _STATE_OF_CAUSE.get(failure.cause, failure.cause)
        ), failure.note
    slurm_state = f"SLURM: {job.state} {job.reason}".removesuffix(" None") if job else ""
    if facts and observed.lease_is_newer and not facts.get("released"):
        name = observed.unless_cancelled(_STATE_IN_SLURM.get(job.state, "lost") if job else "lost")
        holder = f"process {facts.get('pid')} on {facts.get('host')}"
        return name, slurm_state or f"no heartbeat from {holder}; relaunch it"
    if observed.submitted is None:
        return "cancelled" if observed.cancelled else "missing", ""
    if observed.cancelled or (job and job.state == "CANCELLED"):
        return "cancelled", ""
    if not observed.slurm_answers:
        return "queued", "as of its submission; SLURM does not respond"
    reason = "no longer knows its job" if observed.submitted.job else "has no job for it"
    return "never started", f"{slurm_state or f'SLURM {reason}'}; relaunch it"


def known_runs(root: Path) -> set[str]:
    """The ids of all runs with a folder, a submission, or a place in a local launcher's queue."""
    folders = results.run_ids(root)
    launched_ids = submission.find_runs(root).keys() | local_queue.launchers(root).keys()
    return folders - {submission.FOLDER} | launched_ids
