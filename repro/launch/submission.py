"""What was submitted to SLURM, on file: written before SLURM is asked, so nothing is forgotten.

<results>/submissions/<token>/
  submission.json   which runs, in which arrays, by whom, with which code and site parameters
  jobs/             submitit's scripts and pickles, and what SLURM's own steps printed
<results>/submissions/code/<digest>/   the code that the jobs run (`repro.launch.code`)

An array is named `repro-<token>-<number>`, and its elements are the runs in their order. So squeue
alone tells which job is which run, even if the launcher was killed before it knew the job's number.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from repro import output, records, results
from repro.launch import queue

FOLDER = "submissions"
_RECORD = "submission.json"
_Run = Annotated[str, Meta(pattern=r"^[a-z0-9-]+\Z", max_length=255)]  # a folder's name
_Number = Annotated[str, Meta(pattern=r"^[0-9]*\Z", max_length=20)]
_Hexadecimal = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z", max_length=64)]
_KEPT_SECONDS = 3600.0  # a job that has written its result still needs its files for a moment


@dataclass
class Array:
    """One job array: its runs by id, in the order of its elements, and its number at SLURM."""

    runs: Annotated[list[_Run], Meta(min_length=1)]
    job: _Number = ""  # '' until SLURM has accepted it
    each: Annotated[int, Meta(ge=1)] = 1  # runs of an element, which share its GPU

    @property
    def elements(self) -> list[list[_Run]]:
        """The runs of each element."""
        return [self.runs[at : at + self.each] for at in range(0, len(self.runs), self.each)]

    def element(self, index: int) -> str:
        """The job of one run, as squeue names it; '' if SLURM's number is not known."""
        if not self.job:
            return ""
        return f"{self.job}_{index // self.each}" if len(self.elements) > 1 else self.job


@dataclass
class Submission:
    """One launch: what was handed to SLURM together."""

    token: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
    created: Annotated[float, Meta(ge=0, le=1e11)]  # seconds since the epoch
    user: _Number  # by number: names are what the environment says
    host: str
    code: _Hexadecimal  # the digest of the snapshot
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

    @property
    def key(self) -> tuple[str, int, int]:
        """As in `listed`."""
        element = self.index // self.submission.arrays[self.array].each
        return self.submission.token, self.array, element

    @property
    def shares(self) -> list[str]:
        """The runs of its job, itself among them."""
        array = self.submission.arrays[self.array]
        return array.elements[self.index // array.each]

    @property
    def task(self) -> int:
        """Its number among those."""
        return self.index % self.submission.arrays[self.array].each


def new(code: str, site: str, budget_seconds: float | None, arrays: Iterable[Array]) -> Submission:
    """A submission of these runs, not yet on file."""
    return Submission(
        uuid.uuid4().hex[:8], time.time(), str(os.getuid()), socket.gethostname(), code, site,
        budget_seconds, list(arrays),
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
    results.write(path / _RECORD, records.encode(asdict(submission), indent=1) + "\n")


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
    kept, damaged = _on_file(root)
    needed = {submission.code for submission in kept}
    # Whose record is damaged may still run.
    snapshots = [] if damaged else (root / FOLDER / "code").glob("*")
    for snapshot in snapshots:
        if snapshot.name not in needed and snapshot.stat().st_mtime < old:
            shutil.rmtree(snapshot, ignore_errors=True)


def read(path: Path) -> Submission:
    """The submission in a folder. ResultsError if its record is damaged."""
    try:
        found = records.read(path / _RECORD, Submission)
        records.require(found.token == path.name, "the record of another submission")
        return found
    except (OSError, records.Damaged) as error:
        raise results.ResultsError(
            f"{path / _RECORD} is damaged ({error}); move {path} away"
        ) from error


def every(root: Path) -> list[Submission]:
    """Every submission on file, the oldest first; a warning for each whose record is damaged."""
    found, damaged = _on_file(root)
    for error in damaged:
        output.warn(error)
    return found


def _on_file(root: Path) -> tuple[list[Submission], list[str]]:
    """Every submission on file, the oldest first, and what is wrong with the others."""
    found, damaged = list[Submission](), list[str]()
    for path in sorted((root / FOLDER).glob(f"*/{_RECORD}")):
        try:
            found.append(read(path.parent))
        except results.ResultsError as error:
            damaged.append(str(error))
    return sorted(found, key=lambda s: s.created), damaged


def places(root: Path) -> dict[str, list[Place]]:
    """Where each run is that was ever submitted: in which submissions, the newest last."""
    found = dict[str, list[Place]]()
    for submission in every(root):
        for number, array in enumerate(submission.arrays):
            for index, run in enumerate(array.runs):
                found.setdefault(run, []).append(Place(submission, number, index))
    return found


def refuse_unreadable(root: Path) -> None:
    """Raise ResultsError if SLURM has jobs of a submission whose record is damaged.

    Which runs they are is not known, so any of them might be submitted again.
    """
    records_of = (root / FOLDER).glob(f"*/{_RECORD}")
    tokens = {path.parent.name for path in records_of} - {known.token for known in every(root)}
    jobs = queue.jobs([str(os.getuid())]) if tokens else []
    names = {job.name for job in jobs if job.waits or job.runs}
    for token in sorted(tokens):
        if mine := sorted(name for name in names if name.startswith(f"repro-{token}-")):
            raise results.ResultsError(
                f"{folder(root, token) / _RECORD} is damaged, and SLURM has jobs of it; cancel "
                f"them with `scancel --name={','.join(mine)}`"
            )


def listed(jobs: Iterable[queue.Entry]) -> dict[tuple[str, int, int], queue.Entry]:
    """The jobs of squeue that are ours, by token, array and element."""
    found = {}
    for entry in jobs:
        if name := re.fullmatch(r"repro-([0-9a-f]{8})-([0-9]{1,9})", entry.name):
            index = int(entry.id.partition("_")[2] or 0)
            found[name[1], int(name[2]), index] = entry
    return found
