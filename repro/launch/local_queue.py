"""The unfinished runs of local launchers, on file, so that `status` and `cancel` see them.

<results>/submissions/local/<name>/ belongs to one launcher; its lease lists its unfinished runs.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.launch import lease
from repro.launch.slurm import submission
from repro.results import ResultsError
from repro.spec import Run


@contextmanager
def register(root: Path, runs: Sequence[Run]) -> Iterator[Callable[[Sequence[Run]], None]]:
    """Record that this process will start these runs.

    The context manager yields a function; call it with the unfinished runs whenever they change.
    ResultsError if the results folder cannot be written.
    """
    home = _home(root)
    for folder in home.glob("*"):
        content = lease.read(folder)  # None: about to be written
        if content is not None and not lease.seems_locked(content):
            shutil.rmtree(folder, ignore_errors=True)  # its launcher was killed
    folder = home / uuid.uuid4().hex[:8]
    try:
        folder.mkdir(parents=True)
        run_lock = lease.acquire(folder)
    except OSError as error:
        problem = f"cannot write to {folder}: {error.strerror}"
        raise ResultsError(f"{problem}; choose --results DIR") from error

    def record(open_runs: Sequence[Run]) -> None:
        run_lock.facts = {"runs": [run.id for run in open_runs]}
        run_lock.renew()

    try:
        record(runs)
        run_lock.start_heartbeat()
        yield record
    finally:
        run_lock.release()
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other launchers use it
            home.rmdir()
            home.parent.rmdir()


def launchers(root: Path) -> dict[str, str]:
    """The local launcher of each unfinished run, by run id: its process and host."""
    launcher_of = dict[str, str]()
    for folder in _home(root).glob("*"):
        content = lease.read(folder) or {}
        if lease.seems_locked(content):
            who = f"process {content.get('pid')} on {content.get('host')}"
            launcher_of |= dict.fromkeys(content.get("runs", ()), who)
    return launcher_of


def _home(root: Path) -> Path:
    return root / submission.FOLDER / "local"
