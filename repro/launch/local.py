"""`--launch local`: several runs at a time on this machine, each in its own processes.

They are forked from one server that has imported torch and timm, so a run starts at once. A failed
run does not affect the others. On Ctrl-C, TERM, HUP and QUIT each run saves its state.
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

from repro import paper, results
from repro.core import signals
from repro.execution import ExecutionOptions
from repro.launch import attempt, data, lease, local_queue, ranks
from repro.launch.data import MissingData
from repro.launch.failures import Cause, Failure
from repro.results import ResultsError
from repro.spec import Run, from_json, to_line

_EXIT_CODE_UNKNOWN = 255  # exit code of a process whose server died before it
_POLL_SECONDS = 0.5
# Grace period of the other ranks after one failed, and of a stopping run without a heartbeat.
_UNRESPONSIVE_SECONDS = 20.0
_MAX_SAVE_SECONDS = 300.0  # for a stopping run that still sends heartbeats
_DEATH_SECONDS = 5.0  # for a killed process to exit; one in disk I/O may take longer


@dataclass(frozen=True)
class Event:
    """A change to report to the user. 'failed' and 'locked' carry the cause in one line."""

    kind: Literal[
        "started", "running", "done", "diverged", "failed", "locked", "cancelled", "interrupted"
    ]
    run: Run
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class _ActiveRun:
    """A run in training: one process per rank, and its devices."""

    folder: Path
    attempt: str
    processes: list[BaseProcess]
    devices: list[int]
    failed_rank: int | None = None  # the rank that failed first

    @property
    def has_ended(self) -> bool:
        return not self.alive_pids

    @property
    def alive_pids(self) -> list[int]:
        """The PIDs of its living processes."""
        living = [process for process in self.processes if process.is_alive()]
        pids = [process.pid for process in living if process.pid]
        content = self.lease()  # knows rank 0 where the server does not
        if self.processes[0].exitcode == _EXIT_CODE_UNKNOWN and lease.is_alive_here(content):
            pids.append(int(content["pid"]))
        return pids

    def lease(self) -> dict[str, Any]:
        """The content of the run's lease if it belongs to this attempt; else {}."""
        content = lease.read(self.folder) or {}
        return content if content.get("attempt") == self.attempt else {}

    def watch(self) -> None:
        """Note the first rank that failed, and stop the others, which would wait for it forever."""
        expected = (None, attempt.DONE, attempt.DIVERGED, attempt.INTERRUPTED, _EXIT_CODE_UNKNOWN)
        codes = {rank: process.exitcode for rank, process in enumerate(self.processes)}
        failures = [(code, rank) for rank, code in codes.items() if code not in expected]
        if self.failed_rank is not None or not failures:
            return
        # A killed rank takes precedence: the others fail because they lost it.
        _, self.failed_rank = min((code >= 0, rank) for code, rank in failures if code is not None)
        self.stop()
        for process in self.processes:
            process.join(_UNRESPONSIVE_SECONDS)
            process.kill()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        for pid in self.alive_pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def launch(
    runs: Sequence[Run],
    root: Path,
    options: ExecutionOptions,
    jobs: int,
    report: Callable[[Event], None],
    ranks_per_run: int = 1,
) -> bool:
    """Train the runs, at most `jobs` at a time, and report every event. Whether all have results.

    Each run is trained by `ranks_per_run` processes, on one GPU each if there are any. Raises
    MissingData before training if a dataset cannot be used, and KeyboardInterrupt if the user
    stopped the launch. By then the runs have saved their state, or were killed: those without a
    heartbeat for 20 s, and those that took longer than 5 minutes.
    """
    pending, active = list(runs), dict[Run, _ActiveRun]()
    free_devices = list(range(jobs * ranks_per_run))
    succeeded = True
    context = _start_server()
    with signals.as_interrupt(), ExitStack() as stack:
        _check_data(context, runs, options)
        for each in runs:
            lease.clear_cancel(results.folder(root, each))
        record_open = stack.enter_context(local_queue.register(root, runs))
        try:
            while pending or active:
                while len(active) < jobs and (run := _next_ready(pending, active)):
                    pending.remove(run)
                    if event := _refusal(root, run):
                        succeeded = False
                        report(event)
                        record_open([*pending, *active])
                        continue
                    results.begin(root, run)
                    devices, free_devices = (
                        free_devices[:ranks_per_run],
                        free_devices[ranks_per_run:],
                    )
                    with signals.block_stops():  # a signal must not leave an untracked process
                        active[run] = _start_ranks(context, run, root, options, devices, jobs)
                    report(Event("started", run))
                _wait(active.values())
                for run, active_run in list(active.items()):
                    active_run.watch()
                    if not active_run.has_ended:
                        facts = lease.read(results.folder(root, run)) or {}
                        report(Event("running", run, facts=facts))
                        continue
                    del active[run]
                    record_open([*pending, *active])
                    free_devices = sorted(free_devices + active_run.devices)
                    event = _final_event(root, run, active_run)
                    succeeded = succeeded and event.kind in ("done", "diverged")
                    report(event)
                    if event.kind == "interrupted":
                        raise KeyboardInterrupt
        finally:
            _stop(active, report)
    return succeeded


def _wait(active: Iterable[_ActiveRun]) -> None:
    """Wait until a process ends, at most `_POLL_SECONDS`."""
    processes = [process for active_run in active for process in active_run.processes]
    wait([p.sentinel for p in processes if p.is_alive()], timeout=_POLL_SECONDS)


def _stop(active: Mapping[Run, _ActiveRun], report: Callable[[Event], None]) -> None:
    """Let the runs save their state and exit; kill those that do not."""
    for active_run in active.values():
        active_run.stop()
    began = time.monotonic()
    last_heartbeat, last_beats = dict.fromkeys(active, began), dict[Run, Any]()
    while remaining := {
        run: active_run for run, active_run in active.items() if not active_run.has_ended
    }:
        _wait(remaining.values())
        now = time.monotonic()
        for run, active_run in remaining.items():
            beat = active_run.lease().get("beats")
            if beat != last_beats.setdefault(run, beat):
                last_heartbeat[run], last_beats[run] = now, beat
            if now > last_heartbeat[run] + _UNRESPONSIVE_SECONDS:
                reason = f"did not respond for {_UNRESPONSIVE_SECONDS:.0f} s"
            elif now > began + _MAX_SAVE_SECONDS:
                reason = f"did not end within {_MAX_SAVE_SECONDS:.0f} s"
            else:
                continue
            active = {other: active_run for other, active_run in active.items() if other != run}
            report(Event("failed", run, _kill(active_run, reason)))


def _kill(active_run: _ActiveRun, reason: str) -> str:
    """Kill the processes of a run; the line about it, which the lease records."""
    pids = active_run.alive_pids
    active_run.stop(signal.SIGKILL)
    deadline = time.monotonic() + _DEATH_SECONDS
    while not active_run.has_ended and time.monotonic() < deadline:
        _wait([active_run])
    processes = f"process{'es' * (len(pids) > 1)} {', '.join(map(str, pids))}"
    line = f"{processes} {reason} and was killed; relaunch to resume from its last checkpoint"
    content = active_run.lease()
    if not lease.is_alive_here(content):
        lease.mark_dead(active_run.folder, content, Failure("lost", line))
    for process in active_run.processes:  # Python would wait for them at exit
        cast(Any, multiprocessing.process)._children.discard(process)
    return line


def _next_ready(waiting: Sequence[Run], active: Iterable[Run]) -> Run | None:
    """The first run whose pretrained run, if any, is not pending."""
    unfinished = {*waiting, *active}
    return next((run for run in waiting if run.starts_from not in unfinished), None)


def _refusal(root: Path, run: Run) -> Event | None:
    """Why a run cannot start: cancelled, unwritable log, or no pretrained weights. None if it
    can."""
    if lease.is_cancel_requested(results.folder(root, run)):
        return Event("cancelled", run)
    log = attempt.log_path(results.folder(root, run))
    if os.path.lexists(log):
        try:
            os.close(attempt.open_log(log))
        except ResultsError as error:
            return Event("failed", run, str(error))
    before = run.starts_from
    if before is None or results.outcome(root, before).state == "done":
        return None
    return Event("failed", run, f"its pretrained run {before.id} has no result")


def _start_ranks(
    context: Any, run: Run, root: Path, options: ExecutionOptions, devices: Sequence[int], jobs: int
) -> _ActiveRun:
    attempt_options = replace(options, attempt=uuid.uuid4().hex[:8])
    port = ranks.free_port() if len(devices) > 1 else 0
    processes = list[BaseProcess]()
    for rank in range(len(devices)):
        environment = ranks.spawn_environment(rank, len(devices), port) if len(devices) > 1 else {}
        environment[paper.VARIABLE] = os.environ.get(paper.VARIABLE, "")
        if gpu_names := gpus():  # runs beyond the number of GPUs share them and their memory
            attempt_options = replace(
                attempt_options, per_gpu=-(-jobs * len(devices) // len(gpu_names))
            )
            named_gpus = (gpu_names[device % len(gpu_names)] for device in devices)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(named_gpus)
        arguments = (to_line(run), root, attempt_options, environment, jobs * len(devices))
        process = context.Process(target=_in_process, args=arguments)
        process.start()
        processes.append(process)
    return _ActiveRun(results.folder(root, run), attempt_options.attempt, processes, list(devices))


def _check_data(context: Any, runs: Sequence[Run], options: ExecutionOptions) -> None:
    """Load every dataset once, in a process forked from the server, which has already imported
    torch."""
    names = data.of(runs)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_data_error, args=(names, options.data, there))
    process.start()
    there.close()
    try:
        raise MissingData(here.recv())
    except EOFError:  # no problem
        process.join()
    except KeyboardInterrupt:
        process.kill()
        raise
    if process.exitcode:
        raise MissingData(f"the check of {', '.join(names)} died (exit code {process.exitcode})")


def _send_data_error(names: Sequence[str], root: Path, connection: Connection) -> None:
    try:
        data.check(names, root)
    except MissingData as error:
        connection.send(str(error))


def _final_event(root: Path, run: Run, active_run: _ActiveRun) -> Event:
    """The event that reports how a run ended; records the failure of a rank that died."""
    folder = results.folder(root, run)
    rank = active_run.failed_rank or 0
    code, content = active_run.processes[rank].exitcode, active_run.lease()
    log = attempt.log_path(folder, rank)
    lines = attempt.last_lines(log)
    last_line = lines[-1] if lines else "no output"
    if code == _EXIT_CODE_UNKNOWN:
        code, last_line = _outcome_from_files(root, run, content)
    if code in (attempt.DONE, attempt.DIVERGED):
        notes = "; ".join(line for line in lines if line.startswith("warning: "))
        return Event("done" if code == attempt.DONE else "diverged", run, notes)
    if code == attempt.LOCKED:
        return Event("locked", run, last_line)
    if code == attempt.INTERRUPTED:
        is_cancelled = content.get("cause") == "cancelled"
        return Event("cancelled" if is_cancelled else "interrupted", run, last_line)
    prefix = f"rank {rank}: " if len(active_run.processes) > 1 else ""
    if code is not None and code < 0:
        last_line = f"killed by signal {signal.Signals(-code).name}; relaunch to resume it"
        lease.mark_dead(folder, content, Failure("lost", prefix + last_line))
    elif rank:
        cause: Cause = "out of memory" if code == attempt.OUT_OF_MEMORY else "error"
        lease.mark_dead(folder, content, Failure(cause, prefix + last_line))
    return Event("failed", run, f"{prefix}{last_line} (see {log})")


def _outcome_from_files(root: Path, run: Run, content: Mapping[str, Any]) -> tuple[int, str]:
    """The exit code of a run whose server was killed, from its files, and a line about it."""
    if result := results.outcome(root, run).result:
        return attempt.DONE if result["status"] == "done" else attempt.DIVERGED, ""
    failure = lease.failure_of(content)
    if failure is None:
        failure = Failure("lost", "the server of its process was killed; relaunch to resume it")
        lease.mark_dead(results.folder(root, run), content, failure)
    stopped = failure.cause in ("interrupted", "cancelled")
    return attempt.INTERRUPTED if stopped else attempt.FAILED, failure.note


def _in_process(
    spec: str, root: Path, options: ExecutionOptions, environment: dict[str, str], share: int
) -> None:
    """The body of a rank's process, which knows the run's kind once it has the paper.

    Signals stay blocked until the run handles them; after its end they are ignored.
    """
    signals.absorb(signals.unignored())
    os.environ.update(environment)
    _share_cores(share)
    paper.current()
    os._exit(attempt.run_attempt(from_json(spec), root, options))


def _share_cores(processes: int) -> None:
    """Give each of several processes its share of the cores; OMP_NUM_THREADS takes precedence."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


def _start_server() -> Any:
    """A context whose processes are forked from a server that has imported the heavy packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.tasks.classification"])
    # A terminal sends its signals to all of our processes.
    with signals.block_stops():
        resource_tracker.ensure_running()  # unblocks INT and TERM
    with signals.block_stops():
        forkserver.ensure_running()
    return context


def gpus() -> list[str]:
    """The usable GPUs, as CUDA_VISIBLE_DEVICES names them."""
    driver = Path("/proc/driver/nvidia/gpus")
    here = [str(number) for number in range(len(list(driver.glob("*"))))]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return here if visible is None or not here else [name for name in visible.split(",") if name]


def default_jobs(ranks_per_run: int = 1, per_gpu: int = 1) -> int:
    """Runs at a time: as their ranks have GPUs, or else cores with 2 GiB of free memory each.

    `per_gpu`: the number of runs that share a GPU.
    """
    if gpu_names := gpus():
        return max(1, len(gpu_names) * per_gpu // ranks_per_run)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), free // 2**31) // ranks_per_run)
