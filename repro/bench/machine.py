"""What this machine does at best, on one thread of a CPU or on a GPU: the floors of all others.

Products of two square matrices, and a sum of two vectors that fit into no cache. The peer of fp32
is torch as it comes; ours is as a run sets it (`repro.train.device`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from repro.bench import How
from repro.bench.measure import device_here, in_turns, seconds
from repro.bench.record import Comparison
from repro.train import device as devices

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices
NUMBERS = {"cpu": 2**26, "cuda": 2**28}  # in a vector, 4 bytes each
REPEATS = 3


def measure(how: How) -> Iterator[Comparison]:
    device = device_here()
    side = SIDES[device.type]
    for precision in ("fp32", *["bf16"] * devices.has_bf16(device)):
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        ways = {"ours": partial(_product, a, b, False)}
        if precision == "fp32":
            ways["torch"] = partial(_product, a, b, True)
        taken = in_turns(ways, how.rounds)
        yield Comparison(
            name=f"matrix product, {side} x {side}, {precision}",
            unit="ms",
            ours=taken["ours"],
            peer="torch's default" if "torch" in ways else "",
            theirs=taken.get("torch", []),
            flop=2.0 * side**3,
            precision="fp32" if precision == "fp32" else "bf16",
        )
    count = NUMBERS[device.type]
    x, y, out = (torch.ones(count, device=device) for _ in range(3))
    taken = in_turns({"ours": lambda: _milliseconds(lambda: torch.add(x, y, out=out))}, how.rounds)
    yield Comparison(
        name=f"sum of two vectors of {count * 4 / 2**20:.0f} MiB",
        unit="ms",
        ours=taken["ours"],
        bytes=3.0 * 4 * count,
    )


def _product(a: Tensor, b: Tensor, as_it_comes: bool) -> float:
    if as_it_comes:
        torch.set_float32_matmul_precision("highest")
    else:
        devices.configure_fp32(a.device)
    return _milliseconds(lambda: a @ b)


def _milliseconds(work: Callable[[], object]) -> float:
    """The quickest of a few: nothing else of the machine belongs to what it does at best."""
    device = device_here()
    return 1e3 * min(seconds(work, device) for _ in range(REPEATS))
