"""What a probe job does on the nodes: each rank says what it sees, and meets the others."""

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

from repro import records, results
from repro.launch import attempt, queue, ranks

_MOST = 1000  # characters of a text in an answer
_Text = Annotated[str, Meta(max_length=_MOST)]


@dataclass(frozen=True)
class Torch:
    """What torch sees on a node, and whether the ranks met."""

    version: _Text
    cuda: _Text | None  # that it is built with
    gpus: list[_Text]
    ranks: int  # that met
    seconds: Annotated[float, Meta(ge=0)]


@dataclass
class Answer:
    """What a rank says; `torch` and `error` are missing until it has tried to meet the others."""

    node: _Text
    python: _Text
    sees: bool  # the results folder
    scontrol: bool
    torch: Torch | None = None
    error: _Text = ""


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
        said = Answer(
            node=os.environ.get("SLURMD_NODENAME", platform.node()),
            python=platform.python_version(),
            sees=attempt.tail(folder / "token") == self.token,
            scontrol=queue.answers(),
        )
        status = 0
        _write(folder / f"answer-{rank}", said)
        try:
            said.torch = _torch()
        except Exception as error:
            said.error = records.one_line(f"{type(error).__name__}: {error}", _MOST - 1)
            status = 1
        _write(folder / f"answer-{rank}", said)
        os._exit(status)  # submitit would write a pickle of a result


def _write(path: Path, said: Answer) -> None:
    results.write(path, records.encode(asdict(said)))


def _torch() -> Torch:
    """What torch sees on this node, and whether the ranks find each other. Apart if not."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from repro.train import distributed

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    began = time.monotonic()
    with distributed.join(torch.device("cpu")) as ours:
        met = int(ours.sum(torch.ones(1)).item())
    return Torch(
        version=metadata.version("torch"),
        cuda=torch.version.cuda,
        gpus=gpus,
        ranks=met,
        seconds=time.monotonic() - began,
    )
