"""One attempt at a run, in its own process: output goes to the run's log, the last line of the log
names the cause of a failure, and the exit code says how the attempt ended."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import traceback
import warnings
from pathlib import Path

from repro import results
from repro.core import records
from repro.execution import ExecutionOptions
from repro.launch import failures, lease
from repro.launch.job import execute
from repro.results import ResultsError
from repro.spec import Run

DONE, FAILED, DIVERGED, LOCKED, INTERRUPTED, OUT_OF_MEMORY = 0, 1, 2, 3, 4, 5
_TAIL_BYTES = 2**20  # a log may grow for days
REQUEUE = 85  # interrupted; SLURM should start the run again


def log_path(folder: Path, rank: int = 0) -> Path:
    """The file that receives a rank's output, over all attempts."""
    return folder / (f"log-{rank}.txt" if rank else "log.txt")


def tail(path: Path) -> str:
    """The last megabyte of a log; '' if there is none, or it cannot be read."""
    try:
        start = max(0, records.file_size(path) - _TAIL_BYTES)
        return records.read_chunk(path, start).decode(errors="replace")
    except (OSError, records.Damaged):
        return ""


def last_lines(path: Path) -> list[str]:
    """The lines of a log that belong to the latest attempt."""
    return tail(path).rpartition("\n--- ")[2].strip().splitlines()[1:]


def run_attempt(run: Run, root: Path, options: ExecutionOptions) -> int:
    """Make one attempt at `run` and return the exit code.

    From here on this process's output goes to the run's log.
    """
    from repro.tasks import Interrupted

    folder = results.begin(root, run)
    rank = int(os.environ.get("RANK", "0"))
    try:
        _redirect_output(log_path(folder, rank))
        return DONE if execute(run, root, options) == "done" else DIVERGED
    except lease.RunLocked as locked:
        print(locked)
        return LOCKED
    except (Interrupted, KeyboardInterrupt) as interrupted:
        print(interrupted)
        return _exit_code_after_interruption(folder, options) if rank == 0 else INTERRUPTED
    except BaseException as error:
        failure = failures.from_error(error)
        if not failures.is_expected(error):
            traceback.print_exc()
        print(failure.note)
        return OUT_OF_MEMORY if failure.cause == "out of memory" else FAILED
    finally:
        sys.stdout.flush()


def _exit_code_after_interruption(folder: Path, options: ExecutionOptions) -> int:
    """REQUEUE if SLURM should start the run again, according to the lease; else why not."""
    content = lease.read(folder) or {}
    failure = lease.failure_of(content)
    if content.get("attempt", "") != options.attempt:
        return LOCKED  # another process took the run over
    if not options.job or failure is None:
        return INTERRUPTED
    earlier, seconds = content.get("endings", {}), content.get("seconds", 0.0)
    should_requeue = failures.should_retry(failure, earlier, seconds, options.budget_seconds)
    return REQUEUE if should_requeue else FAILED


def open_log(log: Path) -> int:
    """Open a log for appending; its file descriptor.

    ResultsError if the log cannot be written, or is not a regular file.
    """
    try:
        flags = (
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
        )  # without NONBLOCK, opening a pipe blocks
        file = os.open(log, flags, 0o644)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
    except OSError as error:
        problem = f"cannot write {log}: {error.strerror}"
        raise ResultsError(f"{problem}; move it away and run again") from error
    return file


def _redirect_output(log: Path) -> None:
    """Append this process's output to a file, and print warnings as lines that start with
    'warning:'."""
    file = open_log(log)
    sys.stdout.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = open(file, "w", buffering=1, closefd=False)  # noqa: SIM115
    now, host = time.strftime("%Y-%m-%d %H:%M:%S"), os.uname().nodename
    job = f", SLURM job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    print(f"\n--- {now} process {os.getpid()} on {host}{job}")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}")
