"""Decide whether a failed job should be requeued, and record how it failed.

`python -m repro.launch.slurm.epilogue RESULTS TOKEN ARRAY ELEMENT ATTEMPT STATUS` is called by the
job's script on its first node, because a killed rank cannot record its failure; of several failed
ranks, the first one is the cause. Exit status: 0 there is a result, 85 requeue, 1 neither.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro import results
from repro.core import records
from repro.launch import attempt, failures, lease, ranks
from repro.launch.failures import Cause, Failure
from repro.launch.slurm import submission
from repro.launch.slurm.submission import Submission

# SLURM's messages on a job's stderr after its ranks started.
_RANK_EXIT = re.compile(r"^srun: error: (\S+): tasks? (\d+)[\d,\-]*: (.*)", re.MULTILINE)
_STEP_NOT_STARTED = re.compile(
    r"^srun: error: (Unable to create step .*|Task launch .* failed.*)", re.MULTILINE
)
_SLURM_CANCELLED = re.compile(
    r"\*\*\* (?:JOB|STEP) .*? CANCELLED AT \S+ (?:DUE TO ([A-Z ]+) )?\*\*\*"
)
_OOM_KILL = re.compile(
    r"^(?:srun|slurmstepd): .*(?:oom[-_ ]?kill|out of memory|exceeded .*memory limit)",
    re.IGNORECASE | re.MULTILINE,
)
_ALLOCATION_ERROR = re.compile(r"MemoryError|allocate memory")  # of a rank that cannot start


def main(arguments: Sequence[str]) -> int:
    root, token, number, element, name, status = arguments
    submitted = submission.read(submission.folder(Path(root), token))
    array = submitted.arrays[int(number)]
    runs = array.elements[int(element)]
    if array.each == 1:
        return _conclude(Path(root), submitted, runs[0], name, int(status))
    statuses = {
        _conclude(Path(root), submitted, run, name, int(status), task)
        for task, run in enumerate(runs)
    }
    return attempt.REQUEUE if attempt.REQUEUE in statuses else max(statuses)


def _conclude(
    root: Path, submitted: Submission, run: str, name: str, status: int, task: int | None = None
) -> int:
    """The exit status for one run. `task`: its task number if it shares the job with other runs,
    whose failures `status` covers as well."""
    folder, token = root / run, submitted.token
    if (status == attempt.DIVERGED and task is None) or (folder / results.RESULT).exists():
        return 0 if _is_done(folder) else 1
    identity = {"attempt": f"{token}.{name}", "job": ranks.job_id(), "submission": token}
    content = lease.read(folder) or {}
    is_own_lease = content.get("attempt") == identity["attempt"]
    if is_own_lease and lease.is_alive_here(content):
        return 1  # after a crash SLURM started the job twice, and the other one lives
    outputs = _read_outputs(submission.folder(root, token) / "jobs", name)
    try:
        if task is None:
            failure = _record_failure(
                folder, content if is_own_lease else {}, identity, outputs, status
            )
        else:
            failure = _record_task_failure(
                folder, content if is_own_lease else {}, identity, outputs, status, task
            )
    except (lease.RunLocked, OSError):  # another process holds the run, or the disk is full
        return 1
    content_now = lease.read(folder) or {}
    earlier, seconds = content_now.get("endings", {}), content_now.get("seconds", 0.0)
    if failure is None or not failures.should_retry(
        failure, earlier, seconds, submitted.budget_seconds
    ):
        return 1
    return attempt.REQUEUE


def _record_failure(
    folder: Path,
    content: Mapping[str, Any],
    identity: Mapping[str, str],
    outputs: Mapping[int, str],
    status: int,
) -> Failure | None:
    """Record in the lease how the attempt ended; None if it should not be retried.

    `content` is the attempt's lease, empty if it ended before it had one.
    """
    if status == attempt.REQUEUE:  # it saved its state, but SLURM is ending the job anyway
        if content and (cause := _slurm_cause(outputs[0])):
            lease.mark_dead(folder, content, Failure(cause, "SLURM ended the job"))
        return None
    diagnosis = _diagnose(folder, outputs, status, identity["attempt"].partition(".")[2])
    if not content:
        return (
            None
            if status == attempt.LOCKED
            else _write_failure(folder, content, identity, diagnosis)
        )
    # Rank 0 fails as well if it waits for a failed rank; that is not the cause.
    reported = lease.failure_of(content)
    if reported is None or (reported.cause == "error" and not diagnosis.note.startswith("rank 0")):
        return _write_failure(folder, content, identity, diagnosis)
    return reported


def _record_task_failure(
    folder: Path,
    content: Mapping[str, Any],
    identity: Mapping[str, str],
    outputs: Mapping[int, str],
    status: int,
    task: int,
) -> Failure | None:
    """`_record_failure` for a run that shares the job: its own report takes precedence."""
    reported = lease.failure_of(content) if content else None
    if reported and reported.cause in failures.MAX_RETRIES and (cause := _slurm_cause(outputs[0])):
        return _write_failure(folder, content, identity, Failure(cause, "SLURM ended the job"))
    if reported:
        return reported
    diagnosis = _diagnose(folder, outputs, status, identity["attempt"].partition(".")[2], task)
    return _write_failure(folder, content, identity, diagnosis)


def _write_failure(
    folder: Path, content: Mapping[str, Any], identity: Mapping[str, str], failure: Failure
) -> Failure:
    """Record a failure in the attempt's lease, or in a new one if it never had one."""
    if content:
        lease.mark_dead(folder, content, failure)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        lease.acquire(folder, identity).release(failure)
    return failure


def _is_done(folder: Path) -> bool:
    try:
        return records.read(folder / results.RESULT, results.Result)["status"] == "done"
    except (OSError, records.Damaged):
        return False


def _read_outputs(jobs: Path, name: str) -> dict[int, str]:
    """Each rank's output outside the run's log; rank 0's includes SLURM's messages.

    For rank 0, only that of this attempt.
    """
    files = {rank: jobs / f"{ranks.job_id()}_{rank}_log.err" for rank in range(_max_ranks())}
    texts = {rank: attempt.tail(file) for rank, file in files.items()}
    first = texts.get(0, "").rpartition(f"--- attempt {name} on ")[2]
    return texts | {0: first.partition("\n")[2]}


def _max_ranks() -> int:
    nodes, tasks = os.environ["SLURM_JOB_NUM_NODES"], os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    return int(nodes) * int(tasks)


def _diagnose(
    folder: Path, outputs: Mapping[int, str], status: int, name: str, task: int | None = None
) -> Failure:
    """The failure of the first rank that died, or of the run's own `task`, with its last
    message."""
    _, started, slurm = outputs[0].rpartition(f"--- attempt {name} starts its ranks")
    if not started:  # the site's setup lines failed
        cause = _last_line(outputs[0]) or f"exit status {status}"
        return Failure("lost" if status > 128 else "error", cause)
    if step_error := _STEP_NOT_STARTED.search(slurm):
        return Failure("lost", f"SLURM did not start its ranks: {step_error[1]}")
    exits = [match.groups() for match in _RANK_EXIT.finditer(slurm)]
    exits = [exit_groups for exit_groups in exits if task is None or exit_groups[1] == str(task)]
    node, rank, exit_reason = exits[0] if exits else ("", str(task or 0), f"exit status {status}")
    last = attempt.last_lines(attempt.log_path(folder, int(rank) if task is None else 0))
    own = _last_line(outputs.get(int(rank), ""))
    message = last[-1] if last else own or exit_reason
    where = f"rank {rank} on {node}: " if node and _max_ranks() > 1 and task is None else ""
    lacks_memory = exit_reason.endswith(f" {attempt.OUT_OF_MEMORY}") or (
        not last and _ALLOCATION_ERROR.search(own)
    )
    if lacks_memory or _OOM_KILL.search(slurm):
        return Failure("out of memory", where + message)
    if status > 128 or "Killed" in exit_reason or "signal" in exit_reason.lower():
        return Failure("lost", f"{where}{exit_reason}")
    return Failure("error", where + message)


def _slurm_cause(outputs: str) -> Cause | None:
    """Why SLURM ended a job, from its messages; None if SLURM requeues it."""
    ended = _SLURM_CANCELLED.search(outputs)
    causes: dict[str | None, Cause] = {None: "cancelled", "TIME LIMIT": "time limit"}
    return causes.get(ended[1]) if ended else None


def _last_line(text: str) -> str:
    """A process's last message: its error, which may have several lines, or its last line."""
    lines = [line.strip() for line in text.splitlines()]
    others = ("srun: ", "slurmstepd: ", "--- attempt ")
    last = [line for line in lines if line and not line.startswith(others)][-3:]
    errors = [n for n, line in enumerate(last) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return " ".join(last[errors[0] if errors else -1 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
