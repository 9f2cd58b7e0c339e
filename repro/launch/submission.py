"""What was submitted to SLURM, on file: written before SLURM is asked, so nothing is forgotten.

<results>/submissions/<token>/
  submission.json   which runs, in which arrays, by whom, with which code and site parameters
  jobs/             submitit's scripts and pickles, and what SLURM's own steps printed
<results>/submissions/code/<digest>/   the code that the jobs run (`repro.launch.code`)

An array is named `repro-<token>-<number>`, and its elements are the runs in their order. So squeue
alone tells which job is which run, even if the launcher was killed before it knew the job's number.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from repro import results
from repro.launch import queue

FOLDER = "submissions"
_RECORD = "submission.json"
_KEPT_SECONDS = 3600.0  # a job that has written its result still needs its files for a moment


@dataclass
class Array:
    """One job array: its runs by id, in the order of its elements, and its number at SLURM."""

    runs: list[str]
    job: str = ""  # '' until SLURM has accepted it

    def element(self, index: int) -> str:
        """The job of one run, as squeue names it; '' if SLURM's number is not known."""
        if not self.job:
            return ""
        return f"{self.job}_{index}" if len(self.runs) > 1 else self.job


@dataclass
class Submission:
    """One launch: what was handed to SLURM together."""

    token: str
    created: float  # seconds since the epoch
    user: str  # by number: names are what the environment says
    host: str
    code: str  # the digest of the snapshot
    site: str  # the site file's content
    budget_seconds: float | None  # of one run, over all attempts
    arrays: list[Array]

    def name(self, number: int) -> str:
        """The name of an array's job."""
        return f"repro-{self.token}-{number}"


@dataclass(frozen=True)
class Place:
    """Where a run is in the newest submission that has it."""

    submission: Submission
    array: int
    index: int

    @property
    def job(self) -> str:
        return self.submission.arrays[self.array].element(self.index)


def new(
    code: str, site: str, budget_seconds: float | None, arrays: Iterable[Sequence[str]]
) -> Submission:
    """A submission of these runs, not yet on file."""
    return Submission(
        uuid.uuid4().hex[:8], time.time(), str(os.getuid()), socket.gethostname(), code, site,
        budget_seconds, [Array(list(runs)) for runs in arrays],
    )  # fmt: skip


def folder(root: Path, token: str) -> Path:
    return root / FOLDER / token


def record(root: Path, submission: Submission) -> None:
    """Write it down, whole. ResultsError if that cannot be."""
    path = folder(root, submission.token)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise results.ResultsError(
            f"cannot write to {path}: {error.strerror}; choose --results DIR"
        ) from error
    results.write(path / _RECORD, json.dumps(asdict(submission), indent=1) + "\n")


def withdraw(root: Path, submission: Submission) -> None:
    """Forget a submission of which SLURM took nothing."""
    shutil.rmtree(folder(root, submission.token), ignore_errors=True)


def is_handed_over(root: Path, submission: Submission, job: str) -> bool:
    """Whether a job can know what to do: not if its launcher died in the moment after sbatch."""
    return (folder(root, submission.token) / "jobs" / f"{job}_submitted.pkl").exists()


def tidy(root: Path) -> None:
    """Delete old submissions whose runs all have results, and code that no submission runs."""
    old = time.time() - _KEPT_SECONDS
    for found in every(root):
        runs = (run for array in found.arrays for run in array.runs)
        if found.created < old and all((root / run / results.RESULT).exists() for run in runs):
            shutil.rmtree(folder(root, found.token), ignore_errors=True)
    needed = {found.code for found in every(root)}
    for snapshot in (root / FOLDER / "code").glob("*"):
        if snapshot.name not in needed and snapshot.stat().st_mtime < old:
            shutil.rmtree(snapshot, ignore_errors=True)


def read(path: Path) -> Submission:
    """The submission in a folder. ResultsError if its record is damaged."""
    try:
        content = json.loads((path / _RECORD).read_bytes())
        arrays = [Array(**array) for array in content.pop("arrays")]
        return Submission(arrays=arrays, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise results.ResultsError(
            f"{path / _RECORD} is damaged ({error}); move {path} away"
        ) from error


def every(root: Path) -> list[Submission]:
    """Every submission on file, the oldest first."""
    records = (root / FOLDER).glob(f"*/{_RECORD}")
    return sorted((read(path.parent) for path in records), key=lambda s: s.created)


def places(root: Path) -> dict[str, Place]:
    """Where each run is that was ever submitted, in the newest submission that has it."""
    return {
        run: Place(submission, number, index)
        for submission in every(root)
        for number, array in enumerate(submission.arrays)
        for index, run in enumerate(array.runs)
    }


def listed(jobs: Iterable[queue.Entry]) -> dict[tuple[str, int, int], queue.Entry]:
    """The jobs of squeue that are ours, by token, array and element."""
    found = {}
    for entry in jobs:
        if name := re.fullmatch(r"repro-([0-9a-f]{8})-(\d+)", entry.name):
            index = int(entry.id.partition("_")[2] or 0)
            found[name[1], int(name[2]), index] = entry
    return found
