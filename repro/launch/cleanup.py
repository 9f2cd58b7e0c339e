"""What of a results folder is no longer needed: checkpoints, temporary files, old submissions.

Results, logs and trained weights are never among it, nor is anything of a run that may go on.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from repro import results
from repro.launch import lease, state
from repro.launch.slurm import submission

CHECKPOINTS = "checkpoints"
_MIN_AGE_SECONDS = 3600.0  # of a temporary file that nobody writes any more


@dataclass(frozen=True)
class Removable:
    """A file or a folder that is no longer needed, its size, and why."""

    path: Path
    bytes: int
    why: str


def find(root: Path) -> list[Removable]:
    """Everything that is no longer needed, in the order of its path."""
    return sorted([*_checkpoints(root), *_temporary(root), *_submissions(root)],
                  key=lambda each: each.path)  # fmt: skip


def remove(leftovers: list[Removable]) -> None:
    """Remove it. ResultsError for what cannot be removed; the rest is gone by then."""
    failed = list[str]()
    for each in leftovers:
        try:
            if each.path.is_dir() and not each.path.is_symlink():
                shutil.rmtree(each.path)
            else:
                each.path.unlink(missing_ok=True)
        except FileNotFoundError:  # somebody else removes it
            shutil.rmtree(each.path, ignore_errors=True)
        except OSError as error:
            failed.append(f"{each.path}: {error.strerror}")
    if failed:
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise results.ResultsError(f"cannot remove {failed[0]}{more}")


def _checkpoints(root: Path) -> Iterator[Removable]:
    """The checkpoints of runs that have a result, or were cancelled and do not run."""
    folders = [path for path in root.glob(f"*/{CHECKPOINTS}") if path.is_dir()]
    runs = {}
    for path in folders:
        try:
            runs[path] = results.stored_run(path.parent)
        except results.ResultsError:
            continue  # nobody knows what it is
    states = {each.run: each for each in state.query(root, runs.values())}
    for path, run in runs.items():
        run_state = states[run]
        if run.id != path.parent.name or run_state.is_under_way:
            continue
        if run_state.name in ("done", "diverged"):
            yield Removable(path, size_of(path), f"checkpoints of a run that is {run_state.name}")
        elif run_state.name == "cancelled" and lease.is_cancel_requested(path.parent):
            yield Removable(path, size_of(path), "checkpoints of a cancelled run")


def _temporary(root: Path) -> Iterator[Removable]:
    """Files that a killed process left half written."""
    oldest = time.time() - _MIN_AGE_SECONDS
    for path in root.glob("*/*.tmp"):
        with suppress(FileNotFoundError):  # renamed by its process meanwhile
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mtime < oldest:
                yield Removable(path, status.st_size, "half written by a killed process")


def _submissions(root: Path) -> Iterator[Removable]:
    """Submissions whose runs all have results, and code that no other submission uses."""
    for path in submission.prunable(root):
        is_code = path.parent == root / results.SNAPSHOTS
        why = "code of no submission" if is_code else "a finished submission"
        yield Removable(path, size_of(path), why)


def size_of(path: Path) -> int:
    """Bytes of the files in a folder, or of a file; of what vanishes meanwhile, none."""
    files = [path] if path.is_file() else (
        Path(folder, name) for folder, _, names in os.walk(path) for name in names
    )  # fmt: skip
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
