"""One attempt at a run in one process of its own, wherever it was started: output to the run's
log, the cause of a failure in its last line, an exit code that says how it ended."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
import traceback
import warnings
from pathlib import Path

from repro import records, results
from repro.launch import ending, lease
from repro.launch.job import How, execute
from repro.results import ResultsError
from repro.spec import Run

DONE, FAILED, DIVERGED, HELD, INTERRUPTED, NO_MEMORY = 0, 1, 2, 3, 4, 5
_TAIL_BYTES = 2**20  # of a log, which may have grown for days
AGAIN = 85  # interrupted, and SLURM should start it again


def log_path(folder: Path, rank: int = 0) -> Path:
    """Where a rank's output goes, attempt after attempt."""
    return folder / (f"log-{rank}.txt" if rank else "log.txt")


def tail(path: Path) -> str:
    """The end of a log; '' if there is none, or it cannot be read."""
    try:
        start = max(0, records.size(path) - _TAIL_BYTES)
        return records.chunk(path, start).decode(errors="replace")
    except (OSError, records.Damaged):
        return ""


def last_lines(path: Path) -> list[str]:
    """The last lines of a log that the last attempt wrote."""
    return tail(path).rpartition("\n--- ")[2].strip().splitlines()[1:]


def carry_out(run: Run, root: Path, how: How) -> int:
    """Make an attempt at `run`; the exit code. This process's output goes to the log from here."""
    from repro.tasks import Interrupted

    folder = results.begin(root, run)
    rank = int(os.environ.get("RANK", "0"))
    try:
        _redirect(log_path(folder, rank))
        return DONE if execute(run, root, how) == "done" else DIVERGED
    except lease.Held as held:
        print(held)
        return HELD
    except (Interrupted, KeyboardInterrupt) as interrupted:
        print(interrupted)
        return _after_interruption(folder, how) if rank == 0 else INTERRUPTED
    except BaseException as error:
        end = ending.of_error(error)
        if not ending.is_expected(error):
            traceback.print_exc()
        print(end.note)
        return NO_MEMORY if end.cause == "out of memory" else FAILED
    finally:
        sys.stdout.flush()


def _after_interruption(folder: Path, how: How) -> int:
    """Whether SLURM is to start the run again, by what the lease says of it."""
    content = lease.read(folder) or {}
    end = lease.ending(content)
    if content.get("attempt", "") != how.attempt:
        return HELD  # it was taken from us
    if not how.job or end is None:
        return INTERRUPTED
    before, seconds = content.get("endings", {}), content.get("seconds", 0.0)
    again = ending.goes_on(end, before, seconds, how.budget_seconds)
    return AGAIN if again else FAILED


def opened(log: Path) -> int:
    """A log, to be appended to. ResultsError if it cannot be written, or is no regular file."""
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK  # a pipe's would wait
        file = os.open(log, flags, 0o644)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
    except OSError as error:
        what = f"cannot write {log}: {error.strerror}"
        raise ResultsError(f"{what}; move it away and run again") from error
    return file


def _redirect(log: Path) -> None:
    """Append this process's output to a file, warnings as lines that begin so."""
    file = opened(log)
    sys.stdout.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = open(file, "w", buffering=1, closefd=False)  # noqa: SIM115
    now, host = time.strftime("%Y-%m-%d %H:%M:%S"), os.uname().nodename
    job = f", SLURM job {os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    print(f"\n--- {now} process {os.getpid()} on {host}{job}")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}")
