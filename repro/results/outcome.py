"""The state of runs: which are finished, and whether their files can be trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro import spec
from repro.core import artifacts, measures, records, staging
from repro.core.records import Damaged
from repro.results.files import (
    RESULT,
    SPEC,
    WEIGHTS,
    Provenance,
    Result,
    ResultsError,
    folder,
    named_errors,
    origin,
    read_content,
    read_json,
    write,
)
from repro.spec import Run, SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = Literal["done", "diverged", "damaged", "stale", "started", "missing"]

# Columns of a frame that no metric may be named after.
ABOUT = ("device", "numeric_precision", "site", "sha256")
_RESERVED = ("run", "seed", "status", "reference", *ABOUT)


@dataclass(frozen=True)
class Outcome:
    """The state of a run, and its result if there is one. `note`: why it is damaged or stale."""

    state: State
    result: Result | None = None
    note: str = ""
    sha256: str = ""  # of RESULT


def outcome(root: Path, run: Run) -> Outcome:
    """The state of a run in the results folder `root`, after checking its files.

    Checked are the schemas, the presence and range of the metrics of this kind of run, the digests
    of all files except the weights (checked when they are loaded), and the content of the files
    that tables and figures use.
    """
    path = folder(root, run)
    try:
        return _outcome(path, run)
    except ResultsError as error:
        return Outcome("damaged", note=str(error))


def _outcome(path: Path, run: Run) -> Outcome:
    if not _is_folder(path) and not (staging.recover(path.parent) and _is_folder(path)):
        return Outcome("missing")
    key = (str(path), run.id, _stamp(path / SPEC), _stamp(path / RESULT))
    if (run_outcome := _READ.get(key)) is None:
        run_outcome = _READ[key] = _read_outcome(path, run)
    if run_outcome.result is not None:
        _check_files(path, run, run_outcome.result)
        origin(path)
    return run_outcome


_READ = dict[tuple[object, ...], Outcome]()  # cells share runs; each run is read once


def _stamp(path: Path) -> tuple[int, ...]:
    """A value that changes with the file; () without a file."""
    try:
        about = path.stat()
    except OSError:  # the reader of the file reports it
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _read_outcome(path: Path, run: Run) -> Outcome:
    """The outcome according to SPEC and RESULT; ResultsError if one of them is damaged."""
    stored, content = read_json(path, SPEC, dict[str, Any]), read_content(path, RESULT)
    if stored is None and content is not None:
        what = f"{path / SPEC} is missing beside a result"
        raise ResultsError(f"{what}; move {path} away and run again")
    if stored is None:
        return Outcome("missing")
    if different := spec.difference(stored, run):
        note = f"{path} holds another run under this id ({records.one_line(different)})"
        step = "give the changed value its own field or move the folder away"
        return Outcome("stale", note=f"{note}; {step}")
    if content is None:
        return Outcome("started")
    with named_errors(path, RESULT):
        result = records.decode(content, Result)
        _check(run, result)
    return Outcome(result["status"], result, sha256=artifacts.digest(content))


def evidence_digest(root: Path, run: Run) -> str:
    """The SHA-256 of a run's RESULT, chained with those of the runs that it starts from.

    RESULT contains the digests of the other files, so this digest covers everything a number
    depends on. For a run that starts from no other, it equals the output of `sha256sum`.
    """
    return chained_digest(root, run, outcome(root, run).sha256)


def chained_digest(root: Path, run: Run, own: str) -> str:
    if not own or run.starts_from is None:
        return own
    return artifacts.digest(f"{own} {evidence_digest(root, run.starts_from)}".encode())


def _is_folder(path: Path) -> bool:
    """Whether the folder exists. ResultsError if it is not a folder or cannot be read."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return True
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return False
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    raise ResultsError(f"{path} is no folder; move it away and run again")


def _check(run: Run, result: Result) -> None:
    """Raise Damaged if a metric is impossible or missing, or the provenance is invalid."""
    metrics = result["metrics"]
    for name in _RESERVED:
        records.require(name not in metrics, f"{name!r} is no name of a metric")
    records.require(not (wrong := measures.wrong(metrics)), wrong)
    for name in run.metrics if result["status"] == "done" else ():
        records.require(name in metrics, f"no {name!r} among its metrics")
    records.check(result.get("provenance", {}), Provenance)


_SOUND = set[tuple[object, ...]]()  # checked files, which a long process reads only once


def _check_files(path: Path, run: Run, result: Result) -> None:
    """Raise ResultsError if a file is missing or differs from the one when the run finished."""
    names = {name for name in artifacts.checked_files() if os.path.lexists(path / name)}
    names |= result.get("files", {}).keys() - {WEIGHTS}
    if result["status"] == "done":
        names |= run.required_files
    for name in sorted(names):
        with named_errors(path, name):
            _check_file(path / name, name, run, result)


def _check_file(path: Path, name: str, run: Run, result: Result) -> None:
    """Raise Damaged or OSError if a file is missing, changed, or has invalid content."""
    try:
        about = path.stat()
    except FileNotFoundError:
        records.require(artifacts.is_optional(name), "it is missing")
        return
    digest = result.get("files", {}).get(name)
    records.require(digest, "its digest is not in the result")
    stamp = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    claims = result["status"], *sorted(result["metrics"].items())  # checked by `verify`
    key = (str(path), stamp, digest, claims)
    if key not in _SOUND:
        data = records.read_bytes(path, artifacts.MAX_BYTES)
        records.require(artifacts.digest(data) == digest, "its digest is not that in the result")
        artifacts.verify(name, data, run, result)
        _SOUND.add(key)


def weights(root: Path, run: Run) -> Path:
    """The file of a finished run's trained weights, after checking its digest.

    ResultsError if the run is not done, or if the file is missing or changed.
    """
    run_outcome, path = outcome(root, run), folder(root, run)
    if run_outcome.result is None or run_outcome.state != "done":
        raise ResultsError(
            f"{run.id} is {run_outcome.state}; `repro status` tells which runs are done"
        )
    if not (path / WEIGHTS).exists():
        where = "weights are not in git; train the run in another --results DIR"
        raise ResultsError(f"{path / WEIGHTS} is missing: {where}")
    with named_errors(path, WEIGHTS):
        digest = run_outcome.result.get("files", {}).get(WEIGHTS)
        records.require(digest, "its digest is not in the result")
        records.require(artifacts.digest_of(path / WEIGHTS) == digest, "its digest is another")
    return path / WEIGHTS


def begin(root: Path, run: Run) -> Path:
    """Create the run's folder with its SPEC, and return it.

    SpecError if the folder contains another spec under the same id; ResultsError if it cannot be
    written or a file in it is damaged.
    """
    path = folder(root, run)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(
            f"cannot write to {root}: {error.strerror}; choose --results DIR"
        ) from error
    run_outcome = outcome(root, run)
    if run_outcome.state == "stale":
        raise SpecError(run_outcome.note)
    if run_outcome.state == "damaged":
        raise ResultsError(run_outcome.note)
    if not (path / SPEC).exists():
        write(path / SPEC, spec.to_json(run))
    return path


def finish(path: Path, result: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
    """Write a run's last files, then its RESULT with the SHA-256 of all files in the folder.

    ResultsError if RESULT exists already or would not be valid. Of two writers at once, which the
    lease prevents, one succeeds; the digests in RESULT reveal files of the other.
    """
    exists = ResultsError(f"{path / RESULT} exists already; a result is written once")
    if (path / RESULT).exists():
        raise exists
    try:
        records.decode(_strict(result).encode(), Result)
    except Damaged as error:
        raise ResultsError(f"the task's result is not valid: {error}; correct the task") from error
    for name, data in (files or {}).items():
        write(path / name, data)
    digests = {name: artifacts.digest(data) for name, data in (files or {}).items()}
    digests |= artifacts.digests(path, digests)
    temporary = path / f"{RESULT}.whole-{os.getpid()}"
    write(temporary, _strict({**result, "files": digests} if digests else result))
    try:
        os.link(temporary, path / RESULT)
    except FileExistsError:
        raise exists from None
    except OSError as error:
        raise ResultsError(f"cannot write {path / RESULT}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _strict(result: Mapping[str, Any]) -> str:
    """A result as JSON. ResultsError for NaN and infinite numbers."""
    try:
        return records.encode(result, indent=1, sort_keys=True) + "\n"
    except ValueError as error:
        raise ResultsError(f"the result has a number that is not finite: {error}") from error


def arrays(root: Path, run: Run, name: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a finished run's .npz file; None without the file, and if the run is not done.

    The note of `outcome` has the reason.
    """
    path = folder(root, run)
    if outcome(root, run).state != "done" or not (path / name).exists():
        return None
    with named_errors(path, name):
        return records.read_arrays(records.read_bytes(path / name, artifacts.MAX_BYTES))
