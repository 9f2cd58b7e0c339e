"""The files of a run's folder: names, schemas, reading and writing."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

from msgspec import Meta

from repro import paper, spec
from repro.core import artifacts, records, staging
from repro.core.artifacts import Line
from repro.core.records import Damaged
from repro.core.run import METRICS
from repro.spec import Run, SpecError

SPEC, RESULT, ORIGIN = "spec.json", "result.json", "origin.json"
WEIGHTS = artifacts.WEIGHTS
WAIVERS = "waivers.jsonl"  # in the results folder: why outdated results are kept
# Of a launcher, in a run's folder.
_LAUNCHER = ("log.txt", "log-*.txt", "lease-*.json", "cancelled", "checkpoints/*", "*.tmp*")
SNAPSHOTS = Path("submissions", "code")  # in the results folder: the code of launches on SLURM

T = TypeVar("T")

MetricName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]*\Z", max_length=80)]
_File = Annotated[
    str, Meta(pattern=r"^([a-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*\Z", max_length=200)
]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Hexadecimal = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z", max_length=64)]
_Name = Annotated[str, Meta(pattern=r"^[\w ().:,/+-]+\Z", max_length=200)]
_Device = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z", max_length=200)]
_Version = Annotated[str, Meta(pattern=r"^[\w.+-]+\Z", max_length=80)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]
Site = Annotated[str, Meta(pattern=r"^\w[\w .,()+-]*\Z", max_length=80)]


class Result(TypedDict):
    """The schema of RESULT."""

    status: Literal["done", "diverged"]
    metrics: dict[MetricName, int | float]
    provenance: NotRequired[dict[str, Any]]
    files: NotRequired[dict[_File, Digest]]


class Reference(TypedDict):
    """The data set and features that generated images were compared with."""

    dataset: _Name
    split: _Name
    images: _Count
    image_size: _Count
    fingerprint: _Hexadecimal
    extractor: _Name
    digest: _Hexadecimal
    preprocessing: NotRequired[_Name]


class Provenance(TypedDict, total=False):
    """The part of a result's provenance that programs read, or that every result has."""

    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    started: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
    commit: Annotated[str, Meta(pattern=r"^([0-9a-f]{7,40}\+?)?\Z")]  # '+': with changes
    source: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]  # of the modules of the task
    train_fingerprint: _Hexadecimal
    test_fingerprint: _Hexadecimal
    python: _Version
    torch: _Version
    torchvision: _Version
    timm: _Version
    numpy: _Version
    threads: _Count
    ranks: _Count
    device: _Device  # as its driver names it
    precision: _Name
    code: _Hexadecimal  # names a folder of changes
    parameters: _Count
    reference: Reference


class Origin(TypedDict):
    """The schema of ORIGIN. `bundle`: the digest of the bundle that contained the run."""

    site: Site
    bundle: Digest


class ResultsError(Exception):
    """An error in the results folder or with it, in one line that names it and a next step."""


def folder(root: Path, run: Run) -> Path:
    """The folder of a run in the results folder `root`."""
    return root / run.id


def run_ids(root: Path) -> set[str]:
    """The names of the folders of runs; empty without a results folder."""
    staging.recover(root)
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    return {name for name in names if not name.startswith(".")}


def unknown_files(path: Path, files: Container[str] = ()) -> list[Path]:
    """Files in a run's folder, except the launcher's and `files`, which its result names."""
    paths = (each for each in path.rglob("*") if each.is_symlink() or not each.is_dir())
    names = sorted(each.relative_to(path).as_posix() for each in paths)
    return [
        path / name
        for name in names
        if name not in (SPEC, RESULT, ORIGIN)
        and name not in files
        and not any(fnmatchcase(name, pattern) for pattern in _LAUNCHER)
    ]


def unknown_entries(root: Path) -> list[Path]:
    """Visible entries of the results folder that are neither runs nor the program's own."""
    known = (WAIVERS, SNAPSHOTS.parts[0])
    entries = sorted(root / name for name in run_ids(root) if name not in known)
    return [
        entry
        for entry in entries
        if not fnmatchcase(entry.name, "*.tmp")
        and (not entry.is_dir() or (not _has_run(entry) and unknown_files(entry)))
    ]


def _has_run(path: Path) -> bool:
    return any((path / name).exists() for name in (SPEC, RESULT))


def run_folders(root: Path) -> set[str]:
    """The names of the folders that contain a run or part of one."""
    return {name for name in run_ids(root) if _has_run(root / name)}


def stored_run(path: Path) -> Run:
    """The run in a folder, by its SPEC. ResultsError if that is missing or damaged."""
    paper.current()  # defines its kinds of run
    with named_errors(path, SPEC):
        try:
            return spec.from_json(records.read_bytes(path / SPEC))
        except SpecError as error:
            raise Damaged(str(error)) from error


def origin(path: Path) -> str:
    """The site that computed an imported run; '' for other runs.

    ResultsError if the file is damaged.
    """
    stored = read_json(path, ORIGIN, Origin)
    return stored["site"] if stored else ""


@contextlib.contextmanager
def named_errors(path: Path, name: str) -> Iterator[None]:
    """Convert errors about a file of a run's folder to a ResultsError that names the file."""
    try:
        yield
    except Damaged as error:
        what = f"{path / name} is damaged ({error})"
        raise ResultsError(f"{what}; move {path} away and run again") from error
    except OSError as error:
        raise ResultsError(f"cannot read {path / name}: {error.strerror}") from error


def read_content(path: Path, name: str) -> bytes | None:
    """The content of a small file in a run's folder; None if it does not exist."""
    with named_errors(path, name):
        try:
            return records.read_bytes(path / name)
        except FileNotFoundError:
            return None


def read_json(path: Path, name: str, schema: type[T]) -> T | None:
    """A JSON file in a run's folder, validated; None if it does not exist."""
    content = read_content(path, name)
    with named_errors(path, name):
        return None if content is None else records.decode(content, schema)


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically: to a temporary file, to the disk, then by rename."""
    data = content.encode() if isinstance(content, str) else content
    try:
        with records.atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ResultsError(
            f"cannot write {path}: {error.strerror}; what was there is kept"
        ) from error


def require_writable(folder: Path, option: str) -> None:
    """Check that files can be written to a folder, before long work; create it if necessary.

    ResultsError otherwise; it names the option that chooses another folder.
    """
    import tempfile  # not needed by commands that only read

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        why = f"cannot write to {folder}: {error.strerror}"
        raise ResultsError(f"{why}; name another with {option}") from error


def read_metrics(path: Path) -> list[Line]:
    """The lines of a run's metrics, one per epoch; empty before the first.

    ResultsError if the file is damaged.
    """
    with named_errors(path, METRICS):
        try:
            return artifacts.parse_lines(records.read_bytes(path / METRICS, artifacts.MAX_BYTES))
        except FileNotFoundError:
            return []


def metrics_so_far(path: Path) -> list[Line]:
    """The complete lines of a run that may be writing another; empty before the first.

    ResultsError if the file is damaged.
    """
    with named_errors(path, METRICS):
        try:
            data = records.read_bytes(path / METRICS, artifacts.MAX_BYTES)
        except FileNotFoundError:
            return []
        return artifacts.parse_lines(data[: data.rfind(b"\n") + 1], steps=True)


def write_metrics(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a run's metrics. ResultsError for NaN and infinite numbers."""
    try:
        text = "".join(records.encode(line) + "\n" for line in lines)
    except ValueError as error:
        raise ResultsError(f"a line of metrics has a number that is not finite: {error}") from error
    write(path / METRICS, text)
