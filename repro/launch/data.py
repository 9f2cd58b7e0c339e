"""Datasets for the command line: preparation and checks. Imports torch only when needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from repro.data import catalogue
from repro.kinds.generation import INCEPTION
from repro.launch import code
from repro.results import ResultsError
from repro.spec import Run

_CHECKED = ".checked"  # a folder in the data folder, with an empty file for each valid state
_MAX_FILES = 1000  # a dataset with more files is checked every time


class MissingData(ResultsError):
    """A dataset that is missing, damaged or unknown; one line with the file and the next step."""


def prepare(name: str, root: Path) -> Sequence[str]:
    """Fetch and check a dataset, or 'inception', the weights of that network; lines for the user.

    Raises MissingData, which says which file to put where.
    """
    if name != INCEPTION and (wrong := catalogue.unknown_dataset(name)):
        raise MissingData(wrong)

    from repro import fidelity
    from repro.data import prepare as task
    from repro.data.datasets import DataError

    try:
        if name == INCEPTION:
            return fidelity.prepare_inception(root / INCEPTION)
        lines = task.prepare(name, root)
    except DataError as error:
        raise MissingData(str(error)) from error
    _remember(name, root)
    return lines


def of(runs: Iterable[Run]) -> list[str]:
    """The names of the datasets that runs need, and 'inception' if they are measured with it."""
    return sorted({name for run in runs for name in run.required_data})


def missing(runs: Iterable[Run], root: Path) -> list[str]:
    """A line for each dataset of the runs whose folder is missing or empty. Needs no torch."""
    return [
        f"data: {name} is not in {root}; see `repro prepare {name} --data {root}`"
        for name in of(runs)
        if not (catalogue.is_present(name, root) or (name == INCEPTION and _inception_is_cached()))
    ]


def _inception_is_cached() -> bool:
    """Whether torch.hub has the weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub"
    return any((hub / "checkpoints").glob("weights-inception-*.pth"))


def check(names: Sequence[str], root: Path) -> None:
    """Load every dataset once, after creating those that derive from embedded images.

    Raises MissingData for the first that cannot be used.
    """
    from repro.data import datasets
    from repro.data import prepare as task

    try:
        for name in names:
            if name == INCEPTION:
                from repro import fidelity

                fidelity.find_inception(root / INCEPTION)
                continue
            if name in task.SMOKE_SOURCE:
                task.prepare(name, root)
            for split in datasets.splits(name):
                datasets.load(name, split, root)
    except datasets.DataError as error:
        raise MissingData(str(error)) from error


def check_once(names: Iterable[str], root: Path) -> None:
    """`check`, except for datasets that were valid and have not changed, for which torch is not
    imported.

    Embedded datasets are skipped: they come with the code and are checked when they are loaded.
    """
    names = [name for name in names if name not in catalogue.EMBEDDED]
    changed = [name for name in names if not is_checked(name, root)]
    if changed:
        check(changed, root)
        for name in changed:
            _remember(name, root)


def is_checked(name: str, root: Path) -> bool:
    """Whether a dataset was valid and has not changed since. Needs no torch."""
    try:
        state = _state(name, root)
        return state is not None and (root / _CHECKED / state).exists()
    except OSError:  # `check` reports what cannot be read
        return False


def _remember(name: str, root: Path) -> None:
    with contextlib.suppress(OSError):  # a read-only folder is checked every time
        if state := _state(name, root):
            (root / _CHECKED).mkdir(exist_ok=True)
            (root / _CHECKED / state).touch()


def _state(name: str, root: Path) -> str | None:
    """Identifies the current files of a dataset and the code that reads them.

    None if there are no files, or too many.
    """
    folders = {root / Path(folder).parts[0] for folder in catalogue.FOLDERS.get(name, (name,))}
    stamps = list(islice(_stamps({*folders, *root.glob(f"{name}-*")}), _MAX_FILES + 1))
    if not 0 < len(stamps) <= _MAX_FILES:
        return None
    total = hashlib.sha256(f"{name} {_reader()}".encode())
    total.update(repr(sorted(stamps)).encode())
    return f"{name}-{total.hexdigest()[:16]}"


@cache
def _reader() -> str:
    """The digest of the code that reads datasets."""
    return code.digest(code.PACKAGE / "data")


def _stamps(paths: Iterable[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    """Path, inode, size and times of every file at or under the paths."""
    for path in paths:
        if path.is_dir():
            yield from _stamps(path.iterdir())
        elif path.exists():
            about = path.stat()
            yield str(path), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
