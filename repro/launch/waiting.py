"""What a local launcher has yet to do, on file, so that `status` and `cancel` know of it.

<results>/submissions/local/<name>/ is a launcher's, with a lease that tells which runs are open.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.launch import lease, submission
from repro.results import ResultsError
from repro.spec import Run


@contextmanager
def on_file(root: Path, runs: Sequence[Run]) -> Iterator[Callable[[Sequence[Run]], None]]:
    """Record that this process will start these runs. Call what is yielded with the runs that are
    still open whenever they change.

    ResultsError if the results folder cannot be written.
    """
    home = _home(root)
    for folder in home.glob("*"):
        content = lease.read(folder)  # None: of one that is about to write it
        if content is not None and not lease.seems_held(content):
            shutil.rmtree(folder, ignore_errors=True)  # of a launcher that was killed
    folder = home / uuid.uuid4().hex[:8]
    try:
        folder.mkdir(parents=True)
        held = lease.acquire(folder)
    except OSError as error:
        what = f"cannot write to {folder}: {error.strerror}"
        raise ResultsError(f"{what}; choose --results DIR") from error

    def tell(still: Sequence[Run]) -> None:
        held.facts = {"runs": [run.id for run in still]}
        held.confirm()

    try:
        tell(runs)
        held.keep_beating()
        yield tell
    finally:
        held.release()
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others' are in it
            home.rmdir()
            home.parent.rmdir()


def launchers(root: Path) -> dict[str, str]:
    """The local launcher of each open run, by the run's id: its process and host."""
    found = dict[str, str]()
    for folder in _home(root).glob("*"):
        content = lease.read(folder) or {}
        if lease.seems_held(content):
            who = f"process {content.get('pid')} on {content.get('host')}"
            found |= dict.fromkeys(content.get("runs", ()), who)
    return found


def _home(root: Path) -> Path:
    return root / submission.FOLDER / "local"
