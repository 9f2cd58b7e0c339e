"""A model computes the same, however it is laid out, updated or compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import repro.models  # noqa: F401  (registers our architectures)
from repro.commands import parsing
from repro.commands.reproduce import Reproduce
from repro.data.randomness import sample_keys
from repro.execution import ExecutionOptions, Speed
from repro.experiments.demo import MODELS
from repro.models import stochastic_depth
from repro.train import optim, speed

FAMILIES = [
    "nest_tiny_cifar", "pyramidnet164_48", "wrn28_10", "deit_tiny_patch16_224", "pvt_tiny",
    "cct_7_3x1", "swin_tiny_patch4_window7_224",
]  # fmt: skip
IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _small(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = dict(MODELS[name].options)
    net = timm.create_model(name, num_classes=10, drop_path_rate=0.2, **options)
    assert isinstance(net, nn.Module)
    return net


def test_the_names_of_the_speeds_are_one_list() -> None:
    hints = get_type_hints(ExecutionOptions)
    assert get_args(hints["speed"]) == speed.SPEEDS == get_args(Speed)
    choices = parsing.fields(Reproduce)["speed"].settings["choices"]
    assert choices == speed.SPEEDS
    assert ExecutionOptions.speed == speed.DEFAULT


def _train(net: nn.Module, forward: speed.Forward, steps: int = 3) -> list[Tensor]:
    """The logits of some training steps, each with other draws of stochastic depth."""
    droppers = stochastic_depth.install(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    logits = []
    for epoch in range(steps):
        keys = sample_keys(0, torch.full((len(IMAGES),), epoch), torch.arange(len(IMAGES)))
        stochastic_depth.set_draws(droppers, keys)
        optimizer.zero_grad()
        y = forward(IMAGES, whole=True)
        y.square().mean().backward()
        optimizer.step()
        logits.append(y.detach())
    return logits


def _with_speed(name: str, pace: Speed) -> list[Tensor]:
    net = speed.set_layout(_small(name), pace)
    return _train(net, speed.Forward(net, pace))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layout_changes_no_more_than_rounding(name: str) -> None:
    for plain, fast in zip(_with_speed(name, "plain"), _with_speed(name, "fast"), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4)


def test_convolution_weights_are_channels_last_unless_plain() -> None:
    layouts = {
        pace: speed.set_layout(nn.Conv2d(4, 8, 3), pace).weight.stride()[1] for pace in speed.SPEEDS
    }
    assert layouts == {"plain": 9, "fast": 1, "compiled": 1}


@pytest.mark.parametrize(
    ("kernel", "stride", "width"), [(1, 2, 4), (1, 1, 4), (3, 2, 4), (1, 2, 16)]
)
def test_no_layout_in_which_onednn_corrupts_memory(kernel: int, stride: int, width: int) -> None:
    """In any of its layers, since each takes over the layout of its input."""
    layers = nn.Conv2d(3, width, 3), nn.Conv2d(width, 8, kernel, stride), nn.Conv2d(8, 8, 3)
    net = nn.Sequential(*layers)
    speed.set_layout(net, "fast")
    is_plain = (kernel, stride, width) == (1, 2, 4)
    assert all(layer.weight.stride()[1] == 1 for layer in layers) != is_plain
    for _ in range(20):
        net(torch.rand(26, 3, 20, 20)).square().sum().backward()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_one_graph_that_is_compiled_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over steps with other weights and other draws; the graph computes what the model does."""
    torch.compiler.reset()
    compiler = CompileCounter()
    monkeypatch.setattr(
        speed, "_compile", lambda net, _: torch.compile(net, backend=compiler, dynamic=False)
    )
    compiled, fast = _with_speed(name, "compiled"), _with_speed(name, "fast")
    assert compiler.frame_count == 1
    for ours, theirs in zip(compiled, fast, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A real compilation, with a C++ compiler that always fails."""
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/bin/false",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    net = speed.set_layout(_small("nest_tiny_cifar"), "compiled")
    forward = speed.Forward(net, "compiled")
    with pytest.warns(
        UserWarning, match=r"cannot compile the model .*; continuing uncompiled"
    ) as said:
        logits = _train(net, forward)
    assert len(said) == 1
    assert forward.speed == "fast"
    assert all(map(torch.equal, logits, _with_speed("nest_tiny_cifar", "fast")))


def test_a_backward_pass_that_cannot_be_compiled_is_no_end_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is compiled with the forward pass, not when training needs it."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch._aot_autograd.utils import make_boxed_func

    def refuse(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        raise RuntimeError("no room for a kernel")

    torch.compiler.reset()
    backend = aot_autograd(
        fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=refuse
    )
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **_: real(net, backend=backend))
    net = speed.set_layout(_small("nest_tiny_cifar"), "compiled")
    forward = speed.Forward(net, "compiled")
    with pytest.warns(UserWarning, match=r"cannot compile the model .*no room"):
        _train(net, forward)
    assert forward.speed == "fast"


def test_an_error_of_the_model_is_no_failed_compilation() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        speed.Forward(Broken(), "fast")(torch.ones(2, 3), whole=True)


def test_an_optimizer_goes_on_as_it_was_built() -> None:
    """A checkpoint of a GPU, whose optimiser is fused, goes on elsewhere, and the reverse."""

    def built(fused: bool) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        layer = speed.set_layout(nn.Conv2d(2, 3, 2), "fast" if fused else "plain")
        weight = nn.Parameter(layer.weight.detach())
        return weight, optim.build(
            [("weight", weight)], optimizer="adamw", weight_decay=0.1, decay_biases=True,
            no_decay=[], fused=fused,
        )  # fmt: skip

    for before in (False, True):
        weight, optimizer = built(before)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        own, other = built(not before)
        optim.restore(other, optimizer.state_dict())
        assert [group["fused"] for group in other.param_groups] == [not before]
        assert optimizer.param_groups[0]["fused"] is before
        for name in ("exp_avg", "exp_avg_sq"):
            moment, stored = other.state[own][name], optimizer.state[weight][name]
            assert moment.stride() == own.stride() != stored.stride()
            assert moment.equal(stored)
