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
  origin.json        of an imported run: the site that computed it

Hidden names, such as that of the imports under way, are no runs.

A folder whose files do not fit each other, or lack what the kind of run has, is 'damaged', for
whoever reads it: `outcome` judges.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

from msgspec import Meta

from repro import paper, spec
from repro.core import artifacts, measures, plan, records, staging
from repro.core.artifacts import Line
from repro.core.records import Damaged
from repro.core.run import METRICS as METRICS
from repro.core.run import PREDICTIONS as PREDICTIONS
from repro.core.scales import runs_at_scale
from repro.spec import Cell, Experiment, Run, Scale, SpecError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SPEC, RESULT, ORIGIN = "spec.json", "result.json", "origin.json"
WEIGHTS = artifacts.WEIGHTS
SNAPSHOTS = Path("submissions", "code")  # in the results folder: the code of launches on SLURM

T = TypeVar("T")
State = Literal["done", "diverged", "damaged", "stale", "started", "missing"]

# Of the frame, beside those of the metrics.
_ABOUT = ("device", "numeric_precision", "site", "sha256")
_COLUMNS = ("run", "seed", "status", "reference", *_ABOUT)

MetricName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*\Z", max_length=80)]
_File = Annotated[
    str, Meta(pattern=r"^([a-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*\Z", max_length=200)
]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Hexadecimal = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z", max_length=64)]
_Name = Annotated[str, Meta(pattern=r"^[\w ().:,/+-]+\Z", max_length=200)]
_Device = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z", max_length=200)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
Site = Annotated[str, Meta(pattern=r"^\w[\w .,()+-]*\Z", max_length=80)]


class Result(TypedDict):
    """What RESULT holds."""

    status: Literal["done", "diverged"]
    metrics: dict[MetricName, int | float]
    provenance: NotRequired[dict[str, Any]]
    files: NotRequired[dict[_File, Digest]]


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
    code: _Hexadecimal  # names a folder of changes
    parameters: _Count
    reference: Reference


class Origin(TypedDict):
    """What ORIGIN holds. `bundle`: the digest of the bundle that brought the run."""

    site: Site
    bundle: Digest


class ResultsError(Exception):
    """Something is wrong in or with the results folder; one line that names it and a next step."""


@dataclass(frozen=True)
class Outcome:
    """What `results/` has of a run. `note`: what is wrong where the state is damaged or stale."""

    state: State
    result: Result | None = None
    note: str = ""
    sha256: str = ""  # of RESULT


def folder(root: Path, run: Run) -> Path:
    """Where the run's files are."""
    return root / run.id


def write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: to a temporary name, to the disk, then by rename."""
    data = content.encode() if isinstance(content, str) else content
    try:
        with records.atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ResultsError(
            f"cannot write {path}: {error.strerror}; what was there is kept"
        ) from error


def require_writable(folder: Path, option: str) -> None:
    """Make a folder if need be, and try to write into it, before work whose end would find out.

    ResultsError if it cannot be, which names the option that names another.
    """
    import tempfile  # not needed by what only looks

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        why = f"cannot write to {folder}: {error.strerror}"
        raise ResultsError(f"{why}; name another with {option}") from error


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
    if not _is_folder(path) and not (staging.recover(path.parent) and _is_folder(path)):
        return Outcome("missing")
    key = (str(path), run.id, _stamp(path / SPEC), _stamp(path / RESULT))
    if (run_outcome := _READ.get(key)) is None:
        run_outcome = _READ[key] = _read_outcome(path, run)
    if run_outcome.result is not None:
        _check_files(path, run, run_outcome.result)
        origin(path)
    return run_outcome


_READ = dict[tuple[object, ...], Outcome]()  # so that many cells of one run read its files once


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when the file does; () without a file."""
    try:
        about = path.stat()
    except OSError:  # the reader of the file reports it
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _read_outcome(path: Path, run: Run) -> Outcome:
    """The outcome by SPEC and RESULT; ResultsError if one is damaged."""
    stored, content = _read(path, SPEC, dict[str, Any]), _content(path, RESULT)
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
    with _named(path, RESULT):
        result = records.decode(content, Result)
        _check(run, result)
    return Outcome(result["status"], result, sha256=artifacts.digest(content))


def evidence_digest(root: Path, run: Run) -> str:
    """The SHA-256 of a run's RESULT, chained with those of the runs that it starts from.

    A RESULT has the digests of its other files, so that this one covers all that a number depends
    on. Of a run that starts from none it is what `sha256sum` prints.
    """
    return _chained(root, run, outcome(root, run).sha256)


def _chained(root: Path, run: Run, own: str) -> str:
    if not own or run.starts_from is None:
        return own
    return artifacts.digest(f"{own} {evidence_digest(root, run.starts_from)}".encode())


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


def _content(path: Path, name: str) -> bytes | None:
    """A JSON file in a run's folder; None if there is none."""
    with _named(path, name):
        try:
            return records.read_bytes(path / name)
        except FileNotFoundError:
            return None


def _read(path: Path, name: str, schema: type[T]) -> T | None:
    """The JSON of a file in a run's folder; None if there is none."""
    content = _content(path, name)
    with _named(path, name):
        return None if content is None else records.decode(content, schema)


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
    names = {name for name in artifacts.checked_files() if os.path.lexists(path / name)}
    names |= result.get("files", {}).keys() - {WEIGHTS}
    if result["status"] == "done":
        names |= run.required_files
    for name in sorted(names):
        with _named(path, name):
            _check_file(path / name, name, run, result)


def _check_file(path: Path, name: str, run: Run, result: Result) -> None:
    """Raise Damaged or OSError if a file of a result is missing, another, or holds nonsense."""
    try:
        about = path.stat()
    except FileNotFoundError:
        records.require(artifacts.is_optional(name), "it is missing")
        return
    digest = result.get("files", {}).get(name)
    records.require(digest, "its digest is not in the result")
    stamp = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    claims = result["status"], *sorted(result["metrics"].items())  # that `verify` checks
    key = (str(path), stamp, digest, claims)
    if key not in _SOUND:
        data = records.read_bytes(path, artifacts.MAX_BYTES)
        records.require(artifacts.digest(data) == digest, "its digest is not that in the result")
        artifacts.verify(name, data, run, result)
        _SOUND.add(key)


def weights(root: Path, run: Run) -> Path:
    """The trained weights of a finished run, the file that its result was written with.

    Raises ResultsError if the run is not done, or they are missing or others.
    """
    run_outcome, path = outcome(root, run), folder(root, run)
    if run_outcome.result is None or run_outcome.state != "done":
        raise ResultsError(
            f"{run.id} is {run_outcome.state}; `repro status` tells which runs are done"
        )
    if not (path / WEIGHTS).exists():
        where = "weights are not in git; train the run in another --results DIR"
        raise ResultsError(f"{path / WEIGHTS} is missing: {where}")
    with _named(path, WEIGHTS):
        digest = run_outcome.result.get("files", {}).get(WEIGHTS)
        records.require(digest, "its digest is not in the result")
        records.require(artifacts.digest_of(path / WEIGHTS) == digest, "its digest is another")
    return path / WEIGHTS


def run_ids(root: Path) -> set[str]:
    """The names of the folders of runs; none if there is no results folder."""
    staging.recover(root)
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    return {name for name in names if not name.startswith(".")}


def origin(path: Path) -> str:
    """The site that computed an imported run; '' for a run of this results folder.

    Raises ResultsError if that is damaged.
    """
    stored = _read(path, ORIGIN, Origin)
    return stored["site"] if stored else ""


def stored_run(path: Path) -> Run:
    """The run whose folder this is, by its spec. ResultsError if there is none or it is damaged."""
    paper.current()  # so that its kinds of run are known
    with _named(path, SPEC):
        try:
            return spec.from_json(records.read_bytes(path / SPEC))
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
    run_outcome = outcome(root, run)
    if run_outcome.state == "stale":
        raise SpecError(run_outcome.note)
    if run_outcome.state == "damaged":
        raise ResultsError(run_outcome.note)
    if not (path / SPEC).exists():
        write(path / SPEC, spec.to_json(run))
    return path


def finish(path: Path, result: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> None:
    """Write a run's files, then its result with the SHA-256 of these and those already there.

    Once: ResultsError if there is one, or if it could not be read again. Of two writers, which
    the lease should have prevented, one wins; a file of the other would not have the digest in the
    result.
    """
    there = ResultsError(f"{path / RESULT} is there already; a result is written once")
    if (path / RESULT).exists():
        raise there
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
        return records.read_arrays(records.read_bytes(path / name, artifacts.MAX_BYTES))


# --- metrics.jsonl -------------------------------------------------------------------------------


def read_metrics(path: Path) -> list[Line]:
    """The lines of a run's metrics, one an epoch; none if it has not come so far.

    Raises ResultsError if the file is damaged.
    """
    with _named(path, METRICS):
        try:
            return artifacts.parse_lines(records.read_bytes(path / METRICS, artifacts.MAX_BYTES))
        except FileNotFoundError:
            return []


def metrics_so_far(path: Path) -> list[Line]:
    """The complete lines of a run that may be writing another one; none if there are none yet.

    Raises ResultsError if the file is damaged.
    """
    with _named(path, METRICS):
        try:
            data = records.read_bytes(path / METRICS, artifacts.MAX_BYTES)
        except FileNotFoundError:
            return []
        return artifacts.parse_lines(data[: data.rfind(b"\n") + 1], steps=True)


def write_metrics(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a run's metrics by these lines. ResultsError for NaN or an infinite number."""
    try:
        text = "".join(records.encode(line) + "\n" for line in lines)
    except ValueError as error:
        raise ResultsError(f"a line of metrics has a number that is none: {error}") from error
    write(path / METRICS, text)


# --- frames -------------------------------------------------------------------------------------


def frame(
    items: str | Sequence[str] = "all",
    scale: Scale = "paper",
    *,
    seeds: int | None = None,
    root: Path | str = "results",
) -> pd.DataFrame:
    """What was measured for items of the paper, one row for each of their cells and seeds.

        repro.results.frame(scale="proxy").groupby(["method", "dataset"]).top1.mean()

    Columns: `item`, `method`, `panel`, `column` (the paper's) and `dataset` (here); `seed`, `run`
    (its id) and `status` ('done', 'diverged', 'damaged', 'stale', 'started' or 'missing');
    `training_fraction`, after which the metrics were measured: 1 but for a point of a curve;
    `recipe.lr` and the like, each value of the recipe; then the metrics, such as `top1` in percent,
    NaN where a run has no result; last `device`, `numeric_precision`, `site`, `sha256` and
    `reference`, as in `measurements`.

    Args:
        items: names or patterns as on the command line, 'all' for every item.
        seeds: the seeds 0 to `seeds` - 1; None: as many as the scale has or `root` knows.
        root: the results folder.

    Raises KeyError for an item that there is not. What is wrong with a damaged result, `outcome`
    says.
    """
    import pandas as pd

    root, words = Path(root), [items] if isinstance(items, str) else items
    names = dict.fromkeys(name for word in words for name in paper.current().matching(word))
    cells = [row for name in names for row in _cells(paper.current().get(name), scale, seeds, root)]
    if not cells:
        return pd.DataFrame(columns=[*_CELL_COLUMNS, "top1"])
    table = pd.DataFrame([_cell_row(*cell, root) for cell in cells])
    parts = []
    for fraction in dict.fromkeys(cell.training_fraction for _, cell, _ in cells):
        runs = dict.fromkeys(run for _, cell, run in cells if cell.training_fraction == fraction)
        metrics, _ = measurements(root, runs, fraction)
        parts.append(metrics.drop(columns=["seed", "status"]).assign(training_fraction=fraction))
    table = table.merge(pd.concat(parts), on=["run", "training_fraction"], how="left")
    last = [name for name in (*_ABOUT, "reference") if name in table]
    return table[[name for name in table if name not in last] + last]


_CELL_COLUMNS = ["item", "method", "panel", "column", "dataset", "seed", "run", "status",
                 "training_fraction"]  # fmt: skip


def _cells(
    experiment: Experiment, scale: Scale, seeds: int | None, root: Path
) -> Iterator[tuple[str, Cell, Run]]:
    """The item's name, a cell and its run, for every cell and seed."""
    count = seeds or plan.seeds_shown(experiment, scale, run_ids(root))
    for cell, first in runs_at_scale(experiment.cells, scale):
        yield from ((experiment.name, cell, run) for run in spec.with_seeds(first, count))


def _cell_row(item: str, cell: Cell, run: Run, root: Path) -> dict[str, object]:
    """What is known of a cell and seed without its metrics."""
    state = outcome(root, run).state
    row = (item, cell.row, cell.panel, cell.column, spec.dataset_of(run), run.seed, run.id, state,
           cell.training_fraction)  # fmt: skip
    return dict(zip(_CELL_COLUMNS, row, strict=True)) | _recipe(run)


def _recipe(run: Run) -> dict[str, object]:
    """The values of the recipe of a training, or of the classifier that is tested."""
    recipe = getattr(run.tested_classifier or run, "recipe", None)
    values = dataclasses.asdict(recipe) if recipe else {}
    return {f"recipe.{name}": value for name, value in values.items()}


def measurements(
    root: Path, runs: Iterable[Run], training_fraction: float = 1.0
) -> tuple[pd.DataFrame, Sequence[str]]:
    """`measurement_rows` as a frame, with some columns even if there is no row."""
    import pandas as pd  # half a second: only where a table needs it

    rows, warnings = measurement_rows(root, runs, training_fraction)
    columns = ["run", "seed", "status", "top1"]
    return pd.DataFrame(rows, columns=None if rows else columns), warnings


def measurement_rows(
    root: Path, runs: Iterable[Run], training_fraction: float = 1.0
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row a run that has a result, sound or not, and warnings about those that are not.

    By name: `run` (its id), `seed`, `status` ('done', 'diverged', 'damaged' or 'stale'),
    `reference` (what it was compared with, as JSON, if with anything), `device` and
    `numeric_precision` ('' if not recorded), `site` (see `origin`), `sha256` (`evidence_digest`),
    and each metric, as it was after this fraction of the training steps.
    """
    rows, warnings = [], []
    for run in runs:
        run_outcome = outcome(root, run)
        if run_outcome.state in ("missing", "started"):
            continue
        metrics, about = dict[str, Any](), dict[str, Any]()
        if run_outcome.result is None:
            warnings.append(run_outcome.note)
        else:
            metrics |= (
                run_outcome.result["metrics"]
                if training_fraction == 1
                else _metrics_at(folder(root, run), training_fraction)
            )
            about |= run_outcome.result.get("provenance", {})
        row = {"run": run.id, "seed": run.seed, "status": run_outcome.state}
        row["sha256"] = _chained(root, run, run_outcome.sha256)
        row["site"] = origin(folder(root, run)) if run_outcome.result else ""
        row["device"] = about.get("device", "")
        row["numeric_precision"] = about.get("precision", "")  # 'precision' is a metric
        if reference := about.get("reference"):
            row["reference"] = records.encode(reference)
        rows.append(metrics | row)
    return rows, warnings


def _metrics_at(path: Path, training_fraction: float) -> Mapping[str, float | None]:
    """The line of a run's metrics after this fraction of its steps; nothing if there is none."""
    lines = read_metrics(path)
    last = lines[-1]["step"] if lines else 0
    step = round(training_fraction * (last or 0))
    return next((line for line in lines if line["step"] == step), {})
