"""NesT T, S and B at 224 px and for CIFAR, vs timm's port.

Weights and images are the same; outputs are checked to be equal first. A training step is forward,
backward and AdamW. Each side runs in its own process, and they alternate: ours, timm as released,
and on a CPU timm with the torch settings of our runs. 'cifar' is the CIFAR
architecture assembled from timm's parts, with their multi-head attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from repro.bench import BenchError, BenchOptions
from repro.bench.measure import device_here, interleave
from repro.bench.record import Comparison
from repro.bench.side import Side
from repro.train import device as devices

MODELS = ("tiny", "small", "base", "cifar")
BATCHES = {"cpu": 8, "cuda": 64}
TOLERANCE = 1e-4  # of outputs, absolute
Precision = Literal["fp32", "bf16"]
# By the precision of ours: the sides to compare it with, and their names.
_PEERS: Mapping[Precision, Mapping[tuple[str, Precision], str]] = {
    "fp32": {
        ("timm", "fp32"): "timm, fp32",
        ("timm-configured", "fp32"): "timm, fp32, our settings",
    },
    "bf16": {("timm", "fp32"): "timm, fp32", ("timm", "bf16"): "timm, bf16"},
}
_COMMAND = ("-m", "repro.bench.nest_side")


def measure(options: BenchOptions) -> Iterator[Comparison]:
    device = device_here()
    batch = BATCHES[device.type]
    for model in options.only or MODELS:
        with TemporaryDirectory() as folder:
            arguments = [model, str(batch), folder]
            with ExitStack() as stack:
                sides = {name: stack.enter_context(Side([*_COMMAND, name, *arguments]))
                         for name in _sides(device)}  # fmt: skip
                sides["timm"].ask("save", bool)
                if (difference := sides["ours"].ask("difference", float)) > TOLERANCE:
                    raise BenchError(
                        f"NesT {model}: outputs differ by {difference:.1g} from timm's"
                    )
                yield from _compared(model, sides, options.rounds)


def _sides(device: torch.device) -> tuple[str, ...]:
    """The sides to measure: our settings of torch matter to timm on a CPU only."""
    return ("timm", "timm-configured", "ours") if device.type == "cpu" else ("timm", "ours")


def _compared(model: str, sides: Mapping[str, Side], rounds: int) -> Iterator[Comparison]:
    flop = sides["ours"].ask("flop", dict[str, float])
    min_bytes = sides["ours"].ask("bytes", dict[str, float])
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    if not devices.has_bf16(device_here()):
        precisions = ("fp32",)
    for kind in ("inference", "training step"):
        timers = {
            (name, precision): partial(side.ask, f"{kind} {precision}", float)
            for name, side in sides.items()
            for precision in precisions
            if (name, precision) != ("timm-configured", "bf16")
        }
        times = {
            key: [1e3 * seconds for seconds in values]
            for key, values in interleave(timers, rounds).items()
        }
        for precision in precisions:
            for peer, title in _PEERS[precision].items():
                if peer in times:
                    yield Comparison(
                        name=f"{model}, {kind}, {precision}",
                        unit="ms an image",
                        ours=times["ours", precision],
                        peer=title,
                        theirs=times[peer],
                        flop=flop[kind],
                        bytes=min_bytes[f"{kind} {precision}"],
                        precision=precision,
                    )
