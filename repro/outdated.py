"""Whether a result is what the code and the data of today would measure.

A result is outdated if the source that its task depends on has changed since, or if a newer result
has seen other images of the same dataset. Its spec is compared wherever it is read
(`results.outcome`). A waiver says why an outdated result is kept; it holds until the source changes
again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from repro import results
from repro.core import records, source
from repro.core.records import Damaged
from repro.core.source import SourceError
from repro.results import WAIVERS, ResultsError
from repro.spec import Run

State = Literal["current", "outdated", "unknown"]
STATES: tuple[State, ...] = ("current", "outdated", "unknown")
_Line = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]


class Waiver(TypedDict):
    """A line of WAIVERS."""

    runs: list[_Line]
    source: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]  # for which it holds
    because: _Line
    date: _Line


@dataclass(frozen=True)
class SourceCheck:
    """Whether a result is outdated, by what, and why it is kept."""

    run: str
    state: State
    changed: tuple[str, ...]  # modules, or the data
    why: str  # where the state is unknown
    waiver: str = ""


def check(root: Path, runs: Iterable[Run]) -> list[SourceCheck]:
    """Check the finished runs among these."""
    waivers, fingerprints = read_waivers(root), _fingerprints(root)
    checks = []
    for run in runs:
        outcome = results.outcome(root, run)
        if outcome.result is not None:
            about = outcome.result.get("provenance", {})
            checks.append(_check(root, run, about, waivers, fingerprints))
    return checks


def _check(
    root: Path,
    run: Run,
    about: Mapping[str, Any],
    waivers: Iterable[Waiver],
    fingerprints: Mapping[tuple[str, str], str],
) -> SourceCheck:
    now = current_source(run)
    if not now:
        return SourceCheck(run.id, "unknown", (), f"{run.task} is not of this package")
    waiver = next((each["because"] for each in reversed([*waivers])
                   if run.id in each["runs"] and each["source"] == now), "")  # fmt: skip
    data = tuple(f"data: {part} images of {dataset}"
                 for (part, dataset), newest in _data_of(run, fingerprints).items()
                 if about.get(f"{part}_fingerprint", newest) != newest)  # fmt: skip
    if about.get("source") == now:
        return SourceCheck(run.id, "outdated" if data else "current", data, "", waiver)
    try:
        then = _digests_then(
            root, run.task, str(about.get("commit", "")), str(about.get("code", ""))
        )
    except SourceError as error:
        if "source" in about or data:
            return SourceCheck(
                run.id, "outdated", (*data, "source, in modules not known"), "", waiver
            )
        return SourceCheck(run.id, "unknown", (), str(error), waiver)
    today = _digests_now(run.task)
    names = sorted({*then, *today})
    changed = (*data, *(name for name in names if then.get(name) != today.get(name)))
    return SourceCheck(run.id, "outdated" if changed else "current", changed, "", waiver)


def current_source(run: Run) -> str:
    """The digest of the source that the run's task depends on; '' for a task of another package."""
    try:
        return source.total(_digests_now(run.task))
    except SourceError:
        return ""


@cache
def _digests_now(task: str) -> Mapping[str, str]:
    return source.task_digests(source.installed(), task)


@cache
def _digests_then(root: Path, task: str, commit: str, code: str) -> Mapping[str, str]:
    """The digests when a result was measured: of the snapshot of a launch, or of the commit."""
    snapshot = root / results.SNAPSHOTS / code / source.NAME
    if code and snapshot.is_dir():
        return source.task_digests(source.in_folder(snapshot), task)
    if commit.endswith("+"):
        raise SourceError("it was measured by uncommitted code, of which nothing is left here")
    return source.task_digests(source.at_commit(commit), task)


def _fingerprints(root: Path) -> dict[tuple[str, str], str]:
    """By part, and dataset with split: the fingerprint of the images of the newest result."""
    latest = dict[tuple[str, str], tuple[str, str]]()
    for path in root.iterdir() if root.is_dir() else ():
        if not (path / results.RESULT).exists():
            continue
        try:
            run = results.stored_run(path)
        except ResultsError:
            continue  # whoever reads the run reports it
        result = results.outcome(root, run).result
        about = result.get("provenance", {}) if result else {}
        for part, dataset in _parts(run):
            fingerprint = about.get(f"{part}_fingerprint")
            newest = (str(about.get("started", "")), str(fingerprint))
            if fingerprint and newest > latest.get((part, dataset), ("", "")):
                latest[part, dataset] = newest
    return {key: fingerprint for key, (_, fingerprint) in latest.items()}


def _parts(run: Run) -> list[tuple[str, str]]:
    """The sets of images that a run sees: 'train' or 'test', and the dataset with its split."""
    dataset = getattr(run, "dataset", "")
    return [
        (part, f"{dataset} {getattr(run, f'{part}_split', part)}") for part in ("train", "test")
    ]


def _data_of(run: Run, fingerprints: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    return {key: fingerprints[key] for key in _parts(run) if key in fingerprints}


# --- waivers -------------------------------------------------------------------------------------


def read_waivers(root: Path) -> list[Waiver]:
    """All waivers, oldest first. ResultsError if the file is damaged."""
    path = root / WAIVERS
    try:
        lines = records.read_bytes(path).splitlines()
        return [records.decode(line, Waiver) for line in lines]
    except FileNotFoundError:
        return []
    except Damaged as error:
        raise ResultsError(f"{path} is damaged ({error}); restore it from git") from error
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error


def accept(root: Path, runs: Sequence[Run], because: str) -> int:
    """Record why the results among these that are not current are kept. Returns how many.

    A waiver holds until the source changes again. ResultsError if it cannot be written.
    """
    run_ids = {each.run for each in check(root, runs) if each.state != "current"}
    by_source = dict[str, list[str]]()
    for run in runs:
        if run.id in run_ids:
            by_source.setdefault(current_source(run), []).append(run.id)
    lines = [records.encode(waiver) for waiver in read_waivers(root)]
    date = time.strftime("%Y-%m-%d", time.gmtime())
    for digest, ids in by_source.items():
        waiver = Waiver(runs=ids, source=digest, because=because, date=date)
        lines.append(records.encode(records.check(dict(waiver), Waiver)))
    if by_source:
        results.write(root / WAIVERS, "".join(f"{line}\n" for line in lines))
    return len(run_ids)
