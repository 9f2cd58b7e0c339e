"""What every method here starts from: one forward pass that keeps the outputs of named layers.

The hooks that keep them are removed before `tap` returns, and nothing of the model is changed. The
first layer's output is cut from what lies below it and made to require a gradient, so a frozen
model works like any other and nothing below that layer stays in memory; later layers keep their
place in the graph, and `torch.autograd.grad` finds each gradient. A model wrapped by
`torch.compile` is taken as the module it wraps, which has the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Classes: TypeAlias = Tensor | Sequence[int] | int
Keep: TypeAlias = Callable[[str, nn.Module, Any], Any]


class InterpretError(ValueError):
    """What no honest map can be made of: a model, a layer, a class or an image, in one line."""


@dataclass(frozen=True)
class Taps:
    """Of one forward pass: logits (B, K), and the outputs of the layers in the order asked for."""

    logits: Tensor
    kept: tuple[Tensor, ...]


@dataclass(frozen=True)
class Pooled:
    """Of one forward pass without gradients: the last map ahead of the last linear layer."""

    logits: Tensor  # (B, K)
    layer: str
    feature: Tensor  # as the layer gave it
    head: nn.Linear


def eager(model: nn.Module) -> nn.Module:
    """The module to run and to hook; InterpretError names the state in which maps would lie."""
    if torch.is_inference_mode_enabled():
        raise InterpretError("inference mode keeps no gradients: leave torch.inference_mode()")
    inner = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    if not isinstance(inner, nn.Module) or isinstance(inner, torch.jit.ScriptModule):
        raise InterpretError(f"{type(inner).__name__} takes no hooks: pass a plain nn.Module")
    for name, module in inner.named_modules():
        where = f"layer {name!r}" if name else "the model"
        if module._compiled_call_impl is not None or hasattr(module, "_orig_mod"):
            raise InterpretError(f"{where} is compiled in place: pass a copy that is not")
        if module.training:
            raise InterpretError(f"{where} is in training mode: call model.eval()")
    if any(parameter.is_inference() for parameter in inner.parameters()):
        raise InterpretError("the weights were made in inference mode: build the model outside it")
    return inner


def checked_images(model: nn.Module, images: Tensor) -> Tensor:
    """Images (B, C, H, W) on the model's device; InterpretError if they are no such batch."""
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}"
        raise InterpretError(f"images must be a normalised float batch (B, C, H, W), not {found}")
    if images.is_inference():
        raise InterpretError("the images were made in inference mode: pass images.clone()")
    parameter = next(model.parameters(), None)
    return images.detach().to(images.device if parameter is None else parameter.device)


def checked_classes(classes: Classes, logits: Tensor) -> Tensor:
    """The class of every image as int64 (B,), of one for all, or of one for each."""
    count, known = logits.shape
    given = torch.as_tensor(classes, device=logits.device)
    if given.is_floating_point() or given.dtype == torch.bool or given.ndim > 1:
        found = f"{given.dtype} {tuple(given.shape)}"
        raise InterpretError(f"classes must be integers (B,) or one integer, not {found}")
    if given.ndim == 1 and len(given) != count:
        raise InterpretError(f"there are {len(given)} classes for {count} images")
    outside = given[(given < 0) | (given >= known)]
    if outside.numel():
        raise InterpretError(f"class {outside[0].item()} is out of range: the model has {known}")
    return given.to(torch.int64).expand(count)


def tap(model: nn.Module, images: Tensor, layers: Sequence[str], *, grad: bool = True) -> Taps:
    """Run the model once and keep the outputs of `layers`, each a dotted name of a module.

    Without `grad`, for outputs alone. InterpretError for a layer that is not there, did not run,
    ran twice or gives no float tensor.
    """
    model = eager(model)
    images = checked_images(model, images)
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            raise InterpretError(f"{type(model).__name__} has no layer {name!r}: {near(modules)}")
    kept: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, output: Any) -> Tensor:
        if name in kept:
            raise InterpretError(f"layer {name!r} runs more than once: ask for the one around it")
        if not isinstance(output, Tensor) or not output.is_floating_point():
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise InterpretError(f"layer {name!r} gives {kind}, not a float tensor")
        above = bool(kept) and output.requires_grad  # of the first, or of another
        kept[name] = output if above else output.detach().requires_grad_()
        return kept[name].clone()  # what follows may write in place, as ReLU does

    with torch.set_grad_enabled(grad), hooked({name: modules[name] for name in layers}, keep):
        logits = checked_logits(model(images), len(images))
    missing = [name for name in layers if name not in kept]
    if missing:
        raise InterpretError(f"layer {missing[0]!r} did not run")
    return Taps(logits, tuple(kept[name] for name in layers))


@torch.enable_grad()
def gradients(taps: Taps, classes: Tensor) -> tuple[Tensor, ...]:
    """The gradient of each image's own logit by every kept tensor, each of that one's shape.

    In eval mode no image's logit depends on another's pixels, so one backward pass serves all.
    """
    chosen = taps.logits.gather(1, classes[:, None]).sum()
    found: tuple[Tensor | None, ...] = (None,) * len(taps.kept)
    if chosen.requires_grad:
        found = torch.autograd.grad(chosen, taps.kept, allow_unused=True)
    for number, gradient in enumerate(found):
        if gradient is None:
            raise InterpretError(f"the logits do not depend on layer {number} of those kept")
    return tuple(gradient for gradient in found if gradient is not None)


@torch.no_grad()
def last_map(model: nn.Module, images: Tensor, layer: str | None = None) -> Pooled:
    """Run the model once and keep what its last linear layer was pooled from.

    That is the output of `layer`, or of the model's own `map_layer`, or the last output with more
    than one position ahead of it. Nobody vouches that nothing but pooling lies between: `cam`
    checks it. InterpretError if there is no such
    output, or no linear layer that made the logits.
    """
    model = eager(model)
    images = checked_images(model, images)
    modules = dict(model.named_modules())
    layer = layer or getattr(model, "map_layer", None)
    last: list[tuple[str, Tensor]] = []
    heads: list[tuple[nn.Linear, str, Tensor]] = []

    def keep(name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if isinstance(module, nn.Linear) and output.ndim == 2:
            heads[:] = [(module, *one) for one in last]
        elif name == layer:
            last[:] = [(name, output.clone())]  # what follows may write in place
        elif layer is None and _has_places(output):
            last[:] = [(name, output)]

    with hooked(modules, keep):
        logits = checked_logits(model(images), len(images))
    kind = type(model).__name__
    if layer is not None and not last:
        raise InterpretError(f"{kind} has no layer {layer!r} that runs: {near(modules)}")
    if not heads or heads[0][0].out_features != logits.shape[1]:
        raise InterpretError(f"{kind} does not end in a linear layer over a map")
    head, name, feature = heads[0]
    return Pooled(logits, name, feature, head)


def _has_places(output: Tensor) -> bool:
    """Whether a 4-d map or a 3-d sequence has more than one position."""
    sides = sorted(output.shape[1:])
    return (output.ndim == 4 and sides[1] > 1) or (output.ndim == 3 and output.shape[1] > 1)


@contextmanager
def hooked(modules: dict[str, nn.Module], keep: Keep) -> Iterator[None]:
    """Within it, `keep(name, module, output)` sees each output, and may answer with another."""
    handles: list[Any] = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda module, _, output: keep(name, module, output)

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook_for(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def checked_logits(output: Any, images: int) -> Tensor:
    """The model's output if it is (B, K), else InterpretError."""
    if isinstance(output, Tensor) and output.ndim == 2 and len(output) == images:
        return output
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise InterpretError(f"the model must give logits (B, K), not {found}")


def checked_finite(maps: Tensor, what: str) -> Tensor:
    """The maps (B, ...), detached; InterpretError names the first image whose map is not finite."""
    finite = maps.detach().flatten(1).isfinite().all(1)
    if not finite.all():
        raise InterpretError(f"the {what} of image {int(finite.int().argmin())} is not finite")
    return maps.detach()


def near(modules: dict[str, nn.Module]) -> str:
    """A few names to choose from."""
    names = [name for name in modules if name and "." not in name]
    return f"it has {', '.join(names)}"
