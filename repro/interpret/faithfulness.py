"""Does a map tell what the model used? Pixels are taken away, and the model is asked again.

Insertion and deletion (Petsiuk et al. 2018, RISE), the exact ablation of the blocks of NesT's
bottom hierarchy, and the cascading randomisation of Adebayo et al. 2018.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.interpret.taps import (
    Classes,
    InterpretError,
    checked_classes,
    checked_finite,
    checked_images,
    checked_logits,
    eager,
)

Baseline = Literal["zero", "blur"]
Score = Literal["logit", "probability"]

BLUR_SIDE, BLUR_SIGMA = 11, 5.0  # px, of RISE on images of 224 px


@dataclass(frozen=True)
class Curve:
    """The class's probability (B, steps + 1), as ever more pixels change."""

    scores: Tensor

    @property
    def auc(self) -> Tensor:
        """The area (B,) under it by trapezoids, over shares of pixels from 0 to 1."""
        inner = self.scores.sum(1) - (self.scores[:, 0] + self.scores[:, -1]) / 2
        return inner / (self.scores.shape[1] - 1)


def deletion(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    maps: Tensor,
    *,
    steps: int = 224,
    baseline: Baseline = "zero",
) -> Curve:
    """Pixels become `baseline`, the largest of maps (B, H, W) first; a low area is a good map.

    Args:
        images: (B, C, H, W), normalised, so that 'zero' is the data set's mean colour. 'blur' is
            a Gaussian of 11 px a side and sigma 5 px, as RISE has it for 224 px.
        steps: equal shares of the pixels; RISE changes one row's worth, H steps in all.

    One forward pass of the batch a step. Equal values go row by row. InterpretError for maps of
    another size, or not finite.
    """
    model = eager(model)
    images = checked_images(model, images)
    return _curve(model, images, _plain(images, baseline), classes, maps, steps)


def insertion(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    maps: Tensor,
    *,
    steps: int = 224,
    baseline: Baseline = "blur",
) -> Curve:
    """`deletion` the other way: the image appears in `baseline`, and a high area is a good map."""
    model = eager(model)
    images = checked_images(model, images)
    return _curve(model, _plain(images, baseline), images, classes, maps, steps)


@torch.no_grad()
def _curve(
    model: nn.Module, before: Tensor, after: Tensor, classes: Classes, maps: Tensor, steps: int
) -> Curve:
    """From all of `before` to all of `after`, in the order of the maps."""
    b, _, height, width = before.shape
    pixels = height * width
    if maps.shape != (b, height, width) or not maps.isfinite().all():
        raise InterpretError(f"maps must be finite {(b, height, width)}, not {tuple(maps.shape)}")
    if not 1 <= steps <= pixels:
        raise InterpretError(f"steps are from 1 to {pixels} pixels, not {steps}")
    order = maps.to(before.device).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(b, 1, height, width)  # 0 is the largest
    scores = []
    for step in range(steps + 1):
        mixed = torch.where(rank < pixels * step // steps, after, before)
        scores.append(_score(model, mixed, classes, "probability"))
    return Curve(torch.stack(scores, dim=1))


def _score(model: nn.Module, images: Tensor, classes: Classes, of: Score) -> Tensor:
    """The logit or probability (B,) of each image's class; InterpretError if it is not finite."""
    logits = checked_finite(checked_logits(model(images), len(images)), "output")
    values = logits if of == "logit" else logits.softmax(1)
    return values.gather(1, checked_classes(classes, logits)[:, None])[:, 0]


def _plain(images: Tensor, baseline: Baseline) -> Tensor:
    """What stands for pixels that are not there."""
    if baseline not in ("zero", "blur"):
        raise InterpretError(f"baseline is 'zero' or 'blur', not {baseline!r}")
    return torch.zeros_like(images) if baseline == "zero" else blurred(images)


def blurred(images: Tensor) -> Tensor:
    """(B, C, H, W) under a Gaussian; at the border the weights within the image are scaled up."""
    line = torch.arange(BLUR_SIDE, dtype=images.dtype, device=images.device) - BLUR_SIDE // 2
    weights = (-(line**2) / (2 * BLUR_SIGMA**2)).exp()
    kernel = (weights[:, None] * weights)[None, None]
    flat = images.flatten(0, 1)[:, None]
    within = F.conv2d(torch.ones_like(flat[:1]), kernel, padding="same")
    return (F.conv2d(flat, kernel, padding="same") / within).view_as(images)


@torch.no_grad()
def block_ablation(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    *,
    rows: int = 4,
    of: Score = "logit",
) -> Tensor:
    """By how much the class's score falls when a block becomes 0, the mean colour: (B, rows²).

    Blocks are those of a grid of `rows` by `rows`, row by row: 4 for the bottom hierarchy of
    NesT on ImageNet, 8 on CIFAR. rows² + 1 forward passes. InterpretError if they do not divide.
    """
    model = eager(model)
    images = checked_images(model, images)
    height, width = images.shape[2:]
    if of not in ("logit", "probability"):
        raise InterpretError(f"of is 'logit' or 'probability', not {of!r}")
    if rows < 1 or height % rows or width % rows:
        raise InterpretError(f"{height}×{width} px do not divide into {rows}×{rows} blocks")
    whole, falls = _score(model, images, classes, of), []
    high, wide = height // rows, width // rows
    for row in range(rows):
        for column in range(rows):
            holed = images.clone()
            holed[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = 0
            falls.append(whole - _score(model, holed, classes, of))
    return torch.stack(falls, dim=1)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's of each image (B,), of values (B, ...) alike in shape; NaN if one is constant.

    Equal values share the mean of their ranks. InterpretError for values that are not finite.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise InterpretError(f"values are {tuple(a.shape)} and {tuple(b.shape)}: (B, K) alike")
    x, y = (_ranks(checked_finite(each.flatten(1), "map")) for each in (a, b))
    product = (x * y).sum(1)
    return product / ((x * x).sum(1) * (y * y).sum(1)).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks (B, K) in float64, about their mean; in sorted order, as for equal values the
    first and the last position are known by searching."""
    ordered = values.sort(dim=1).values
    first = torch.searchsorted(ordered, values.contiguous())
    last = torch.searchsorted(ordered, values.contiguous(), right=True) - 1
    return (first + last).to(torch.float64) / 2 - (values.shape[1] - 1) / 2


def cascade(
    model: nn.Module,
    explain: Callable[[nn.Module], Tensor],
    *,
    stages: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The sanity check: do maps change when the model's weights are made random from the top?

    Args:
        explain: the model to its maps (B, h, w), of images that it holds.
        stages: layers in the order in which they are lost, one after another and for good; by
            default the direct children, last first.

    Returns the rank correlation (B,) of the maps with those of the whole model, after each stage.
    A method that sees the model falls to about 0; one that stays near 1 shows the image. Random
    means that each parameter's values are shuffled, so that scales stay as trained (our choice).
    The model is copied, not changed. InterpretError for a stage that is not there or without
    parameters.
    """
    shuffled = copy.deepcopy(eager(model))
    generator = torch.Generator().manual_seed(seed)
    whole = explain(shuffled)
    correlations = {}
    for name in _stages(shuffled) if stages is None else stages:
        modules = dict(shuffled.named_modules())
        parameters = list(modules[name].parameters()) if name in modules else []
        if not parameters:
            raise InterpretError(f"{type(model).__name__} has no parameters in {name!r}")
        for parameter in parameters:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            with torch.no_grad():
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        correlations[name] = rank_correlation(whole, explain(shuffled))
    return correlations


def _stages(model: nn.Module) -> list[str]:
    """The direct children that have parameters, last first."""
    children = list(model.named_children())[::-1]
    return [name for name, child in children if any(True for _ in child.parameters())]
