"""One side of the benchmark `nest`, in its own process: `nest_side SIDE MODEL BATCH FOLDER`.

SIDE is 'timm', timm's code as a user runs it; 'timm-configured', the same with the torch settings
of our runs; or 'ours'. timm's sides run none of our models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from repro.bench.measure import device_here, seconds
from repro.bench.side import serve
from repro.models.attention import kernel
from repro.train import device as devices


@dataclass(frozen=True)
class Size:
    """A variant, in timm's parameters."""

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


def timm_model(size: Size) -> nn.Module:
    """timm's NesT with the pooling of its nest_*_jx, and initial weights of seed 0."""
    from timm.models.nest import Nest

    torch.manual_seed(0)
    net: nn.Module = Nest(**vars(size), num_levels=len(size.depths), pad_type="same")
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # else the outputs are close to zero
    return net


def our_model(size: Size, weights: Path) -> nn.Module:
    """Ours with timm's weights."""
    from repro.models.nest import NesT
    from repro.models.nest_flax import read_timm

    config, state = read_timm(load_file(weights), size.embed_dims[0] // size.num_heads[0])
    net = NesT(**{**config, "depths": size.depths, "drop_path_rate": size.drop_path_rate})
    net.load_state_dict(state)
    return net


class _Bench:
    """A model, a batch, and the measurements on them."""

    def __init__(self, net: nn.Module, size: Size, batch: int, device: torch.device) -> None:
        self.net, self.device, self.batch = net.to(device), device, batch
        generator = torch.Generator().manual_seed(0)
        shape = (batch, 3, size.img_size, size.img_size)
        self.images = torch.randn(shape, generator=generator).to(device)
        self.labels = torch.arange(batch, device=device)
        self.optimizer: torch.optim.Optimizer
        self.before_step: Callable[[], object] = lambda: None

    def logits(self) -> Tensor:
        """In fp32 also on a GPU, where torch uses TF32 for convolutions by default."""
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        with torch.inference_mode():
            logits = self._forward(self.net.eval(), nullcontext()).cpu()
        torch.backends.cudnn.allow_tf32 = before
        return logits

    def _forward(self, net: nn.Module, context: AbstractContextManager[object]) -> Tensor:
        with context:
            logits: Tensor = net(self.images)
        return logits.float()

    def infer(self, bf16: bool) -> float:
        """Seconds per image."""
        self.net.eval()
        with torch.inference_mode():
            work = partial(self._forward, self.net, self._precision(bf16))
            return seconds(work, self.device) / self.batch

    def train(self, bf16: bool) -> float:
        """Seconds per image."""
        self.net.train()
        return seconds(partial(self._step, bf16), self.device) / self.batch

    def _step(self, bf16: bool) -> None:
        self.before_step()
        loss = F.cross_entropy(self._forward(self.net, self._precision(bf16)), self.labels)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def _precision(self, bf16: bool) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()

    def flop(self) -> dict[str, float]:
        """Floating-point operations per image of matrix products and convolutions, by kind of work.

        A training step computes no branch that stochastic depth drops, and always drops the same.
        """
        with kernel("plain"), FlopCounterMode(display=False) as counter:
            self.infer(False)
        inference = counter.get_total_flops()
        with kernel("plain"), FlopCounterMode(display=False) as counter:
            self.train(False)
        flop = {"inference": inference, "training step": counter.get_total_flops()}
        return {kind: count / self.batch for kind, count in flop.items()}

    def min_bytes(self) -> dict[str, float]:
        """Least bytes to read and write per image, by measurement.

        A weight of 4 bytes is read. In training it is read again for the backward pass, its
        gradient is written, and AdamW reads both and its two moments and writes all but the
        gradient: ten transfers in all. Stored activations are written and read.
        """
        from repro.train import activations

        weights = 4 * sum(parameter.numel() for parameter in self.net.parameters()) / self.batch
        min_bytes_of = {}
        for precision in ("fp32", "bf16"):
            activation_bytes = activations.training_bytes_per_image(
                self.net, self.images.shape[-1], precision == "bf16"
            )
            min_bytes_of[f"inference {precision}"] = weights
            min_bytes_of[f"training step {precision}"] = 10 * weights + 2.0 * activation_bytes
        return min_bytes_of

    def answers(self) -> dict[str, Callable[[], object]]:
        return {
            f"{kind} {precision}": partial(work, precision == "bf16")
            for kind, work in (("inference", self.infer), ("training step", self.train))
            for precision in ("fp32", "bf16")
        }


def timm_side(
    size: Size, batch: int, folder: Path, is_configured: bool = False
) -> dict[str, Callable[[], object]]:
    from timm.optim import create_optimizer_v2

    if is_configured:
        devices.choose()
    bench = _Bench(timm_model(size), size, batch, device_here())
    bench.optimizer = create_optimizer_v2(bench.net, "adamw", lr=1e-6, weight_decay=0.05)

    def save() -> bool:
        weights = {name: value.cpu().contiguous() for name, value in bench.net.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        save_file({"logits": bench.logits()}, folder / "logits.safetensors")
        return True

    return {**bench.answers(), "save": save}


def our_side(size: Size, batch: int, folder: Path) -> dict[str, Callable[[], object]]:
    from repro.data.randomness import sample_keys
    from repro.models import stochastic_depth
    from repro.train import optim, speed

    device = devices.choose()

    def prepare() -> tuple[_Bench, dict[str, float]]:
        net = speed.set_layout(our_model(size, folder / "weights.safetensors"), speed.DEFAULT)
        bench = _Bench(net, size, batch, device)
        min_bytes = bench.min_bytes()
        bench.optimizer = optim.build(
            bench.net.named_parameters(), optimizer="adamw", weight_decay=0.05,
            decay_biases=True, no_decay=("pos_embed",),
            fused=speed.is_fused(speed.DEFAULT, device),
        )  # fmt: skip
        optim.set_learning_rate(bench.optimizer, 1e-6)
        keys = sample_keys(0, 0, torch.arange(batch)).to(device)
        drops = stochastic_depth.install(bench.net)
        bench.before_step = partial(stochastic_depth.set_draws, drops, keys)
        return bench, min_bytes

    answers: dict[str, Callable[[], object]] = {}

    def difference() -> float:
        """The largest difference of outputs; enables the other measurements."""
        bench, min_bytes = prepare()
        answers.update({**bench.answers(), "bytes": lambda: min_bytes, "flop": bench.flop})
        expected = load_file(folder / "logits.safetensors")["logits"]
        return float((bench.logits() - expected).abs().max())

    answers["difference"] = difference
    return answers


def main(side: str, model: str, batch: str, folder: str) -> None:
    make = our_side if side == "ours" else partial(timm_side, is_configured=side != "timm")
    if device_here().type == "cpu":
        torch.set_num_threads(1)
    with ExitStack() as settings:
        if side != "timm":
            settings.enter_context(devices.flush_denormals(device_here()))
        serve(make(SIZES[model], int(batch), Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
