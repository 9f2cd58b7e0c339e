"""This machine's peak rates, on one CPU thread or on a GPU: the floors of all other benchmarks.

Products of two square matrices, and a sum of two vectors too large for any cache. The peer of fp32
is torch's default; ours is the setting of runs (`repro.train.device`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from repro.bench import BenchOptions
from repro.bench.measure import device_here, interleave, seconds
from repro.bench.record import Comparison
from repro.train import device as devices

SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices
NUMBERS = {"cpu": 2**26, "cuda": 2**28}  # in a vector, 4 bytes each
REPEATS = 3


def measure(options: BenchOptions) -> Iterator[Comparison]:
    device = device_here()
    side = SIDES[device.type]
    for precision in ("fp32", *["bf16"] * devices.has_bf16(device)):
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        timers = {"ours": partial(_product, a, b, False)}
        if precision == "fp32":
            timers["torch"] = partial(_product, a, b, True)
        times = interleave(timers, options.rounds)
        yield Comparison(
            name=f"matrix product, {side} x {side}, {precision}",
            unit="ms",
            ours=times["ours"],
            peer="torch's default" if "torch" in timers else "",
            theirs=times.get("torch", []),
            flop=2.0 * side**3,
            precision="fp32" if precision == "fp32" else "bf16",
        )
    count = NUMBERS[device.type]
    x, y, out = (torch.ones(count, device=device) for _ in range(3))
    times = interleave(
        {"ours": lambda: _milliseconds(lambda: torch.add(x, y, out=out))}, options.rounds
    )
    yield Comparison(
        name=f"sum of two vectors of {count * 4 / 2**20:.0f} MiB",
        unit="ms",
        ours=times["ours"],
        bytes=3.0 * 4 * count,
    )


def _product(a: Tensor, b: Tensor, torch_default: bool) -> float:
    if torch_default:
        torch.set_float32_matmul_precision("highest")
    else:
        devices.configure_fp32(a.device)
    return _milliseconds(lambda: a @ b)


def _milliseconds(work: Callable[[], object]) -> float:
    """The fastest of a few repetitions, as the least disturbed by other processes."""
    device = device_here()
    return 1e3 * min(seconds(work, device) for _ in range(REPEATS))
