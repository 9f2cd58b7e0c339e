"""The optimiser against the official update written out, and the schedule's corners."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from repro import experiments
from repro.experiments.scales import at_scale
from repro.spec import Cell
from repro.tasks import classification
from repro.train import optim


def test_adamw_is_the_official_update() -> None:
    """p <- p - lr m̂ / (√v̂ + eps) - lr wd p, biases and norms decayed, position embedding not."""
    torch.manual_seed(0)
    parameters = {n: nn.Parameter(torch.randn(5)) for n in ("weight", "bias", "pos_embed")}
    before = {n: p.detach().double().clone() for n, p in parameters.items()}
    optimizer = optim.build(
        parameters.items(),
        optimizer="adamw",
        weight_decay=0.05,
        decay_biases=True,
        no_decay=("pos_embed",),
    )
    moments = {n: (torch.zeros(5).double(), torch.zeros(5).double()) for n in parameters}
    for step in range(1, 6):
        rate = 0.01 * step
        optim.set_learning_rate(optimizer, rate)
        for name, parameter in parameters.items():
            gradient = torch.randn(5)
            parameter.grad = gradient.clone()
            m, v = moments[name]
            m.mul_(0.9).add_(0.1 * gradient)
            v.mul_(0.999).add_(0.001 * gradient.double() ** 2)
            update = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            decay = 0.0 if name == "pos_embed" else 0.05
            before[name] = before[name] - rate * update - rate * decay * before[name]
        optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double(), before[name], rtol=1e-5, atol=1e-6)


def test_convnet_recipe_decays_matrices_only() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = optim.build(
        net.named_parameters(), optimizer="sgd", weight_decay=5e-4, decay_biases=False, no_decay=()
    )
    decayed, spared = optimizer.param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    assert decayed["nesterov"]
    assert decayed["momentum"] == 0.9


@given(st.integers(2, 500), st.floats(0, 0.9), st.floats(1e-6, 1))
def test_schedule(steps: int, warm: float, peak: float) -> None:
    warmup_steps = int(warm * steps)
    rates = [
        optim.learning_rate(n, steps=steps, warmup_steps=warmup_steps, peak=peak)
        for n in range(1, steps + 1)
    ]
    assert rates[-1] == 0.0
    assert max(rates) <= peak
    if warmup_steps:
        assert rates[warmup_steps - 1] == pytest.approx(peak)
        assert rates[0] == pytest.approx(peak / warmup_steps)
    after = rates[max(0, warmup_steps - 1) :]
    assert after == sorted(after, reverse=True)
    half = warmup_steps + (steps - warmup_steps) // 2
    if (steps - warmup_steps) % 2 == 0 and half >= 1:
        assert rates[half - 1] == pytest.approx(peak / 2)


def test_soft_cross_entropy_is_torchs() -> None:
    logits, targets = torch.randn(7, 10), torch.rand(7, 10).softmax(1)
    ours = optim.soft_cross_entropy(logits, targets)
    torch.testing.assert_close(ours, nn.functional.cross_entropy(logits, targets, reduction="none"))
    assert math.isfinite(float(ours.sum()))


SPARED = {
    "DeiT": {"pos_embed", "cls_token"},
    "PVT": {"cls_token"},
    "Swin": {"relative_position_bias_table"},
    "NesT": {"pos_embed"},
}


@pytest.mark.parametrize("cell", experiments.get("table1").cells[::2], ids=lambda cell: cell.row)
def test_what_a_recipe_spares_is_there(cell: Cell) -> None:
    """No more and no less: a recipe names parameters by parts of their names, which a model may
    spell in another way, and nothing would show it."""
    recipe = cell.training.recipe
    net = classification.create(at_scale(cell.training, "demo").model, 10, 0.0, seed=0)
    spared = {n for n, _ in net.named_parameters() if any(part in n for part in recipe.no_decay)}
    parts = SPARED.get(cell.row.partition("-")[0], set())
    assert spared == {n for n, _ in net.named_parameters() if parts & set(n.split("."))}
    assert bool(spared) == bool(parts) == bool(recipe.no_decay)
