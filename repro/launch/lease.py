"""One lease a run, so that no two processes ever train the same run.

The lease of generation n is the file `lease-n.json` in the run's folder, made by linking, which is
atomic on NFS as well. Whoever holds the highest generation holds the run. A lease whose holder has
died or fallen silent is taken over by making generation n+1, which only one process can do, and a
holder who sees a higher generation than its own has lost the run: it writes nothing more and stops.
No lock is removed, and no clock is compared with another host's.

A generation is an attempt at the run. Its file says who, how far, and at its end how it ended.
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

from repro import records
from repro.launch.ending import CAUSES, Ending

BEAT_SECONDS = 5.0
MAX_SILENCE_SECONDS = 3600.0
SILENCE_SECONDS = 120.0  # of a holder whose life cannot be seen from here, then it is taken over
_STOP = "cancelled"  # a file: the run is not to be trained


_Count = Annotated[int, Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, Meta(ge=0, le=1e11)]  # also since the epoch
_Name = Annotated[str, Meta(max_length=1000)]


class Content(TypedDict, total=False):
    """What a lease's file says. What it says beside this is for people."""

    generation: _Count
    host: _Name
    boot: _Name
    pid: Annotated[int, Meta(ge=0, le=2**31)]
    process_start: _Name | None
    attempt: _Name  # and the job and the submission: '' or missing outside SLURM
    job: _Name
    submission: _Name
    silence: Annotated[float, Meta(ge=0, le=MAX_SILENCE_SECONDS)]
    beats: _Count
    beat: _Seconds
    seconds: _Seconds
    endings: dict[_Name, _Count]
    released: bool
    cause: _Name
    note: str
    step: _Count
    steps: _Count
    rate: Annotated[float, Meta(ge=0, le=1e12)]  # steps a second
    epoch: Annotated[float, Meta(ge=0, le=1e12)] | None
    loss: float | None
    runs: list[_Name]  # of a local launcher: what it has yet to start or to end


class Held(Exception):
    """Somebody else trains this run; one line that says who."""

    def __init__(self, message: str, holder: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.holder = holder


@dataclass
class Lease:
    """A lease that we hold. Set `facts` at will; they are written with the next heartbeat."""

    folder: Path
    generation: int
    about: Mapping[str, Any]  # who we are to others: SLURM job, submission
    silence: float  # seconds after which others may take us for dead
    seconds_before: float  # spent on the run by earlier holders
    endings: Mapping[str, int]  # how often earlier attempts of this submission ended, by cause
    facts: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    _beats: int = 0
    _acquired: float = field(default_factory=time.monotonic)
    _released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def seconds(self) -> float:
        """Spent on the run by all holders up to now."""
        return self.seconds_before + time.monotonic() - self._acquired

    def confirm(self) -> bool:
        """Write that we are alive, and how far; whether the run is still ours.

        To be called before anything of consequence is written. Writing comes first: it makes an NFS
        client look at the folder anew.
        """
        with self._lock:
            if not self.lost and not self._released.is_set():
                self._beats += 1
                with contextlib.suppress(OSError):  # a full disk or a moment without NFS
                    _write(self.folder, self.generation, self._content(), replace=True)
                self.lost = _highest(self.folder) != self.generation
            return not self.lost

    def keep_beating(self, listen: Callable[[], None] = lambda: None) -> None:
        """Beat in the background until released, and call `listen` after every beat."""
        beat = threading.Thread(
            target=self._beat_forever, args=(listen,), daemon=True, name="heartbeat"
        )
        beat.start()

    def release(self, ending: Ending | None = None) -> None:
        """Give the run back. The file stays, marked released, so that no generation comes twice."""
        with self._lock:
            self._released.set()
            if not self.lost:
                content = self._content() | _ended(ending)
                with contextlib.suppress(OSError):  # a full disk: we fall silent instead
                    _write(self.folder, self.generation, content, replace=True)

    def _beat_forever(self, listen: Callable[[], None]) -> None:
        while not self._released.wait(min(BEAT_SECONDS, self.silence / 4)):
            self.confirm()
            listen()

    def _content(self) -> dict[str, Any]:
        return {
            **_me(),
            **self.about,
            "silence": self.silence,
            "beats": self._beats,
            "beat": time.time(),
            "seconds": self.seconds,
            "endings": dict(self.endings),
            **self.facts,
        }


def acquire(
    folder: Path, about: Mapping[str, Any] | None = None, silence: float = SILENCE_SECONDS
) -> Lease:
    """Take the run in `folder`; raises Held if a living process has it.

    Of a holder on this machine it is known at once whether it lives. Another host's is watched: if
    its heartbeat stands still for as long as it promised to be heard, it is taken over.
    """
    about = about or {}
    generation = _highest(folder)
    before = read(folder) or {}
    if generation and not before.get("released") and _lives(folder, before):
        beat = time.strftime("%H:%M:%S", time.localtime(float(before.get("beat", 0))))
        job = f", SLURM job {before['job']}" if before.get("job") else ""
        raise Held(
            f"{folder.name} is being trained by process {before.get('pid')} on "
            f"{before.get('host')}{job} (last heartbeat {beat}); stop that one, or wait for it",
            before,
        )
    lease = Lease(
        folder,
        generation + 1,
        about,
        silence,
        float(before.get("seconds", 0.0)),
        _endings(before) if before.get("submission") == about.get("submission") else {},
    )
    try:
        _write(folder, lease.generation, lease._content(), replace=False)
    except FileExistsError:
        raise Held(f"{folder.name} was taken by another process at this moment", {}) from None
    for old in range(max(1, generation - 2), generation + 1):
        _path(folder, old).unlink(missing_ok=True)
    return lease


def read(folder: Path) -> dict[str, Any] | None:
    """What the newest lease says; None if there is none, or it is damaged."""
    return look(folder)[0]


def look(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The same, and what is wrong with the file; '' if nothing is.

    A living holder writes its file anew with every heartbeat.
    """
    for _ in range(3):  # another process may take over while we look
        path = _path(folder, _highest(folder))
        try:
            return cast(dict[str, Any], records.read(path, Content)), ""
        except FileNotFoundError:
            continue
        except (OSError, records.Damaged) as error:
            return None, f"{path} is damaged ({error}); a launch takes the run over"
    return None, ""


def seems_held(content: Mapping[str, Any]) -> bool:
    """Whether a lease with this content looks like a living process's. For showing only."""
    if not content or content.get("released"):
        return False
    if content.get("boot") == _boot():
        return _is_running(content)
    return abs(time.time() - float(content.get("beat", 0))) < float(content.get("silence", 0))


def lives_here(content: Mapping[str, Any]) -> bool:
    """Whether the holder is a living process that can be seen from here."""
    held = bool(content) and not content.get("released")
    return held and content.get("boot") == _boot() and _is_running(content)


def ending(content: Mapping[str, Any]) -> Ending | None:
    """How the attempt of a released lease ended; None if it left a result or has not ended."""
    cause = content.get("cause")
    return Ending(cause, str(content.get("note", ""))) if cause in CAUSES else None


def wait_for(folder: Path, attempt: str, seconds: float) -> bool:
    """Wait until the first rank of this attempt holds the run; whether it came to that."""
    patience = time.monotonic() + seconds
    while (read(folder) or {}).get("attempt") != attempt:
        if time.monotonic() > patience:
            return False
        time.sleep(0.2)
    return True


def ask_to_stop(folder: Path) -> None:
    """Ask whoever trains the run, wherever, to save and stop; it looks with every heartbeat."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STOP).touch()


def is_asked_to_stop(folder: Path) -> bool:
    return (folder / _STOP).exists()


def allow(folder: Path) -> None:
    """Take back `ask_to_stop`: the run is wanted again."""
    (folder / _STOP).unlink(missing_ok=True)


def bury(folder: Path, content: Mapping[str, Any], end: Ending) -> None:
    """Write how an attempt ended whose process cannot say it itself, being dead."""
    if content and content.get("generation") == _highest(folder):
        _write(folder, int(content["generation"]), {**content, **_ended(end)}, replace=True)


def _ended(end: Ending | None) -> dict[str, Any]:
    return {"released": True} | ({"cause": end.cause, "note": end.note} if end else {})


def _endings(before: Mapping[str, Any]) -> dict[str, int]:
    """The count of endings, with that of the attempt before us."""
    counts = dict(before.get("endings", {}))
    if before and (not before.get("released") or ending(before)):
        end = ending(before)
        cause = end.cause if end else "lost"
        counts[cause] = counts.get(cause, 0) + 1
    return counts


def _lives(folder: Path, before: Mapping[str, Any]) -> bool:
    """Whether the holder gives a sign of life, as far as it takes to know."""
    if before.get("boot") == _boot():
        return _is_running(before)
    patience = time.monotonic() + float(before.get("silence", SILENCE_SECONDS))
    while time.monotonic() < patience:
        time.sleep(0.5)
        now = read(folder) or {}
        if now.get("released"):
            return False
        if (now.get("generation"), now.get("beats")) != (
            before.get("generation"),
            before.get("beats"),
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
    """Without numbers that are none, such as the loss of a run about to diverge."""
    return {
        name: value
        for name, value in content.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def _path(folder: Path, generation: int) -> Path:
    return folder / f"lease-{generation}.json"


def _highest(folder: Path) -> int:
    """The highest generation there is; 0 if none."""
    try:
        found = [re.fullmatch(r"lease-([0-9]+)\.json", name) for name in os.listdir(folder)]  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max((int(match[1]) for match in found if match), default=0)


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": pid,
        "process_start": _process_start(pid),
    }


def _boot() -> str:
    """Names this boot of this host, and the process space in it: there a process number says who.

    A container has process numbers of its own.
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
    """When the process started, in clock ticks since boot; None if it does not live."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]
