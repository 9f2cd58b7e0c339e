"""The basis of every method here: one forward pass that records the outputs of named layers.

The hooks are removed before `tap` returns, and the model is unchanged. The first layer's output is
detached and made to require a gradient, so a frozen model works too and no graph below that layer
stays in memory; later layers keep their place in the graph, so `torch.autograd.grad` reaches each.
A model wrapped by `torch.compile` is unwrapped; the weights are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Classes: TypeAlias = Tensor | Sequence[int] | int
Hook: TypeAlias = Callable[[str, nn.Module, Any], Any]


class InterpretError(ValueError):
    """A model, layer, class or image for which no valid map exists; a message of one line."""


@dataclass(frozen=True)
class Taps:
    """Logits (B, K) and layer outputs of one forward pass, in the order of the arguments."""

    logits: Tensor
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class PooledMap:
    """The last map before the last linear layer, of one forward pass without gradients."""

    logits: Tensor  # (B, K)
    layer: str
    feature: Tensor  # the layer's output
    head: nn.Linear


def eager_module(model: nn.Module) -> nn.Module:
    """The module to run and to hook; InterpretError for a state in which maps would be wrong."""
    if torch.is_inference_mode_enabled():
        raise InterpretError("inference mode records no gradients: leave torch.inference_mode()")
    inner = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    if not isinstance(inner, nn.Module) or isinstance(inner, torch.jit.ScriptModule):
        raise InterpretError(f"{type(inner).__name__} takes no hooks: pass a plain nn.Module")
    for name, module in inner.named_modules():
        label = f"layer {name!r}" if name else "the model"
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            raise InterpretError(f"{label} is compiled in place: pass a copy that is not")
        if module.training:
            raise InterpretError(f"{label} is in training mode: call model.eval()")
    if any(parameter.is_inference() for parameter in inner.parameters()):
        raise InterpretError("the weights were made in inference mode: build the model outside it")
    return inner


def check_images(model: nn.Module, images: Tensor) -> Tensor:
    """Images (B, C, H, W) on the model's device; InterpretError for another shape or type."""
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        kind = f"{images.dtype} {tuple(images.shape)}"
        raise InterpretError(f"images must be a normalised float batch (B, C, H, W), not {kind}")
    if images.is_inference():
        raise InterpretError("the images were made in inference mode: pass images.clone()")
    parameter = next(model.parameters(), None)
    return images.detach().to(images.device if parameter is None else parameter.device)


def check_classes(classes: Classes, logits: Tensor) -> Tensor:
    """The class of every image as int64 (B,), from one class for all or one for each."""
    images, num_classes = logits.shape
    targets = torch.as_tensor(classes, device=logits.device)
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim > 1:
        kind = f"{targets.dtype} {tuple(targets.shape)}"
        raise InterpretError(f"classes must be integers (B,) or one integer, not {kind}")
    if targets.ndim == 1 and len(targets) != images:
        raise InterpretError(f"there are {len(targets)} classes for {images} images")
    outside = targets[(targets < 0) | (targets >= num_classes)]
    if outside.numel():
        value = outside[0].item()
        raise InterpretError(f"class {value} is out of range: the model has {num_classes}")
    return targets.to(torch.int64).expand(images)


def tap(model: nn.Module, images: Tensor, layers: Sequence[str], *, grad: bool = True) -> Taps:
    """Run the model once and record the outputs of `layers`, dotted names of modules.

    `grad=False` if no gradients are needed. InterpretError for a layer that does not exist, did not
    run, ran twice or does not return a float tensor.
    """
    model = eager_module(model)
    images = check_images(model, images)
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise InterpretError(
                f"{type(model).__name__} has no layer {name!r}: {layer_hint(modules)}"
            )
    outputs: dict[str, Tensor] = {}

    def record(name: str, _: nn.Module, output: Any) -> Tensor:
        if name in outputs:
            raise InterpretError(f"layer {name!r} runs more than once: choose its parent")
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise InterpretError(f"layer {name!r} gives {kind}, not a float tensor")
        in_graph = bool(outputs) and output.requires_grad  # of an earlier layer's graph
        outputs[name] = output if in_graph else output.detach().requires_grad_()
        return outputs[name].clone()  # the next layer may write in place, as ReLU does

    with (
        torch.set_grad_enabled(grad),
        forward_hooks({name: modules[name] for name in layers}, record),
    ):
        logits = check_logits(model(images), len(images))
    missing = [name for name in layers if name not in outputs]
    if missing:
        raise InterpretError(f"layer {missing[0]!r} did not run")
    return Taps(logits, tuple(outputs[name] for name in layers))


@torch.enable_grad()
def gradients(taps: Taps, classes: Tensor) -> tuple[Tensor, ...]:
    """The gradient of each image's class logit with respect to every output, in its shape.

    In eval mode no image's logit depends on another's pixels, so one backward pass serves all.
    """
    total = taps.logits.gather(1, classes[:, None]).sum()
    grads: tuple[Tensor | None, ...] = (None,) * len(taps.outputs)
    if total.requires_grad:
        grads = torch.autograd.grad(total, taps.outputs, allow_unused=True)
    for number, grad in enumerate(grads):
        if grad is None:
            raise InterpretError(f"the logits do not depend on layer {number} of those recorded")
    return tuple(grad for grad in grads if grad is not None)


@torch.no_grad()
def last_map(model: nn.Module, images: Tensor, layer: str | None = None) -> PooledMap:
    """Run the model once and record the map that its last linear layer pools.

    That is the output of `layer`, of the model's own `map_layer`, or the last output before that
    linear layer with more than one position. That only pooling lies between is not checked here,
    but in `cam`. InterpretError if there is no such output, or no linear layer at the end.
    """
    model = eager_module(model)
    images = check_images(model, images)
    modules = dict(model.named_modules())
    layer = layer or getattr(model, "map_layer", None)
    last: list[tuple[str, Tensor]] = []
    heads: list[tuple[nn.Linear, str, Tensor]] = []

    def record(name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if isinstance(module, nn.Linear) and output.ndim == 2:
            heads[:] = [(module, *entry) for entry in last]
        elif name == layer:
            last[:] = [(name, output.clone())]  # the next layer may write in place
        elif layer is None and _is_spatial(output):
            last[:] = [(name, output)]

    with forward_hooks(modules, record):
        logits = check_logits(model(images), len(images))
    kind = type(model).__name__
    if layer is not None and not last:
        raise InterpretError(f"{kind} has no layer {layer!r} that runs: {layer_hint(modules)}")
    if not heads or heads[0][0].out_features != logits.shape[1]:
        raise InterpretError(f"{kind} does not end in a linear layer over a map")
    head, name, feature = heads[0]
    return PooledMap(logits, name, feature, head)


def _is_spatial(output: Tensor) -> bool:
    """Whether a 4-d map or a 3-d sequence has more than one position."""
    sides = sorted(output.shape[1:])
    return (output.ndim == 4 and sides[1] > 1) or (output.ndim == 3 and output.shape[1] > 1)


@contextmanager
def forward_hooks(modules: dict[str, nn.Module], hook: Hook) -> Iterator[None]:
    """Call `hook(name, module, output)` on each output; a result other than None replaces it."""
    handles: list[Any] = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda module, _, output: hook(name, module, output)

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook_for(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_logits(output: Any, images: int) -> Tensor:
    """The model's output if it is (B, K), else InterpretError."""
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == images:
        return output
    kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InterpretError(f"the model must give logits (B, K), not {kind}")


def check_finite(maps: Tensor, what: str) -> Tensor:
    """The maps (B, ...), detached; InterpretError names the first image whose map is not finite."""
    finite = maps.detach().flatten(1).isfinite().all(1)
    if not finite.all():
        raise InterpretError(f"the {what} of image {int(finite.int().argmin())} is not finite")
    return maps.detach()


def layer_hint(modules: dict[str, nn.Module]) -> str:
    """The names of top-level layers to choose from."""
    names = [name for name in modules if name and "." not in name]
    return f"it has {', '.join(names)}"
