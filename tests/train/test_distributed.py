"""Shares of a batch: disjoint, complete, and in whole pairs. Synchronised BatchNorms, and ranks
that never meet."""

from __future__ import annotations

import socket

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro.experiments import figure5_left, figure5_middle, table1, table2
from repro.spec import Classification, Generation, Model
from repro.train import distributed
from repro.train.distributed import Apart, Ranks


@given(st.integers(0, 300), st.integers(1, 9), st.sampled_from([1, 2]))
def test_shares(size: int, count: int, multiple: int) -> None:
    shares = [Ranks(r, count, torch.device("cpu")).share(size, multiple) for r in range(count)]
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(size))
    assert all(s.start % multiple == 0 for s in shares)
    lengths = [s.stop - s.start for s in shares]
    assert max(lengths) - min(lengths) <= 2 * multiple - 1


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


def apart(monkeypatch: pytest.MonkeyPatch, rank: int, address: str = "127.0.0.1") -> str:
    """What is said when a rank of two waits in vain; here for one second."""
    monkeypatch.setattr(distributed, "MEET_SECONDS", 1.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": address, "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(Apart) as error, distributed.join(torch.device("cpu")):
        pass
    said = str(error.value)
    assert (
        f"rank {rank} of 2, on {socket.gethostname()}, did not meet the others at {address}" in said
    )
    assert "\n" not in said
    assert "repro doctor --cluster" in said
    return said


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_that_do_not_meet_are_told(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """The first waits for the second, or the second for the first."""
    apart(monkeypatch, rank)


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    apart(monkeypatch, 1, "no-such-host.invalid")


def test_ranks_have_half_a_minute() -> None:
    assert distributed.MEET_SECONDS == 30
