"""What verbs that load a trained model share. Files are looked at before torch is imported.

None is ever unpickled.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from repro import results
from repro.data import hub
from repro.data.hub import NoWeights
from repro.results import ResultsError
from repro.spec import Classification, Explanation, Run

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")  # of torch.save: zip, or older
_CONVERT = (
    "convert it where you trust it: safetensors.torch.save_file("
    'torch.load(PATH, weights_only=True), "weights.safetensors")'
)


@contextmanager
def one_line(run: Run) -> Iterator[None]:
    """Turns what keeps a model from being built and loaded into a ResultsError of one line."""
    try:
        yield
    except NoWeights as error:
        raise ResultsError(str(error)) from error
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        why = shorten(str(error) or type(error).__name__, 500, placeholder=" ...")
        raise ResultsError(f"cannot load {run.id}: {why}") from error


def weights(root: Path, run: Run, named: Path | None) -> Path:
    """The file named, or that of the finished run. ResultsError if it is missing or no weights."""
    path = named or results.weights(root, run)
    _check(path)
    return path


def check_released(run: Classification, folder: Path | None) -> None:
    """ResultsError unless the released weights that `run` tests are here or can be fetched."""
    try:
        _check(hub.find(run.release, folder))
    except NoWeights as error:
        raise ResultsError(str(error)) from error


def require_released(runs: Iterable[Run], folder: Path | None) -> None:
    """ResultsError unless the released weights that the runs test are in `folder`.

    Without one, each run looks at the hub's cache and the hub.
    """
    classifiers = [run.trained if isinstance(run, Explanation) else run for run in runs]
    for run in dict.fromkeys(classifiers):
        if folder and isinstance(run, Classification) and run.release:
            check_released(run, folder)


def _check(path: Path) -> None:
    """ResultsError unless it is a safetensors file with a sound header."""
    from safetensors import SafetensorError, safe_open

    try:
        start = _start(path)
        if start.startswith(_PICKLES):
            raise ResultsError(f"{path} is a pickle, which is never loaded; {_CONVERT}")
        if not start:
            raise ResultsError(f"{path} is empty; name a safetensors file")
        with safe_open(path, framework="numpy"):
            pass
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror or error}; name a safetensors file") from error
    except SafetensorError as error:
        what = f"{path} is not a safetensors file, or is damaged ({error})"
        raise ResultsError(f"{what}; name another, or train the run again") from error


def _start(path: Path) -> bytes:
    """The first bytes of a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ResultsError(f"{path} is not a regular file; name a safetensors file")
        return os.read(descriptor, 8)
    finally:
        os.close(descriptor)
