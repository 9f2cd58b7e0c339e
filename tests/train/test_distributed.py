"""Shares of a batch: disjoint, complete, and in whole pairs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.train.distributed import Ranks


@given(st.integers(0, 300), st.integers(1, 9), st.sampled_from([1, 2]))
def test_shares(size: int, count: int, multiple: int) -> None:
    shares = [Ranks(r, count, torch.device("cpu")).share(size, multiple) for r in range(count)]
    assert [i for s in shares for i in range(s.start, s.stop)] == list(range(size))
    assert all(s.start % multiple == 0 for s in shares)
    lengths = [s.stop - s.start for s in shares]
    assert max(lengths) - min(lengths) <= 2 * multiple - 1
