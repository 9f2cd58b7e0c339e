"""Which layers a sample loses hangs on the sample alone."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath, Mlp
from torch import nn

import repro.models  # noqa: F401
from repro.data import randomness
from repro.models import nest, stochastic_depth

OPTIONS = {"img_size": 32, "patch_size": 4, "depth": 4, "embed_dim": 24, "num_heads": 2}


def deit(rate: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", drop_path_rate=rate, **OPTIONS)
    assert isinstance(model, nn.Module)
    return model


def keys(count: int) -> torch.Tensor:
    return randomness.sample_keys(0, 0, torch.arange(count))


def test_a_sample_loses_the_same_layers_in_any_batch() -> None:
    model = deit()
    modules = stochastic_depth.install(model)
    images = torch.randn(8, 3, 32, 32)
    stochastic_depth.set_draws(modules, keys(8))
    together = model(images)
    torch.manual_seed(99)
    for part in (slice(0, 3), slice(3, 8)):
        stochastic_depth.set_draws(modules, keys(8)[part])
        torch.testing.assert_close(model(images[part]), together[part], rtol=1e-4, atol=1e-5)


def test_every_timm_drop_path_is_replaced_with_its_rate() -> None:
    model = deit()
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    modules = stochastic_depth.install(model)
    assert rates
    assert [m.rate for m in modules] == rates
    assert not any(isinstance(m, DropPath) for m in model.modules())


def test_share_dropped_and_scale() -> None:
    """A share `rate` of the samples is dropped; the rest is scaled so that the mean stays."""
    module = stochastic_depth.SampledDropPath(0.2)
    stochastic_depth.set_draws([module], keys(20_000))
    out = module(torch.ones(20_000, 1, 1))
    assert abs(float((out == 0).float().mean()) - 0.2) < 0.01
    assert set(out.unique().tolist()) == {0.0, 1.25}
    module.eval()
    assert torch.equal(module(torch.ones(3, 1)), torch.ones(3, 1))


def test_layers_draw_independently() -> None:
    modules = [stochastic_depth.SampledDropPath(0.5) for _ in range(2)]
    stochastic_depth.set_draws(modules, keys(20_000))
    a, b = (module(torch.ones(20_000)) for module in modules)
    assert abs(float((a * b > 0).float().mean()) - 0.25) < 0.01


@pytest.mark.parametrize("draws", [[0.9, 0.9, 0.9], [0.1, 0.9, 0.6], [0.1, 0.2, 0.3]])
def test_a_branch_not_computed_is_a_branch_dropped(draws: list[float]) -> None:
    """All of three samples keep it, two do, none does."""
    drop = stochastic_depth.SampledDropPath(0.5)
    drop.draws = torch.tensor(draws)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    branch, seen = nn.Linear(6, 6).double(), []
    branch.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    weight = torch.randn_like(x)
    results = []
    for y in (x + drop(branch(x)), stochastic_depth.residual(x, branch, drop)):
        gradients = torch.autograd.grad((y * weight).sum(), [x, *branch.parameters()])
        results.append([y, *gradients])
    assert seen == [3, max(1, sum(draw >= 0.5 for draw in draws))]
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_nest_does_not_compute_what_its_images_drop() -> None:
    model = nest.NesT(img_size=8, depths=(1, 2, 1), embed_dims=24, num_heads=3, drop_path_rate=0.5)
    modules = stochastic_depth.install(model)
    seen: list[int] = []
    for module in model.modules():
        if isinstance(module, nest.Attention | Mlp):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    stochastic_depth.set_draws(modules, keys(8))
    model(torch.randn(8, 3, 8, 8))
    kept = [int((m.draws >= m.rate).sum()) for m in modules if m.draws is not None]
    assert seen == kept
    assert min(kept) < 8
