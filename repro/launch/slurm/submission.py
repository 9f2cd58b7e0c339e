"""Records of submissions, written before SLURM is called, so that none is forgotten.

<results>/submissions/<token>/
  submission.json   the runs by array, the user, the code and the site parameters
  jobs/             submitit's scripts and pickles, and the output of SLURM's steps
  note.*            of the job that sends a note at the end (`repro.launch.slurm.note_job`)
<results>/submissions/code/<digest>/   the code of the jobs (`repro.launch.code`)

An array is named `repro-<token>-<number>`, and its elements are its runs in order. So squeue alone
maps jobs to runs, even if the launcher was killed before it recorded the job's ID.
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

from repro import results
from repro.core import output, records
from repro.launch.slurm import queue

FOLDER = "submissions"
_RECORD = "submission.json"
NOTE, SENT = "note.json", "note.txt"  # what the note job needs, and what it sent
_Run = Annotated[str, Meta(pattern=r"^[a-z0-9-]+\Z", max_length=255)]  # a folder's name
_Number = Annotated[str, Meta(pattern=r"^[0-9]*\Z", max_length=20)]
_Hexadecimal = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z", max_length=64)]
_MIN_AGE_SECONDS = 3600.0  # a job needs its files shortly after its result
_MAX_NOTE_SECONDS = 30 * 86400.0  # for the note job to be started


@dataclass
class Array:
    """One job array: its run ids in the order of its elements, and its job ID."""

    runs: Annotated[list[_Run], Meta(min_length=1)]
    job: _Number = ""  # '' until SLURM accepts it
    each: Annotated[int, Meta(ge=1)] = 1  # runs per element, which share its GPU

    @property
    def elements(self) -> list[list[_Run]]:
        """The runs of each element."""
        return [self.runs[at : at + self.each] for at in range(0, len(self.runs), self.each)]

    def element(self, index: int) -> str:
        """The job of one run, as squeue names it; '' if the job ID is unknown."""
        if not self.job:
            return ""
        return f"{self.job}_{index // self.each}" if len(self.elements) > 1 else self.job


@dataclass
class Submission:
    """One launch: the arrays that were submitted together."""

    token: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}\Z")]
    created: Annotated[float, Meta(ge=0, le=1e11)]  # seconds since the epoch
    user: _Number  # the numeric id: names depend on the environment
    host: str
    code: _Hexadecimal  # the digest of the snapshot
    site: str  # content of the site file
    budget_seconds: float | None  # per run, over all attempts
    arrays: list[Array]

    def name(self, number: int) -> str:
        """The job name of an array."""
        return f"repro-{self.token}-{number}"


@dataclass(frozen=True)
class SubmittedRun:
    """A run's position in a submission."""

    submission: Submission
    array: int
    index: int

    @property
    def job(self) -> str:
        return self.submission.arrays[self.array].element(self.index)

    @property
    def key(self) -> tuple[str, int, int]:
        """The key of its job in `index_jobs`."""
        element = self.index // self.submission.arrays[self.array].each
        return self.submission.token, self.array, element

    @property
    def job_runs(self) -> list[str]:
        """All runs of its job, including itself."""
        array = self.submission.arrays[self.array]
        return array.elements[self.index // array.each]

    @property
    def task(self) -> int:
        """Its task number in the job."""
        return self.index % self.submission.arrays[self.array].each


def new(code: str, site: str, budget_seconds: float | None, arrays: Iterable[Array]) -> Submission:
    """A submission of these arrays, not yet recorded."""
    return Submission(
        uuid.uuid4().hex[:8], time.time(), str(os.getuid()), socket.gethostname(), code, site,
        budget_seconds, list(arrays),
    )  # fmt: skip


def folder(root: Path, token: str) -> Path:
    return root / FOLDER / token


def record(root: Path, submission: Submission) -> None:
    """Write the record. ResultsError if it cannot be written."""
    path = folder(root, submission.token)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise results.ResultsError(
            f"cannot write to {path}: {error.strerror}; choose --results DIR"
        ) from error
    results.write(path / _RECORD, records.encode(asdict(submission), indent=1) + "\n")


def delete(root: Path, submission: Submission) -> None:
    """Delete the record of a submission of which SLURM accepted nothing."""
    shutil.rmtree(folder(root, submission.token), ignore_errors=True)


def has_payload(root: Path, submission: Submission, job: str) -> bool:
    """Whether a job can load what to run: not if its launcher died right after sbatch."""
    return (folder(root, submission.token) / "jobs" / f"{job}_submitted.pkl").exists()


def prune(root: Path) -> None:
    """Delete what is `prunable`."""
    for path in prunable(root):
        shutil.rmtree(path, ignore_errors=True)


def prunable(root: Path) -> list[Path]:
    """Folders of old submissions whose runs all have results, and of code that no other uses."""
    oldest = time.time() - _MIN_AGE_SECONDS
    readable, damaged = _read_all(root)
    finished = [one for one in readable if one.created < oldest and _is_finished(root, one)]
    needed = {one.code for one in readable if one not in finished}
    # Submissions with a damaged record may still run.
    snapshots = [] if damaged else (root / results.SNAPSHOTS).glob("*")
    unused = [path for path in snapshots
              if path.name not in needed and path.stat().st_mtime < oldest]  # fmt: skip
    return [*(folder(root, one.token) for one in finished), *unused]


def _is_finished(root: Path, submission: Submission) -> bool:
    runs = (run for array in submission.arrays for run in array.runs)
    return not _awaits_note(root, submission) and all(
        (root / run / results.RESULT).exists() for run in runs
    )


def _awaits_note(root: Path, submission: Submission) -> bool:
    """Whether its note job may still need the files."""
    path = folder(root, submission.token)
    is_pending = (path / NOTE).exists() and not (path / SENT).exists()
    return is_pending and submission.created > time.time() - _MAX_NOTE_SECONDS


def read(path: Path) -> Submission:
    """The submission in a folder. ResultsError if its record is damaged."""
    try:
        submission = records.read(path / _RECORD, Submission)
        records.require(submission.token == path.name, "the record of another submission")
        return submission
    except (OSError, records.Damaged) as error:
        raise results.ResultsError(
            f"{path / _RECORD} is damaged ({error}); move {path} away"
        ) from error


def read_all(root: Path) -> list[Submission]:
    """All recorded submissions, the oldest first; a warning for each damaged record."""
    submissions, errors = _read_all(root)
    for error in errors:
        output.warn(error)
    return submissions


def _read_all(root: Path) -> tuple[list[Submission], list[str]]:
    """All recorded submissions, the oldest first, and the errors of damaged records."""
    submissions, errors = list[Submission](), list[str]()
    for path in sorted((root / FOLDER).glob(f"*/{_RECORD}")):
        try:
            submissions.append(read(path.parent))
        except results.ResultsError as error:
            errors.append(str(error))
    return sorted(submissions, key=lambda s: s.created), errors


def find_runs(root: Path) -> dict[str, list[SubmittedRun]]:
    """Where each submitted run is: its positions in submissions, the newest last."""
    places = dict[str, list[SubmittedRun]]()
    for submission in read_all(root):
        for number, array in enumerate(submission.arrays):
            for index, run in enumerate(array.runs):
                places.setdefault(run, []).append(SubmittedRun(submission, number, index))
    return places


def check_unreadable(root: Path) -> None:
    """Raise ResultsError if SLURM has jobs of a submission whose record is damaged.

    Their runs are unknown, so any run could be submitted twice.
    """
    records_of = (root / FOLDER).glob(f"*/{_RECORD}")
    tokens = {path.parent.name for path in records_of} - {s.token for s in read_all(root)}
    jobs = queue.jobs([str(os.getuid())]) if tokens else []
    names = {job.name for job in jobs if job.is_pending or job.is_running}
    for token in sorted(tokens):
        if matching := sorted(name for name in names if name.startswith(f"repro-{token}-")):
            raise results.ResultsError(
                f"{folder(root, token) / _RECORD} is damaged, and SLURM still has its jobs; cancel "
                f"them with `scancel --name={','.join(matching)}`"
            )


def index_jobs(jobs: Iterable[queue.QueuedJob]) -> dict[tuple[str, int, int], queue.QueuedJob]:
    """Our jobs in squeue, by token, array and element."""
    by_element = {}
    for job in jobs:
        if name := re.fullmatch(r"repro-([0-9a-f]{8})-([0-9]{1,9})", job.name):
            index = int(job.id.partition("_")[2] or 0)
            by_element[name[1], int(name[2]), index] = job
    return by_element
