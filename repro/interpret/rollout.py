"""Attention rollout (Abnar and Zuidema 2020) and the gradient-weighted variant of vit-explain.

Each layer's attention, fused over heads, is mixed with the identity for the residual connection,
its rows are normalised, and the product over layers tells what each token is made of. The script
that most maps come from (github.com/jacobgil/vit-explain) adds a discard ratio and departs from
the formulas in places; `strict_vit_explain` does exactly as it does, for comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from repro.interpret.layouts import grid_of, prefix_tokens
from repro.interpret.taps import (
    Classes,
    InterpretError,
    Taps,
    checked_classes,
    checked_finite,
    checked_images,
    checked_logits,
    eager,
    gradients,
    hooked,
    tap,
)

Fusion = Literal["mean", "max", "min"]

FUSED = "fused_attn"  # of timm's attention: computed by one kernel


def rollout(
    model: nn.Module,
    images: Tensor,
    *,
    fusion: Fusion = "mean",
    discard: float = 0.0,
    strict_vit_explain: bool = False,
) -> Tensor:
    """The share of each patch in the class token, (B, h, w); it is the same for every class.

    Args:
        model: timm's or torchvision's VisionTransformer, DeiT with or without distillation token.
        images: (B, C, H, W), normalised; moved to the model's device.
        fusion: over heads. vit-explain's command line takes 'max', its class 'mean'.
        discard: the share of the lowest entries of each layer's (N, N) that become 0; the class
            token's attention to itself is spared. vit-explain's default is 0.9.
        strict_vit_explain: column j is divided by the sum of row j, where it should be row i by
            that of row i, so that rows no longer sum to 1; and each map by its largest value.

    InterpretError for a model without a class token or whose attention cannot be kept.
    """
    _check(discard, fusion)
    with torch.no_grad():
        layers = attentions(model, images, grad=False).kept
        fused = [_fuse(layer, fusion) for layer in layers]
        rolled = roll([_drop(one, discard) for one in fused], strict_vit_explain)
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
    order of the backward pass.
    """
    _check(discard, "mean")
    taps = attentions(model, images)
    slopes = gradients(taps, checked_classes(classes, taps.logits))
    pairs = zip(taps.kept, slopes[::-1] if strict_vit_explain else slopes, strict=True)
    with torch.no_grad():
        fused = [(a * g).mean(1).relu() for a, g in pairs]
        if not any(one.any() for one in fused):
            raise InterpretError("gradient rollout is empty: no attention raises the logit")
        rolled = roll([_drop(one, discard) for one in fused], strict_vit_explain)
        return _class_row(rolled, model, images, strict_vit_explain)


def attentions(model: nn.Module, images: Tensor, *, grad: bool = True) -> Taps:
    """The attention (B, heads, N, N) of every layer, first to last, with the logits.

    timm computes it by a fused kernel that never has it in memory; that is switched off for this
    pass. torchvision hands out a copy that no gradient reaches.
    """
    model = eager(model)
    names = [name for name, layer in model.named_modules() if _hands_out_attention(layer)]
    own = [
        name for name, layer in model.named_modules() if isinstance(layer, nn.MultiheadAttention)
    ]
    if names:
        with _unfused([model.get_submodule(name) for name in names]):
            taps = tap(model, images, [f"{name}.attn_drop" for name in names], grad=grad)
    elif own:
        taps = _torch_attentions(model, checked_images(model, images), own)
    else:
        raise InterpretError(f"no attention of {type(model).__name__} could be kept: 0 layers")
    tokens = taps.kept[0].shape[-1]
    size = (len(images), tokens, tokens)
    if any(layer.ndim != 4 or (len(layer), *layer.shape[2:]) != size for layer in taps.kept):
        raise InterpretError(f"{type(model).__name__} attends in windows: rollout is for one grid")
    return taps


def _hands_out_attention(layer: nn.Module) -> bool:
    """Whether it is timm's attention over all tokens, or one built alike."""
    return hasattr(layer, FUSED) and isinstance(getattr(layer, "attn_drop", None), nn.Module)


@contextmanager
def _unfused(layers: Sequence[nn.Module]) -> Iterator[None]:
    before = [getattr(layer, FUSED) for layer in layers]
    try:
        for layer in layers:
            setattr(layer, FUSED, False)
        yield
    finally:
        for layer, fused in zip(layers, before, strict=True):
            setattr(layer, FUSED, fused)


def _torch_attentions(model: nn.Module, images: Tensor, names: Sequence[str]) -> Taps:
    """Of layers of nn.MultiheadAttention, which give their weights where they are asked to."""
    kept: list[Tensor] = []
    layers = {name: model.get_submodule(name) for name in names}

    def ask(_: nn.Module, given: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return given, {**options, "need_weights": True, "average_attn_weights": False}

    def keep(_name: str, _layer: nn.Module, output: tuple[Tensor, Tensor]) -> None:
        kept.append(output[1])

    asking = [layer.register_forward_pre_hook(ask, with_kwargs=True) for layer in layers.values()]
    try:
        with torch.no_grad(), hooked(layers, keep):
            logits = checked_logits(model(images), len(images))
    finally:
        for handle in asking:
            handle.remove()
    return Taps(logits, tuple(kept))


def roll(layers: Sequence[Tensor], strict_vit_explain: bool = False) -> Tensor:
    """The product over layers, the last leftmost, of fused attentions (B, N, N) with residuals.

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


def _drop(fused: Tensor, discard: float) -> Tensor:
    """The lowest entries of each (N, N) made 0, but for the first."""
    flat = fused.flatten(1)
    lowest = flat.topk(int(flat.shape[1] * discard), largest=False).indices
    dropped = flat.scatter(1, lowest, 0.0)
    dropped[:, 0] = flat[:, 0]
    return dropped.view_as(fused)


def _class_row(rolled: Tensor, model: nn.Module, images: Tensor, strict: bool) -> Tensor:
    """The patches in the class token's row, as the grid that they make."""
    prefix = prefix_tokens(eager(model))
    if not prefix:
        raise InterpretError("rollout reads the class token's row, and this model has none")
    if strict and prefix != 1:
        raise InterpretError(f"vit-explain knows one token ahead of the patches, not {prefix}")
    row = rolled[:, 0, prefix:]
    if strict:
        row = row / row.amax(1, keepdim=True)
    return checked_finite(row.unflatten(1, grid_of(row.shape[1], images.shape[-2:])), "rollout")


def _check(discard: float, fusion: str) -> None:
    if not 0 <= discard < 1:
        raise InterpretError(f"discard is a share from 0 to below 1, not {discard}")
    if fusion not in get_args(Fusion):
        raise InterpretError(f"fusion is 'mean', 'max' or 'min', not {fusion!r}")
