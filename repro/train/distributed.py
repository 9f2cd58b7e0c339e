"""Distributed training: ranks, shares of a batch, and collectives.

Ranks come from the environment (RANK, WORLD_SIZE, LOCAL_RANK and the rendezvous address, as
torchrun sets them). Without them there is one process and nothing here costs anything.

Every rank runs the same collectives in the same order. A rank that fails writes a failure report to
the store; the other ranks then fail with that report.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypedDict, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repro.core import records
from repro.train import device as devices

RENDEZVOUS_TIMEOUT_S = 30.0  # for the rendezvous of all ranks
NO_TIMEOUT = timedelta(days=3650)  # while the first rank measures for hours; its heartbeat decides
_REPORT_TIMEOUT_S = 3.0  # to wait for a failure report
_POLL_S = 0.2

S = TypeVar("S")
T = TypeVar("T")


class RendezvousError(RuntimeError):
    """The rendezvous failed, or a rank is gone without a failure report."""


class PeerFailure(RuntimeError):
    """Another rank failed. `kinds`: the names of its error's classes."""

    def __init__(self, line: str, kinds: Iterable[str] = ()) -> None:
        super().__init__(line)
        self.kinds = frozenset(kinds)


def partition(size: int, count: int, multiple: int = 1) -> list[slice]:
    """`size` items as `count` contiguous parts, in whole groups of `multiple`.

    The parts are disjoint, cover everything, and differ by at most one group.
    """
    groups = -(-size // multiple)
    ends = [min(groups * number // count * multiple, size) for number in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


@dataclass(frozen=True)
class Ranks:
    """This process among `count`."""

    rank: int
    count: int
    device: torch.device
    untimed_group: Any = None  # a group of all ranks on the CPU, whose messages have no time limit

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, size: int, multiple: int = 1) -> slice:
        """This rank's contiguous part of `size` items: see `partition`."""
        return partition(size, self.count, multiple)[self.rank]

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all ranks."""
        if self.count > 1:
            value = value.clone()
            _run_collective(dist.all_reduce, value)
        return value

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank. It does not synchronise the device, and has
        no time limit."""
        return tuple(not unset for unset in self.min(*(not flag for flag in flags)))

    def min(self, *values: int) -> tuple[int, ...]:
        """The minimum of each value over all ranks. It does not synchronise the device."""
        if self.count == 1:
            return values
        minima = torch.tensor(values)  # on the CPU, for gloo
        _run_collective(dist.all_reduce, minima, dist.ReduceOp.MIN, self.untimed_group)
        return tuple(minima.tolist())

    def broadcast(self, value: T) -> T:
        """The value of rank 0, on all ranks. There is no time limit."""
        if self.count == 1:
            return value
        values = [value]
        _run_collective(dist.broadcast_object_list, values, 0, self.untimed_group)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks in order, on rank 0; [] on the others.

        Tensors in them are on the CPU. There is no time limit.
        """
        if self.count == 1:
            return [value]
        values: list[T] = [value] * self.count * self.is_first
        _run_collective(dist.gather_object, value, values or None, 0, self.untimed_group)
        return values

    def map(self, work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        """The results of `work` for each item, in order, on rank 0; nothing on the others.

        The ranks take items in turn, so at most one result per rank is in memory. Every rank
        iterates to the end. A ValueError on any rank is raised on all.
        """
        for start in range(0, len(items), self.count):
            active = min(self.count, len(items) - start)
            result: T | ValueError | None = None
            if self.rank < active:
                try:
                    result = work(items[start + self.rank])
                except ValueError as error:
                    result = error
            failed = isinstance(result, ValueError)
            results = self.gather(result)[:active]
            if self.any(failed)[0]:
                raise self.broadcast(
                    next((e for e in results if isinstance(e, ValueError)), ValueError())
                )
            yield from results  # type: ignore[misc]  # no error is among them

    def broadcast_weights(self, *nets: nn.Module) -> None:
        """Copy the weights and buffers of rank 0 to every rank."""
        if self.count > 1:
            for net in nets:
                for value in (*net.parameters(), *net.buffers()):
                    _run_collective(dist.broadcast, value.detach(), 0)

    def all_reduce_gradients(self, net: nn.Module) -> None:
        """Sum every gradient over the ranks, in one all-reduce."""
        if self.count == 1:
            return
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        _run_collective(dist.all_reduce, flat)
        sums = flat.split([gradient.numel() for gradient in gradients])
        views = [total.view_as(grad) for total, grad in zip(sums, gradients, strict=True)]
        torch._foreach_copy_(gradients, views)


def _run_collective(operation: Callable[..., object], *arguments: object) -> None:
    """Run a collective. Raises RendezvousError if another rank is gone (its connection closed)."""
    try:
        operation(*arguments)
    except RuntimeError as error:
        raise RendezvousError(f"another rank is gone ({_first_line(error)})") from error


def run_on_ranks(work: Callable[[Ranks], T], most: int | None = None) -> T | None:
    """Run `work` on at most `most` ranks and return its result.

    Ranks beyond `most` have no work: they wait for rank 0 to end, without a time limit, and get
    None.
    """
    device = devices.choose()
    with init_distributed(device, most) as ranks, devices.flush_denormals(device):
        return work(ranks) if ranks.rank < ranks.count else None


def synchronize_batch_norms(net: nn.Module, ranks: Ranks) -> nn.Module:
    """Convert BatchNorms of `net` to the statistics of all GPUs' batches, if there are several.

    By timm's conversion: torch's own replaces timm's BatchNormAct2d by a norm without activation.
    """
    if ranks.count == 1 or ranks.device.type != "cuda":
        return net
    from timm.layers import convert_sync_batchnorm  # not needed to probe a cluster; 3 s to import

    converted: nn.Module = convert_sync_batchnorm(net)
    return converted


@contextmanager
def init_distributed(device: torch.device, most: int | None = None) -> Iterator[Ranks]:
    """Initialise the process group and yield this process's `Ranks`, at most `most` in all.

    A rank beyond these waits here until the first one ends; its rank is not below the count.
    Raises RendezvousError, in one line, if the ranks have not found each other within
    `RENDEZVOUS_TIMEOUT_S`, or if one is gone later; PeerFailure if another rank has failed.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Ranks(0, 1, device)
        return
    rank, count = int(os.environ["RANK"]), min(world_size, most or world_size)
    backend = "gloo"
    if device.type == "cuda":
        visible = torch.cuda.device_count()  # on SLURM, only the task's own GPU or all
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % visible)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    store = _rendezvous(rank, world_size)
    if rank >= count:
        warnings.warn(f"rank {rank} of {world_size} waits: there is work for {count}", stacklevel=3)
        _wait_for_end(store, world_size - count)
        yield Ranks(rank, count, device)
        return
    with _report_failures(store, rank):
        if count > 1:
            dist.init_process_group(backend, store=store, rank=rank, world_size=count)
        untimed_group = dist.new_group(backend="gloo", timeout=NO_TIMEOUT) if count > 1 else None
        yield Ranks(rank, count, device, untimed_group)
        if count > 1:
            dist.destroy_process_group()
    if rank == 0 and count < world_size:
        store.set(_key("end"), "")
        with suppress(RuntimeError):  # the store must outlive the waiting ranks
            store.wait([_key("acknowledged")], timedelta(seconds=_REPORT_TIMEOUT_S))


def _rendezvous(rank: int, count: int) -> Any:
    """The store at the first rank's address, once all ranks have reached it."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    under_torchrun = (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    )  # its agent is the server
    timeout = timedelta(seconds=RENDEZVOUS_TIMEOUT_S)
    rank_name = f"rank {rank} of {count}, on {socket.gethostname()}"
    try:
        is_server = rank == 0 and not under_torchrun
        store: Any = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            host, port, None, is_server, timeout, wait_for_workers=False
        )
        arrived = store.add(_key("arrived"), 1)
        if arrived == count:
            store.set(_key("complete"), "")
        store.wait([_key("complete")], timeout)
    except (RuntimeError, OSError) as error:
        limit = f"at {host}:{port} within {RENDEZVOUS_TIMEOUT_S:.0f} s"
        raise RendezvousError(
            f"{rank_name}, did not meet the others {limit} ({_first_line(error)}); can the nodes "
            "reach each other? `repro doctor --cluster FILE` tries it"
        ) from error
    store.set_timeout(dist.default_pg_timeout)
    return store


def _key(name: str) -> str:
    """A store key for this start of the ranks: torchrun's agent has one store for all restarts."""
    return f"{name}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0].split(". ")[0]


# --- failures of other ranks ---------------------------------------------------------------------


def _wait_for_end(store: Any, waiting: int) -> None:
    """Wait until rank 0 has ended: it sets a key, or its store is gone."""
    with suppress(RuntimeError):
        while not store.check([_key("end")]):
            time.sleep(_POLL_S)
        if store.add(_key("acknowledging"), 1) == waiting:
            store.set(_key("acknowledged"), "")


@contextmanager
def _report_failures(store: Any, rank: int) -> Iterator[None]:
    """Report a failure of this rank to the others; if another failed first, raise its failure.

    The process group is aborted, since pending collectives may never complete.
    """
    try:
        yield
    except RendezvousError as error:
        raise _peer_failure(store, rank) or error from error
    except Exception as error:
        with suppress(RuntimeError):  # the first rank's store is gone
            if type(error).__name__ != "Interrupted" and store.add(_key("failures"), 1) == 1:
                store.set(_key("failure"), _encode_report(error, rank))
        raise
    finally:
        if dist.is_initialized():
            dist.distributed_c10d._abort_process_group()


def _encode_report(error: Exception, rank: int) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    line = " ".join(str(error).split())
    return records.encode({"line": f"rank {rank} failed: {kinds[0]}: {line}", "kinds": kinds})


class _FailureReport(TypedDict):
    """The failure report of a rank."""

    line: str
    kinds: list[str]


def _peer_failure(store: Any, rank: int) -> PeerFailure | None:
    """The failure that another rank reported; None if there is no report."""
    try:
        store.wait([_key("failure")], timedelta(seconds=_REPORT_TIMEOUT_S))
        report = records.decode(store.get(_key("failure")), _FailureReport)
    except (RuntimeError, records.Damaged):
        time.sleep(_POLL_S * bool(rank))  # so that the first rank exits before the others
        return None
    return PeerFailure(report["line"], report["kinds"])
