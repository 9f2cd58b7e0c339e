"""One process or many: who am I, my share of a batch, and sums over all.

Ranks come from the environment (RANK, WORLD_SIZE, LOCAL_RANK and the rendezvous address, as
torchrun sets them). Without them there is one process and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        if self.count == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)


@contextmanager
def join(device: torch.device) -> Iterator[Ranks]:
    """This process's place among those that train the run together."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
