"""Cancel runs that are queued or running, here and on SLURM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from repro import results
from repro.launch import lease
from repro.launch.slurm import queue, submission
from repro.launch.state import RunState


def cancel(states: Sequence[RunState], root: Path) -> None:
    """Request these runs to stop, and cancel their jobs.

    Raises QueueError if SLURM does not respond; the mark in a run's folder is valid even then.
    """
    for each in states:
        lease.request_cancel(results.folder(root, each.run))
    if jobs := jobs_of(states, root):
        queue.cancel(jobs)
    if unreachable := sum(s.name == "queued" and not (s.job or s.launcher) for s in states):
        raise queue.QueueError(
            f"SLURM does not answer: {unreachable} stay in its queue, and will end when they start"
        )


def jobs_of(states: Iterable[RunState], root: Path) -> list[str]:
    """The jobs of these runs, except jobs shared with other unfinished runs.

    In a shared job, a run stops because of the mark in its folder.
    """
    positions, job_of = submission.find_runs(root), {s.run.id: s.job for s in states if s.job}
    jobs = list[str]()
    for run, job in job_of.items():
        sharing = [r for position in positions.get(run, ())[-1:] for r in position.job_runs]
        if all(r in job_of or (root / r / results.RESULT).exists() for r in sharing):
            jobs.append(job)
    return list(dict.fromkeys(jobs))
