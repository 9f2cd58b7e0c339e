"""Whether what is committed follows from the runs: offline and without torch.

Every run is read as any reader reads it: schema, digests, metrics recounted from predictions, and
its id against its spec. Every table and figure is rendered again and compared byte for byte. A
table's CSV has a digest of each run's result, so that no digit of one changes unnoticed.

Figures in PDF are not compared: their bytes depend on the version of zlib, and git has the SVG.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

from repro import paper, results
from repro.core import plan, records
from repro.core.records import Damaged
from repro.core.workers import pool
from repro.results import ResultsError
from repro.spec import SCALES, VERDICT_SCALES, Scale

FOLDERS = ("tables", "figures")
_CHUNK = 50  # runs for a worker at a time
_SHOWN = 60  # characters of a line that differs
_SHA256 = re.compile(rb"\b[0-9a-f]{64}\b")
_RUN_ID = re.compile(rb"(?<=,)[a-z0-9-]+-s?[0-9a-f]{8}(?=,)")


@dataclass(frozen=True)
class Difference:
    """Something that does not follow from the runs."""

    place: str  # a file, with the line
    what: str


@dataclass(frozen=True)
class Verification:
    """What was checked, and what is wrong."""

    num_runs: int
    num_files: int
    differences: tuple[Difference, ...]


def verify(
    root: Path,
    folder: Path,
    items: Sequence[str] = (),
    scales: Sequence[Scale] = (),
    workers: int | None = None,
) -> Verification:
    """Check the runs under `root`, and tables/ and figures/ in `folder`.

    Args:
        items: names of the items to check; none: all. An item is checked at the scales at which it
            has a file, or a run for verdicts that these scales do not show.
        scales: those to check; none: all. With neither items nor scales, all runs are checked and
            not only those shown, and that there are no other files.
        workers: processes; None: one a core, up to four.
    """
    ids = results.run_folders(root)
    names = list(items) or paper.current().names()
    shown = [
        (name, scale)
        for name in names
        for scale in _scales(folder, name, ids)
        if scale in (scales or SCALES)
    ]
    is_partial = bool(items or scales)
    seeds = [plan.seeds_shown(paper.current().get(name), scale, ids) for name, scale in shown]
    pairs = list(zip(shown, seeds, strict=True))
    needed = _shown(pairs) if is_partial else ids
    runs = sorted(ids & needed)
    of_items = [partial(_check_item, *item, root, folder, count) for item, count in pairs]
    of_runs = [
        partial(_check_runs, root, runs[i : i + _CHUNK], ids) for i in range(0, len(runs), _CHUNK)
    ]
    with pool(len(of_items) + len(of_runs), workers) as executor:
        pending = [executor.submit(task) for task in of_items]  # first, since figures take longest
        pending = [executor.submit(task) for task in of_runs] + pending  # a run is a cause
    differences = [each for task in pending for each in task.result()]
    files = {path for item in shown for path in _files(folder, *item)}
    if not is_partial:
        differences += _unknown(folder, files)
        unknown = "it is no run; move it away"
        differences += [Difference(str(path), unknown) for path in results.unknown_entries(root)]
    return Verification(len(runs), len(files), tuple(differences))


# --- runs ----------------------------------------------------------------------------------------


def _check_runs(root: Path, names: Iterable[str], ids: Container[str]) -> list[Difference]:
    return [difference for name in names for difference in _check_run(root, name, ids)]


def _check_run(root: Path, name: str, ids: Container[str]) -> Iterator[Difference]:
    """What is wrong with a run. ids: of all runs."""
    path = root / name
    try:
        run = results.stored_run(path)
    except ResultsError as error:
        yield Difference(str(path / results.SPEC), str(error))
        return
    if run.id != name:
        yield Difference(str(path / results.SPEC), f"this is the spec of {run.id}")
        return
    outcome = results.outcome(root, run)
    if outcome.state in ("damaged", "stale"):
        yield Difference(str(path), outcome.note)
    before = run.starts_from
    if outcome.result and before and before.id not in ids:
        yield Difference(str(root / before.id), f"it is missing, and {name} starts from it")
    if outcome.result:
        for file in results.unknown_files(path, outcome.result.get("files", {})):
            yield Difference(str(file), "its digest is not in the result; move it away")


# --- tables and figures --------------------------------------------------------------------------


def _has_files(folder: Path, name: str, scale: Scale) -> bool:
    return any(path.exists() for path in _files(folder, name, scale))


def _files(folder: Path, name: str, scale: Scale) -> list[Path]:
    """Where the files of an item are, at a scale."""
    from repro.render.paths import file_of

    experiment = paper.current().get(name)
    kinds = [("tables", ending) for ending in ("md", "tex", "csv")]
    kinds += [("figures", "svg")] if experiment.plot else []
    return [folder / file_of(where, name, scale, ending) for where, ending in kinds]


def _scales(folder: Path, name: str, ids: set[str]) -> list[Scale]:
    """The scales at which an item has to be rendered: see `verify`."""
    cells = paper.current().get(name).cells
    rendered = [scale for scale in SCALES if _has_files(folder, name, scale)]
    due = [scale for scale in VERDICT_SCALES if scale not in rendered]
    shown = {run.id for scale in rendered for run in plan.runs(cells, scale, 1)}
    for scale in due:
        if any(run.id in ids - shown for run in plan.runs(cells, scale, 1)):
            rendered.append(scale)
    return rendered


def _shown(items: Iterable[tuple[tuple[str, Scale], int]]) -> set[str]:
    """The runs that items show at their numbers of seeds, with those that they start from."""
    return {
        run.id
        for (name, scale), seeds in items
        for run in plan.runs(paper.current().get(name).cells, scale, seeds)
    }


def _check_item(name: str, scale: Scale, root: Path, folder: Path, seeds: int) -> list[Difference]:
    """Render an item again, and compare."""
    from repro.render.item import render

    expected = render(paper.current().get(name), scale, root, seeds, pdf=False).files
    differences = [_compare(folder / path, content, root) for path, content in expected.items()]
    return [each for each in differences if each]


def _compare(path: Path, expected: str | bytes, root: Path) -> Difference | None:
    """The first line in which a file differs from what is expected; None if none does."""
    data = expected.encode() if isinstance(expected, str) else expected
    try:
        content = records.read_bytes(path, max(len(data), records.MAX_BYTES))
    except FileNotFoundError:
        return Difference(str(path), "it is missing")
    except (Damaged, OSError) as error:
        return Difference(str(path), f"cannot be read: {error}")
    if content == data:
        return None
    lines, expected_lines = content.split(b"\n"), data.split(b"\n")
    pairs = zip_longest(lines, expected_lines)
    number, pair = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    if path.suffix == ".csv" and (run := _run_with_another_digest(*pair)):
        what = f"the result of {run}, or of a run that it starts from, is not the one of this row"
        return Difference(f"{path}:{number}", f"{what}; see {root / run}")
    here, there = (_excerpt(line, *pair) for line in pair)
    return Difference(f"{path}:{number}", f"{here} where the runs give {there}")


def _run_with_another_digest(line: bytes | None, expected: bytes | None) -> str:
    """The run of two rows of a CSV that differ in its digest alone; '' for others."""
    rows = [_SHA256.split(each or b"") for each in (line, expected)]
    run = _RUN_ID.search(line or b"")
    return run[0].decode() if run and rows[0] == rows[1] and len(rows[0]) == 2 else ""


def _excerpt(line: bytes | None, one: bytes | None, other: bytes | None) -> str:
    """The part of a line around the first difference of two, quoted."""
    if line is None:
        return "nothing"
    first = next(i for i, (a, b) in enumerate(zip_longest(one or b"", other or b"")) if a != b)
    start = max(0, first - _SHOWN // 2)
    text = line[start : start + _SHOWN].decode(errors="replace")
    return repr("…" * (start > 0) + text + "…" * (len(line) > start + _SHOWN))


def _unknown(folder: Path, item_files: Container[Path]) -> Iterator[Difference]:
    """Files in tables/ and figures/ that are not of an item."""
    for place in FOLDERS:
        for path in sorted((folder / place).rglob("*")):
            if not path.is_dir() and path.suffix != ".pdf" and path not in item_files:
                yield Difference(str(path), "no item has this file; move it away")
