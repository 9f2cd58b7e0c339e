"""Stochastic depth whose masks depend on (seed, epoch, sample) alone.

timm's DropPath uses torch's generator, so its masks depend on the history of the process and on how
a batch is divided. Here a model's DropPath modules are replaced by ones that receive their random
numbers before each forward pass, so a sample drops the same layers on 1 GPU or on 64, and after a
resume.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from repro.data import randomness
from repro.data.loading.transfer import to_device

_CPU = torch.device("cpu")
_STREAM = 1_000  # above the streams of repro.data.augment.augment


class SampledDropPath(nn.Module):
    """Drops the residual branch of whole samples.

    `draws`: uniform random numbers (B,), set by `set_draws` before each forward pass.
    """

    draws: Tensor | None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draws = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        assert self.draws is not None, "call set_draws() before forward"
        assert len(self.draws) == len(x), "call set_draws() before forward"
        keep = (self.draws >= self.rate).to(x.dtype) / (1.0 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))


def residual(x: Tensor, branch: Callable[[Tensor], Tensor], drop: nn.Module) -> Tensor:
    """x + drop(branch(x)), for a branch that is independent across the samples of x (B, ...).

    On a CPU the branch runs only on the samples that keep it. (On a GPU, their number would need a
    synchronisation.) It runs on one sample at least, so that every weight has a gradient.
    """
    whole = x.device.type != "cpu" or torch.compiler.is_compiling()
    if whole or not isinstance(drop, SampledDropPath) or not drop.training:
        y: Tensor = x + drop(branch(x))
        return y
    assert drop.draws is not None, "call set_draws() before forward"
    assert len(drop.draws) == len(x), "call set_draws() before forward"
    indices = torch.nonzero(drop.draws >= drop.rate).flatten()
    scale = 1 / (1 - drop.rate) if len(indices) else 0.0
    if len(indices) == len(x):
        return x.add(branch(x), alpha=scale)
    indices = indices if len(indices) else torch.zeros(1, dtype=torch.int64)
    z = branch(x.index_select(0, indices))
    return x.index_add(0, indices, z.to(x.dtype), alpha=scale)


def install(model: nn.Module) -> list[SampledDropPath]:
    """Replace every timm DropPath of `model`; returns the new modules in the model's order."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, SampledDropPath(float(child.drop_prob or 0.0)))
    return [module for module in model.modules() if isinstance(module, SampledDropPath)]


def set_draws(modules: list[SampledDropPath], keys: Tensor, device: torch.device = _CPU) -> None:
    """Set each module's draws, on `device`, for the samples with `keys` (B,), on the CPU."""
    if not modules:
        return
    (draws,) = to_device(device, randomness.uniform(keys, _STREAM, len(modules)))
    for module, column in zip(modules, torch.unbind(draws, dim=1), strict=True):
        module.draws = column
