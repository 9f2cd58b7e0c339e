"""Attention rollout (Abnar and Zuidema 2020) and the gradient-weighted variant of vit-explain.

Each layer's attention, fused over heads, is averaged with the identity for the residual connection,
its rows are normalised, and the product over layers gives each input token's share in each output
token. The script behind most maps (github.com/jacobgil/vit-explain) adds a discard ratio and
departs from the formulas in places. With `strict_vit_explain`, for comparison, rollout reproduces
it exactly, and gradient rollout does except for which gradient it uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from repro.interpret.feature_maps import grid_of, prefix_tokens
from repro.interpret.taps import (
    Classes,
    InterpretError,
    Taps,
    check_classes,
    check_finite,
    check_images,
    check_logits,
    eager_module,
    forward_hooks,
    gradients,
    tap,
)

Fusion = Literal["mean", "max", "min"]

FUSED = "fused_attn"  # the flag of timm's attention for a fused kernel


def rollout(
    model: nn.Module,
    images: Tensor,
    *,
    fusion: Fusion = "mean",
    discard: float = 0.0,
    strict_vit_explain: bool = False,
) -> Tensor:
    """The share of each patch in the class token, (B, h, w), the same for every class.

    Args:
        model: timm's or torchvision's VisionTransformer, DeiT with or without distillation token.
        images: (B, C, H, W), normalised; moved to the model's device.
        fusion: over heads. vit-explain's command line defaults to 'max', its class to 'mean'.
        discard: the share of each layer's (N, N) entries, lowest first, that become 0, except the
            class token's attention to itself. vit-explain's default is 0.9.
        strict_vit_explain: divide column j by the sum of row j, not row i by its own sum, so that
            rows no longer sum to 1; and divide each map by its maximum.

    InterpretError for a model without a class token, or with attention that cannot be recorded.
    """
    _check(discard, fusion)
    with torch.no_grad():
        layers = attentions(model, images, grad=False).outputs
        fused = [_fuse(layer, fusion) for layer in layers]
        rolled = roll([_discard_lowest(layer, discard) for layer in fused], strict_vit_explain)
        return _class_row(rolled, model, images, strict_vit_explain)


def gradient_rollout(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    *,
    discard: float = 0.0,
    strict_vit_explain: bool = False,
) -> Tensor:
    """Rollout of relu(mean over heads of A · ∂logit/∂A), for a class, (B, h, w).

    Arguments as in `rollout` and `cam`. `strict_vit_explain` also pairs the attention of the first
    layer with the gradient of the last and so on, since the script collects gradients in the
    order of the backward pass. The script's own maps still differ by up to 0.83: its backward hook
    is on a dropout, the identity in eval mode, and receives the gradient of the scores before the
    softmax; here it is the attention's gradient, as the script intends.
    """
    _check(discard, "mean")
    taps = attentions(model, images)
    grads = gradients(taps, check_classes(classes, taps.logits))
    pairs = zip(taps.outputs, grads[::-1] if strict_vit_explain else grads, strict=True)
    with torch.no_grad():
        fused = [(a * g).mean(1).relu() for a, g in pairs]
        if not any(layer.any() for layer in fused):
            raise InterpretError("gradient rollout is empty: no attention raises the logit")
        rolled = roll([_discard_lowest(layer, discard) for layer in fused], strict_vit_explain)
        return _class_row(rolled, model, images, strict_vit_explain)


def attentions(model: nn.Module, images: Tensor, *, grad: bool = True) -> Taps:
    """The attention (B, heads, N, N) of every layer, first to last, with the logits.

    timm's fused kernel never materialises it, and is switched off for this pass. torchvision's
    layers return a copy without gradients.
    """
    model = eager_module(model)
    names = [name for name, layer in model.named_modules() if _is_timm_attention(layer)]
    torch_names = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.MultiheadAttention)
    ]
    if names:
        with _disable_fused_attention([model.get_submodule(name) for name in names]):
            taps = tap(model, images, [f"{name}.attn_drop" for name in names], grad=grad)
    elif torch_names:
        taps = _torch_attentions(model, check_images(model, images), torch_names)
    else:
        raise InterpretError(f"{type(model).__name__} has no attention layer that can be recorded")
    tokens = taps.outputs[0].shape[-1]
    size = (len(images), tokens, tokens)
    if any(layer.ndim != 4 or (len(layer), *layer.shape[2:]) != size for layer in taps.outputs):
        raise InterpretError(
            f"{type(model).__name__} attends in windows: rollout needs global attention"
        )
    return taps


def _is_timm_attention(layer: nn.Module) -> bool:
    """Whether the layer has the interface of timm's attention."""
    return hasattr(layer, FUSED) and isinstance(getattr(layer, "attn_drop", None), nn.Module)


@contextmanager
def _disable_fused_attention(layers: Sequence[nn.Module]) -> Iterator[None]:
    before = [getattr(layer, FUSED) for layer in layers]
    try:
        for layer in layers:
            setattr(layer, FUSED, False)
        yield
    finally:
        for layer, fused in zip(layers, before, strict=True):
            setattr(layer, FUSED, fused)


def _torch_attentions(model: nn.Module, images: Tensor, names: Sequence[str]) -> Taps:
    """The attention of nn.MultiheadAttention layers, which return it only on request."""
    attentions: list[Tensor] = []
    layers = {name: model.get_submodule(name) for name in names}

    def request(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return args, {**options, "need_weights": True, "average_attn_weights": False}

    def record(_name: str, _layer: nn.Module, output: tuple[Tensor, Tensor]) -> None:
        attentions.append(output[1])

    handles = [
        layer.register_forward_pre_hook(request, with_kwargs=True) for layer in layers.values()
    ]
    try:
        with torch.no_grad(), forward_hooks(layers, record):
            logits = check_logits(model(images), len(images))
    finally:
        for handle in handles:
            handle.remove()
    return Taps(logits, tuple(attentions))


def roll(layers: Sequence[Tensor], strict_vit_explain: bool = False) -> Tensor:
    """The product of fused attentions (B, N, N) with residuals over layers, the last leftmost.

    Every row of the result sums to 1, unless `strict_vit_explain`.
    """
    eye = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    rolled = eye.expand_as(layers[0])
    for layer in layers:
        mixed = (layer + eye) / 2
        sums = mixed.sum(-1, keepdim=True)
        if strict_vit_explain:  # the script's a / a.sum(-1) divides column j by the sum of row j
            sums = sums.transpose(1, 2)
        rolled = (mixed / sums) @ rolled
    return rolled


def _fuse(attention: Tensor, fusion: Fusion) -> Tensor:
    """(B, heads, N, N) -> (B, N, N)."""
    if fusion == "mean":
        return attention.mean(1)
    return attention.amax(1) if fusion == "max" else attention.amin(1)


def _discard_lowest(fused: Tensor, discard: float) -> Tensor:
    """Set the lowest entries of each (N, N) to 0, except the first entry."""
    flat = fused.flatten(1)
    lowest = flat.topk(int(flat.shape[1] * discard), largest=False).indices
    rest = flat.scatter(1, lowest, 0.0)
    rest[:, 0] = flat[:, 0]
    return rest.view_as(fused)


def _class_row(rolled: Tensor, model: nn.Module, images: Tensor, strict: bool) -> Tensor:
    """The class token's row without the prefix tokens, as a grid (B, h, w)."""
    prefix = prefix_tokens(eager_module(model))
    if not prefix:
        raise InterpretError("rollout needs a class token, and this model has none")
    if strict and prefix != 1:
        raise InterpretError(f"vit-explain requires one token before the patches, not {prefix}")
    row = rolled[:, 0, prefix:]
    if strict:
        row = row / row.amax(1, keepdim=True)
    return check_finite(row.unflatten(1, grid_of(row.shape[1], images.shape[-2:])), "rollout")


def _check(discard: float, fusion: str) -> None:
    if not 0 <= discard < 1:
        raise InterpretError(f"discard must be in [0, 1), not {discard}")
    if fusion not in get_args(Fusion):
        raise InterpretError(f"fusion is 'mean', 'max' or 'min', not {fusion!r}")
