"""Shares of a batch: disjoint, complete, and in whole pairs. And ranks that never meet."""

from __future__ import annotations

import socket

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.train import distributed
from repro.train.distributed import Apart, Ranks


@given(st.integers(0, 300), st.integers(1, 9), st.sampled_from([1, 2]))
def test_shares(size: int, count: int, multiple: int) -> None:
    shares = [Ranks(r, count, torch.device("cpu")).share(size, multiple) for r in range(count)]
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(size))
    assert all(s.start % multiple == 0 for s in shares)
    lengths = [s.stop - s.start for s in shares]
    assert max(lengths) - min(lengths) <= 2 * multiple - 1


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
