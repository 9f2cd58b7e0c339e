"""Seconds that timm's NesT takes, over those that ours takes: one CPU thread, the same weights.

    python benchmarks/nest.py [--models tiny,small,base,cifar] [--rounds 5] [--batch 8]

Inference, and a training step: forward, backward and AdamW. timm's model is as timm ships it, in
fp32 and with torch's settings; ours is as a run has it, in fp32, and in bf16 where the CPU has it,
also beside timm's in bf16. 'cifar' is NesT-T for CIFAR put together from timm's parts, with the
multi-head attention that they have. Outputs are first found equal. One process, CPU time; the ways
take turns within a round, and the ratio is the median of the rounds' own, [least..most].
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeAlias

import torch
import torch.nn.functional as F
from timm.models.nest import Nest
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from repro.data.randomness import sample_keys
from repro.models import stochastic_depth
from repro.models.nest import NesT
from repro.models.nest_flax import read_timm
from repro.train import device as devices
from repro.train import optim

CPU = torch.device("cpu")
Context: TypeAlias = Callable[[], AbstractContextManager[object]]
PRECISIONS: dict[str, Context] = {
    "fp32": nullcontext,
    "bf16": partial(torch.autocast, "cpu", torch.bfloat16),
}


@dataclass(frozen=True)
class Size:
    """A variant, in timm's words."""

    img_size: int
    patch_size: int
    embed_dims: tuple[int, ...]
    num_heads: tuple[int, ...]
    depths: tuple[int, ...]
    drop_path_rate: float


SIZES = {
    "tiny": Size(224, 4, (96, 192, 384), (3, 6, 12), (2, 2, 8), 0.2),
    "small": Size(224, 4, (96, 192, 384), (3, 6, 12), (2, 2, 20), 0.3),
    "base": Size(224, 4, (128, 256, 512), (4, 8, 16), (2, 2, 20), 0.5),
    "cifar": Size(32, 1, (192,) * 4, (3,) * 4, (3,) * 4, 0.1),
}


def pair(size: Size) -> tuple[nn.Module, nn.Module]:
    """timm's model, whose pooling is that of its nest_*_jx, and ours with the same weights."""
    torch.manual_seed(0)
    theirs: nn.Module = Nest(**vars(size), num_levels=len(size.depths), pad_type="same")
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # so that outputs are not next to nothing
    config, state = read_timm(theirs.state_dict(), size.embed_dims[0] // size.num_heads[0])
    ours = NesT(**{**config, "depths": size.depths, "drop_path_rate": size.drop_path_rate})
    ours.load_state_dict(state)
    return theirs, ours


def steps(size: Size, batch: int) -> dict[str, Callable[[], float]]:
    """CPU seconds of each thing to do, by who does it, what it is and in which precision."""
    theirs, ours = pair(size)
    images = torch.randn(batch, 3, size.img_size, size.img_size)
    labels = torch.arange(batch)
    keys = sample_keys(0, 0, labels)
    drops = stochastic_depth.install(ours)
    adams = {
        "timm": create_optimizer_v2(theirs, "adamw", lr=1e-6, weight_decay=0.05),
        "ours": optim.build(ours.named_parameters(), optimizer="adamw", weight_decay=0.05,
                            decay_biases=True, no_decay=("pos_embed",)),
    }  # fmt: skip

    def forward(model: nn.Module, context: Context) -> Tensor:
        with context():
            logits: Tensor = model(images)
        return logits.float()

    def infer(name: str, context: Context) -> float:
        model = as_used(name).eval()
        start = time.process_time()
        with torch.inference_mode():
            forward(model, context)
        return time.process_time() - start

    def train(name: str, context: Context) -> float:
        model = as_used(name).train()
        start = time.process_time()
        stochastic_depth.draw(drops, keys)
        loss = F.cross_entropy(forward(model, context), labels)
        adams[name].zero_grad()
        torch.autograd.backward(loss)
        adams[name].step()
        return time.process_time() - start

    def as_used(name: str) -> nn.Module:
        if name == "ours":
            devices.configure_fp32(CPU)
            return ours
        torch.set_float32_matmul_precision("highest")  # torch's default
        return theirs

    with torch.inference_mode():
        expected, found = (
            forward(as_used(name).eval(), PRECISIONS["fp32"]) for name in ("timm", "ours")
        )
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    ways: dict[str, Callable[[], float]] = {}
    for name in ("timm", "ours"):
        for precision, context in PRECISIONS.items():
            if precision == "fp32" or devices.has_bf16(CPU):
                ways[f"{name} inference {precision}"] = partial(infer, name, context)
                ways[f"{name} training step {precision}"] = partial(train, name, context)
    return dict(sorted(ways.items(), key=lambda way: way[0].split()[1:]))  # peers side by side


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,small,base,cifar")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(devices.describe(CPU), f"batch {arguments.batch}")
    for model in arguments.models.split(","):
        ways = steps(SIZES[model], arguments.batch)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(1 + arguments.rounds):
            for way, run in ways.items():
                seconds = run()
                if number:  # the first one warms up
                    times[way].append(seconds / arguments.batch)
        for way, ours in times.items():
            name, what = way.split(maxsplit=1)
            if name == "ours":
                line = f"{model:6}{what:20}{median(ours) * 1e3:7.1f} ms/image"
                beside = {f"timm {what}", f"timm {what.replace('bf16', 'fp32')}"}
                for peer in sorted(beside, reverse=True):
                    ratios = [a / b for a, b in zip(times[peer], ours, strict=True)]
                    spread = f"[{min(ratios):.2f}..{max(ratios):.2f}]"
                    line += f"  {median(ratios):5.2f}x timm {peer[-4:]} {spread}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
