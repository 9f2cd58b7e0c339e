"""NesT T, S and B at 224 px and for CIFAR, beside timm's port as it is shipped.

The same weights and images; outputs are first found equal. A training step is forward, backward
and AdamW. Each side has a process of its own, and the two take turns. 'cifar' is the architecture
for CIFAR put together from timm's parts, with the multi-head attention that they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory

from repro.bench import BenchError, How
from repro.bench.measure import device_here, in_turns
from repro.bench.record import Comparison
from repro.bench.side import Side
from repro.train import device as devices

MODELS = ("tiny", "small", "base", "cifar")
BATCHES = {"cpu": 8, "cuda": 64}
TOLERANCE = 1e-4  # of outputs, absolute


def measure(how: How) -> Iterator[Comparison]:
    device = device_here()
    batch = BATCHES[device.type]
    for model in how.only or MODELS:
        with TemporaryDirectory() as folder:
            words = [model, str(batch), folder]
            command = ["-m", "repro.bench.nest_side"]
            with Side([*command, "timm", *words]) as timm, Side([*command, "ours", *words]) as ours:
                flop = timm.ask("flop", float)
                timm.ask("save", bool)
                if (apart := ours.ask("difference", float)) > TOLERANCE:
                    raise BenchError(f"NesT {model}: outputs differ by {apart:.1g} from timm's")
                moved = ours.ask("bytes", dict[str, float])
                yield from _compared(model, flop, moved, timm, ours, how.rounds)


def _compared(
    model: str, flop: float, moved: dict[str, float], timm: Side, ours: Side, rounds: int
) -> Iterator[Comparison]:
    bf16 = devices.has_bf16(device_here())
    kinds = {"inference": 1, "training step": 3}
    words = {(k, p): f"{k} {p}" for k in kinds for p in ("fp32", *["bf16"] * bf16)}
    for kind, passes in kinds.items():
        ways = {}
        for (of, precision), word in words.items():
            if of == kind:
                ways[f"timm {precision}"] = partial(timm.ask, word, float)
                ways[f"ours {precision}"] = partial(ours.ask, word, float)
        taken = in_turns(ways, rounds)
        for precision in ("fp32", *["bf16"] * bf16):
            for peer in dict.fromkeys(("fp32", precision)):
                yield Comparison(
                    name=f"NesT {model}, {kind}, {precision}",
                    unit="ms an image",
                    ours=[1e3 * s for s in taken[f"ours {precision}"]],
                    peer=f"timm, {peer}",
                    theirs=[1e3 * s for s in taken[f"timm {peer}"]],
                    flop=passes * flop,
                    bytes=moved[f"{kind} {precision}"],
                    precision="bf16" if precision == "bf16" else "fp32",
                )
