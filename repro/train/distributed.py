"""One process or many: who am I, my share of a batch, and sums over all.

Ranks come from the environment (RANK, WORLD_SIZE, LOCAL_RANK and the rendezvous address, as
torchrun sets them). Without them there is one process and nothing here costs anything.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MEET_SECONDS = 30.0  # for all ranks to find each other


class Apart(RuntimeError):
    """The ranks did not find each other."""


@dataclass(frozen=True)
class Ranks:
    """This process among `count`."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, size: int, multiple: int = 1) -> slice:
        """This rank's contiguous part of `size` items, in whole groups of `multiple`; the parts of
        all ranks are disjoint, cover everything, and differ by at most one group."""
        groups = -(-size // multiple)
        start = groups * self.rank // self.count * multiple
        stop = groups * (self.rank + 1) // self.count * multiple
        return slice(start, min(stop, size))

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all ranks."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is up on any rank. The device is not waited for."""
        if self.count == 1:
            return flags
        up = torch.tensor(flags, dtype=torch.uint8)  # on the CPU: gloo's, not the device's, affair
        dist.all_reduce(up, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in up)


def synchronize_batch_norms(net: nn.Module, ranks: Ranks) -> nn.Module:
    """`net`, whose BatchNorms use the statistics of all GPUs' batches, if there are several GPUs.

    By timm's conversion: torch's own replaces timm's BatchNormAct2d by a norm without activation.
    """
    if ranks.count == 1 or ranks.device.type != "cuda":
        return net
    from timm.layers import convert_sync_batchnorm  # not needed to probe a cluster; 3 s to import

    converted: nn.Module = convert_sync_batchnorm(net)
    return converted


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """This process's place among those that train the run together.

    Raises Apart, in one line, if the ranks have not found each other within `MEET_SECONDS`.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(0, 1, device)
        return
    rank = int(os.environ["RANK"])
    backend = "gloo"
    if device.type == "cuda":
        visible = torch.cuda.device_count()  # SLURM may show a task its own GPU only, or all
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % visible)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=_meet(rank, count), rank=rank, world_size=count)
    try:
        yield Ranks(rank, count, device)
    finally:
        dist.destroy_process_group()


def _meet(rank: int, count: int) -> Any:
    """The store at the first rank's address, once all ranks have reached it."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    under_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # its agent serves
    patience = timedelta(seconds=MEET_SECONDS)
    here = f"rank {rank} of {count}, on {socket.gethostname()}"
    try:
        serves = rank == 0 and not under_torchrun
        store: Any = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, port, None, serves, patience, wait_for_workers=False
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # one agent serves them all
        arrived = store.add(f"arrived-{attempt}", 1)
        if arrived == count:
            store.set(f"complete-{attempt}", "")
        store.wait([f"complete-{attempt}"], patience)
    except (RuntimeError, OSError) as error:
        cause = str(error).split("\n")[0].split(". ")[0]
        place = f"at {host}:{port} within {MEET_SECONDS:.0f} s"
        raise Apart(
            f"{here}, did not meet the others {place} ({cause}); can the nodes reach each other? "
            "`repro doctor --cluster FILE` tries it"
        ) from error
    store.set_timeout(dist.default_pg_timeout)
    return store
