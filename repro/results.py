"""results/ <-> runs and frames. The only module that knows the files of a run's folder.

results/<run id>/
  spec.json          the whole run, written first
  metrics.jsonl      one line an epoch or an evaluation, as it goes; a function of the run alone
  predictions.npz    the label and the top-5 of every test sample
  samples.png, interpolation.png  what a generator draws; samples/ has such grids of the way there
  maps.npz, trees.npz  some pictures, with what a classifier sees in them
  weights.safetensors  the trained model; stays here, not in git
  result.json        metrics, provenance and a SHA-256 of every other file, written last and by
                     rename: it exists, so it is done

A folder whose files do not fit each other, or lack what the kind of run has, is 'damaged', for
whoever reads it: `outcome` judges.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

from msgspec import Meta

from repro import artifacts, measures, records, spec
from repro.artifacts import Line
from repro.records import Damaged
from repro.spec import Run, SpecError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SPEC, RESULT = "spec.json", "result.json"
METRICS, PREDICTIONS, WEIGHTS = artifacts.METRICS, artifacts.PREDICTIONS, artifacts.WEIGHTS

T = TypeVar("T")
State = Literal["done", "diverged", "damaged", "stale", "started", "missing"]

# Of the frame, beside those of the metrics.
_COLUMNS = ("run", "seed", "status", "reference", "device", "numeric_precision")

_Metric = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*\Z", max_length=80)]
_File = Annotated[
    str, Meta(pattern=r"^([a-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*\Z", max_length=200)
]
_Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Hexadecimal = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z", max_length=64)]
_Name = Annotated[str, Meta(pattern=r"^[\w ().:,/+-]+\Z", max_length=200)]
_Device = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z", max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class Result(TypedDict):
    """What RESULT holds."""

    status: Literal["done", "diverged"]
    metrics: dict[_Metric, int | float]
    provenance: NotRequired[dict[str, Any]]
    files: NotRequired[dict[_File, _Digest]]


class Reference(TypedDict):
    """What generated images were compared with, as far as it is shown."""

    dataset: _Name
    split: _Name
    images: _Count
    image_size: _Count
    fingerprint: _Hexadecimal
    extractor: _Name
    digest: _Hexadecimal
    preprocessing: NotRequired[_Name]


class Provenance(TypedDict, total=False):
    """What is read of a result's provenance; the rest is for people."""

    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    device: _Device  # as its driver names it
    precision: _Name
    parameters: _Count
    reference: Reference


class ResultsError(Exception):
    """Something is wrong in or with the results folder; one line that names it and a next step."""


@dataclass(frozen=True)
class Outcome:
    """What `results/` has of a run. `note`: what is wrong where the state is damaged or stale."""

    state: State
    result: Result | None = None
    note: str = ""


def folder(root: Path, run: Run) -> Path:
    """Where the run's files are."""
    return root / run.id


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: to a temporary name, to the disk, then by rename."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ResultsError(
            f"cannot write {path}: {error.strerror}; what was there is kept"
        ) from error


def outcome(root: Path, run: Run) -> Outcome:
    """What there is of `run` under `root`, with all that a reader may rely on checked.

    That is the schema of the files, the metrics that the kind of run has and their range, the
    digest of every file but the weights, which are checked where they are loaded, and the content
    of those that are drawn.
    """
    path = folder(root, run)
    try:
        return _outcome(path, run)
    except ResultsError as error:
        return Outcome("damaged", note=str(error))


def _outcome(path: Path, run: Run) -> Outcome:
    if not _is_folder(path):
        return Outcome("missing")
    stored, result = _read(path, SPEC, dict[str, Any]), _read(path, RESULT, Result)
    if stored is None and result is not None:
        what = f"{path / SPEC} is missing beside a result"
        raise ResultsError(f"{what}; move {path} away and run again")
    if stored is None:
        return Outcome("missing")
    if different := spec.difference(stored, run):
        note = f"{path} holds another run under this id ({records.one_line(different)})"
        step = "give the changed value its own field or move the folder away"
        return Outcome("stale", note=f"{note}; {step}")
    if result is None:
        return Outcome("started")
    with _named(path, RESULT):
        _check(run, result)
    _check_files(path, run, result)
    return Outcome(result["status"], result)


def _is_folder(path: Path) -> bool:
    """Whether there is one. ResultsError if there is something else, or nobody may look."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return True
    except (FileNotFoundError, NotADirectoryError):
        if not path.is_symlink():
            return False
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    raise ResultsError(f"{path} is no folder; move it away and run again")


@contextlib.contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Turns what is wrong with a file of a run's folder into a ResultsError that names it."""
    try:
        yield
    except Damaged as error:
        what = f"{path / name} is damaged ({error})"
        raise ResultsError(f"{what}; move {path} away and run again") from error
    except OSError as error:
        raise ResultsError(f"cannot read {path / name}: {error.strerror}") from error


def _read(path: Path, name: str, schema: type[T]) -> T | None:
    """The JSON of a file in a run's folder; None if there is none."""
    with _named(path, name):
        try:
            return records.read(path / name, schema)
        except FileNotFoundError:
            return None


def _check(run: Run, result: Result) -> None:
    """Raise Damaged if a result says what cannot be, or lacks what one of this run says."""
    metrics = result["metrics"]
    for name in _COLUMNS:
        records.require(name not in metrics, f"{name!r} is no name of a metric")
    records.require(not (wrong := measures.wrong(metrics)), wrong)
    for name in run.metrics if result["status"] == "done" else ():
        records.require(name in metrics, f"no {name!r} among its metrics")
    records.check(result.get("provenance", {}), Provenance)


_SOUND = set[tuple[object, ...]]()  # files that were checked, so that a watcher reads them once


def _check_files(path: Path, run: Run, result: Result) -> None:
    """Raise ResultsError if a file is not the one that the result was written with."""
    names = {name for name in artifacts.READ if os.path.lexists(path / name)}
    names |= result.get("files", {}).keys() - {WEIGHTS}
    if result["status"] == "done":
        names |= artifacts.needed(run)
    for name in sorted(names):
        with _named(path, name):
            _check_file(path / name, name, run, result)


def _check_file(path: Path, name: str, run: Run, result: Result) -> None:
    """Raise Damaged or OSError if a file of a result is missing, another, or holds nonsense."""
    try:
        about = path.stat()
    except FileNotFoundError:
        records.require(artifacts.may_lack(name), "it is missing")
        return
    digest = result.get("files", {}).get(name)
    records.require(digest, "its digest is not in the result")
    stamp = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    claims = result["status"], *sorted(result["metrics"].items())  # that `verify` checks
    key = (str(path), stamp, digest, claims)
    if key not in _SOUND:
        data = records.content(path, artifacts.MOST_BYTES)
        records.require(artifacts.digest(data) == digest, "its digest is not that in the result")
        artifacts.verify(name, data, run, result)
        _SOUND.add(key)


def weights(root: Path, run: Run) -> Path:
    """The trained weights of a finished run, the file that its result was written with.

    Raises ResultsError if the run is not done, or they are missing or others.
    """
    found, path = outcome(root, run), folder(root, run)
    if found.result is None or found.state != "done":
        raise ResultsError(f"{run.id} is {found.state}; `repro status` tells which runs are done")
    if not (path / WEIGHTS).exists():
        where = "weights are not in git; train the run in another --results DIR"
        raise ResultsError(f"{path / WEIGHTS} is missing: {where}")
    with _named(path, WEIGHTS):
        digest = found.result.get("files", {}).get(WEIGHTS)
        records.require(digest, "its digest is not in the result")
        records.require(artifacts.digest_of(path / WEIGHTS) == digest, "its digest is another")
    return path / WEIGHTS


def stored_run(path: Path) -> Run:
    """The run whose folder this is, by its spec. ResultsError if there is none or it is damaged."""
    with _named(path, SPEC):
        try:
            return spec.from_json(records.content(path / SPEC))
        except SpecError as error:
            raise Damaged(str(error)) from error


def begin(root: Path, run: Run) -> Path:
    """The run's folder, made, with its spec in it.

    Raises SpecError if the folder holds another spec under the same id, ResultsError if the folder
    cannot be written or a file in it is damaged.
    """
    path = folder(root, run)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(
            f"cannot write to {root}: {error.strerror}; choose --results DIR"
        ) from error
    found = outcome(root, run)
    if found.state == "stale":
        raise SpecError(found.note)
    if found.state == "damaged":
        raise ResultsError(found.note)
    if not (path / SPEC).exists():
        write(path / SPEC, spec.to_json(run))
    return path


def finish(path: Path, result: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
    """Write a run's files, then its result with the SHA-256 of these and those already there.

    Once: ResultsError if there is one, or if it has a number that is none. Of two writers, which
    the lease should have prevented, one wins; a file of the other would not have the digest in the
    result.
    """
    there = ResultsError(f"{path / RESULT} is there already; a result is written once")
    if (path / RESULT).exists():
        raise there
    _strict(result)
    for name, data in (files or {}).items():
        write(path / name, data)
    digests = {name: artifacts.digest(data) for name, data in (files or {}).items()}
    digests |= artifacts.digests(path, digests)
    temporary = path / f"{RESULT}.whole-{os.getpid()}"
    write(temporary, _strict({**result, "files": digests} if digests else result))
    try:
        os.link(temporary, path / RESULT)
    except FileExistsError:
        raise there from None
    except OSError as error:
        raise ResultsError(f"cannot write {path / RESULT}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _strict(result: Mapping[str, Any]) -> str:
    """A result as JSON. ResultsError if it has NaN or an infinite number."""
    try:
        return records.encode(result, indent=1, sort_keys=True) + "\n"
    except ValueError as error:
        raise ResultsError(f"the result has a number that is none: {error}") from error


def arrays(root: Path, run: Run, name: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a finished run's .npz; None if it is not finished, not in order, or has none.

    `outcome` has the reason in its note.
    """
    path = folder(root, run)
    if outcome(root, run).state != "done" or not (path / name).exists():
        return None
    with _named(path, name):
        return records.arrays(records.content(path / name, artifacts.MOST_BYTES))


# --- metrics.jsonl -------------------------------------------------------------------------------


def read_metrics(path: Path) -> list[Line]:
    """The lines of a run's metrics, one an epoch; none if it has not come so far.

    Raises ResultsError if the file is damaged.
    """
    with _named(path, METRICS):
        try:
            return artifacts.lines(records.content(path / METRICS, artifacts.MOST_BYTES))
        except FileNotFoundError:
            return []


def write_metrics(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a run's metrics by these lines. ResultsError for NaN or an infinite number."""
    try:
        text = "".join(records.encode(line) + "\n" for line in lines)
    except ValueError as error:
        raise ResultsError(f"a line of metrics has a number that is none: {error}") from error
    write(path / METRICS, text)


# --- the frame -----------------------------------------------------------------------------------


def frame(root: Path, runs: Iterable[Run], at: float = 1.0) -> tuple[pd.DataFrame, Sequence[str]]:
    """One row a run that has a result, sound or not, and warnings about those that are not.

    Columns: `run` (its id), `seed`, `status` ('done', 'diverged', 'damaged' or 'stale'),
    `reference` (what it was compared with, as JSON, if with anything), `device` and
    `numeric_precision` ('' if not recorded), and one for each metric, as it was after the share
    `at` of the training.
    """
    import pandas as pd  # half a second: only where a table needs it

    rows, warnings = [], []
    for run in runs:
        found = outcome(root, run)
        if found.state in ("missing", "started"):
            continue
        metrics, about = dict[str, Any](), dict[str, Any]()
        if found.result is None:
            warnings.append(found.note)
        else:
            metrics |= found.result["metrics"] if at == 1 else _metrics_at(folder(root, run), at)
            about |= found.result.get("provenance", {})
        row = {"run": run.id, "seed": run.seed, "status": found.state}
        row["device"] = about.get("device", "")
        row["numeric_precision"] = about.get("precision", "")  # 'precision' is a metric
        if reference := about.get("reference"):
            row["reference"] = records.encode(reference)
        rows.append(metrics | row)
    columns = ["run", "seed", "status", "top1"]
    return pd.DataFrame(rows, columns=None if rows else columns), warnings


def _metrics_at(path: Path, at: float) -> Mapping[str, float | None]:
    """The line of a run's metrics after this share of its steps; nothing if there is none."""
    lines = read_metrics(path)
    last = lines[-1]["step"] if lines else 0
    step = round(at * (last or 0))
    return next((line for line in lines if line["step"] == step), {})
