"""What a probe job does on the nodes: each rank says what it sees, and meets the others."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from repro import results
from repro.launch import queue, ranks


@dataclass(frozen=True)
class Visit:
    """What submitit carries to the nodes: a rank says what it sees, and meets the others."""

    folder: str
    token: str

    def __call__(self) -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # of a time limit
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        ranks.from_slurm()
        folder, rank = Path(self.folder), os.environ.get("RANK", "0")
        said: dict[str, Any] = {
            "node": os.environ.get("SLURMD_NODENAME", platform.node()),
            "python": platform.python_version(),
            "sees": read(folder / "token") == self.token,
            "scontrol": queue.answers(),
        }
        status = 0
        results.write(folder / f"answer-{rank}", json.dumps(said))
        try:
            said |= _torch()
        except Exception as error:
            said["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            status = 1
        results.write(folder / f"answer-{rank}", json.dumps(said))
        os._exit(status)  # submitit would write a pickle of a result


def _torch() -> dict[str, Any]:
    """What torch sees on this node, and whether the ranks find each other. Apart if not."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from repro.train import distributed

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    began = time.monotonic()
    with distributed.join(torch.device("cpu")) as ours:
        met = int(ours.sum(torch.ones(1)).item())
    return {
        "torch": metadata.version("torch"),
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "ranks": met,
        "seconds": time.monotonic() - began,
    }


def read(path: Path) -> str:
    """What a file says; '' if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
