"""`--launch local`: the runs on this machine, some at a time, each in processes of its own.

The processes are forked from one server that has imported torch and timm once, so that a run begins
at once. A run that fails leaves the others alone. Ctrl-C lets each run save its state, and so do
TERM, HUP and QUIT.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from repro import results, signals
from repro.launch import attempt, data, lease, ranks, waiting
from repro.launch.data import MissingData
from repro.launch.ending import Cause, Ending
from repro.launch.job import How
from repro.results import ResultsError
from repro.spec import Run

_POLL_SECONDS = 0.5
_KILL_SECONDS = 20.0  # for the other ranks to end by themselves, once one has failed


@dataclass(frozen=True)
class Event:
    """Something to tell the user. 'failed' and 'held' carry the cause in one line."""

    kind: Literal[
        "started", "running", "done", "diverged", "failed", "held", "cancelled", "interrupted"
    ]
    run: Run
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Active:
    """A run in training: its processes, one a rank, and the devices that it has."""

    processes: list[BaseProcess]
    devices: list[int]
    culprit: int | None = None  # the rank that failed first

    @property
    def ended(self) -> bool:
        return not any(process.is_alive() for process in self.processes)

    def watch(self) -> None:
        """Note the first rank that fails, and end the others, who would wait for it for ever."""
        well = (None, attempt.DONE, attempt.DIVERGED, attempt.INTERRUPTED)
        codes = {rank: process.exitcode for rank, process in enumerate(self.processes)}
        failed = [(code, rank) for rank, code in codes.items() if code not in well]
        if self.culprit is not None or not failed:
            return
        # One that was killed could not tell the others, who then fail for want of it.
        _, self.culprit = min((code >= 0, rank) for code, rank in failed if code is not None)
        self.stop()
        for process in self.processes:
            process.join(_KILL_SECONDS)
            process.kill()

    def stop(self) -> None:
        for process in self.processes:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)


def launch(
    runs: Sequence[Run],
    root: Path,
    how: How,
    jobs: int,
    tell: Callable[[Event], None],
    ranks_each: int = 1,
) -> bool:
    """Carry out the runs, at most `jobs` at a time, telling what happens. Whether all have results.

    Every run is trained by `ranks_each` processes, a GPU each where there are any.
    Raises MissingData before anything is trained if a dataset cannot be used, and KeyboardInterrupt
    if the user stopped it; the runs have saved their state then.
    """
    to_do, active = list(runs), dict[Run, _Active]()
    free = list(range(jobs * ranks_each))
    well = True
    context = _server()
    with signals.as_interrupt(), ExitStack() as stack:
        _check_data(context, runs, how)
        for wanted in runs:
            lease.allow(results.folder(root, wanted))
        tell_open = stack.enter_context(waiting.on_file(root, runs))
        try:
            while to_do or active:
                while len(active) < jobs and (run := _next(to_do, active)):
                    to_do.remove(run)
                    if event := _why_not(root, run):
                        well = False
                        tell(event)
                        tell_open([*to_do, *active])
                        continue
                    results.begin(root, run)
                    devices, free = free[:ranks_each], free[ranks_each:]
                    active[run] = _start(context, run, root, how, devices, jobs)
                    tell(Event("started", run))
                sentinels = [p.sentinel for a in active.values() for p in a.processes]
                wait([s for s in sentinels if s], timeout=_POLL_SECONDS)
                for run, work in list(active.items()):
                    work.watch()
                    if not work.ended:
                        facts = lease.read(results.folder(root, run)) or {}
                        tell(Event("running", run, facts=facts))
                        continue
                    del active[run]
                    tell_open([*to_do, *active])
                    free = sorted(free + work.devices)
                    event = _ending(root, run, work)
                    well = well and event.kind in ("done", "diverged")
                    tell(event)
                    if event.kind == "interrupted":
                        raise KeyboardInterrupt
        finally:
            for work in active.values():
                work.stop()
            for work in active.values():
                for process in work.processes:
                    process.join()
    return well


def _next(waiting: Sequence[Run], active: Iterable[Run]) -> Run | None:
    """The first run that has not to wait for the one from which it starts."""
    under_way = {*waiting, *active}
    return next((run for run in waiting if run.starts_from not in under_way), None)


def _why_not(root: Path, run: Run) -> Event | None:
    """That a run was cancelled, or has nothing to start from; None if it can start."""
    if lease.is_asked_to_stop(results.folder(root, run)):
        return Event("cancelled", run)
    log = attempt.log_path(results.folder(root, run))
    if os.path.lexists(log):
        try:
            os.close(attempt.opened(log))
        except ResultsError as error:
            return Event("failed", run, str(error))
    before = run.starts_from
    if before is None or results.outcome(root, before).state == "done":
        return None
    return Event("failed", run, f"{before.id}, from which it starts, has no result")


def _start(
    context: Any, run: Run, root: Path, how: How, devices: Sequence[int], jobs: int
) -> _Active:
    named = replace(how, attempt=uuid.uuid4().hex[:8])
    port = ranks.free_port() if len(devices) > 1 else 0
    processes = []
    for rank in range(len(devices)):
        environment = ranks.spawned(rank, len(devices), port) if len(devices) > 1 else {}
        if found := gpus():  # more runs than GPUs, if so asked, share them
            named_gpus = (found[device % len(found)] for device in devices)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(named_gpus)
        arguments = (run, root, named, environment, jobs * len(devices))
        process = context.Process(target=_in_process, args=arguments)
        process.start()
        processes.append(process)
    return _Active(processes, list(devices))


def _check_data(context: Any, runs: Sequence[Run], how: How) -> None:
    """Load every dataset once, in a process of the server, which has torch already."""
    names = data.of(runs)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_say_data_problem, args=(names, how.data, there))
    process.start()
    there.close()
    try:
        raise MissingData(here.recv())
    except EOFError:  # it had nothing to say
        process.join()
    if process.exitcode:
        raise MissingData(f"the check of {', '.join(names)} died (exit code {process.exitcode})")


def _say_data_problem(names: Sequence[str], root: Path, say: Connection) -> None:
    try:
        data.check(names, root)
    except MissingData as error:
        say.send(str(error))


def _ending(root: Path, run: Run, work: _Active) -> Event:
    """What the end of all its processes means for a run; a rank that died is given its ending."""
    folder = results.folder(root, run)
    rank = work.culprit or 0
    code = work.processes[rank].exitcode
    log = attempt.log_path(folder, rank)
    lines = attempt.last_lines(log)
    last = lines[-1] if lines else "no word"
    if code in (attempt.DONE, attempt.DIVERGED):
        notes = "; ".join(line for line in lines if line.startswith("warning: "))
        return Event("done" if code == attempt.DONE else "diverged", run, notes)
    if code == attempt.HELD:
        return Event("held", run, last)
    content = lease.read(folder) or {}
    if code == attempt.INTERRUPTED:
        is_cancelled = content.get("cause") == "cancelled"
        return Event("cancelled" if is_cancelled else "interrupted", run, last)
    named = f"rank {rank}: " if len(work.processes) > 1 else ""
    if code is not None and code < 0:
        last = f"killed by signal {signal.Signals(-code).name}; it goes on when asked again"
        lease.bury(folder, content, Ending("lost", named + last))
    elif rank:
        cause: Cause = "out of memory" if code == attempt.NO_MEMORY else "error"
        lease.bury(folder, content, Ending(cause, named + last))
    return Event("failed", run, f"{named}{last} (see {log})")


def _in_process(run: Run, root: Path, how: How, environment: dict[str, str], share: int) -> None:
    """The body of a rank's process."""
    os.environ.update(environment)
    _share_cores(share)
    os._exit(attempt.carry_out(run, root, how))


def _share_cores(processes: int) -> None:
    """Each of several processes gets its share of the cores; OMP_NUM_THREADS wins."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _server() -> Any:
    """A context whose processes are forked from a server that has imported the heavy packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.tasks.classification"])
    with signals.held_back():  # a terminal sends HUP and QUIT to all of our processes at once
        forkserver.ensure_running()
    return context


def gpus() -> list[str]:
    """The GPUs that we may use, as CUDA_VISIBLE_DEVICES names them."""
    driver = Path("/proc/driver/nvidia/gpus")
    here = [str(number) for number in range(len(list(driver.glob("*"))))]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return here if given is None or not here else [name for name in given.split(",") if name]


def default_jobs(ranks_each: int = 1) -> int:
    """As many runs at a time as their ranks have GPUs, or cores with 2 GiB of free memory each."""
    if found := gpus():
        return max(1, len(found) // ranks_each)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), free // 2**31) // ranks_each)
