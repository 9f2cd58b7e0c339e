"""`--launch local`: the runs on this machine, some at a time, each in processes of its own.

The processes are forked from one server that has imported torch and timm once, so that a run begins
at once. A run that fails leaves the others alone. Ctrl-C lets each run save its state, and so do
TERM, HUP and QUIT.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast

from repro import results, signals
from repro.launch import attempt, data, lease, ranks, waiting
from repro.launch.data import MissingData
from repro.launch.ending import Cause, Ending
from repro.launch.job import How
from repro.results import ResultsError
from repro.spec import Run

_UNKNOWN = 255  # the exit code of a process whose server died before it
_POLL_SECONDS = 0.5
# For the other ranks to end by themselves, once one has failed; without a heartbeat, for a run.
_KILL_SECONDS = 20.0
_SAVE_SECONDS = 300.0  # for a run that is to stop, heartbeat or not
_DEATH_SECONDS = 5.0  # for a process that was killed to be gone: one that waits for a disk is not


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

    folder: Path
    attempt: str
    processes: list[BaseProcess]
    devices: list[int]
    culprit: int | None = None  # the rank that failed first

    @property
    def ended(self) -> bool:
        return not self.alive

    @property
    def alive(self) -> list[int]:
        """The numbers of its processes that live."""
        known = [process for process in self.processes if process.is_alive()]
        numbers = [process.pid for process in known if process.pid]
        holder = self.lease()  # tells of the first rank, where the server does not
        if self.processes[0].exitcode == _UNKNOWN and lease.lives_here(holder):
            numbers.append(int(holder["pid"]))
        return numbers

    def lease(self) -> dict[str, Any]:
        """What the lease says, if it is of this attempt; {} if it is of another."""
        content = lease.read(self.folder) or {}
        return content if content.get("attempt") == self.attempt else {}

    def watch(self) -> None:
        """Note the first rank that fails, and end the others, who would wait for it for ever."""
        well = (None, attempt.DONE, attempt.DIVERGED, attempt.INTERRUPTED, _UNKNOWN)
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

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        for pid in self.alive:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


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
    if the user stopped it. The runs have saved their state then, or been killed: those that gave no
    sign of life for 20 s, and those that took 5 minutes.
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
                    with signals.held_back():  # so that none is started that we do not know
                        active[run] = _start(context, run, root, how, devices, jobs)
                    tell(Event("started", run))
                _wait(active.values())
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
            _stop(active, tell)
    return well


def _wait(active: Iterable[_Active]) -> None:
    """Wait until a process ends, or for a moment."""
    processes = [process for work in active for process in work.processes]
    wait([p.sentinel for p in processes if p.is_alive()], timeout=_POLL_SECONDS)


def _stop(active: Mapping[Run, _Active], tell: Callable[[Event], None]) -> None:
    """Let the runs save their state and end; kill those that do not."""
    for work in active.values():
        work.stop()
    began = time.monotonic()
    heard, beats = dict.fromkeys(active, began), dict[Run, Any]()
    while left := {run: work for run, work in active.items() if not work.ended}:
        _wait(left.values())
        now = time.monotonic()
        for run, work in left.items():
            beat = work.lease().get("beats")
            if beat != beats.setdefault(run, beat):
                heard[run], beats[run] = now, beat
            if now > heard[run] + _KILL_SECONDS:
                why = f"gave no sign of life for {_KILL_SECONDS:.0f} s"
            elif now > began + _SAVE_SECONDS:
                why = f"did not end within {_SAVE_SECONDS:.0f} s"
            else:
                continue
            active = {other: work for other, work in active.items() if other != run}
            tell(Event("failed", run, _kill(work, why)))


def _kill(work: _Active, why: str) -> str:
    """Kill the processes of a run; one line about it, which the lease keeps."""
    pids = work.alive
    work.stop(signal.SIGKILL)
    deadline = time.monotonic() + _DEATH_SECONDS
    while not work.ended and time.monotonic() < deadline:
        _wait([work])
    named = f"process{'es' * (len(pids) > 1)} {', '.join(map(str, pids))}"
    line = f"{named} {why} and was killed; it goes on from its last checkpoint when asked again"
    content = work.lease()
    if not lease.lives_here(content):
        lease.bury(work.folder, content, Ending("lost", line))
    for process in work.processes:  # Python would wait for those at its end
        cast(Any, multiprocessing.process)._children.discard(process)
    return line


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
    processes = list[BaseProcess]()
    for rank in range(len(devices)):
        environment = ranks.spawned(rank, len(devices), port) if len(devices) > 1 else {}
        if found := gpus():  # more runs than GPUs, if so asked, share them, and their memory
            named = replace(named, per_gpu=-(-jobs * len(devices) // len(found)))
            named_gpus = (found[device % len(found)] for device in devices)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(named_gpus)
        arguments = (run, root, named, environment, jobs * len(devices))
        process = context.Process(target=_in_process, args=arguments)
        process.start()
        processes.append(process)
    return _Active(results.folder(root, run), named.attempt, processes, list(devices))


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
    except KeyboardInterrupt:
        process.kill()
        raise
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
    code, content = work.processes[rank].exitcode, work.lease()
    log = attempt.log_path(folder, rank)
    lines = attempt.last_lines(log)
    last = lines[-1] if lines else "no word"
    if code == _UNKNOWN:
        code, last = _on_file(root, run, content)
    if code in (attempt.DONE, attempt.DIVERGED):
        notes = "; ".join(line for line in lines if line.startswith("warning: "))
        return Event("done" if code == attempt.DONE else "diverged", run, notes)
    if code == attempt.HELD:
        return Event("held", run, last)
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


def _on_file(root: Path, run: Run, content: Mapping[str, Any]) -> tuple[int, str]:
    """The exit code that the files of a run tell, and a line about it: its server was killed."""
    if found := results.outcome(root, run).result:
        return attempt.DONE if found["status"] == "done" else attempt.DIVERGED, ""
    end = lease.ending(content)
    if end is None:
        end = Ending("lost", "the server of its process was killed; it goes on when asked again")
        lease.bury(results.folder(root, run), content, end)
    stopped = end.cause in ("interrupted", "cancelled")
    return attempt.INTERRUPTED if stopped else attempt.FAILED, end.note


def _in_process(run: Run, root: Path, how: How, environment: dict[str, str], share: int) -> None:
    """The body of a rank's process. Signals are held back until the run is ready for them; those
    that come once it has ended do nothing."""
    signals.absorb(signals.heeded())
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
    # A terminal sends its signals to all of our processes at once.
    with signals.held_back():
        resource_tracker.ensure_running()  # unblocks INT and TERM
    with signals.held_back():
        forkserver.ensure_running()
    return context


def gpus() -> list[str]:
    """The GPUs that we may use, as CUDA_VISIBLE_DEVICES names them."""
    driver = Path("/proc/driver/nvidia/gpus")
    here = [str(number) for number in range(len(list(driver.glob("*"))))]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return here if given is None or not here else [name for name in given.split(",") if name]


def default_jobs(ranks_each: int = 1, per_gpu: int = 1) -> int:
    """As many runs at a time as their ranks have GPUs, or cores with 2 GiB of free memory each.

    `per_gpu`: how many runs share a GPU.
    """
    if found := gpus():
        return max(1, len(found) * per_gpu // ranks_each)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), free // 2**31) // ranks_each)
