"""`--launch local`: the runs on this machine, some at a time, each in a process of its own.

The processes are forked from one server that has imported torch and timm once, so that a run begins
at once. A run that fails leaves the others alone. Ctrl-C lets each run save its state.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from repro import results
from repro.launch import lease
from repro.launch.data import MissingData, check
from repro.launch.job import How, execute
from repro.spec import Classification, Run, SpecError

LOG = "log.txt"
_POLL_SECONDS = 0.5

_DONE, _FAILED, _HELD, _INTERRUPTED = 0, 1, 3, 4  # exit codes of a run's process


@dataclass(frozen=True)
class Event:
    """Something to tell the user. 'failed' and 'held' carry the cause in one line."""

    kind: Literal["started", "done", "diverged", "failed", "held", "interrupted", "running"]
    run: Run
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def launch(
    runs: Sequence[Run], root: Path, how: How, jobs: int, tell: Callable[[Event], None]
) -> bool:
    """Carry out the runs, at most `jobs` at a time, telling what happens. Whether all have results.

    Raises MissingData before anything is trained if a dataset cannot be used, and KeyboardInterrupt
    if the user stopped it; the runs have saved their state then.
    """
    waiting, active = list(runs), dict[Run, BaseProcess]()
    well = True
    context = _server()
    with _term_is_interrupt():
        _check_data(context, runs, how)
        try:
            while waiting or active:
                while waiting and len(active) < jobs:
                    run = waiting.pop(0)
                    results.begin(root, run)
                    process = context.Process(target=_in_process, args=(run, root, how, jobs))
                    process.start()
                    active[run] = process
                    tell(Event("started", run))
                wait([process.sentinel for process in active.values()], timeout=_POLL_SECONDS)
                for run, process in list(active.items()):
                    if process.is_alive():
                        facts = lease.read(results.folder(root, run)) or {}
                        tell(Event("running", run, facts=facts))
                        continue
                    del active[run]
                    process.join()
                    event = _ending(root, run, process.exitcode)
                    well = well and event.kind in ("done", "diverged")
                    tell(event)
                    if event.kind == "interrupted":
                        raise KeyboardInterrupt
        finally:
            for process in active.values():
                if process.pid and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)
            for process in active.values():
                process.join()
    return well


def _check_data(context: Any, runs: Sequence[Run], how: How) -> None:
    """Load every dataset once, in a process of the server, which has torch already."""
    names = sorted({run.dataset for run in runs if isinstance(run, Classification)})
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
        check(names, root)
    except MissingData as error:
        say.send(str(error))


def _ending(root: Path, run: Run, code: int | None) -> Event:
    folder = results.folder(root, run)
    log = folder / LOG
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = lines[-1] if lines else "no word"
    if code == _DONE:
        state = results.outcome(root, run).state
        notes = "; ".join(line for line in lines if line.startswith("warning: "))
        return Event("diverged" if state == "diverged" else "done", run, notes)
    if code == _HELD:
        return Event("held", run, last)
    if code == _INTERRUPTED:
        return Event("interrupted", run, last)
    if code is not None and code < 0:
        last = f"killed by signal {signal.Signals(-code).name}; it goes on when asked again"
    return Event("failed", run, f"{last} (see {log})")


def _in_process(run: Run, root: Path, how: How, jobs: int) -> None:
    """The body of a run's process: output to its log, a cause in the last line, an exit code."""
    from repro.tasks import Interrupted

    code = _DONE
    folder = results.folder(root, run)
    held = lease.is_held(lease.read(folder) or {})
    fresh = 0 if held else os.O_TRUNC  # a holder goes on writing here; ours is one more line
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | fresh)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(log, "w", buffering=1, closefd=False)  # noqa: SIM115
    warnings.showwarning = lambda message, *_: print(f"warning: {message}")
    _share_cores(jobs)
    try:
        execute(run, root, how)
    except lease.Held as held:
        print(held)
        code = _HELD
    except Interrupted as interrupted:
        print(interrupted)
        code = _INTERRUPTED
    except Exception as error:
        if not _is_expected(error):
            import traceback

            traceback.print_exc()
        else:
            print(f"{error}")
        code = _FAILED
    sys.stdout.flush()
    os._exit(code)


def _is_expected(error: Exception) -> bool:
    """Whether the error is something a user can cause, so that its one line says enough."""
    from repro.data.datasets import DataError

    return isinstance(error, DataError | SpecError | results.ResultsError)


def _share_cores(jobs: int) -> None:
    """Each of several runs at a time gets its share of the cores; OMP_NUM_THREADS wins."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs))


def _server() -> Any:
    """A context whose processes are forked from a server that has imported the heavy packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.tasks.classification"])
    return context


@contextmanager
def _term_is_interrupt() -> Iterator[None]:
    """TERM to the launcher is as Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def default_jobs() -> int:
    """As many runs at a time as there are cores, with 2 GiB of free memory each; one on a GPU."""
    if Path("/proc/driver/nvidia/gpus").is_dir():
        return 1
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(len(os.sched_getaffinity(0)), free // 2**31))
