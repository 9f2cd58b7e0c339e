"""After a job's ranks have ended other than well: say how, and whether SLURM should start it again.

`python -m repro.launch.after RESULTS TOKEN ARRAY ELEMENT ATTEMPT STATUS`, from the job's own script
on its first node. A rank that was killed cannot say so itself, and of several that failed the first
is the culprit. Exit status: 0 there is a result, 85 start it again, 1 neither.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from repro.launch import attempt, ending, lease, ranks, submission
from repro.launch.ending import Cause, Ending

_FIRST_DEATH = re.compile(r"srun: error: (\S+): tasks? (\d+)[\d,\-]*: (.*)")
_NOT_BEGUN = re.compile(r"srun: error: (Unable to create step .*|Task launch .* failed.*)")
_ENDED = re.compile(r"\*\*\* (?:JOB|STEP) .*? CANCELLED AT \S+ (?:DUE TO ([A-Z ]+) )?\*\*\*")
_NO_MEMORY = re.compile(
    r"oom[-_ ]?kill|out of memory|exceeded .*memory limit|allocate memory", re.IGNORECASE
)


def main(arguments: Sequence[str]) -> int:
    root, token, number, element, name, status = arguments
    submitted = submission.read(submission.folder(Path(root), token))
    array = submitted.arrays[int(number)]
    folder = Path(root) / array.runs[int(element)]
    if int(status) == attempt.DIVERGED or (folder / "result.json").exists():
        return 0 if _is_done(folder) else 1
    content = lease.read(folder) or {}
    printed = _printed(submission.folder(Path(root), token) / "jobs", name)
    ours = content.get("attempt") == name
    if int(status) == attempt.AGAIN:  # it saved its state, but SLURM was about to end it anyway
        if ours and (why := _why_ended(printed[0])):
            lease.bury(folder, content, Ending(why, "SLURM ended the job"))
        return 1
    if not ours:  # it ended before it held the run
        if int(status) == attempt.HELD:
            return 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about = {"attempt": name, "job": ranks.job(), "submission": token}
            lease.acquire(folder, about).release(_ending(folder, printed, int(status)))
        except lease.Held:
            return 1
    else:
        said, found = lease.ending(content), _ending(folder, printed, int(status))
        # The first rank, if it waits for one that failed, fails as well, for that reason.
        if said is None or (said.cause == "error" and not found.note.startswith("rank 0")):
            lease.bury(folder, content, found)
    content = lease.read(folder) or {}
    end = lease.ending(content) or Ending("lost")
    again = ending.goes_on(end, content["endings"], content["seconds"], submitted.budget_seconds)
    return attempt.AGAIN if again else 1


def _is_done(folder: Path) -> bool:
    return bool(json.loads((folder / "result.json").read_bytes()).get("status") == "done")


def _printed(jobs: Path, name: str) -> dict[int, str]:
    """What each rank printed outside the run's log; the first one's with what SLURM said.

    Of the first, it is of this attempt alone.
    """
    files = {rank: jobs / f"{ranks.job()}_{rank}_log.err" for rank in range(_most_ranks())}
    texts = {rank: f.read_text(errors="replace") for rank, f in files.items() if f.exists()}
    return texts | {0: texts.get(0, "").rpartition(f"--- attempt {name} on ")[2]}


def _most_ranks() -> int:
    nodes, tasks = os.environ["SLURM_JOB_NUM_NODES"], os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    return int(nodes) * int(tasks)


def _ending(folder: Path, printed: Mapping[int, str], status: int) -> Ending:
    """How it ended: the first rank to die, and its last words."""
    if not_begun := _NOT_BEGUN.search(printed[0]):
        return Ending("lost", f"SLURM did not start its ranks: {not_begun[1]}")
    death = _FIRST_DEATH.search(printed[0])
    node, rank, how = death.groups() if death else ("", "0", f"exit status {status}")
    last = attempt.last_lines(attempt.log_path(folder, int(rank)))
    words = last[-1] if last else _last_line(printed.get(int(rank), "")) or how
    where = f"rank {rank} on {node}: " if node and _most_ranks() > 1 else ""
    if _NO_MEMORY.search(f"{printed[0]} {words}"):
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
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line and "srun: " not in line), "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
