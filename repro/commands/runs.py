"""Commands about runs: their states, logs and failures; cancelling and retrying them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro import paper
from repro.commands import launching
from repro.commands.launching import MAX_RANKS, LaunchOptions, Where
from repro.commands.parsing import argument, arguments, option, switch
from repro.commands.selection import (
    absence_of,
    check_rows,
    item_names,
    run_named,
    seeds_to_show,
    stored_run,
)
from repro.commands.shared import Selection, WithItems, WithResults
from repro.commands.usage import UsageError
from repro.commands.values import number
from repro.core import output, records, terminal
from repro.spec import SCALES, Experiment, Run, Scale

if TYPE_CHECKING:
    from repro.core.plan import Request
    from repro.launch.slurm.submission import SubmittedRun
    from repro.launch.state import RunState


@dataclass(frozen=True, kw_only=True)
class Status(Selection, WithItems):
    """done, running, queued, failed and missing runs of every item

    The states of the runs, of all items or of some.
    """

    watch: bool = switch("refresh until interrupted", exclusive="shown")
    json: bool = switch("for programs: every run", exclusive="shown")

    def execute(self) -> int:
        items = item_names(self.items)
        _warn_if_absent(self.results)

        from repro.commands import overview
        from repro.launch.slurm import watch

        experiments = experiments_of(items, self.results)
        if self.json:
            print(records.encode(_status_rows(experiments, self), indent=1))
            return 0
        if not self.watch:
            terminal.show(*overview.status_parts(_query(experiments, self), of_all=not items))
            return 0
        with ExitStack() as stack:
            block = None
            if terminal.is_terminal(sys.stdout):
                block = stack.enter_context(terminal.Block(sys.stdout, keep=True))
            while True:
                parts = overview.status_parts(_query(experiments, self), of_all=not items)
                (block.draw if block else terminal.show)(*parts)
                time.sleep(watch.REFRESH_SECONDS)


def _warn_if_absent(results: Path) -> None:
    if line := absence_of(results):
        print(f"repro: {line}", file=sys.stderr)


def experiments_of(items: Iterable[str], results: Path) -> list[Experiment]:
    """The items of these names, or all; with their 256-px versions if such runs exist."""
    from repro.core.crops_256px import on_256px_crops
    from repro.core.datasets import CROPS_256PX
    from repro.launch import state

    experiments = [paper.current().get(name) for name in items or paper.current().names()]
    if any(CROPS_256PX in run for run in state.known_runs(results)):
        experiments += [crops for e in experiments if (crops := on_256px_crops(e)) != e]
    return experiments


def _query(
    experiments: Iterable[Experiment], selection: Selection
) -> dict[tuple[str, Scale], list[RunState]]:
    """The states of all runs of the items, by item and scale, with one query of SLURM."""
    from repro.core import plan
    from repro.launch import state

    seeds = seeds_to_show(selection.seeds, selection.results)
    runs: dict[tuple[str, Scale], list[Run]] = {}
    for experiment in experiments:
        for scale in _scales(selection.scale):
            needed = plan.runs(experiment.cells, scale, seeds(experiment, scale))
            runs[experiment.name, scale] = needed
    every = dict.fromkeys(run for needed in runs.values() for run in needed)
    by_run = {s.run: s for s in state.query(selection.results, every)}
    return {key: [by_run[run] for run in needed] for key, needed in runs.items()}


def _scales(scale: Scale | None) -> Sequence[Scale]:
    return [scale] if scale else SCALES


def _status_rows(
    experiments: Iterable[Experiment], selection: Selection
) -> list[dict[str, object]]:
    from repro.launch.progress import eta_seconds

    rows = list[dict[str, object]]()
    for (item, scale), states in _query(experiments, selection).items():
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
                "seconds_to_go": eta_seconds(s.facts) if s.name == "running" else None,
            }
            for s in states
        ]
        counts = Counter(s.name for s in states)
        rows.append({"item": item, "scale": scale, "counts": counts, "runs": runs})
    return rows


@dataclass(frozen=True, kw_only=True)
class Logs(WithResults):
    """the log of a run

    Print the log of a run, whichever node it ran on.
    """

    run: str = argument("the id of a run, or a prefix of it")
    follow: bool = switch("follow the log as it grows", short="-f")
    rank: int = option("which process (default: 0)", read=number("--rank", MAX_RANKS, least=0),
                       default=0, metavar="K")  # fmt: skip

    def execute(self) -> int:
        from repro.launch.slurm import watch

        run = run_named(self.run, self.results)
        logs = _logs_of(run, self.rank, self.results)
        if not self.follow and not any(log.exists() for log in logs):
            raise UsageError(f"{run}: no log for rank {self.rank}; see `repro status`")
        log, at, ended, next_query = logs[0], 0, False, 0.0
        while True:
            if existing := next((path for path in logs if path.exists()), None):
                log, at = existing, at if existing == log else 0  # its own log may come later
                while text := _more(log, at):
                    at += len(text)
                    print(output.terminal(text.decode(errors="replace")), end="", flush=True)
            if not self.follow or ended:
                return 0
            time.sleep(0.5)
            if time.monotonic() >= next_query:
                ended = _has_ended(run, self.results)  # one more round prints the rest
                next_query = time.monotonic() + watch.REFRESH_SECONDS


def _logs_of(run: str, rank: int, results: Path) -> list[Path]:
    """The possible logs of a run: its own log, and until that exists the log of SLURM's step."""
    from repro.launch import attempt
    from repro.launch.slurm import submission

    logs = [attempt.log_path(results / run, rank)]
    for place in submission.find_runs(results).get(run, ())[-1:]:
        jobs = submission.folder(results, place.submission.token) / "jobs"
        logs.append(jobs / f"{place.job}_{rank or place.task}_log.err")
    return logs


def _more(log: Path, at: int) -> bytes:
    """The next part of a log. Raises UsageError if it cannot be read."""
    from repro.core import records

    try:
        return records.read_chunk(log, at)
    except OSError as error:
        raise UsageError(f"cannot read {log}: {error.strerror}; move it away") from error
    except records.Damaged as error:
        raise UsageError(f"{log} is {error}; move it away") from error


def _has_ended(run: str, results: Path) -> bool:
    """Whether a run is neither running nor queued."""
    every = _query(experiments_of([], results), Selection(results=results)).values()
    return not any(s.run.id == run and s.is_under_way for states in every for s in states)


@dataclass(frozen=True, kw_only=True)
class Failures(Selection, WithItems):
    """failed and damaged runs, why they failed, and the end of their logs

    List failed and damaged runs, why they failed, and where their logs are.
    """

    json: bool = switch("for programs")

    def execute(self) -> int:
        items = item_names(self.items)
        _warn_if_absent(self.results)
        view = _query(experiments_of(items, self.results), self).values()
        every = [s for states in view for s in states]
        failed_states = {s.run.id: s for s in every if s.has_failed or s.needs_repair}
        if self.json:
            rows = [
                {"run": s.run.id, "state": s.name, "note": s.note} for s in failed_states.values()
            ]
            print(records.encode(rows, indent=1))
            return 0
        for s in failed_states.values():
            _print_failure(s, self.results)
        if not failed_states:
            print("no run has ended badly")
        return 0


def _print_failure(run_state: RunState, root: Path) -> None:
    """Print a run's state and cause, and the end of its log."""
    from repro import results
    from repro.launch import attempt

    note = f", {run_state.note}" if run_state.note else ""
    print(output.line(f"{run_state.run.id}: {run_state.name}{note}"))
    log = attempt.log_path(results.folder(root, run_state.run))
    for line in attempt.last_lines(log)[-12:] if run_state.has_failed else ():
        print(output.line(f"    {line}"))


@dataclass(frozen=True, kw_only=True)
class Cancel(Selection):
    """stop the queued and running runs of an item, or one run; what they have done is kept

    Stop runs that are queued or running, anywhere.
    """

    names: tuple[str, ...] = arguments("items, or runs by id or its prefix",
                                       metavar="ITEM|RUN")  # fmt: skip
    dry_run: bool = switch("print what would be cancelled")

    def execute(self) -> int:
        _, states = _named_runs(self.names, self, "cancel")
        # A job that can never start is still in SLURM's queue.
        to_cancel = [s for s in states if s.is_under_way or (s.name == "never started" and s.job)]
        if to_cancel:
            rows = [(s.name, s.run.id, f"job {s.job}" if s.job else "") for s in to_cancel]
            terminal.show(terminal.Table(("", "", ""), rows))
        if not to_cancel:
            print("nothing to cancel: none of these is queued or running")
            return 0
        amount = f"{len(to_cancel)} run{'s' * (len(to_cancel) > 1)}"
        if self.dry_run:
            print(f"would cancel {amount}")
            return 0
        from repro.launch import cancel

        cancel.cancel(to_cancel, self.results)
        print(f"cancelled {amount}; those in training save their state")
        return 0


@dataclass(frozen=True, kw_only=True)
class Retry(Selection, LaunchOptions):
    """restart the runs of an item that ended without a result, where they ran before

    Restart runs that ended without a result.
    """

    names: tuple[str, ...] = arguments("items, or runs by id or its prefix",
                                       metavar="ITEM|RUN")  # fmt: skip
    launch: Where | None = option("where (default: where the runs were before)",
                                  choices=("local", "slurm"))  # fmt: skip

    def execute(self) -> int:
        from repro.launch import start

        request, states = _named_runs(self.names, self, "retry", self.only)
        start.check_repaired(states)
        to_retry = [s for s in states if s.has_failed or s.name == "interrupted"]
        settings = self.resolve(self.launch or _last_launch(to_retry, self.results))
        if not to_retry:
            print("nothing to retry: none of these has ended without a result")
            return 0
        return launching.launch(
            request.only(s.run for s in to_retry), self.results, settings
        ).status


def _named_runs(
    names: Sequence[str], selection: Selection, command: str, only: Sequence[str] = ()
) -> tuple[Request, list[RunState]]:
    """The runs with these ids and of these items, and their states; `only`: rows of the items."""
    from repro.core import plan
    from repro.launch import state

    results = selection.results
    if not names:
        raise UsageError(f"{command} what? Name an item, or a run as `repro status` does")
    if line := absence_of(results):
        raise UsageError(line)
    items, ids = items_and_runs(names, results)
    seeds, scales = seeds_to_show(selection.seeds, results), _scales(selection.scale)
    if only and not items:
        raise UsageError("--only chooses among the runs of an item; take it out")
    experiments = experiments_of(items, results) if items else []
    check_rows(experiments, only)
    of_items = set(plan.request(experiments, scales, seeds, only).runs)
    if ids:
        experiments = experiments_of([], results)
    every = plan.request(experiments, scales, seeds)
    request = every.only(run for run in every.runs if run in of_items or run.id in ids)
    return request, state.query(results, request.runs)


def items_and_runs(names: Sequence[str], results: Path) -> tuple[list[str], set[str]]:
    """The items among the names, and the ids of the runs."""
    items, ids = list[str](), set[str]()
    for name in names:
        try:
            items += paper.current().matching(name)
        except KeyError:
            ids.add(run_named(name, results))
    return items, ids


def selected_runs(
    names: Sequence[str], selection: Selection, only: Sequence[str] = ()
) -> list[Run]:
    """The runs of these items, whether they have a folder or not, and the named runs, as stored."""
    from repro.core import plan

    root = selection.results
    if line := absence_of(root):
        raise UsageError(line)
    items, ids = items_and_runs(names, root)
    if only and not items:
        raise UsageError("--only chooses among the runs of an item; take it out")
    experiments = experiments_of(items, root) if items else []
    check_rows(experiments, only)
    seeds, scales = seeds_to_show(selection.seeds, root), _scales(selection.scale)
    of_items = plan.request(experiments, scales, seeds, only).runs
    return list(dict.fromkeys([*of_items, *(stored_run(name, root) for name in sorted(ids))]))


def _last_launch(states: Sequence[RunState], results: Path) -> Where:
    """Where runs were launched last. Raises UsageError if they differ."""
    from repro.launch.slurm import submission

    places = submission.find_runs(results)
    counts = Counter(_is_of_slurm(s, places.get(s.run.id, ())) for s in states)
    if len(counts) > 1:
        raise UsageError(
            f"{counts[False]} of these ran here and {counts[True]} on SLURM; choose with "
            "--launch local or --launch slurm"
        )
    return "slurm" if counts[True] else "local"


def _is_of_slurm(run_state: RunState, places: Sequence[SubmittedRun]) -> bool:
    """Whether a run's newest attempt belongs to a submission."""
    newer = any(place.submission.created > run_state.facts.get("beat", 0) for place in places)
    return newer or bool(run_state.facts.get("submission"))
