"""One lease per run, so that no two processes ever train the same run.

The lease of generation n is the file `lease-n.json` in the run's folder, created by a hard link,
which is atomic on NFS as well. The holder of the highest generation owns the run. When a holder has
died or its heartbeat has timed out, another process takes over by creating generation n+1, which
only one process can do. A holder that sees a higher generation than its own has lost the run: it
writes nothing more and stops. No lock is removed, and clocks of different hosts are never compared.

A generation is an attempt at the run. Its file records who holds it, its progress, and in the end
how it ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

from msgspec import Meta

from repro.core import records
from repro.execution import TIMEOUT_SECONDS
from repro.launch.failures import CAUSES, Failure

HEARTBEAT_SECONDS = 5.0
MAX_TIMEOUT_SECONDS = 3600.0
_CANCEL_FILE = "cancelled"  # its presence means: do not train this run


_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, Meta(ge=0, le=1e11)]  # durations, and times since the epoch
_Name = Annotated[str, Meta(max_length=1000)]


class LeaseContent(TypedDict, total=False):
    """The fields of a lease's file that the program reads. Others are for people."""

    generation: _Count
    host: _Name
    boot: _Name
    pid: Annotated[int, Meta(ge=0, le=2**31)]
    process_start: _Name | None
    attempt: _Name  # like job and submission: '' or missing outside SLURM
    job: _Name
    submission: _Name
    silence: Annotated[float, Meta(ge=0, le=MAX_TIMEOUT_SECONDS)]
    beats: _Count
    beat: _Seconds
    seconds: _Seconds
    endings: dict[_Name, _Count]
    released: bool
    cause: _Name
    note: str
    step: _Count
    steps: _Count
    rate: Annotated[float, Meta(ge=0, le=1e12)]  # steps per second, without evaluations
    seconds_left: _Seconds  # our estimate, evaluations included
    seconds_whole: _Seconds  # likewise, of all steps and evaluations
    epoch: Annotated[float, Meta(ge=0, le=1e12)] | None
    loss: float | None
    runs: list[_Name]  # of a local launcher: its unfinished runs


class RunLocked(Exception):
    """Another process trains this run; one line that names it."""

    def __init__(self, message: str, holder: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.holder = holder


@dataclass
class Lease:
    """A lease that this process holds. `facts` may be set any time; the next heartbeat writes
    them."""

    folder: Path
    generation: int
    about: Mapping[str, Any]  # how others identify us: SLURM job, submission
    timeout_seconds: float  # without a heartbeat, after which others take over
    previous_seconds: float  # time that earlier holders spent on the run
    failure_counts: Mapping[str, int]  # earlier attempts of this submission
    facts: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    _beats: int = 0
    _acquired: float = field(default_factory=time.monotonic)
    _released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, over all holders."""
        return self.previous_seconds + time.monotonic() - self._acquired

    def renew(self) -> bool:
        """Write a heartbeat with the progress; whether this process still owns the run.

        Call it before every write that matters. The heartbeat is written first because that makes
        an NFS client refresh the folder.
        """
        with self._lock:
            if not self.lost and not self._released.is_set():
                self._beats += 1
                with contextlib.suppress(OSError):  # a full disk, or NFS is briefly gone
                    _write(self.folder, self.generation, self._content(), replace=True)
                self.lost = _highest_generation(self.folder) != self.generation
            return not self.lost

    def start_heartbeat(self, on_heartbeat: Callable[[], None] = lambda: None) -> None:
        """Renew the lease in the background until it is released, calling `on_heartbeat` each
        time."""
        beat = threading.Thread(
            target=self._heartbeat_loop, args=(on_heartbeat,), daemon=True, name="heartbeat"
        )
        beat.start()

    def release(self, failure: Failure | None = None) -> None:
        """Release the run. The file stays, marked released, so that no generation is used twice."""
        with self._lock:
            self._released.set()
            if not self.lost:
                content = self._content() | _release_content(failure)
                with contextlib.suppress(OSError):  # a full disk: the lease then times out
                    _write(self.folder, self.generation, content, replace=True)

    def _heartbeat_loop(self, on_heartbeat: Callable[[], None]) -> None:
        while not self._released.wait(min(HEARTBEAT_SECONDS, self.timeout_seconds / 4)):
            self.renew()
            on_heartbeat()

    def _content(self) -> dict[str, Any]:
        return {
            **_process_identity(),
            **self.about,
            "silence": self.timeout_seconds,
            "beats": self._beats,
            "beat": time.time(),
            "seconds": self.seconds,
            "endings": dict(self.failure_counts),
            **self.facts,
        }


def acquire(
    folder: Path, about: Mapping[str, Any] | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> Lease:
    """Lock the run in `folder`; raises RunLocked if a living process holds it.

    For a holder on this machine that is known at once. A holder on another host is watched: if its
    heartbeat does not change within its timeout, it is taken over.
    """
    about = about or {}
    generation = _highest_generation(folder)
    previous = read(folder) or {}
    if generation and not previous.get("released") and _is_alive(folder, previous):
        beat = time.strftime("%H:%M:%S", time.localtime(float(previous.get("beat", 0))))
        job = f", SLURM job {previous['job']}" if previous.get("job") else ""
        raise RunLocked(
            f"{folder.name} is being trained by process {previous.get('pid')} on "
            f"{previous.get('host')}{job} (last heartbeat {beat}); stop that one, or wait for it",
            previous,
        )
    lease = Lease(
        folder,
        generation + 1,
        about,
        timeout_seconds,
        float(previous.get("seconds", 0.0)),
        _failure_counts(previous) if previous.get("submission") == about.get("submission") else {},
    )
    try:
        _write(folder, lease.generation, lease._content(), replace=False)
    except FileExistsError:
        raise RunLocked(f"{folder.name} was locked by another process just now", {}) from None
    for superseded in range(max(1, generation - 2), generation + 1):
        _path(folder, superseded).unlink(missing_ok=True)
    return lease


def read(folder: Path) -> dict[str, Any] | None:
    """The content of the newest lease; None if there is none, or it is damaged."""
    return read_or_explain(folder)[0]


def read_or_explain(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The content of the newest lease, and what is wrong with its file; '' if nothing is.

    A living holder rewrites its file with every heartbeat.
    """
    for _ in range(3):  # another process may take over meanwhile
        path = _path(folder, _highest_generation(folder))
        try:
            return cast(dict[str, Any], records.read(path, LeaseContent)), ""
        except FileNotFoundError:
            continue
        except (OSError, records.Damaged) as error:
            return None, f"{path} is damaged ({error}); a launch takes the run over"
    return None, ""


def seems_locked(content: Mapping[str, Any]) -> bool:
    """Whether this content looks like that of a living process. For display only."""
    if not content or content.get("released"):
        return False
    if content.get("boot") == _boot():
        return _is_running(content)
    return abs(time.time() - float(content.get("beat", 0))) < float(content.get("silence", 0))


def is_alive_here(content: Mapping[str, Any]) -> bool:
    """Whether the holder is a living process on this machine."""
    is_locked = bool(content) and not content.get("released")
    return is_locked and content.get("boot") == _boot() and _is_running(content)


def failure_of(content: Mapping[str, Any]) -> Failure | None:
    """The failure that ended the attempt of a released lease; None if it left a result or still
    runs."""
    cause = content.get("cause")
    return Failure(cause, str(content.get("note", ""))) if cause in CAUSES else None


def wait_for_attempt(folder: Path, attempt: str, seconds: float) -> bool:
    """Wait until rank 0 of this attempt holds the run; False after `seconds`."""
    deadline = time.monotonic() + seconds
    while (read(folder) or {}).get("attempt") != attempt:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def request_cancel(folder: Path) -> None:
    """Ask the process that trains the run, on any host, to save and stop; it checks with every
    heartbeat."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CANCEL_FILE).touch()


def is_cancel_requested(folder: Path) -> bool:
    return (folder / _CANCEL_FILE).exists()


def clear_cancel(folder: Path) -> None:
    """Undo `request_cancel`: the run may be trained again."""
    (folder / _CANCEL_FILE).unlink(missing_ok=True)


def mark_dead(folder: Path, content: Mapping[str, Any], failure: Failure) -> None:
    """Record how an attempt ended whose process died and could not record it itself."""
    if content and content.get("generation") == _highest_generation(folder):
        _write(
            folder,
            int(content["generation"]),
            {**content, **_release_content(failure)},
            replace=True,
        )


def _release_content(failure: Failure | None) -> dict[str, Any]:
    return {"released": True} | ({"cause": failure.cause, "note": failure.note} if failure else {})


def _failure_counts(previous: Mapping[str, Any]) -> dict[str, int]:
    """Failures by cause, including that of the previous attempt."""
    counts = dict(previous.get("endings", {}))
    if previous and (not previous.get("released") or failure_of(previous)):
        failure = failure_of(previous)
        cause = failure.cause if failure else "lost"
        counts[cause] = counts.get(cause, 0) + 1
    return counts


def _is_alive(folder: Path, previous: Mapping[str, Any]) -> bool:
    """Whether the holder is alive. For another host this can take as long as its timeout."""
    if previous.get("boot") == _boot():
        return _is_running(previous)
    deadline = time.monotonic() + float(previous.get("silence", TIMEOUT_SECONDS))
    while time.monotonic() < deadline:
        time.sleep(0.5)
        current = read(folder) or {}
        if current.get("released"):
            return False
        if (current.get("generation"), current.get("beats")) != (
            previous.get("generation"),
            previous.get("beats"),
        ):
            return True
    return False


def _write(folder: Path, generation: int, content: Mapping[str, Any], *, replace: bool) -> None:
    path = _path(folder, generation)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        temporary.write_text(records.encode(_finite({**content, "generation": generation})))
        os.replace(temporary, path) if replace else os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content without NaN and infinity, such as the loss of a run about to diverge."""
    return {
        name: value
        for name, value in content.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def _path(folder: Path, generation: int) -> Path:
    return folder / f"lease-{generation}.json"


def _highest_generation(folder: Path) -> int:
    """The highest generation there is; 0 if none."""
    try:
        matches = [re.fullmatch(r"lease-([0-9]+)\.json", name) for name in os.listdir(folder)]  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(match[1]) for match in matches if match), default=0)


def _process_identity() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": pid,
        "process_start": _process_start(pid),
    }


def _boot() -> str:
    """Identifies the boot and the PID namespace of this machine, within which a PID is unique.

    A container has a namespace of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return socket.gethostname()


def _is_running(content: Mapping[str, Any]) -> bool:
    start = content.get("process_start")
    return start is not None and _process_start(int(content.get("pid", 0))) == start


def _process_start(pid: int) -> str | None:
    """The start time of a process, in clock ticks since boot; None if it is not alive."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]
