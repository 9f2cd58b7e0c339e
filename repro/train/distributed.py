"""One process or many: who am I, my share of a batch, and sums over all.

Ranks come from the environment (RANK, WORLD_SIZE, LOCAL_RANK and the rendezvous address, as
torchrun sets them). Without them there is one process and nothing here costs anything.

Every rank does the same collectives in the same order. A rank that fails says so in the store
before it ends; the others then fail for that reason, and name it.
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

from repro import records
from repro.train import device as devices

MEET_SECONDS = 30.0  # for all ranks to find each other
NO_LIMIT = timedelta(days=3650)  # while the first rank measures for hours; its heartbeat decides
_WORD_SECONDS = 3.0  # for a rank that failed to say why
_POLL_SECONDS = 0.2

S = TypeVar("S")
T = TypeVar("T")


class Apart(RuntimeError):
    """The ranks did not find each other, or one of them has gone without a word."""


class Elsewhere(RuntimeError):
    """Another rank failed. `kinds`: the names of its error's classes."""

    def __init__(self, line: str, kinds: Iterable[str] = ()) -> None:
        super().__init__(line)
        self.kinds = frozenset(kinds)


def parts(size: int, count: int, multiple: int = 1) -> list[slice]:
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
    patient: Any = None  # a group of all ranks on the CPU, whose messages have no time limit

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, size: int, multiple: int = 1) -> slice:
        """This rank's contiguous part of `size` items: see `parts`."""
        return parts(size, self.count, multiple)[self.rank]

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all ranks."""
        if self.count > 1:
            value = value.clone()
            _collective(dist.all_reduce, value)
        return value

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is up on any rank. The device is not waited for, and there is
        no time limit."""
        return tuple(not low for low in self.least(*(not flag for flag in flags)))

    def least(self, *values: int) -> tuple[int, ...]:
        """Each value's least over all ranks. The device is not waited for."""
        if self.count == 1:
            return values
        found = torch.tensor(values)  # on the CPU: gloo's, not the device's, affair
        _collective(dist.all_reduce, found, dist.ReduceOp.MIN, self.patient)
        return tuple(found.tolist())

    def told(self, value: T) -> T:
        """The first rank's value, at all of them. There is no time limit."""
        if self.count == 1:
            return value
        values = [value]
        _collective(dist.broadcast_object_list, values, 0, self.patient)
        return values[0]

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks in their order, at the first one; [] at the others.

        Tensors in them are on the CPU. There is no time limit.
        """
        if self.count == 1:
            return [value]
        values: list[T] = [value] * self.count * self.first
        _collective(dist.gather_object, value, values or None, 0, self.patient)
        return values

    def map(self, work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        """What `work` makes of each item, in their order, at the first rank; nothing at the others.

        The ranks take the items in turn, so that not more results than ranks are there at a time.
        Every rank iterates to the end. A ValueError of the work of any of them is raised by all.
        """
        for start in range(0, len(items), self.count):
            there = min(self.count, len(items) - start)
            done: T | ValueError | None = None
            if self.rank < there:
                try:
                    done = work(items[start + self.rank])
                except ValueError as error:
                    done = error
            failed = isinstance(done, ValueError)
            found = self.gathered(done)[:there]
            if self.any(failed)[0]:
                raise self.told(next((e for e in found if isinstance(e, ValueError)), ValueError()))
            yield from found  # type: ignore[misc]  # no error is among them

    def align(self, *nets: nn.Module) -> None:
        """Every rank takes the weights and statistics of the first."""
        if self.count > 1:
            for net in nets:
                for value in (*net.parameters(), *net.buffers()):
                    _collective(dist.broadcast, value.detach(), 0)

    def add_up_gradients(self, net: nn.Module) -> None:
        """Every gradient becomes its sum over the ranks; one message for all."""
        if self.count == 1:
            return
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        _collective(dist.all_reduce, flat)
        sums = flat.split([gradient.numel() for gradient in gradients])
        shaped = [total.view_as(of) for total, of in zip(sums, gradients, strict=True)]
        torch._foreach_copy_(gradients, shaped)


def _collective(operation: Callable[..., object], *arguments: object) -> None:
    """Raises Apart if another rank is gone, as gloo sees from its closed connection."""
    try:
        operation(*arguments)
    except RuntimeError as error:
        raise Apart(f"another rank is gone ({_first_line(error)})") from error


def together(work: Callable[[Ranks], T], most: int | None = None) -> T | None:
    """What `work` makes of its ranks, of which there are at most `most`.

    A rank beyond these has nothing to do: it waits for the first one's end, without a time limit,
    and has None.
    """
    device = devices.choose()
    with join(device, most) as ranks, devices.flush_denormals(device):
        return work(ranks) if ranks.rank < ranks.count else None


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
def join(device: torch.device, most: int | None = None) -> Iterator[Ranks]:
    """This process's place among those that do the run together, at most `most`.

    A rank beyond these waits here until the first one ends; its rank is not below the count.
    Raises Apart, in one line, if the ranks have not found each other within `MEET_SECONDS`, or if
    one is gone later; Elsewhere if another rank has failed.
    """
    there = int(os.environ.get("WORLD_SIZE", "1"))
    if there == 1:
        yield Ranks(0, 1, device)
        return
    rank, count = int(os.environ["RANK"]), min(there, most or there)
    backend = "gloo"
    if device.type == "cuda":
        visible = torch.cuda.device_count()  # SLURM may show a task its own GPU only, or all
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % visible)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    store = _meet(rank, there)
    if rank >= count:
        warnings.warn(f"rank {rank} of {there} waits: there is work for {count}", stacklevel=3)
        _wait_for_end(store, there - count)
        yield Ranks(rank, count, device)
        return
    with _failures_told(store, rank):
        if count > 1:
            dist.init_process_group(backend, store=store, rank=rank, world_size=count)
        patient = dist.new_group(backend="gloo", timeout=NO_LIMIT) if count > 1 else None
        yield Ranks(rank, count, device, patient)
        if count > 1:
            dist.destroy_process_group()
    if rank == 0 and count < there:
        store.set(_key("end"), "")
        with suppress(RuntimeError):  # the store is needed until they know
            store.wait([_key("known")], timedelta(seconds=_WORD_SECONDS))


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
        arrived = store.add(_key("arrived"), 1)
        if arrived == count:
            store.set(_key("complete"), "")
        store.wait([_key("complete")], patience)
    except (RuntimeError, OSError) as error:
        place = f"at {host}:{port} within {MEET_SECONDS:.0f} s"
        raise Apart(
            f"{here}, did not meet the others {place} ({_first_line(error)}); can the nodes reach "
            "each other? `repro doctor --cluster FILE` tries it"
        ) from error
    store.set_timeout(dist.default_pg_timeout)
    return store


def _key(name: str) -> str:
    """A key of the store, of this start of the ranks: torchrun's agent serves all of its starts."""
    return f"{name}-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0].split(". ")[0]


# --- the ends of other ranks ---------------------------------------------------------------------


def _wait_for_end(store: Any, waiting: int) -> None:
    """Wait until the first rank has ended, well or not: it says so, or its store is gone."""
    with suppress(RuntimeError):
        while not store.check([_key("end")]):
            time.sleep(_POLL_SECONDS)
        if store.add(_key("knowing"), 1) == waiting:
            store.set(_key("known"), "")


@contextmanager
def _failures_told(store: Any, rank: int) -> Iterator[None]:
    """If this rank fails, say so to the others; if another one did before, fail for its reason.

    The process group is aborted, since others may never come to what is pending in it.
    """
    try:
        yield
    except Apart as error:
        raise _word_of_another(store, rank) or error from error
    except Exception as error:
        with suppress(RuntimeError):  # the first rank's store is gone
            if type(error).__name__ != "Interrupted" and store.add(_key("failures"), 1) == 1:
                store.set(_key("failure"), _word(error, rank))
        raise
    finally:
        if dist.is_initialized():
            dist.distributed_c10d._abort_process_group()


def _word(error: Exception, rank: int) -> str:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    line = " ".join(str(error).split())
    return records.encode({"line": f"rank {rank} failed: {kinds[0]}: {line}", "kinds": kinds})


class _Word(TypedDict):
    """What a rank that fails says to the others."""

    line: str
    kinds: list[str]


def _word_of_another(store: Any, rank: int) -> Elsewhere | None:
    """What the rank that failed first has said; None if it has gone without a word."""
    try:
        store.wait([_key("failure")], timedelta(seconds=_WORD_SECONDS))
        said = records.decode(store.get(_key("failure")), _Word)
    except (RuntimeError, records.Damaged):
        time.sleep(_POLL_SECONDS * bool(rank))  # the first rank, which is gone, ends before us
        return None
    return Elsewhere(said["line"], said["kinds"])
