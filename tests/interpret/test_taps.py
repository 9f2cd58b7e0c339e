"""What every method shares: the model is left as it was, nothing stays, bad input is named."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro.interpret.cam import cam, grad_cam_pp
from repro.interpret.faithfulness import block_ablation, deletion
from repro.interpret.feature_maps import grid_of
from repro.interpret.gradcat import gradcat
from repro.interpret.rollout import gradient_rollout, rollout
from repro.interpret.taps import InterpretError, gradients, tap
from tests.interpret import small_models as small

Method = Callable[[nn.Module, Tensor, Any], Tensor]

METHODS: dict[str, tuple[Callable[[], Any], Method]] = {
    "cam": (small.our_nest, cam),
    "grad_cam_pp": (small.our_nest, grad_cam_pp),
    "gradcat": (small.our_nest, lambda *given: gradcat(*given).nodes[-1]),
    "rollout": (small.deit, lambda model, images, _: rollout(model, images)),
    "rollout of torchvision": (small.torchvision_vit, lambda model, x, _: rollout(model, x)),
    "gradient_rollout": (small.deit, gradient_rollout),
    "deletion": (
        small.our_nest,
        lambda model, x, y: deletion(model, x, y, x[:, 0].float(), steps=2).scores,
    ),
    "block_ablation": (small.our_nest, block_ablation),
}
OF_A_CLASS = [name for name in METHODS if not name.startswith("rollout")]
every = pytest.mark.parametrize("name", METHODS)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(layer, kind)) for layer in model.modules() for kind in kinds)


@every
def test_fifty_batches_leave_nothing_behind(name: str) -> None:
    build, method = METHODS[name]
    model, images = copy.deepcopy(build()), small.pictures(2)
    method(model, images, 1)
    before, attributes = live_tensors(), [set(vars(layer)) for layer in model.modules()]
    for _ in range(50):
        method(model, images, 1)
    assert live_tensors() == before
    assert hooks(model) == 0
    assert [set(vars(layer)) for layer in model.modules()] == attributes
    assert all(value.requires_grad and value.grad is None for value in model.parameters())


@every
def test_the_result_holds_no_graph_and_the_images_are_left_alone(name: str) -> None:
    build, method = METHODS[name]
    images = small.pictures(2)
    before = images.clone()
    assert not method(build(), images, 1).requires_grad
    assert torch.equal(images, before)
    assert not images.requires_grad


@every
def test_a_frozen_model_gives_the_same_maps_and_stays_frozen(name: str) -> None:
    build, method = METHODS[name]
    frozen = copy.deepcopy(build()).requires_grad_(False)
    images = small.pictures(2)
    expected = method(build(), images, 1)
    torch.testing.assert_close(method(frozen, images, 1), expected)
    assert not any(value.requires_grad for value in frozen.parameters())
    with torch.no_grad():
        torch.testing.assert_close(method(build(), images, 1), expected)


@every
def test_a_compiled_model_is_taken_as_the_module_it_wraps(name: str) -> None:
    build, method = METHODS[name]
    images = small.pictures(2)
    wrapped: Any = torch.compile(build(), backend="eager")
    torch.testing.assert_close(method(wrapped, images, 1), method(build(), images, 1))


@every
def test_a_model_compiled_in_place_is_refused(name: str) -> None:
    build, method = METHODS[name]
    model = copy.deepcopy(build())
    model.compile(backend="eager")
    with pytest.raises(InterpretError, match="the model is compiled in place"):
        method(model, small.pictures(1), 1)
    model = copy.deepcopy(build())
    model.head_of_it = torch.compile(nn.Linear(2, 2).eval(), backend="eager")
    with pytest.raises(InterpretError, match="layer 'head_of_it' is compiled in place"):
        method(model, small.pictures(1), 1)


@every
def test_inference_mode_is_refused(name: str) -> None:
    build, method = METHODS[name]
    with torch.inference_mode(), pytest.raises(InterpretError, match=r"torch.inference_mode\(\)"):
        method(build(), small.pictures(1), 1)
    with torch.inference_mode():
        images = small.pictures(1)
        model = copy.deepcopy(build())  # as if built there
    with pytest.raises(InterpretError, match=r"images were made in inference mode: .*clone"):
        method(build(), images, 1)
    with pytest.raises(InterpretError, match="weights were made in inference mode"):
        method(model, small.pictures(1), 1)


@every
def test_bad_models_and_images_are_named(name: str) -> None:
    build, method = METHODS[name]
    model = copy.deepcopy(build()).train()
    with pytest.raises(InterpretError, match=r"the model is in training mode: call model.eval"):
        method(model, small.pictures(1), 1)
    model.eval()
    next(child for child in model.modules() if isinstance(child, nn.LayerNorm)).train()
    with pytest.raises(InterpretError, match=r"layer '.*' is in training mode"):
        method(model, small.pictures(1), 1)
    for images in (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, 3, 32, 32)):
        with pytest.raises(InterpretError, match="normalised float batch"):
            method(build(), images, 1)


@pytest.mark.parametrize("name", OF_A_CLASS)
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (5, "class 5 is out of range: the model has 5"),
        ([0, -1], "class -1 is out of range"),
        (torch.tensor([0, 1, 2]), "3 classes for 2 images"),
        (torch.tensor([0.0, 1.0]), "must be integers"),
        (torch.tensor([True, False]), "must be integers"),
        (torch.zeros(2, 5, dtype=torch.int64), "must be integers"),
    ],
)
def test_a_bad_class_is_named(name: str, classes: Any, message: str) -> None:
    build, method = METHODS[name]
    with pytest.raises(InterpretError, match=message):
        method(build(), small.pictures(2), classes)


@pytest.mark.parametrize("name", ["cam", "grad_cam_pp", "rollout", "gradient_rollout"])
def test_an_image_that_gives_no_finite_map_is_named(name: str) -> None:
    build, method = METHODS[name]
    images = small.pictures(3)
    images[1, 0, 0, 0] = torch.inf
    with pytest.raises(InterpretError, match="of image 1 is not finite"):
        method(build(), images, 1)


class Odd(nn.Module):
    """A model that does what `tap` does not take."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(3, 4, 1), nn.Identity()
        self.pair, self.idle = nn.LSTM(4, 4, batch_first=True), nn.Identity()
        self.aside = nn.Identity()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        x = self.twice(self.twice(self.conv(images)))
        x, _ = self.pair(x.flatten(2).transpose(1, 2))
        self.aside(x)
        return x.mean(1) if self.answer is None else self.answer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("layer9", "Odd has no layer 'layer9': it has conv, twice, pair, idle, aside"),
        ("idle", "layer 'idle' did not run"),
        ("twice", "layer 'twice' runs more than once"),
        ("pair", "layer 'pair' gives tuple, not a float tensor"),
    ],
)
def test_a_layer_that_cannot_be_kept_is_named(layer: str, message: str) -> None:
    model = Odd().eval()
    with pytest.raises(InterpretError, match=message):
        tap(model, small.pictures(1, 4), [layer])
    assert hooks(model) == 0


def test_what_cannot_be_explained_is_named() -> None:
    images = small.pictures(1, 4)
    for answer, found in ((torch.zeros(1, 2, 2), r"\(1, 2, 2\)"), ({"out": 1}, "dict")):
        with pytest.raises(InterpretError, match=rf"must give logits \(B, K\), not {found}"):
            tap(Odd(answer).eval(), images, ["conv"])
    taps = tap(Odd(torch.zeros(1, 4)).eval(), images, ["conv"])
    with pytest.raises(InterpretError, match="do not depend on layer 0"):
        gradients(taps, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InterpretError, match="Odd does not end in a linear layer over a map"):
        cam(Odd().eval(), images, 0)
    with pytest.raises(InterpretError, match="Odd has no layer 'layer9' that runs"):
        cam(Odd().eval(), images, 0, layer="layer9")
    with pytest.raises(InterpretError, match=r"pass a plain nn\.Module"):
        tap(lambda x: x, images, [])  # type: ignore[arg-type]


def test_the_kept_tensors_have_the_gradients_of_the_whole_model() -> None:
    """Although the graph below the first is cut; two taps, one above the other."""
    model, images = small.our_nest(), small.pictures(2)
    taps = tap(model, images, ["norm", "transformers.1"])
    slopes = gradients(taps, torch.tensor([1, 2]))
    maps = model.hierarchies(images)
    logits = model.classify(maps[-1])
    (expected,) = torch.autograd.grad(logits[0, 1] + logits[1, 2], maps[1])
    found = slopes[1].unflatten(1, (2, 2)).unflatten(3, (4, 4)).transpose(2, 3)
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-3, atol=1e-6)
    assert taps.outputs[1].is_leaf
    assert not taps.outputs[0].is_leaf


def test_a_hook_of_the_users_stays() -> None:
    model, seen = copy.deepcopy(small.our_nest()), []
    model.norm.register_forward_hook(lambda *_: seen.append(1))
    cam(model, small.pictures(1), 0)
    gradcat(model, small.pictures(1), 0, top_tap="norm")
    assert len(seen) == 2
    assert hooks(model) == 1


def test_the_grid_of_patches_has_the_images_proportion() -> None:
    assert grid_of(196, (224, 224)) == (14, 14)
    assert grid_of(14 * 28, (224, 448)) == (14, 28)
    assert grid_of(21, (48, 112)) == (3, 7)
    with pytest.raises(InterpretError, match=r"197 patches form no grid on images of \(224, 224\)"):
        grid_of(197, (224, 224))
