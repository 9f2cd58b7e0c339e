"""Verbs about runs: what has become of them, and mending it."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import experiments
from repro.options import (
    UsageError,
    add_places,
    add_seeds,
    hint,
    parser_of,
    seeds_of,
    split_items,
    split_words,
)
from repro.spec import SCALES, Experiment, Run, Scale

if TYPE_CHECKING:
    from repro.launch.state import State


def status(words: Sequence[str]) -> int:
    """what is done, running, queued, failed and missing, of every item"""
    items, rest = split_items(words)
    parser = parser_of("status [ITEM...]", "What has become of the runs, of every item or of some.")
    add_seeds(parser)
    add_places(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--watch", action="store_true", help="stay, and look again and again")
    shown.add_argument("--json", action="store_true", help="for programs: every run")
    given = parser.parse_args(rest)
    chosen = [experiments.get(name) for name in items or experiments.names()]

    from repro.launch.watch import REFRESH_SECONDS

    if given.json:
        print(json.dumps(_status_rows(chosen, given), indent=1))
        return 0
    while True:
        lines = _status_lines(chosen, given)
        if given.watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(*lines, sep="\n", flush=True)
        if not given.watch:
            return 0
        time.sleep(REFRESH_SECONDS)


def _look(
    chosen: Iterable[Experiment], results: Path, seeds: int | None
) -> dict[tuple[str, Scale], list[State]]:
    """The states of all runs of the items, by item and scale, with one look at SLURM."""
    from repro import plan
    from repro.launch import state

    known = _known(results)
    runs: dict[tuple[str, Scale], list[Run]] = {}
    for experiment in chosen:
        for scale in SCALES:
            number = seeds or plan.seeds_known(
                experiment.cells, scale, known, seeds_of(None, scale)
            )
            runs[experiment.name, scale] = plan.runs(experiment.cells, scale, number)
    every = state.look(results, dict.fromkeys(run for found in runs.values() for run in found))
    by_run = {found.run: found for found in every}
    return {key: [by_run[run] for run in found] for key, found in runs.items()}


def _known(results: Path) -> set[str]:
    """The ids of runs of which there is anything."""
    from repro.launch import submission

    folders = {path.name for path in results.iterdir()} if results.is_dir() else set()
    return folders | submission.places(results).keys()


def _status_rows(chosen: Iterable[Experiment], given: Any) -> list[dict[str, Any]]:
    from repro.launch.progress import time_to_go

    rows = []
    for (item, scale), states in _look(chosen, given.results, given.seeds).items():
        runs = [
            {
                "run": s.run.id,
                "state": s.name,
                "note": s.note,
                "job": s.job,
                **{
                    name: s.facts[name]
                    for name in ("step", "steps", "rate", "host")
                    if name in s.facts
                },
                "seconds_to_go": time_to_go(s.facts) if s.name == "running" else None,
            }
            for s in states
        ]
        counts = Counter(s.name for s in states)
        rows.append({"item": item, "scale": scale, "counts": counts, "runs": runs})
    return rows


_QUIET = ("done", "missing", "queued", "started")  # told by their number alone


def _status_lines(chosen: Iterable[Experiment], given: Any) -> list[str]:
    from repro.launch.watch import tell

    lines = []
    for (item, scale), states in _look(chosen, given.results, given.seeds).items():
        counts = Counter(s.name for s in states)
        lines.append(
            f"{item:10} {scale:6} " + ", ".join(f"{n} {name}" for name, n in counts.items())
        )
        reasons = Counter(s.note for s in states if s.name == "queued" and s.note)
        lines += [f"{'':17} queued: {n} × {reason}" for reason, n in reasons.most_common(5)]
        lines += [f"{'':17} {s.run.id}: {tell(s)}" for s in states if s.name not in _QUIET]
    return lines


def logs(words: Sequence[str]) -> int:
    """what a run has printed"""
    from jsonargparse.typing import NonNegativeInt

    parser = parser_of("logs RUN", "What a run has printed, on whichever node.")
    parser.add_argument("run", help="a run's id, or its beginning")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it prints more")
    parser.add_argument(
        "--rank", type=NonNegativeInt, default=0, metavar="K", help="of several (default: 0)"
    )
    add_places(parser)
    given = parser.parse_args(list(words))

    from repro.launch import attempt, submission
    from repro.launch.watch import REFRESH_SECONDS

    run = run_named(given.run, given.results)
    place = submission.places(given.results).get(run)
    logs = [attempt.log_path(given.results / run, given.rank)]
    if place:  # where it never came to its own log: what SLURM's step printed
        jobs = submission.folder(given.results, place.submission.token) / "jobs"
        logs.append(jobs / f"{place.job}_{given.rank}_log.err")
    if not given.follow and not any(log.exists() for log in logs):
        raise UsageError(f"{run} has printed nothing as rank {given.rank}; see `repro status`")
    log, at, ended, look_again = logs[0], 0, False, 0.0
    while True:
        if found := next((path for path in logs if path.exists()), None):
            log, at = found, at if found == log else 0  # its own log may come later
            with log.open("rb") as file:
                file.seek(at)
                text = file.read()
            at += len(text)
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
        if not given.follow or ended:
            return 0
        time.sleep(0.5)
        if time.monotonic() >= look_again:
            ended = _has_ended(given.results, run)  # then once more what it has printed meanwhile
            look_again = time.monotonic() + REFRESH_SECONDS


def _has_ended(root: Path, name: str) -> bool:
    """Whether nobody trains a run, nor will by itself."""
    every = _look(map(experiments.get, experiments.names()), root, None).values()
    return not any(s.run.id == name and s.is_under_way for states in every for s in states)


def run_named(name: str, results: Path) -> str:
    """The one run whose id begins so."""
    known = sorted(run for run in _known(results) if run != "submissions")
    found = [run for run in known if run == name] or [r for r in known if r.startswith(name)]
    if not found:
        near = hint(name, known) if known else f"there are no runs in {results}"
        raise UsageError(f"no run {name!r} in {results}; {near}")
    if len(found) > 1:
        some = ", ".join(found[:3]) + ", ..." * (len(found) > 3)
        raise UsageError(f"{name!r} may be {some}; {len(found)} runs begin so")
    return found[0]


def failures(words: Sequence[str]) -> int:
    """which runs ended badly, why, and the end of their logs"""
    items, rest = split_items(words)
    parser = parser_of("failures [ITEM...]", "Which runs ended badly, why, and where it is said.")
    add_seeds(parser)
    add_places(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(rest)
    chosen = [experiments.get(name) for name in items or experiments.names()]

    from repro import results
    from repro.launch import attempt

    looked = _look(chosen, given.results, given.seeds).values()
    bad = {s.run.id: s for states in looked for s in states if s.ended_badly}
    if given.json:
        rows = [{"run": s.run.id, "state": s.name, "note": s.note} for s in bad.values()]
        print(json.dumps(rows, indent=1))
        return 0
    for s in bad.values():
        print(f"{s.run.id}: {s.name}" + (f", {s.note}" if s.note else ""))
        log = attempt.log_path(results.folder(given.results, s.run))
        for line in attempt.last_lines(log)[-12:]:
            print(f"    {line}")
    if not bad:
        print("no run has ended badly")
    return 0


def cancel(words: Sequence[str]) -> int:
    """stop the queued and running runs of an item, or one run; what they have done is kept"""
    names, rest = split_words(words)
    parser = parser_of("cancel ITEM|RUN...", "Stop runs that are queued or running, anywhere.")
    add_seeds(parser)
    add_places(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be cancelled")
    given = parser.parse_args(rest)
    if not names:
        raise UsageError("cancel what? Name an item, or a run as `repro status` does")
    items, ids = set[str](), set[str]()
    for name in names:
        try:
            items.update(experiments.matching(name))
        except KeyError:
            ids.add(run_named(name, given.results))
    looked_at = experiments.names() if ids else sorted(items)
    every = _look(map(experiments.get, looked_at), given.results, given.seeds)
    found = {
        s.run.id: s
        for (item, _), states in every.items()
        for s in states
        if (item in items or s.run.id in ids) and (s.is_under_way or s.name == "never started")
    }

    from repro import results
    from repro.launch import lease, queue

    for s in found.values():
        print(f"{s.name:8} {s.run.id}" + (f"  job {s.job}" if s.job else ""))
    if not found:
        print("nothing to cancel: none of these is queued or running")
        return 0
    number = f"{len(found)} run{'s' * (len(found) > 1)}"
    if given.dry_run:
        print(f"would cancel {number}")
        return 0
    for s in found.values():  # the mark first: it holds even if SLURM does not answer
        lease.ask_to_stop(results.folder(given.results, s.run))
    if jobs := [s.job for s in found.values() if s.job]:
        queue.cancel(jobs)
    if unheard := sum(s.name == "queued" and not s.job for s in found.values()):
        raise queue.QueueError(
            f"SLURM does not answer: {unheard} stay in its queue, and will end when they start"
        )
    print(f"cancelled {number}; those in training save their state")
    return 0


def retry(words: Sequence[str]) -> int:
    """start again the runs of an item that failed, were lost or cancelled"""
    from repro.reproduce import retry

    return retry(words)
