"""Verbs about runs: what has become of them, and mending it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from repro import experiments, output, records
from repro.options import (
    MAX_RANKS,
    UsageError,
    absence_of,
    add_only,
    add_results,
    add_scale,
    add_seeds,
    check_rows,
    hint,
    number,
    parse,
    parse_items,
    parser_of,
    split_words,
)
from repro.spec import SCALES, Experiment, Run, Scale

if TYPE_CHECKING:
    from repro.launch.state import State
    from repro.launch.submission import Place
    from repro.plan import Request


def status(words: Sequence[str]) -> int:
    """what is done, running, queued, failed and missing, of every item"""
    parser = parser_of("status [ITEM...]", "What has become of the runs, of every item or of some.")
    _add_selection(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--watch", action="store_true", help="stay, and look again and again")
    shown.add_argument("--json", action="store_true", help="for programs: every run")
    items, given = parse_items(parser, words)
    _warn_of_absence(given.results)

    from repro import overview
    from repro.launch.watch import REFRESH_SECONDS

    chosen = _experiments(items, given.results)
    if given.json:
        print(records.encode(_status_rows(chosen, given), indent=1))
        return 0
    while True:
        lines = map(output.line, overview.status_lines(_look(chosen, given), of_all=not items))
        if given.watch and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(*lines, sep="\n", flush=True)
        if not given.watch:
            return 0
        time.sleep(REFRESH_SECONDS)


def _add_selection(parser: Any) -> None:
    add_scale(parser, None)
    add_seeds(parser)
    add_results(parser)


def _warn_of_absence(results: Path) -> None:
    if line := absence_of(results):
        print(f"repro: {line}", file=sys.stderr)


def _experiments(items: Iterable[str], results: Path) -> list[Experiment]:
    """The items of these names, or all; on squares as well, if any run on squares is known."""
    from repro.experiments.scales import SQUARES, on_squares
    from repro.launch import state

    found = [experiments.get(name) for name in items or experiments.names()]
    if any(SQUARES in run for run in state.known_runs(results)):
        found += [squares for e in found if (squares := on_squares(e)) != e]
    return found


def _look(chosen: Iterable[Experiment], given: Any) -> dict[tuple[str, Scale], list[State]]:
    """The states of all runs of the items, by item and scale, with one look at SLURM."""
    from repro import plan
    from repro.launch import state
    from repro.reproduce import seeds_to_show

    seeds = seeds_to_show(given.seeds, given.results)
    runs: dict[tuple[str, Scale], list[Run]] = {}
    for experiment in chosen:
        for scale in _scales(given.scale):
            wanted = plan.runs(experiment.cells, scale, seeds(experiment, scale))
            runs[experiment.name, scale] = wanted
    every = dict.fromkeys(run for found in runs.values() for run in found)
    by_run = {found.run: found for found in state.look(given.results, every)}
    return {key: [by_run[run] for run in found] for key, found in runs.items()}


def _scales(scale: Scale | None) -> Sequence[Scale]:
    return [scale] if scale else SCALES


def _status_rows(chosen: Iterable[Experiment], given: Any) -> list[dict[str, Any]]:
    from repro.launch.progress import time_to_go

    rows = []
    for (item, scale), states in _look(chosen, given).items():
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


def logs(words: Sequence[str]) -> int:
    """what a run has printed"""
    parser = parser_of("logs RUN", "What a run has printed, on whichever node.")
    parser.add_argument("run", help="a run's id, or its beginning")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it prints more")
    parser.add_argument(
        "--rank",
        type=number("--rank", MAX_RANKS, least=0),
        default=0,
        metavar="K",
        help="of several (default: 0)",
    )
    add_results(parser)
    given = parse(parser, words)

    from repro.launch import attempt, submission
    from repro.launch.watch import REFRESH_SECONDS

    run = run_named(given.run, given.results)
    logs = [attempt.log_path(given.results / run, given.rank)]
    # Where it never came to its own log: what SLURM's step printed.
    for place in submission.places(given.results).get(run, ())[-1:]:
        jobs = submission.folder(given.results, place.submission.token) / "jobs"
        logs.append(jobs / f"{place.job}_{given.rank or place.task}_log.err")
    if not given.follow and not any(log.exists() for log in logs):
        raise UsageError(f"{run} has printed nothing as rank {given.rank}; see `repro status`")
    log, at, ended, look_again = logs[0], 0, False, 0.0
    while True:
        if found := next((path for path in logs if path.exists()), None):
            log, at = found, at if found == log else 0  # its own log may come later
            while text := _more(log, at):
                at += len(text)
                print(output.terminal(text.decode(errors="replace")), end="", flush=True)
        if not given.follow or ended:
            return 0
        time.sleep(0.5)
        if time.monotonic() >= look_again:
            ended = _has_ended(given, run)  # then once more what it has printed meanwhile
            look_again = time.monotonic() + REFRESH_SECONDS


def _more(log: Path, at: int) -> bytes:
    """The next part of a log. UsageError if it cannot be read."""
    from repro import records

    try:
        return records.chunk(log, at)
    except OSError as error:
        raise UsageError(f"cannot read {log}: {error.strerror}; move it away") from error
    except records.Damaged as error:
        raise UsageError(f"{log} is {error}; move it away") from error


def _has_ended(given: Any, name: str) -> bool:
    """Whether nobody trains a run, nor will by itself."""
    every = _look(_experiments([], given.results), _all_of(given.results)).values()
    return not any(s.run.id == name and s.is_under_way for states in every for s in states)


def _all_of(results: Path) -> Any:
    """The selection of everything."""
    return SimpleNamespace(results=results, seeds=None, scale=None)


def run_named(name: str, results: Path) -> str:
    """The one run whose id begins so."""
    from repro.launch import state

    known = sorted(state.known_runs(results))
    found = [run for run in known if run == name] or [r for r in known if r.startswith(name)]
    if not found:
        near = hint(name, known) if known else f"there are no runs in {results}"
        raise UsageError(f"no run {name!r} in {results}; {near}")
    if len(found) > 1:
        some = ", ".join(found[:3]) + ", ..." * (len(found) > 3)
        raise UsageError(f"{name!r} may be {some}; {len(found)} runs begin so")
    return found[0]


def failures(words: Sequence[str]) -> int:
    """which runs ended badly or are damaged, why, and the end of their logs"""
    parser = parser_of(
        "failures [ITEM...]", "Which runs ended badly or are damaged, why, and where it is said."
    )
    _add_selection(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    items, given = parse_items(parser, words)
    _warn_of_absence(given.results)

    from repro import results
    from repro.launch import attempt

    looked = _look(_experiments(items, given.results), given).values()
    every = [s for states in looked for s in states]
    bad = {s.run.id: s for s in every if s.ended_badly or s.in_trouble}
    if given.json:
        rows = [{"run": s.run.id, "state": s.name, "note": s.note} for s in bad.values()]
        print(records.encode(rows, indent=1))
        return 0
    for s in bad.values():
        print(output.line(f"{s.run.id}: {s.name}" + (f", {s.note}" if s.note else "")))
        log = attempt.log_path(results.folder(given.results, s.run))
        for line in attempt.last_lines(log)[-12:] if s.ended_badly else ():
            print(output.line(f"    {line}"))
    if not bad:
        print("no run has ended badly")
    return 0


def cancel(words: Sequence[str]) -> int:
    """stop the queued and running runs of an item, or one run; what they have done is kept"""
    parser = parser_of("cancel ITEM|RUN...", "Stop runs that are queued or running, anywhere.")
    _add_selection(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be cancelled")
    _, states, given = _named_runs(parser, words, "cancel")
    # What SLURM has not, and will not start, is nothing to cancel.
    found = [s for s in states if s.is_under_way or (s.name == "never started" and s.job)]

    from repro import results
    from repro.launch import lease, queue

    for s in found:
        print(f"{s.name:8} {s.run.id}" + (f"  job {s.job}" if s.job else ""))
    if not found:
        print("nothing to cancel: none of these is queued or running")
        return 0
    amount = f"{len(found)} run{'s' * (len(found) > 1)}"
    if given.dry_run:
        print(f"would cancel {amount}")
        return 0
    for s in found:  # the mark first: it holds even if SLURM does not answer
        lease.ask_to_stop(results.folder(given.results, s.run))
    if jobs := _without_others(found, given.results):
        queue.cancel(jobs)
    if unheard := sum(s.name == "queued" and not (s.job or s.launcher) for s in found):
        raise queue.QueueError(
            f"SLURM does not answer: {unheard} stay in its queue, and will end when they start"
        )
    print(f"cancelled {amount}; those in training save their state")
    return 0


def _without_others(states: Iterable[State], root: Path) -> list[str]:
    """The jobs of runs, but those that go on with others, in which a run stops by its mark."""
    from repro import results
    from repro.launch import submission

    places, found = submission.places(root), {s.run.id: s.job for s in states if s.job}
    jobs = list[str]()
    for run, job in found.items():
        shares = [r for place in places.get(run, ())[-1:] for r in place.shares]
        if all(r in found or (root / r / results.RESULT).exists() for r in shares):
            jobs.append(job)
    return list(dict.fromkeys(jobs))


def retry(words: Sequence[str]) -> int:
    """start again the runs of an item that ended without a result, where they ran before"""
    from repro.launch import start

    parser = parser_of("retry ITEM|RUN...", "Start again what ended without a result.")
    parser.add_argument("--launch", choices=("local", "slurm"),
                        help="where (default: where the runs were before)")  # fmt: skip
    _add_selection(parser)
    add_only(parser)
    start.add_options(parser)
    request, states, given = _named_runs(parser, words, "retry")
    start.refuse_trouble(states)
    bad = [s for s in states if s.ended_badly or s.name == "interrupted"]
    given.launch = given.launch or _place_of(bad, given.results)
    start.settle(given)
    if not bad:
        print("nothing to retry: none of these has ended without a result")
        return 0
    return start.launch(request.only(s.run for s in bad), given).status


def _named_runs(parser: Any, words: Sequence[str], verb: str) -> tuple[Request, list[State], Any]:
    """The runs of the items and runs that the words name, their states, and the options."""
    from repro import plan
    from repro.launch import state
    from repro.reproduce import seeds_to_show

    names, options = split_words(words)
    given = parse(parser, options)
    if not names:
        raise UsageError(f"{verb} what? Name an item, or a run as `repro status` does")
    if line := absence_of(given.results):
        raise UsageError(line)
    items, ids = list[str](), set[str]()
    for name in names:
        try:
            items += experiments.matching(name)
        except KeyError:
            ids.add(run_named(name, given.results))
    only = getattr(given, "only", ())
    seeds, scales = seeds_to_show(given.seeds, given.results), _scales(given.scale)
    if only and not items:
        raise UsageError("--only chooses among the runs of an item; take it out")
    found = _experiments(items, given.results) if items else []
    check_rows(found, only)
    kept = set(plan.request(found, scales, seeds, only).runs)
    if ids:
        found = _experiments([], given.results)
    every = plan.request(found, scales, seeds)
    request = every.only(run for run in every.runs if run in kept or run.id in ids)
    return request, state.look(given.results, request.runs), given


def _place_of(states: Sequence[State], results: Path) -> str:
    """Where runs were launched last: 'local' or 'slurm'. UsageError if some here and some there."""
    from repro.launch import submission

    places = submission.places(results)
    found = Counter(_is_of_slurm(s, places.get(s.run.id, ())) for s in states)
    if len(found) > 1:
        raise UsageError(
            f"{found[False]} of these ran here and {found[True]} on SLURM; choose with "
            "--launch local or --launch slurm"
        )
    return "slurm" if found[True] else "local"


def _is_of_slurm(found: State, places: Sequence[Place]) -> bool:
    """Whether a run's newest attempt is that of a submission."""
    newer = any(place.submission.created > found.facts.get("beat", 0) for place in places)
    return newer or bool(found.facts.get("submission"))
