"""One side of the benchmark `nest`, a process of its own: `nest_side timm|ours MODEL BATCH FOLDER`.

timm's is as timm ships it, and imports none of our models; ours is as a run has it.
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
from repro.train import device as devices


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


def timm_model(size: Size) -> nn.Module:
    """timm's NesT, whose pooling is that of its nest_*_jx, with initial weights of seed 0."""
    from timm.models.nest import Nest

    torch.manual_seed(0)
    net: nn.Module = Nest(**vars(size), num_levels=len(size.depths), pad_type="same")
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # so that outputs are not next to nothing
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
    """A model, a batch, and what is asked of them."""

    def __init__(self, net: nn.Module, size: Size, batch: int, device: torch.device) -> None:
        self.net, self.device, self.batch = net.to(device), device, batch
        generator = torch.Generator().manual_seed(0)
        shape = (batch, 3, size.img_size, size.img_size)
        self.images = torch.randn(shape, generator=generator).to(device)
        self.labels = torch.arange(batch, device=device)
        self.optimizer: torch.optim.Optimizer
        self.before_step: Callable[[], object] = lambda: None

    def logits(self) -> Tensor:
        """In fp32 also on a GPU, whose convolutions torch computes in TF32 by default."""
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
        """Seconds an image."""
        self.net.eval()
        with torch.inference_mode():
            work = partial(self._forward, self.net, self._precision(bf16))
            return seconds(work, self.device) / self.batch

    def train(self, bf16: bool) -> float:
        """Seconds an image."""
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

    def flop(self) -> float:
        """Floating-point operations of a forward pass, an image: matrix products, convolutions."""
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.net.eval()(self.images[:1])
        return float(counter.get_total_flops())

    def moved(self) -> dict[str, float]:
        """Bytes that each thing to do has to read and write at least, an image.

        A weight of 4 bytes is read. In training it is read again for the backward pass, its
        gradient is written, and AdamW reads both and its two moments and writes all but the
        gradient: ten times in all. What is kept for the backward pass is written and read.
        """
        from repro.train import activations

        weights = 4 * sum(parameter.numel() for parameter in self.net.parameters()) / self.batch
        found = {}
        for precision in ("fp32", "bf16"):
            kept = activations.bytes_an_image(self.net, self.images.shape[-1], precision == "bf16")
            found[f"inference {precision}"] = weights
            found[f"training step {precision}"] = 10 * weights + 2.0 * kept
        return found

    def answers(self) -> dict[str, Callable[[], object]]:
        return {
            f"{kind} {precision}": partial(work, precision == "bf16")
            for kind, work in (("inference", self.infer), ("training step", self.train))
            for precision in ("fp32", "bf16")
        }


def timm_side(size: Size, batch: int, folder: Path) -> dict[str, Callable[[], object]]:
    from timm.optim import create_optimizer_v2

    bench = _Bench(timm_model(size), size, batch, device_here())
    bench.optimizer = create_optimizer_v2(bench.net, "adamw", lr=1e-6, weight_decay=0.05)

    def save() -> bool:
        weights = {name: value.cpu().contiguous() for name, value in bench.net.state_dict().items()}
        save_file(weights, folder / "weights.safetensors")
        save_file({"logits": bench.logits()}, folder / "logits.safetensors")
        return True

    return {**bench.answers(), "flop": bench.flop, "save": save}


def our_side(size: Size, batch: int, folder: Path) -> dict[str, Callable[[], object]]:
    from repro.data.randomness import sample_keys
    from repro.models import stochastic_depth
    from repro.train import optim, speed

    device = devices.choose()

    def ready() -> tuple[_Bench, dict[str, float]]:
        net = speed.set_layout(our_model(size, folder / "weights.safetensors"), speed.DEFAULT)
        bench = _Bench(net, size, batch, device)
        moved = bench.moved()
        bench.optimizer = optim.build(
            bench.net.named_parameters(), optimizer="adamw", weight_decay=0.05,
            decay_biases=True, no_decay=("pos_embed",),
            fused=speed.is_fused(speed.DEFAULT, device),
        )  # fmt: skip
        optim.set_learning_rate(bench.optimizer, 1e-6)
        keys = sample_keys(0, 0, torch.arange(batch)).to(device)
        drops = stochastic_depth.install(bench.net)
        bench.before_step = partial(stochastic_depth.draw, drops, keys)
        return bench, moved

    answers: dict[str, Callable[[], object]] = {}

    def difference() -> float:
        """The largest of outputs; from now on the model can be timed."""
        bench, moved = ready()
        answers.update({**bench.answers(), "bytes": lambda: moved})
        expected = load_file(folder / "logits.safetensors")["logits"]
        return float((bench.logits() - expected).abs().max())

    answers["difference"] = difference
    return answers


def main(side: str, model: str, batch: str, folder: str) -> None:
    make = timm_side if side == "timm" else our_side
    if device_here().type == "cpu":
        torch.set_num_threads(1)
    with ExitStack() as settings:
        if side == "ours":
            settings.enter_context(devices.flush_denormals(device_here()))
        serve(make(SIZES[model], int(batch), Path(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
