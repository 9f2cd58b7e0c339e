"""Finished runs to and from other sites: `repro export` and `repro import`.

A site is a results folder, or whoever names one with `--site`. A run keeps the site that computed
it, in a file beside its result, through any number of exports and imports. `repro.core.bundle` is
the format, `repro.core.bundle_content` what has to hold of each run, and `repro.core.staging` how
many runs enter the results folder at once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict
from uuid import uuid4

from repro import paper, results
from repro.core import bundle, bundle_content, records, staging
from repro.core.bundle import Bundle, BundledRun, Manifest
from repro.core.records import Damaged, require
from repro.results import ORIGIN, ResultsError
from repro.spec import Run

SITE_FILE = ".site.json"  # the name of this results folder, for exports that do not say one
HERE = ""  # in place of a site's name: this results folder

_FINISHED = ("done", "diverged")


class _SiteName(TypedDict):
    """What SITE_FILE holds."""

    site: results.Site


@dataclass(frozen=True)
class Exported:
    """What an export wrote. `skipped`: the states of the other runs, by id."""

    runs: Sequence[str]
    size: int  # bytes
    digest: str  # SHA-256 of the manifest
    skipped: Mapping[str, str]


@dataclass(frozen=True)
class Imported:
    """What an import found. `cells`: of each cell of the bundle, by the id of its first seed, the
    number of seeds from each site, HERE for this one."""

    digest: str  # SHA-256 of the manifest
    new: Sequence[str]
    existing: Sequence[str]  # were here before, with the same bytes
    cells: Mapping[str, Mapping[str, int]]


# --- export --------------------------------------------------------------------------------------


def export(root: Path, runs: Iterable[Run], path: Path, site: str = "") -> Exported:
    """Write the finished runs among these into a bundle, whole or not at all.

    Raises ResultsError for a run that is damaged or stale, if none is finished, and if the bundle
    cannot be written or would be refused where it is imported.
    """
    finished, skipped = _split_finished(root, runs)
    if not finished:
        raise ResultsError("nothing to export: none of these runs is done; see `repro status`")
    if path.is_dir():
        raise ResultsError(f"{path} is a folder; name a file to write")
    own = site or site_of(root)
    listed = [_manifest_entry(root, run, result, own) for run, result in finished.items()]
    manifest = Manifest(format="repro results", schema=bundle.SCHEMA, site=own, runs=listed)
    try:
        with records.atomic_file(path) as file:
            bundle.write(file, manifest, root)
            size = file.tell()
            file.flush()
            with bundle.open_bundle(Path(file.name)) as written:
                for entry in written.manifest["runs"]:
                    bundle_content.check_run(written, entry)
                digest = written.digest
    except Damaged as error:
        raise ResultsError(f"cannot export {error}") from error
    except OSError as error:
        what = f"cannot write {path}: {error.strerror}"
        raise ResultsError(f"{what}; what was there is kept") from error
    return Exported([run.id for run in finished], size, digest, skipped)


def _split_finished(
    root: Path, runs: Iterable[Run]
) -> tuple[dict[Run, results.Result], dict[str, str]]:
    """The finished runs with their results, in the order of their ids, and the states of the
    others. Raises ResultsError for the first that is damaged or stale."""
    finished, skipped = dict[Run, results.Result](), dict[str, str]()
    for run in sorted(runs, key=lambda run: run.id):
        outcome = results.outcome(root, run)
        if outcome.state in ("damaged", "stale"):
            raise ResultsError(f"cannot export {run.id}, which is {outcome.state}: {outcome.note}")
        if outcome.result and outcome.state in _FINISHED:
            finished[run] = outcome.result
        else:
            skipped[run.id] = outcome.state
    return finished, skipped


def _manifest_entry(root: Path, run: Run, result: results.Result, own: str) -> BundledRun:
    """The entry of the manifest for a finished run."""
    folder = results.folder(root, run)
    names = sorted(bundle_content.file_names(result))
    try:
        files = [bundle.describe_file(name, _read_bytes(folder / name)) for name in names]
    except Damaged as error:
        raise ResultsError(f"cannot export {run.id}: {error}") from error
    except OSError as error:
        raise ResultsError(f"cannot read {error.filename}: {error.strerror}") from error
    return BundledRun(id=run.id, site=results.origin(folder) or own, files=files)


def _read_bytes(path: Path) -> bytes:
    return records.read_bytes(path, bundle.MAX_FILE_BYTES)


def site_of(root: Path) -> str:
    """The name of this results folder among sites: random, made when it is first asked for.

    Raises ResultsError if its file is damaged or cannot be written.
    """
    if name := _site_on_file(root):
        return name
    path = root / SITE_FILE
    scratch = root / f"{SITE_FILE}.{uuid4().hex}.tmp"
    try:
        scratch.write_text(records.encode({"site": f"site-{uuid4().hex[:12]}"}) + "\n")
        with contextlib.suppress(FileExistsError):  # another process has named it just now
            os.link(scratch, path)
    except OSError as error:
        why = f"cannot write {path}: {error.strerror}"
        raise ResultsError(f"{why}; name the site with --site TEXT") from error
    finally:
        scratch.unlink(missing_ok=True)
    return _site_on_file(root)


def _site_on_file(root: Path) -> str:
    """The name of this results folder; '' if it has none yet."""
    path = root / SITE_FILE
    try:
        return records.read(path, _SiteName)["site"]
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}") from error
    except Damaged as error:
        raise ResultsError(f"{path} is damaged ({error}); remove it") from error


# --- import --------------------------------------------------------------------------------------


def import_bundle(root: Path, path: Path) -> Imported:
    """Bring the runs of a bundle into a results folder: all that are not there yet, or none.

    Raises ResultsError in one line, with nothing written, for a bundle that is not as `export`
    writes it, for a run that is not sound, for one that is here with other bytes or unfinished,
    and for equal predictions at two seeds of a cell.
    """
    with _refusals(path), bundle.open_bundle(path) as archive:
        paper.current()  # so that its kinds of run are known
        entries = {entry["id"]: entry for entry in archive.manifest["runs"]}
        runs = {name: bundle_content.check_run(archive, e) for name, e in entries.items()}
        _check_spelling(runs, results.run_ids(root))
        new, places = _missing(root, runs, entries), dict.fromkeys(runs.values(), root)
        if not new and not staging.has_leftovers(root):  # the results may be read-only
            return Imported(archive.digest, [], sorted(runs), _sites_of_cells(root, places))
        with staging.open_staging(root) as area:
            new = _missing(root, runs, entries)  # another import may have brought some
            for name in new:
                _stage(area, archive, entries[name])
                _check_outcome(area.folder, runs[name])
                places[runs[name]] = area.folder
            sites = _sites_of_cells(root, places)
            if new:
                area.commit(new)
    return Imported(archive.digest, new, sorted(runs.keys() - set(new)), sites)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turns whatever keeps a bundle from being imported into a ResultsError that names it."""
    try:
        yield
    except Damaged as error:
        raise ResultsError(f"{path}: {error}; nothing was imported") from error
    except staging.NameTaken as error:
        what = f"{error} was begun here meanwhile"
        raise ResultsError(f"{path}: {what}; nothing was imported") from error
    except OSError as error:
        where = f" {error.filename}:" if error.filename not in (None, str(path)) else ""
        what = f"cannot import {path}:{where} {error.strerror}"
        raise ResultsError(f"{what}; mend that, and import it again") from error


def _check_spelling(runs: Iterable[str], here: Iterable[str]) -> None:
    """Raise Damaged for a run whose name differs from one that is here in its case only."""
    spelled = {name.lower(): name for name in here}
    for run in runs:
        other = spelled.get(run.lower(), run)
        require(other == run, f"{run} and {other}, which is here, differ in case only")


def _missing(root: Path, runs: Mapping[str, Run], entries: Mapping[str, BundledRun]) -> list[str]:
    """The runs that are not here yet. Raises Damaged for one that is, with other bytes."""
    return [name for name, run in runs.items() if not _is_here(root, run, entries[name])]


def _is_here(root: Path, run: Run, entry: BundledRun) -> bool:
    """Whether the run is here already. Raises Damaged if it is, but not with the same bytes."""
    folder = results.folder(root, run)
    if not os.path.lexists(folder):
        return False
    state = results.outcome(root, run).state
    what = f"{run.id} is here already, {state if state != 'missing' else 'empty'}"
    require(state in _FINISHED, f"{what}; finish it or move {folder} away")
    for file in entry["files"]:
        same = bundle.describe_file(file["name"], _read_bytes(folder / file["name"])) == file
        require(
            same, f"{run.id} is here already with another {file['name']}; move one of them away"
        )
    return True


def _stage(area: staging.Staging, archive: Bundle, entry: BundledRun) -> None:
    """Write the files of a run to the staging folder, and where they come from."""
    for file in entry["files"]:
        area.write(entry["id"], file["name"], archive.content(entry, file))
    about = records.encode({"bundle": archive.digest, "site": entry["site"]}, indent=1) + "\n"
    area.write(entry["id"], ORIGIN, about.encode())


def _check_outcome(folder: Path, run: Run) -> None:
    """Raise Damaged unless a run in the staging folder is finished and sound."""
    outcome = results.outcome(folder, run)
    why = outcome.note.replace(f"{folder}/", "").partition("; ")[0]
    require(outcome.state in _FINISHED, why or f"{run.id} has no result")


# --- the seeds of a cell -------------------------------------------------------------------------

_Seeds = list[tuple[Path, Run]]  # the results folder of each, and the run


def _sites_of_cells(root: Path, places: Mapping[Run, Path]) -> Mapping[str, Mapping[str, int]]:
    """The number of seeds from each site, by the id of a cell's first seed.

    `places`: the results folder of each run of the bundle. Raises Damaged for copied predictions.
    """
    cells = _by_cell({**places, **dict.fromkeys(_siblings(root, list(places)), root)})
    for seeds in cells.values():
        _check_seeds(seeds)
    return {seeds[0][1].id: _sites(root, seeds) for seeds in cells.values()}


def _siblings(root: Path, runs: Sequence[Run]) -> list[Run]:
    """The finished runs that are here and differ from those of the bundle in their seed only."""
    cells, ids = {replace(run, seed=0) for run in runs}, {run.id for run in runs}
    shapes = {_shape(name) for name in ids}
    siblings = list[Run]()
    for name in sorted(results.run_ids(root) - ids):
        if _shape(name) in shapes:  # else it is not worth reading
            with contextlib.suppress(ResultsError):
                run = results.stored_run(root / name)
                is_seed = run.id == name and replace(run, seed=0) in cells
                if is_seed and results.outcome(root, run).state in _FINISHED:
                    siblings.append(run)
    return siblings


def _shape(name: str) -> str:
    """A run's id without its hash and numbers, so also without its seed."""
    return re.sub("[0-9]+", "0", name.rpartition("-")[0])


def _by_cell(places: Mapping[Run, Path]) -> Mapping[Run, _Seeds]:
    """The seeds of each cell, in their order. `places`: the results folder of each run."""
    cells = dict[Run, _Seeds]()
    for run in sorted(places, key=lambda run: (run.seed, run.id)):
        cells.setdefault(replace(run, seed=0), []).append((places[run], run))
    return cells


def _check_seeds(seeds: _Seeds) -> None:
    """Raise Damaged if two seeds of a cell have the same predictions, as copies have."""
    owners = dict[str, str]()
    for root, run in seeds:
        files = {}
        for name in (results.PREDICTIONS, results.METRICS):
            with contextlib.suppress(FileNotFoundError):
                files[name] = _read_bytes(results.folder(root, run) / name)
        if key := bundle_content.fingerprint(files):
            other = owners.setdefault(key, run.id)
            require(other == run.id, f"{other} and {run.id} have the same predictions")


def _sites(root: Path, seeds: _Seeds) -> Mapping[str, int]:
    """How many seeds of a cell each site has computed."""
    own = _site_on_file(root)
    origins = (results.origin(results.folder(place, run)) for place, run in seeds)
    return Counter(HERE if site in ("", own) else site for site in origins)
