"""After a job's ranks have ended other than well: say how, and whether SLURM should start it again.

`python -m repro.launch.after RESULTS TOKEN ARRAY ELEMENT ATTEMPT STATUS`, from the job's own script
on its first node. A rank that was killed cannot say so itself, and of several that failed the first
is the culprit. Exit status: 0 there is a result, 85 start it again, 1 neither.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro import records, results
from repro.launch import attempt, ending, lease, ranks, submission
from repro.launch.ending import Cause, Ending
from repro.launch.submission import Submission

# SLURM's own lines, as they stand in a job's errors once its ranks are started.
_FIRST_DEATH = re.compile(r"^srun: error: (\S+): tasks? (\d+)[\d,\-]*: (.*)", re.MULTILINE)
_NOT_BEGUN = re.compile(
    r"^srun: error: (Unable to create step .*|Task launch .* failed.*)", re.MULTILINE
)
_ENDED = re.compile(r"\*\*\* (?:JOB|STEP) .*? CANCELLED AT \S+ (?:DUE TO ([A-Z ]+) )?\*\*\*")
_KILLED_FOR_MEMORY = re.compile(
    r"^(?:srun|slurmstepd): .*(?:oom[-_ ]?kill|out of memory|exceeded .*memory limit)",
    re.IGNORECASE | re.MULTILINE,
)
_NO_MEMORY = re.compile(r"MemoryError|allocate memory")  # of a rank that cannot even begin


def main(arguments: Sequence[str]) -> int:
    root, token, number, element, name, status = arguments
    submitted = submission.read(submission.folder(Path(root), token))
    array = submitted.arrays[int(number)]
    runs = array.elements[int(element)]
    if array.each == 1:
        return _follow(Path(root), submitted, runs[0], name, int(status))
    found = {
        _follow(Path(root), submitted, run, name, int(status), task)
        for task, run in enumerate(runs)
    }
    return attempt.AGAIN if attempt.AGAIN in found else max(found)


def _follow(
    root: Path, submitted: Submission, run: str, name: str, status: int, task: int | None = None
) -> int:
    """The exit status for one run; `task`: its own, if it shares the job with others, of which
    `status` tells as well."""
    folder, token = root / run, submitted.token
    if (status == attempt.DIVERGED and task is None) or (folder / results.RESULT).exists():
        return 0 if _is_done(folder) else 1
    about = {"attempt": f"{token}.{name}", "job": ranks.job(), "submission": token}
    content = lease.read(folder) or {}
    ours = content.get("attempt") == about["attempt"]
    if ours and lease.lives_here(content):
        return 1  # after a crash SLURM has started the job twice, and the other one lives
    printed = _printed(submission.folder(root, token) / "jobs", name)
    try:
        if task is None:
            end = _say(folder, content if ours else {}, about, printed, status)
        else:
            end = _say_of_task(folder, content if ours else {}, about, printed, status, task)
    except (lease.Held, OSError):  # somebody else has the run, or the disk is full
        return 1
    told = lease.read(folder) or {}
    before, seconds = told.get("endings", {}), told.get("seconds", 0.0)
    if end is None or not ending.goes_on(end, before, seconds, submitted.budget_seconds):
        return 1
    return attempt.AGAIN


def _say(
    folder: Path,
    content: Mapping[str, Any],
    about: Mapping[str, str],
    printed: Mapping[int, str],
    status: int,
) -> Ending | None:
    """Write into the lease how the attempt ended; None if there is nothing to start again for.

    `content` is that of the attempt's lease, empty if it ended before it had one.
    """
    if status == attempt.AGAIN:  # it saved its state, but SLURM was about to end it anyway
        if content and (why := _why_ended(printed[0])):
            lease.bury(folder, content, Ending(why, "SLURM ended the job"))
        return None
    found = _ending(folder, printed, status, about["attempt"].partition(".")[2])
    if not content:
        return None if status == attempt.HELD else _write(folder, content, about, found)
    # The first rank, if it waits for one that failed, fails as well, for that reason.
    said = lease.ending(content)
    if said is None or (said.cause == "error" and not found.note.startswith("rank 0")):
        return _write(folder, content, about, found)
    return said


def _say_of_task(
    folder: Path,
    content: Mapping[str, Any],
    about: Mapping[str, str],
    printed: Mapping[int, str],
    status: int,
    task: int,
) -> Ending | None:
    """As `_say`, of a run that shares the job: what it said itself, before the others' end."""
    said = lease.ending(content) if content else None
    if said and said.cause in ending.FURTHER and (why := _why_ended(printed[0])):
        return _write(folder, content, about, Ending(why, "SLURM ended the job"))
    if said:
        return said
    found = _ending(folder, printed, status, about["attempt"].partition(".")[2], task)
    return _write(folder, content, about, found)


def _write(
    folder: Path, content: Mapping[str, Any], about: Mapping[str, str], end: Ending
) -> Ending:
    """Put an ending into the attempt's lease, or into a new one if it never had one."""
    if content:
        lease.bury(folder, content, end)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        lease.acquire(folder, about).release(end)
    return end


def _is_done(folder: Path) -> bool:
    try:
        return records.read(folder / results.RESULT, results.Result)["status"] == "done"
    except (OSError, records.Damaged):
        return False


def _printed(jobs: Path, name: str) -> dict[int, str]:
    """What each rank printed outside the run's log; the first one's with what SLURM said.

    Of the first, it is of this attempt alone.
    """
    files = {rank: jobs / f"{ranks.job()}_{rank}_log.err" for rank in range(_most_ranks())}
    texts = {rank: attempt.tail(file) for rank, file in files.items()}
    first = texts.get(0, "").rpartition(f"--- attempt {name} on ")[2]
    return texts | {0: first.partition("\n")[2]}


def _most_ranks() -> int:
    nodes, tasks = os.environ["SLURM_JOB_NUM_NODES"], os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    return int(nodes) * int(tasks)


def _ending(
    folder: Path, printed: Mapping[int, str], status: int, name: str, task: int | None = None
) -> Ending:
    """How it ended: the first rank to die, or the run's own `task`, and its last words."""
    _, started, slurm = printed[0].rpartition(f"--- attempt {name} starts its ranks")
    if not started:  # the site's lines failed, whatever they print
        why = _last_line(printed[0]) or f"exit status {status}"
        return Ending("lost" if status > 128 else "error", why)
    if not_begun := _NOT_BEGUN.search(slurm):
        return Ending("lost", f"SLURM did not start its ranks: {not_begun[1]}")
    deaths = [found.groups() for found in _FIRST_DEATH.finditer(slurm)]
    deaths = [d for d in deaths if task is None or d[1] == str(task)]
    node, rank, how = deaths[0] if deaths else ("", str(task or 0), f"exit status {status}")
    last = attempt.last_lines(attempt.log_path(folder, int(rank) if task is None else 0))
    own = _last_line(printed.get(int(rank), ""))
    words = last[-1] if last else own or how
    where = f"rank {rank} on {node}: " if node and _most_ranks() > 1 and task is None else ""
    is_short = how.endswith(f" {attempt.NO_MEMORY}") or (not last and _NO_MEMORY.search(own))
    if is_short or _KILLED_FOR_MEMORY.search(slurm):
        return Ending("out of memory", where + words)
    if status > 128 or "Killed" in how or "signal" in how.lower():
        return Ending("lost", f"{where}{how}")
    return Ending("error", where + words)


def _why_ended(printed: str) -> Cause | None:
    """Why SLURM ended a job, by what it wrote into its output; None if it starts it again."""
    ended = _ENDED.search(printed)
    causes: dict[str | None, Cause] = {None: "cancelled", "TIME LIMIT": "time limit"}
    return causes.get(ended[1]) if ended else None


def _last_line(text: str) -> str:
    """The last words of a process: its error, which may have several lines, or its last line."""
    lines = [line.strip() for line in text.splitlines()]
    others = ("srun: ", "slurmstepd: ", "--- attempt ")
    last = [line for line in lines if line and not line.startswith(others)][-3:]
    errors = [n for n, line in enumerate(last) if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return " ".join(last[errors[0] if errors else -1 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
