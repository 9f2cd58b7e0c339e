"""What has to hold of each run of a bundle by itself, beside what `results.outcome` checks.

The files come from elsewhere and their texts end up in tables and on terminals, so a run has only
the files that its result lists, plain text, numbers of a common size, and arrays of numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from repro import spec
from repro.core import artifacts, records
from repro.core.bundle import Bundle, BundledRun
from repro.core.records import Damaged, require
from repro.core.run import METRICS, PREDICTIONS
from repro.results import RESULT, SPEC, MetricName, Result
from repro.spec import Run, SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_ARRAY_BYTES = 2**28  # of the arrays in a file, unpacked
_MAX_INTEGER = 2**53
_PNG = b"\x89PNG\r\n\x1a\n"
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # of a value in a spec or a result
_MARKUP = re.compile(r"[<>\\$]|&#?\w+;")  # what HTML and LaTeX begin with
_FREE_TEXT = "why"  # a run diverged: the text of an error, which only people read

_MetricLine = dict[MetricName, int | float | None]


def file_names(result: Result) -> set[str]:
    """The files of a finished run that travel: all but weights and samples, as in git."""
    listed = result.get("files", {})
    return {SPEC, RESULT} | {name for name in listed if not artifacts.is_optional(name)}


def check_run(archive: Bundle, entry: BundledRun) -> Run:
    """A run of the bundle, its files checked. Raises Damaged, which names it, if one is wrong.

    The kinds of run must be known, as `paper.current` makes them.
    """
    with _prefixed(entry["id"]):
        files = {file["name"]: archive.content(entry, file) for file in entry["files"]}
        require(SPEC in files, f"no {SPEC}")
        require(RESULT in files, f"no {RESULT}")
        for name in (SPEC, RESULT):
            with _prefixed(name):
                _check_value(records.decode(files[name], object))
        run = spec.from_json(files[SPEC])
        require(run.id == entry["id"], f"its spec is that of {run.id}")
        with _prefixed(RESULT):
            result = records.decode(files[RESULT], Result)
        listed = file_names(result)
        for name in sorted(files.keys() ^ listed):
            why = "is missing" if name in listed else f"is not listed in its {RESULT}"
            raise Damaged(f"{name} {why}")
        for name in sorted(files.keys() - {SPEC, RESULT}):
            with _prefixed(name):
                digest = artifacts.digest(files[name])
                same = digest == result.get("files", {})[name]
                require(same, f"its digest is not that in {RESULT}")
                _check_file(name, files[name])
    return run


@contextmanager
def _prefixed(name: str) -> Iterator[None]:
    """Puts the name of a run or file before what is wrong with it."""
    try:
        yield
    except (Damaged, SpecError) as error:
        raise Damaged(f"{name}: {error}") from error


def fingerprint(files: Mapping[str, bytes]) -> str:
    """What a training cannot share with one of another seed: a digest of its predictions.

    Without predictions, that of its metrics; '' if there are none either.
    """
    if PREDICTIONS not in files:
        data = files.get(METRICS, b"")
        return hashlib.sha256(data).hexdigest() if data else ""
    digest = hashlib.sha256()
    for name, array in sorted(_read_arrays(files[PREDICTIONS]).items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _check_file(name: str, data: bytes) -> None:
    """Raise Damaged if a file is not of the kind that its name says."""
    if name.endswith(".npz"):
        for array in _read_arrays(data).values():
            for text in array.ravel().tolist() if array.dtype.kind == "U" else ():
                _check_text(text)
    elif name == METRICS:
        for number, line in enumerate(data.splitlines(), start=1):
            with _prefixed(f"line {number}"):
                records.decode(line, _MetricLine)
    elif name.endswith(".png"):
        require(data.startswith(_PNG), "not a PNG")
    else:
        require(name in artifacts.checked_files(), "no file of a run of this version")


def _read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name: of numbers and texts only."""
    arrays = records.read_arrays(data, most=_MAX_ARRAY_BYTES)
    for name, array in arrays.items():
        require(array.dtype.kind in "biufU", f"{name!a:.80} is of {array.dtype}, no numbers")
    return arrays


def _check_value(value: object, key: str = "") -> None:
    """Raise Damaged unless a value of JSON has plain texts and numbers of a common size."""
    if isinstance(value, str) and key == _FREE_TEXT:
        require(len(value) <= 10_000, "a text that is too long")
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int):
        require(abs(value) <= _MAX_INTEGER, f"{key!a:.80} is an integer of too many digits")
    elif isinstance(value, dict):
        for name, inner in value.items():
            good = isinstance(name, str) and len(name) <= 200 and _KEY.fullmatch(name)
            require(good, f"{name!a:.80} is not the name of a value")
            _check_value(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_value(inner, key)


def _check_text(text: str) -> None:
    """Raise Damaged for control characters, HTML or LaTeX, and for a very long text."""
    require(len(text) <= 1000, "a text that is too long")
    require(text.isprintable(), f"control characters in {text!a:.80}")
    require(not _MARKUP.search(text), f"HTML or LaTeX in {text!a:.80}")
