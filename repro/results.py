"""results/ <-> runs and frames. The only module that knows the files of a run's folder.

results/<run id>/
  spec.json          the whole run, written first
  metrics.jsonl      one line an epoch or an evaluation, as it goes; a function of the run alone
  predictions.npz    the label and the top-5 of every test sample
  samples.png, interpolation.png  what a generator draws; samples/ has such grids of the way there
  maps.npz, trees.npz  some pictures, with what a classifier sees in them
  weights.safetensors  the trained model; stays here, not in git
  result.json        metrics and provenance, written last and by rename: it exists, so it is done
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro import spec
from repro.spec import Run, SpecError

if TYPE_CHECKING:
    import pandas as pd

SPEC, METRICS, RESULT = "spec.json", "metrics.jsonl", "result.json"
PREDICTIONS, WEIGHTS = "predictions.npz", "weights.safetensors"

State = Literal["done", "diverged", "damaged", "stale", "started", "missing"]


class ResultsError(Exception):
    """Something is wrong in or with the results folder; one line that names it and a next step."""


@dataclass(frozen=True)
class Outcome:
    """What `results/` has of a run. `note`: what is wrong where the state is damaged or stale."""

    state: State
    result: dict[str, Any] | None = None
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
    """What there is of `run` under `root`."""
    path = folder(root, run)
    if not path.is_dir():
        return Outcome("missing")
    try:
        stored = _read_json(path / SPEC)
        if stored is None and (path / RESULT).exists():
            raise ResultsError(f"{path / SPEC} is missing beside a result; move both away")
        if stored is None:
            return Outcome("missing")
        if different := spec.difference(stored, run):
            note = f"{path} holds another run under this id ({different})"
            step = "give the changed value its own field or move the folder away"
            return Outcome("stale", note=f"{note}; {step}")
        result = _read_json(path / RESULT)
    except ResultsError as error:
        return Outcome("damaged", note=str(error))
    if result is None:
        return Outcome("started")
    status = result.get("status")
    if status not in ("done", "diverged") or not _are_metrics(result.get("metrics")):
        return Outcome(
            "damaged", note=f"{path / RESULT} is not a result; move it away and run again"
        )
    return Outcome(status, result)


def _are_metrics(value: object) -> bool:
    """Whether it is an object of numbers."""
    return isinstance(value, dict) and all(isinstance(v, int | float) for v in value.values())


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no file; ResultsError if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultsError(f"{path} is damaged ({error}); move it away and run again") from error
    if not isinstance(content, dict):
        raise ResultsError(f"{path} is damaged (not an object); move it away and run again")
    return content


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


def finish(path: Path, result: dict[str, Any], files: Mapping[str, bytes] | None = None) -> None:
    """Write a run's files, then its result with their SHA-256. Once: ResultsError if there is one.

    Of two writers, which the lease should have prevented, one wins; a file of the other would not
    have the digest in the result.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in (files or {}).items()}
    there = ResultsError(f"{path / RESULT} is there already; a result is written once")
    if (path / RESULT).exists():
        raise there
    for name, data in (files or {}).items():
        write(path / name, data)
    whole = result | ({"files": digests} if digests else {})
    temporary = path / f"{RESULT}.whole-{os.getpid()}"
    write(temporary, json.dumps(whole, indent=1, sort_keys=True) + "\n")
    try:
        os.link(temporary, path / RESULT)
    except FileExistsError:
        raise there from None
    except OSError as error:
        raise ResultsError(f"cannot write {path / RESULT}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def arrays(root: Path, run: Run, name: str) -> dict[str, Any] | None:
    """The arrays of a finished run's .npz; None if it is not finished. Executes no code from it.

    Raises ResultsError if the file is missing or damaged.
    """
    import numpy as np

    if outcome(root, run).state != "done":
        return None
    path = folder(root, run) / name
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ResultsError(f"{path} is missing or damaged; move {path.parent} away") from error


# --- metrics.jsonl -------------------------------------------------------------------------------


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, one an epoch; none if it has not come so far."""
    try:
        text = (path / METRICS).read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


def write_metrics(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a run's metrics by these lines."""
    write(path / METRICS, "".join(json.dumps(line) + "\n" for line in lines))


# --- the frame -----------------------------------------------------------------------------------


def frame(root: Path, runs: Iterable[Run], at: float = 1.0) -> tuple[pd.DataFrame, Sequence[str]]:
    """One row a run that has a result, and warnings about what could not be used.

    Columns: `run` (its id), `seed`, `status` ('done' or 'diverged'), `reference` (what it was
    compared with, as JSON, if with anything) and one for each metric, as it was after the share
    `at` of the training.
    """
    import pandas as pd  # half a second: only where a table needs it

    rows, warnings = [], []
    for run in runs:
        found = outcome(root, run)
        if found.note:
            warnings.append(found.note)
        if found.result is not None:
            row = {"run": run.id, "seed": run.seed, "status": found.state}
            if reference := found.result.get("provenance", {}).get("reference"):
                row["reference"] = json.dumps(reference)
            metrics = found.result["metrics"]
            rows.append(row | (metrics if at == 1 else _metrics_at(folder(root, run), at)))
    columns = ["run", "seed", "status", "top1"]
    return pd.DataFrame(rows, columns=None if rows else columns), warnings


def _metrics_at(path: Path, at: float) -> dict[str, Any]:
    """The line of a run's metrics after this share of its steps; nothing if there is none."""
    lines = read_metrics(path)
    step = round(at * lines[-1]["step"]) if lines else 0
    return next((line for line in lines if line["step"] == step), {})
