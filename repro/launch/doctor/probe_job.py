"""The probe job on the nodes: each rank reports its environment and joins a process group."""

from __future__ import annotations

import os
import platform
import signal
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from repro import results
from repro.core import records
from repro.launch import attempt, ranks
from repro.launch.slurm import queue

_MAX_CHARACTERS = 1000  # of a text in an answer
_Text = Annotated[str, Meta(max_length=_MAX_CHARACTERS)]


@dataclass(frozen=True)
class Torch:
    """torch on a node, and the result of the process group."""

    version: _Text
    cuda: _Text | None  # CUDA version of the build
    gpus: list[_Text]
    ranks: int  # that connected
    seconds: Annotated[float, Meta(ge=0)]


@dataclass
class Answer:
    """A rank's report; `torch` or `error` is added after it tried to join the process group."""

    node: _Text
    python: _Text
    sees: bool  # whether it sees the results folder
    scontrol: bool
    torch: Torch | None = None
    error: _Text = ""


@dataclass(frozen=True)
class Probe:
    """The payload that submitit carries to the nodes."""

    folder: str
    token: str

    def __call__(self) -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the time-limit warning
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        ranks.from_slurm()
        folder, rank = Path(self.folder), os.environ.get("RANK", "0")
        answer = Answer(
            node=os.environ.get("SLURMD_NODENAME", platform.node()),
            python=platform.python_version(),
            sees=attempt.tail(folder / "token") == self.token,
            scontrol=queue.is_responding(),
        )
        status = 0
        _write(folder / f"answer-{rank}", answer)
        try:
            answer.torch = _torch()
        except Exception as error:
            answer.error = records.one_line(f"{type(error).__name__}: {error}", _MAX_CHARACTERS - 1)
            status = 1
        _write(folder / f"answer-{rank}", answer)
        os._exit(status)  # submitit would pickle a result


def _write(path: Path, answer: Answer) -> None:
    results.write(path, records.encode(asdict(answer)))


def _torch() -> Torch:
    """torch's version and GPUs on this node, and the number of ranks that connected.

    Raises RendezvousError if they cannot connect.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from repro.train import distributed

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    began = time.monotonic()
    with distributed.init_distributed(torch.device("cpu")) as group:
        connected = int(group.sum(torch.ones(1)).item())
    return Torch(
        version=metadata.version("torch"),
        cuda=torch.version.cuda,
        gpus=gpus,
        ranks=connected,
        seconds=time.monotonic() - began,
    )
