"""Weights of trained models for commands. Files are checked before torch is imported.

Nothing is unpickled.
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
from repro.data.hub import WeightsNotFound
from repro.results import ResultsError
from repro.spec import Run

_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")  # headers of torch.save's files
_CONVERT = (
    "convert it if you trust it: safetensors.torch.save_file("
    'torch.load(PATH, weights_only=True), "weights.safetensors")'
)


@contextmanager
def one_line(run: Run) -> Iterator[None]:
    """Turn errors of building and loading a model into a ResultsError of one line."""
    try:
        yield
    except WeightsNotFound as error:
        raise ResultsError(str(error)) from error
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        why = shorten(str(error) or type(error).__name__, 500, placeholder=" ...")
        raise ResultsError(f"cannot load {run.id}: {why}") from error


def weights(root: Path, run: Run, file: Path | None) -> Path:
    """The given file, or that of the finished run. Raises ResultsError if missing or invalid."""
    path = file or results.weights(root, run)
    _check(path)
    return path


def check_released(release: str, folder: Path | None) -> None:
    """Raise ResultsError unless the weights of a tag are here or can be fetched."""
    try:
        _check(hub.find(release, folder))
    except WeightsNotFound as error:
        raise ResultsError(str(error)) from error


def require_released(runs: Iterable[Run], folder: Path | None) -> None:
    """Raise ResultsError unless the released weights that the runs test are in `folder`.

    Without a folder, each run uses the hub's cache and the hub.
    """
    for release in dict.fromkeys(run.release for run in runs):
        if folder and release:
            check_released(release, folder)


def _check(path: Path) -> None:
    """Raise ResultsError unless it is a safetensors file with a valid header."""
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
        problem = f"{path} is not a safetensors file, or is damaged ({error})"
        raise ResultsError(f"{problem}; name another, or train the run again") from error


def _start(path: Path) -> bytes:
    """The first bytes of a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ResultsError(f"{path} is not a regular file; name a safetensors file")
        return os.read(descriptor, 8)
    finally:
        os.close(descriptor)
