"""One lease a run, so that no two processes ever train the same run.

The lease of generation n is the file `lease-n.json` in the run's folder, made by linking, which is
atomic on NFS as well. Whoever holds the highest generation holds the run. A lease whose holder has
died or fallen silent is taken over by making generation n+1, which only one process can do, and a
holder who sees a higher generation than its own has lost the run and stops. No lock is removed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEAT_SECONDS = 5.0
SILENCE_SECONDS = (
    600.0  # a holder on another host that has been silent this long has lost its lease
)


class Held(Exception):
    """Somebody else trains this run; one line that says who."""


@dataclass
class Lease:
    """A lease that we hold. Set `facts` at will; they are written with the next heartbeat."""

    folder: Path
    generation: int
    seconds_before: float  # spent on the run by earlier holders
    facts: dict[str, Any] = field(default_factory=dict)
    lost: bool = False
    _acquired: float = field(default_factory=time.monotonic)
    _released: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """Spent on the run by all holders up to now."""
        return self.seconds_before + time.monotonic() - self._acquired

    def beat(self) -> None:
        """Write that we are alive, and how far; notice if the lease was taken from us."""
        self.lost = self.lost or _highest(self.folder) != self.generation
        if not self.lost:
            _write(self.folder, self.generation, self._content(), replace=True)

    def keep_beating(self) -> None:
        """Beat in the background until released."""
        threading.Thread(target=self._beat_forever, daemon=True, name="heartbeat").start()

    def release(self) -> None:
        """Give the run back. The file stays, marked released, so that no generation comes twice."""
        self._released.set()
        if not self.lost:
            content = self._content() | {"released": True}
            _write(self.folder, self.generation, content, replace=True)

    def _beat_forever(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            try:
                self.beat()
            except OSError:
                continue  # a full disk or a moment without NFS: silence, then the next beat

    def _content(self) -> dict[str, Any]:
        return _me() | {"beat": time.time(), "seconds": self.seconds} | self.facts


def acquire(folder: Path) -> Lease:
    """Take the run in `folder`; raises Held if a living process has it."""
    generation = _highest(folder)
    before = read(folder) or {}
    if generation and is_held(before):
        age = time.time() - before.get("beat", 0)
        raise Held(
            f"{folder.name} is being trained by process {before.get('pid')} on "
            f"{before.get('host')} (heartbeat {age:.0f} s ago); stop that one, or wait for it"
        )
    lease = Lease(folder, generation + 1, float(before.get("seconds", 0.0)))
    try:
        _write(folder, lease.generation, lease._content(), replace=False)
    except FileExistsError:
        raise Held(f"{folder.name} was taken by another process at this moment") from None
    for old in range(max(1, generation - 2), generation + 1):
        _path(folder, old).unlink(missing_ok=True)
    return lease


def read(folder: Path) -> dict[str, Any] | None:
    """What the newest lease says; None if there is none."""
    try:
        content = json.loads(_path(folder, _highest(folder)).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def is_held(content: dict[str, Any]) -> bool:
    """Whether a lease with this content is a living process's, as far as can be known here."""
    if not content or content.get("released"):
        return False
    if content.get("boot") == _boot():
        return _process_start(int(content.get("pid", 0))) == content.get("process_start")
    return time.time() - float(content.get("beat", 0)) < SILENCE_SECONDS


def _write(folder: Path, generation: int, content: dict[str, Any], *, replace: bool) -> None:
    path = _path(folder, generation)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    temporary.write_text(json.dumps(content))
    try:
        os.replace(temporary, path) if replace else os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _path(folder: Path, generation: int) -> Path:
    return folder / f"lease-{generation}.json"


def _highest(folder: Path) -> int:
    """The highest generation there is; 0 if none."""
    found = (re.fullmatch(r"lease-(\d+)\.json", path.name) for path in folder.iterdir())
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
    """Names this boot of this host: a process number means something only within it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None if it does not live."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]
