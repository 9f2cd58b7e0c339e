"""The bridge from the command line to the datasets; imports the torch half when it is needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import metadata
from itertools import islice
from pathlib import Path

from repro.data import places
from repro.launch import code
from repro.results import ResultsError
from repro.spec import Generation, Localization, Run, dataset_of

INCEPTION = "inception"  # what measures generated images, and the folder of its weights
_CHECKED = ".checked"  # in the data folder: an empty file for each state that was found in order
_MOST_FILES = 1000  # of a dataset whose files are looked at one by one


class MissingData(ResultsError):
    """A dataset that is missing, damaged or unknown; one line with the file and the next step."""


def prepare(name: str, root: Path) -> Sequence[str]:
    """Fetch and check a dataset, or 'inception', the weights of that network; the lines to show.

    MissingData says which file to put where.
    """
    if name != INCEPTION and (wrong := places.unknown(name)):
        raise MissingData(wrong)

    from repro import fidelity
    from repro.data import prepare as task
    from repro.data.datasets import DataError

    try:
        if name == INCEPTION:
            return fidelity.prepare_inception(root / INCEPTION)
        return task.prepare(name, root)
    except DataError as error:
        raise MissingData(str(error)) from error


def of(runs: Iterable[Run]) -> list[str]:
    """What runs need: the names of datasets, and 'inception', where they are measured by it."""
    runs = list(runs)
    judged = {INCEPTION for run in runs if isinstance(run, Generation)
              and run.features == INCEPTION}  # fmt: skip
    tuned = {run.tuning for run in runs if isinstance(run, Localization) and run.classifier}
    return sorted({dataset_of(run) for run in runs} - {""} | judged | tuned)


def missing(runs: Iterable[Run], root: Path) -> list[str]:
    """A line for each dataset of the runs whose folder is not there or empty. Needs no torch."""
    return [
        f"data: {name} is not in {root}; see `repro prepare {name} --data {root}`"
        for name in of(runs)
        if not (places.is_there(name, root) or (name == INCEPTION and _inception_is_cached()))
    ]


def _inception_is_cached() -> bool:
    """Whether torch.hub has the weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub"
    return any((hub / "checkpoints").glob("weights-inception-*.pth"))


def check(names: Sequence[str], root: Path) -> None:
    """Load every dataset once, making first those that are made from embedded images.

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
    """The same, but of what was found in order and has not changed since. Then it needs no torch.

    Embedded sets are left out: they come with the code, and are checked where they are loaded.
    """
    names = [name for name in names if name not in places.EMBEDDED]
    changed = [name for name in names if not _is_checked(name, root)]
    if changed:
        check(changed, root)
        for name in changed:
            _remember(name, root)


def _is_checked(name: str, root: Path) -> bool:
    try:
        state = _state(name, root)
        return state is not None and (root / _CHECKED / state).exists()
    except OSError:  # the check says what cannot be read
        return False


def _remember(name: str, root: Path) -> None:
    with contextlib.suppress(OSError):  # a folder of others: it is checked again every time
        if state := _state(name, root):
            (root / _CHECKED).mkdir(exist_ok=True)
            (root / _CHECKED / state).touch()


def _state(name: str, root: Path) -> str | None:
    """Names the files of a dataset as they are, and the code that reads them.

    None if there are no files or too many to look at.
    """
    folders = {root / Path(folder).parts[0] for folder in places.FOLDERS.get(name, (name,))}
    stamps = list(islice(_stamps({*folders, *root.glob(f"{name}-*")}), _MOST_FILES + 1))
    if not 0 < len(stamps) <= _MOST_FILES:
        return None
    total = hashlib.sha256(f"{name} {_reader()}".encode())
    total.update(repr(sorted(stamps)).encode())
    return f"{name}-{total.hexdigest()[:16]}"


@cache
def _reader() -> str:
    """The digest of the code that reads datasets."""
    return code.digest(code.PACKAGE / "data")


def _stamps(paths: Iterable[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    """What changes with a file, of every file at or under the paths."""
    for path in paths:
        if path.is_dir():
            yield from _stamps(path.iterdir())
        elif path.exists():
            about = path.stat()
            yield str(path), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def examine(data: Path, results: Path) -> Iterator[tuple[str, str]]:
    """What this machine has: ('ok', '--' or 'MISS', line) for packages, device, folders, datasets.

    '--' is a dataset that is not here, 'MISS' what keeps anything from being trained.
    """
    right = sys.version_info >= (3, 11)
    yield "ok" if right else "MISS", f"Python {platform.python_version()} (3.11 or newer)"
    for name in ("torch", "torchvision", "timm", "pandas", "jsonargparse"):
        try:
            yield "ok", f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield "MISS", f"{name} is not installed: pip install -c constraints.txt -e ."
            return
    from repro.data import datasets
    from repro.data.prepare import SMOKE_SOURCE
    from repro.train import device

    chosen = device.choose()
    yield "ok", f"device: {device.describe(chosen)}, {device.precision(chosen)}"
    yield "ok", f"cores: {len(os.sched_getaffinity(0))}"
    well = _writable(results)
    yield "ok" if well else "MISS", f"results in {results}: {'' if well else 'not '}writable"
    for name in datasets.names():
        if name in SMOKE_SOURCE:
            continue  # made when it is needed
        try:
            check([name], data)
            yield "ok", f"dataset {name}"
        except MissingData as error:
            yield "--", f"dataset {error}"


def _writable(folder: Path) -> bool:
    """Whether files can be written into a folder, which need not be there yet."""
    whole = folder.absolute()
    nearest = next(path for path in (whole, *whole.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return True
    except OSError:
        return False
