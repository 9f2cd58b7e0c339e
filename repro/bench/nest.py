"""NesT T, S and B at 224 px and for CIFAR, vs timm's port.

Weights and images are the same; outputs are checked to be equal first. A training step is forward,
backward and AdamW. Each side runs in its own process, and the two alternate. 'cifar' is the CIFAR
architecture assembled from timm's parts, with their multi-head attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory

from repro.bench import BenchError, BenchOptions
from repro.bench.measure import device_here, interleave
from repro.bench.record import Comparison
from repro.bench.side import Side
from repro.train import device as devices

MODELS = ("tiny", "small", "base", "cifar")
BATCHES = {"cpu": 8, "cuda": 64}
TOLERANCE = 1e-4  # of outputs, absolute


def measure(options: BenchOptions) -> Iterator[Comparison]:
    device = device_here()
    batch = BATCHES[device.type]
    for model in options.only or MODELS:
        with TemporaryDirectory() as folder:
            arguments = [model, str(batch), folder]
            command = ["-m", "repro.bench.nest_side"]
            with (
                Side([*command, "timm", *arguments]) as timm,
                Side([*command, "ours", *arguments]) as ours,
            ):
                flop = timm.ask("flop", float)
                timm.ask("save", bool)
                if (difference := ours.ask("difference", float)) > TOLERANCE:
                    raise BenchError(
                        f"NesT {model}: outputs differ by {difference:.1g} from timm's"
                    )
                min_bytes = ours.ask("bytes", dict[str, float])
                yield from _compared(model, flop, min_bytes, timm, ours, options.rounds)


def _compared(
    model: str, flop: float, min_bytes: dict[str, float], timm: Side, ours: Side, rounds: int
) -> Iterator[Comparison]:
    bf16 = devices.has_bf16(device_here())
    passes_of = {"inference": 1, "training step": 3}
    commands = {(k, p): f"{k} {p}" for k in passes_of for p in ("fp32", *["bf16"] * bf16)}
    for kind, passes in passes_of.items():
        timers = {}
        for (of, precision), name in commands.items():
            if of == kind:
                timers[f"timm {precision}"] = partial(timm.ask, name, float)
                timers[f"ours {precision}"] = partial(ours.ask, name, float)
        times = interleave(timers, rounds)
        for precision in ("fp32", *["bf16"] * bf16):
            for peer in dict.fromkeys(("fp32", precision)):
                yield Comparison(
                    name=f"NesT {model}, {kind}, {precision}",
                    unit="ms an image",
                    ours=[1e3 * s for s in times[f"ours {precision}"]],
                    peer=f"timm, {peer}",
                    theirs=[1e3 * s for s in times[f"timm {peer}"]],
                    flop=passes * flop,
                    bytes=min_bytes[f"{kind} {precision}"],
                    precision="bf16" if precision == "bf16" else "fp32",
                )
