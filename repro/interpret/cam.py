"""CAM, HiResCAM and Grad-CAM++, as raw maps.

No ReLU but the method's own, and no scaling (see `heatmap`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.interpret.layouts import Layout, as_maps
from repro.interpret.taps import (
    Classes,
    InterpretError,
    Pooled,
    checked_classes,
    checked_finite,
    eager,
    gradients,
    last_map,
    tap,
)

EPS = 1e-6  # of the library grad-cam, on which published maps rest


class NoCAM(InterpretError):
    """A model with more than pooling and one linear layer above its last map."""


def cam(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    *,
    layer: str | None = None,
    layout: Layout | None = None,
    tolerance: float = 1e-3,
) -> Tensor:
    """Class activation maps (Zhou et al. 2016): W_c · A at each position, (B, h, w).

    For a model that ends in global average pooling and one linear layer, as NesT, Swin and ResNet
    do; there the map's mean plus the bias is the logit. That is checked on every image, so any
    other model is refused. Negative values are kept.

    Args:
        images: (B, C, H, W), normalised; moved to the model's device.
        classes: (B,) integers, or one for all.
        layer: whose output is pooled; by default the last map ahead of the linear layer.
        layout: of that output, where its shape does not tell.
        tolerance: of the check, relative to the sum of the absolute terms of the logit; the
            rounding of half-precision logits is allowed for in any case.

    NoCAM for a model that ends otherwise; InterpretError names the layer, class or image that has
    no such map.
    """
    found = last_map(model, images, layer)
    target = checked_classes(classes, found.logits)
    head = found.head
    maps = as_maps(found.feature, eager(model), images, found.layer, layout, head.in_features)
    if maps.shape[1] != head.in_features:
        channels = f"{maps.shape[1]} channels, the linear layer takes {head.in_features}"
        raise NoCAM(f"no CAM: layer {found.layer!r} has {channels}")
    maps = maps.to(head.weight.dtype)
    weight = head.weight.detach()[target]
    result = torch.einsum("bc,bchw->bhw", weight, maps)
    _check(result, maps, found, target, tolerance)
    return checked_finite(result, "CAM")


def _check(result: Tensor, maps: Tensor, found: Pooled, target: Tensor, tolerance: float) -> None:
    """InterpretError unless mean(CAM) + bias is the logit, up to rounding."""
    weight, bias = found.head.weight.detach()[target], torch.zeros_like(result[:, 0, 0])
    if found.head.bias is not None:
        bias = found.head.bias.detach()[target]
    logit = found.logits.gather(1, target[:, None])[:, 0].to(result.dtype)
    terms = (weight.abs() * maps.abs().mean((2, 3))).sum(1) + bias.abs()
    allowed = max(tolerance, 4 * torch.finfo(found.logits.dtype).eps) * terms
    off = (result.mean((1, 2)) + bias - logit).abs()
    if (off > allowed).any():  # what is not finite is named by the caller
        worst = int((off - allowed).argmax())
        raise NoCAM(
            f"no CAM: with layer {found.layer!r}, mean(CAM) + bias misses the logit of image "
            f"{worst} by {off[worst]:.3g}; more than pooling and one linear layer follow it"
        )


def hires_cam(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    *,
    layer: str | None = None,
    layout: Layout | None = None,
) -> Tensor:
    """HiResCAM (Draelos and Carin 2020) of a layer's maps A: Σ_k A_k ∂logit/∂A_k, (B, h, w).

    Where CAM exists this is CAM over the number of positions. Unlike Grad-CAM++ it is made for maps
    of either sign, and keeps negative values. Arguments and errors as in `grad_cam_pp`.
    """
    maps, g = _maps_and_gradients(model, images, classes, layer, layout)
    return checked_finite((maps * g).sum(1), "HiResCAM")


def grad_cam_pp(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    *,
    layer: str | None = None,
    layout: Layout | None = None,
    eps: float = EPS,
) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018, Eq. 19) of a layer's maps A, (B, h, w), not negative.

    With g = ∂logit/∂A and S = ΣA over positions, α = g² / (2g² + S g³ + eps), 0 where g is 0;
    the map is relu(Σ_k A_k Σ α relu(g)). The paper takes exp(logit) for the score, of which g² and
    g³ are the higher derivatives up to one factor per image; normalising removes that factor.

    Args:
        images, classes, layout: as in `cam`.
        layer: dotted name, 'layer4' of a ResNet; by default the model's `map_layer`, or the last
            map ahead of the linear layer, found by one more forward pass. Of a ViT,
            'blocks.11.norm1': its class logit does not depend on the patches of the final norm.
        eps: 1e-6 as the library grad-cam, with which published maps were made; as g² may well be
            smaller, it then rules α. 0 is the formula of the paper.

    An image to which no channel contributes positively has a map of zeros, see `heatmap`; that
    happens where A takes negative values, as after a layer norm, for which the method is not made.
    InterpretError names an image whose gradient is zero everywhere, which tells of a wrong layer.
    """
    maps, g = _maps_and_gradients(model, images, classes, layer, layout)
    total = maps.sum((2, 3), keepdim=True)
    alpha = g**2 / (2 * g**2 + total * g**3 + eps)
    weight = (torch.where(g == 0, 0, alpha) * g.relu()).sum((2, 3))
    return checked_finite(torch.einsum("bc,bchw->bhw", weight, maps).relu(), "Grad-CAM++")


def _maps_and_gradients(
    model: nn.Module, images: Tensor, classes: Classes, layer: str | None, layout: Layout | None
) -> tuple[Tensor, Tensor]:
    """A layer's maps and each image's ∂logit by them, both (B, C, h, w)."""
    name = last_map(model, images).layer if layer is None else layer
    taps = tap(model, images, [name])
    (gradient,) = gradients(taps, checked_classes(classes, taps.logits))
    inner = eager(model)
    maps = as_maps(taps.kept[0].detach(), inner, images, name, layout)
    g = as_maps(gradient, inner, images, name, layout)
    dead = g.flatten(1).eq(0).all(1)
    if dead.any():
        number = int(dead.int().argmax())
        raise InterpretError(f"the logit of image {number} does not depend on layer {name!r}")
    return maps, g
