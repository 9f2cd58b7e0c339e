"""Shares of a batch: disjoint, complete, and in whole pairs. Synchronised BatchNorms. Ranks that
have no share, that wait for hours, that fail, and that never meet."""

from __future__ import annotations

import os
import signal
import socket
import time
from datetime import timedelta

import pytest
import timm
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._C._distributed_c10d import HashStore
from torch.nn.modules.batchnorm import _BatchNorm

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro.experiments import figure5_left, figure5_middle, table1, table2
from repro.spec import Classification, Generation, Model
from repro.tasks import NotFinite
from repro.train import distributed
from repro.train.accumulation import MicroBatches
from repro.train.distributed import Ranks, RendezvousError, partition
from tests.train.spawned import in_ranks


@given(st.integers(0, 300), st.integers(1, 9), st.sampled_from([1, 2]))
def test_shares(size: int, count: int, multiple: int) -> None:
    shares = [Ranks(r, count, torch.device("cpu")).share(size, multiple) for r in range(count)]
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(size))
    assert all(s.start % multiple == 0 for s in shares)
    lengths = [s.stop - s.start for s in shares]
    assert max(lengths) - min(lengths) <= 2 * multiple - 1


@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 50)),
    st.sampled_from([1, 2]),
)
def test_all_ranks_have_as_many_micro_batches(
    size: int, count: int, limit: int | None, multiple: int
) -> None:
    """None of them empty, and none larger than what fits, or than one group more."""
    count = min(count, -(-size // multiple))  # so many that each has a share
    divided = [
        MicroBatches([], size, Silent(rank, count, torch.device("cpu")), limit, multiple)
        for rank in range(count)
    ]
    assert len({ours.count for ours in divided}) == 1
    for ours in divided:
        lengths = [s.stop - s.start for s in partition(ours.share, ours.count, multiple)]
        assert min(lengths) > 0
        assert max(lengths) <= ours.size <= max(multiple, limit or size) + multiple


class Silent(Ranks):
    """A rank among others that are not there, but have the same."""

    def min(self, *values: int) -> tuple[int, ...]:
        return values


SEVERAL_GPUS = Ranks(0, 2, torch.device("cuda", 0))


def models() -> dict[Model, int]:
    """The networks of both tables and of the generators' figures, and the side of a small input;
    0: a latent."""
    found: dict[Model, int] = {}
    for item in (table1, table2, figure5_left, figure5_middle):
        for run in (cell.run for cell in item.EXPERIMENT.cells):
            if isinstance(run, Classification):
                found[run.model] = 64 if item is table2 else 32
            if isinstance(run, Generation):
                found |= {run.generator: 0, run.discriminator: 64}
    return found


def norms(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


@pytest.mark.parametrize(("model", "side"), models().items(), ids=str)
def test_synchronised_norms_compute_what_the_others_did(model: Model, side: int) -> None:
    """Their activation included, which timm has within the norm."""
    with torch.device("meta"):
        net = timm.create_model(model.name, **dict(model.options))
    if not norms(net):
        before = list(net.modules())
        assert list(distributed.synchronize_batch_norms(net, SEVERAL_GPUS).modules()) == before
        return
    net = timm.create_model(model.name, **dict(model.options)).eval()
    x = torch.randn(2, 3, side, side) if side else torch.randn(2, net.latent_dim)
    with torch.inference_mode():
        before = net(x)
        net = distributed.synchronize_batch_norms(net, SEVERAL_GPUS)
        assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms(net))
        assert torch.equal(net(x), before)


def test_one_process_or_cpus_have_nothing_to_synchronise() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3))
    for ranks in (Ranks(0, 1, SEVERAL_GPUS.device), Ranks(0, 2, torch.device("cpu"))):
        (norm,) = norms(distributed.synchronize_batch_norms(net, ranks))
        assert type(norm) is nn.BatchNorm2d


# --- among real ranks ----------------------------------------------------------------------------


def waits(ranks: Ranks) -> float:
    """The first rank measures for longer than a message may take; how long it was waited for."""
    began = time.monotonic()
    if ranks.is_first:
        time.sleep(4)
    assert ranks.any(ranks.is_first, False) == (True, False)
    assert int(ranks.sum(torch.ones(1))) == 3
    return time.monotonic() - began


def impatient(ranks: Ranks) -> float:
    """The same among ranks whose other messages may take two seconds."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
    return waits(ranks)


def test_the_first_rank_is_waited_for_without_a_limit() -> None:
    """As the fourth rank does, for which there is no work."""
    *worked, idle = in_ranks(4, impatient, most=3)
    assert all(isinstance(seconds, float) and seconds > 3.9 for seconds in worked), worked
    assert idle is None


def mapped(ranks: Ranks, count: int, wrong: int | None) -> tuple[list[str], list[int]]:
    """What the map has, and which items were this rank's."""
    mine = list[int]()

    def work(item: int) -> str:
        mine.append(item)
        if item == wrong:
            raise NotFinite(f"item {item}")
        return f"made of {item}"

    return list(ranks.map(work, range(count))), mine


@pytest.mark.parametrize(("count", "items"), [(1, 3), (2, 5), (3, 0), (12, 5)])
def test_a_map_is_divided_and_the_first_has_it_in_its_order(count: int, items: int) -> None:
    """Also where there are fewer items than ranks."""
    said = in_ranks(count, mapped, items, None)
    whole = [f"made of {item}" for item in range(items)]
    for rank, each in enumerate(said):
        assert each == ([] if rank else whole, list(range(rank, items, count)))


@pytest.mark.parametrize("wrong", [1, 4])
def test_an_error_of_a_map_is_raised_by_all(wrong: int) -> None:
    """Of its class, and in its words; by the first rank or another one, in any round."""
    assert in_ranks(3, mapped, 5, wrong) == [f"NotFinite: item {wrong}"] * 3


def told(ranks: Ranks) -> list[object]:
    return [ranks.broadcast(ranks.rank + 5), ranks.gather(str(ranks.rank))]


def test_the_first_tells_and_gathers() -> None:
    assert in_ranks(3, told) == [[5, ["0", "1", "2"]], [5, []], [5, []]]


def fails(ranks: Ranks, culprit: int, how: str) -> None:
    """One rank fails while the others are in the midst of a message."""
    ranks.sum(torch.ones(1))
    if ranks.rank == culprit:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no such thing")
    ranks.sum(torch.ones(1))


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_a_rank_that_fails_is_named_by_the_others(culprit: int) -> None:
    """And all end: nobody waits for the half hour of torch."""
    began = time.monotonic()
    said = in_ranks(3, fails, culprit, "error")
    assert time.monotonic() - began < 120
    assert said.pop(culprit) == "ValueError: no such thing"
    named = f"PeerFailure: rank {culprit} failed: ValueError: no such thing"
    gone = "RendezvousError: another rank is gone"  # of the first, its store is gone with it
    assert all(s == named or (not culprit and str(s).startswith(gone)) for s in said)


def test_a_rank_that_is_killed_leaves_the_others_lost() -> None:
    """Which SLURM's requeue is for: no error of theirs."""
    first, second, third = in_ranks(3, fails, 1, "killed")
    assert second == "no word"
    for said in (first, third):
        assert str(said).startswith("RendezvousError: another rank is gone")


def apart(monkeypatch: pytest.MonkeyPatch, rank: int, address: str = "127.0.0.1") -> str:
    """What is said when a rank of two waits in vain; here for one second."""
    monkeypatch.setattr(distributed, "RENDEZVOUS_TIMEOUT_S", 1.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": address, "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(RendezvousError) as error, distributed.init_distributed(torch.device("cpu")):
        pass
    said = str(error.value)
    assert (
        f"rank {rank} of 2, on {socket.gethostname()}, did not meet the others at {address}" in said
    )
    assert "\n" not in said
    assert "repro doctor --cluster" in said
    return said


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_meet_are_reported(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """The first waits for the second, or the second for the first."""
    apart(monkeypatch, rank)


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    apart(monkeypatch, 1, "no-such-host.invalid")


def test_ranks_have_half_a_minute() -> None:
    assert distributed.RENDEZVOUS_TIMEOUT_S == 30


@pytest.mark.parametrize("said", ["", "[" * 100_000, "null", '{"line": 1, "kinds": []}', "\xff"])
def test_a_word_of_another_rank_that_is_none(said: str) -> None:
    store = HashStore()
    store.set(distributed._key("failure"), said)
    assert distributed._peer_failure(store, 0) is None
    store.set(distributed._key("failure"), distributed._encode_report(ValueError("why"), 1))
    word = distributed._peer_failure(store, 0)
    assert "rank 1 failed: ValueError: why" in str(word)
