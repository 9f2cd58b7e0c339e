"""Optimiser and schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def build(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    optimizer: str,
    weight_decay: float,
    decay_biases: bool,
    no_decay: Sequence[str],
    fused: bool = False,
) -> torch.optim.Optimizer:
    """AdamW (betas 0.9, 0.999, eps 1e-8, decoupled decay) or SGD (Nesterov 0.9, L2), in two groups.

    The official code decays everything but the position embedding, biases and LayerNorm included
    (official train.py and configs); its convnet recipe decays only tensors of two or more
    dimensions. The learning rate is set before every step from `learning_rate`.

    `fused`: update all weights in one kernel.
    """
    decay: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in parameters:
        is_bias = not decay_biases and parameter.ndim < 2
        is_exempt = is_bias or any(part in name for part in no_decay)
        (exempt if is_exempt else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=fused)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True, fused=fused)
    raise ValueError(f"unknown optimizer {optimizer!r}; it is adamw or sgd")


def learning_rate(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    peak: float,
    first: float = 0.0,
    final: float = 0.0,
) -> float:
    """The learning rate of optimiser step `step`, counted from 1: linear from `first` to `peak`
    over the warm-up, then a cosine to exactly `final` at the last step (libml/utils.py)."""
    if step < warmup_steps:
        return first + (peak - first) * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a stored state into `optimizer`, but keep its `fused` flags, and store each moment in
    the memory format of its weight, which fused kernels require."""
    groups = zip(state["param_groups"], optimizer.param_groups, strict=True)
    own = [{**stored, "fused": group["fused"]} for stored, group in groups]
    optimizer.load_state_dict({**state, "param_groups": own})
    for weight, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(moment)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each sample, float32 (B,). logits, targets: (B, K), targets sum to 1."""
    return -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1)
