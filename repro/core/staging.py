"""Many finished runs enter the results folder at once: all or none, whenever the process is killed.

<results>/.import/
  lock           locked by the one process that imports; the system unlocks it when that ends
  runs/<run id>/ the runs, written and checked
  journal.json   their ids; it appears by rename, and from then on they count as imported

`commit` writes the journal, renames each folder to <results>/<run id>, and removes the journal. A
process killed before the journal leaves files that every reader ignores and the next import
removes. One killed after it leaves folders that `recover` moves: the next import begins with it,
and so does a reader that misses a run. A reader who may not write sees the runs moved so far.

If another process made a folder of such a name meanwhile, all folders are moved back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

from msgspec import Meta

from repro.core import records

FOLDER = ".import"
_LOCK, _RUNS, _JOURNAL = "lock", "runs", "journal.json"
_PATIENCE_SECONDS = 5.0  # of a reader, with a process that moves runs
_STUCK = set[Path]()  # journals whose process took longer: a reader waits for each once

_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=200)]


class Journal(TypedDict):
    """The runs of an import that counts."""

    runs: Annotated[list[_Name], Meta(min_length=1)]


class NameTaken(Exception):
    """Another process made a folder of this name during the import; nothing was imported."""


@dataclass(frozen=True)
class Staging:
    """Where runs are written and checked before they count. `folder` has a folder for each."""

    root: Path
    folder: Path

    def write(self, run: str, name: str, data: bytes) -> None:
        """Write a file of a run, to the disk."""
        path = self.folder / run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def commit(self, runs: Sequence[str]) -> None:
        """Move the folders of these runs into the results, all or none.

        Raises NameTaken if there is one of such a name.
        """
        for run in runs:
            _sync(self.folder / run)
        _sync(self.folder)
        with records.atomic_file(self.root / FOLDER / _JOURNAL) as file:
            file.write(records.encode({"runs": list(runs)}).encode())
        _move(self.root)


@contextmanager
def open_staging(root: Path) -> Iterator[Staging]:
    """An empty staging folder of these results, once no other process has one.

    First finishes what an import that was killed has left. Raises OSError if the results folder
    cannot be written, Damaged for a journal that is none.
    """
    is_new = not root.exists()
    try:
        with _locked(root) as home:
            _move(root)
            (home / _RUNS).mkdir()
            try:
                yield Staging(root, home / _RUNS)
            finally:
                if not os.path.lexists(home / _JOURNAL):  # else they count; `recover` moves them
                    _clear(home)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it has runs now
                root.rmdir()


def has_leftovers(root: Path) -> bool:
    """Whether there is an import under way, or what is left of one that was killed."""
    return os.path.lexists(root / FOLDER)


def recover(root: Path) -> bool:
    """Finish an import that was killed after it counted; whether there was one.

    Nothing happens where this process may not write, or the journal is damaged.
    """
    journal = root / FOLDER / _JOURNAL
    if not os.path.lexists(journal):
        return False
    deadline = time.monotonic() + (0 if journal in _STUCK else _PATIENCE_SECONDS)
    with contextlib.suppress(OSError, records.Damaged, NameTaken):
        while os.path.lexists(journal):
            try:
                with _locked(root, wait=False):
                    _move(root)
            except BlockingIOError:  # its process lives and moves them now
                if time.monotonic() > deadline:
                    _STUCK.add(journal)
                    break
                time.sleep(0.01)
    return True


@contextmanager
def _locked(root: Path, *, wait: bool = True) -> Iterator[Path]:
    """The folder of imports, which no other process uses before the block ends.

    Raises BlockingIOError if another does and this one shall not wait.
    """
    home = root / FOLDER
    lock = _lock(home, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield home
    finally:
        if not os.path.lexists(home / _JOURNAL):
            (home / _LOCK).unlink(missing_ok=True)  # last: who finds no lock makes a new one
            with contextlib.suppress(OSError):
                home.rmdir()
        os.close(lock)


def _lock(home: Path, operation: int) -> int:
    """Lock the folder of imports, which is made if need be; the descriptor of the lock."""
    while True:
        home.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the folder was removed just now
            continue
        try:
            fcntl.flock(lock, operation)
            if os.path.samestat(os.fstat(lock), (home / _LOCK).stat()):
                return lock
        except FileNotFoundError:  # its last holder has removed it
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _move(root: Path) -> None:
    """Move the runs that the journal lists into the results, then remove whatever is left.

    The caller holds the lock. Raises NameTaken, with all folders moved back, if a name is taken.
    """
    home = root / FOLDER
    staged, runs = home / _RUNS, _journal(home)
    taken = next((run for run in runs if not _rename(staged / run, root / run)), None)
    for run in runs if taken else ():
        if not os.path.lexists(staged / run):
            _rename(root / run, staged / run)
    if runs:
        _sync(root)
        (home / _JOURNAL).unlink()
    _clear(home)
    if taken:
        raise NameTaken(taken)


def _clear(home: Path) -> None:
    """Remove all but the lock: runs that do not count, and a journal that is half written."""
    for path in home.iterdir():
        if path.name == _RUNS:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)


def _journal(home: Path) -> Sequence[str]:
    """The runs of an import that counts and has not ended. Raises Damaged for a journal of none."""
    try:
        return records.read(home / _JOURNAL, Journal)["runs"]
    except FileNotFoundError:
        return []
    except records.Damaged as error:
        raise records.Damaged(f"{home / _JOURNAL} is damaged ({error}); remove {home}") from error


def _rename(source: Path, target: Path) -> bool:
    """Move a folder unless it was moved before; False if there is another in its place."""
    try:
        os.rename(source, target)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system does that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
