"""CAM, HiResCAM and Grad-CAM++ as raw maps: unscaled, with no ReLU beyond the method's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.interpret.feature_maps import Layout, as_maps
from repro.interpret.taps import (
    Classes,
    InterpretError,
    PooledMap,
    check_classes,
    check_finite,
    eager_module,
    gradients,
    last_map,
    tap,
)

EPS = 1e-6  # as in the library grad-cam, which made most published maps


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
    do; there the map's mean plus the bias is the logit. That is checked on every image, and any
    other model is an error. Negative values are kept.

    Args:
        images: (B, C, H, W), normalised; moved to the model's device.
        classes: (B,) integers, or one for all.
        layer: the layer whose output is pooled; by default the last map before the linear layer.
        layout: of that output, if its shape is ambiguous.
        tolerance: of the check, relative to the sum of the absolute terms of the logit; never
            below the rounding error of half-precision logits.

    NoCAM for a model with another kind of head; InterpretError names the layer, class or image
    without a map.
    """
    pooled = last_map(model, images, layer)
    target = check_classes(classes, pooled.logits)
    head = pooled.head
    maps = as_maps(
        pooled.feature, eager_module(model), images, pooled.layer, layout, head.in_features
    )
    if maps.shape[1] != head.in_features:
        channels = f"{maps.shape[1]} channels, the linear layer takes {head.in_features}"
        raise NoCAM(f"no CAM: layer {pooled.layer!r} has {channels}")
    maps = maps.to(head.weight.dtype)
    weight = head.weight.detach()[target]
    result = torch.einsum("bc,bchw->bhw", weight, maps)
    _check(result, maps, pooled, target, tolerance)
    return check_finite(result, "CAM")


def _check(
    result: Tensor, maps: Tensor, pooled: PooledMap, target: Tensor, tolerance: float
) -> None:
    """InterpretError unless mean(CAM) + bias is the logit, up to rounding."""
    weight, bias = pooled.head.weight.detach()[target], torch.zeros_like(result[:, 0, 0])
    if pooled.head.bias is not None:
        bias = pooled.head.bias.detach()[target]
    logit = pooled.logits.gather(1, target[:, None])[:, 0].to(result.dtype)
    terms = (weight.abs() * maps.abs().mean((2, 3))).sum(1) + bias.abs()
    limit = max(tolerance, 4 * torch.finfo(pooled.logits.dtype).eps) * terms
    error = (result.mean((1, 2)) + bias - logit).abs()
    if (error > limit).any():  # False for NaN, which the caller reports
        worst = int((error - limit).argmax())
        raise NoCAM(
            f"no CAM: with layer {pooled.layer!r}, mean(CAM) + bias misses the logit of image "
            f"{worst} by {error[worst]:.3g}; more than pooling and one linear layer follow it"
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

    Where CAM exists, this is CAM divided by the number of positions. Unlike Grad-CAM++ it handles
    maps of either sign, and keeps negative values. Arguments and errors as in `grad_cam_pp`.
    """
    maps, g = _maps_and_gradients(model, images, classes, layer, layout)
    return check_finite((maps * g).sum(1), "HiResCAM")


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
    the map is relu(Σ_k A_k Σ α relu(g)). The paper's score is exp(logit), whose higher derivatives
    are g² and g³ up to one factor per image, which normalising removes.

    Args:
        images, classes, layout: as in `cam`.
        layer: dotted name, such as 'layer4' of a ResNet; by default the model's `map_layer`, or the
            last map before the linear layer, found by one more forward pass. For a ViT take
            'blocks.11.norm1': its class logit does not depend on the patches of the final norm.
        eps: 1e-6 as in the library grad-cam, which made most published maps. It dominates α where
            g² is smaller. 0 is the formula of the paper.

    An image without positive contributions has a map of zeros (see `heatmap`). That happens where A
    has negative values, as after a layer norm, for which the method is not designed.
    InterpretError names an image whose gradient is zero everywhere, a sign of a wrong layer.
    """
    maps, g = _maps_and_gradients(model, images, classes, layer, layout)
    total = maps.sum((2, 3), keepdim=True)
    alpha = g**2 / (2 * g**2 + total * g**3 + eps)
    weight = (torch.where(g == 0, 0, alpha) * g.relu()).sum((2, 3))
    return check_finite(torch.einsum("bc,bchw->bhw", weight, maps).relu(), "Grad-CAM++")


def _maps_and_gradients(
    model: nn.Module, images: Tensor, classes: Classes, layer: str | None, layout: Layout | None
) -> tuple[Tensor, Tensor]:
    """A layer's maps and the gradient of each image's logit by them, both (B, C, h, w)."""
    name = last_map(model, images).layer if layer is None else layer
    taps = tap(model, images, [name])
    (gradient,) = gradients(taps, check_classes(classes, taps.logits))
    inner = eager_module(model)
    maps = as_maps(taps.outputs[0].detach(), inner, images, name, layout)
    g = as_maps(gradient, inner, images, name, layout)
    dead = g.flatten(1).eq(0).all(1)
    if dead.any():
        number = int(dead.int().argmax())
        raise InterpretError(f"the logit of image {number} does not depend on layer {name!r}")
    return maps, g
