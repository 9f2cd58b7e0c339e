"""Faithfulness: does a map show what the model used? Pixels are removed, and the model runs again.

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
    check_classes,
    check_finite,
    check_images,
    check_logits,
    eager_module,
)

Baseline = Literal["zero", "blur"]
Score = Literal["logit", "probability"]

BLUR_SIDE, BLUR_SIGMA = 11, 5.0  # px, the numbers of RISE for images of 224 px


@dataclass(frozen=True)
class Curve:
    """The class's probability (B, steps + 1) as more and more pixels change."""

    scores: Tensor

    @property
    def auc(self) -> Tensor:
        """The area (B,) under the curve by trapezoids, over fractions of pixels from 0 to 1."""
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
    """Replace pixels by `baseline`, the largest of maps (B, H, W) first; good maps have a low area.

    Args:
        images: (B, C, H, W), normalised, so that 'zero' is the data set's mean colour. 'blur' is
            a Gaussian of 11 px a side and sigma 5 px, RISE's values for 224 px. (RISE's code
            turns them into a nearly flat kernel, reflected at its border, and zero-pads images;
            areas differ by 2e-4 to 5e-4.)
        steps: each changes as many pixels; RISE has H steps, of W pixels each.

    Each step is one forward pass of the batch. Ties are in raster order. InterpretError for maps of
    another size, or not finite.
    """
    model = eager_module(model)
    images = check_images(model, images)
    return _curve(model, images, _make_baseline(images, baseline), classes, maps, steps)


def insertion(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    maps: Tensor,
    *,
    steps: int = 224,
    baseline: Baseline = "blur",
) -> Curve:
    """`deletion` reversed: pixels appear on the baseline; good maps have a high area."""
    model = eager_module(model)
    images = check_images(model, images)
    return _curve(model, _make_baseline(images, baseline), images, classes, maps, steps)


@torch.no_grad()
def _curve(
    model: nn.Module, before: Tensor, after: Tensor, classes: Classes, maps: Tensor, steps: int
) -> Curve:
    """Replace the pixels of `before` by those of `after`, in the order of the maps."""
    b, _, height, width = before.shape
    pixels = height * width
    if maps.shape != (b, height, width) or not maps.isfinite().all():
        raise InterpretError(f"maps must be finite {(b, height, width)}, not {tuple(maps.shape)}")
    if not 1 <= steps <= pixels:
        raise InterpretError(f"steps must be from 1 to {pixels} (pixels), not {steps}")
    order = maps.to(before.device).flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(b, 1, height, width)  # 0 is the largest
    scores = []
    for step in range(steps + 1):
        mixed = torch.where(rank < pixels * step // steps, after, before)
        scores.append(_score(model, mixed, classes, "probability"))
    return Curve(torch.stack(scores, dim=1))


def _score(model: nn.Module, images: Tensor, classes: Classes, of: Score) -> Tensor:
    """The logit or probability (B,) of each image's class; InterpretError if it is not finite."""
    logits = check_finite(check_logits(model(images), len(images)), "output")
    values = logits if of == "logit" else logits.softmax(1)
    return values.gather(1, check_classes(classes, logits)[:, None])[:, 0]


def _make_baseline(images: Tensor, baseline: Baseline) -> Tensor:
    """The images that replace removed pixels."""
    if baseline not in ("zero", "blur"):
        raise InterpretError(f"baseline is 'zero' or 'blur', not {baseline!r}")
    return torch.zeros_like(images) if baseline == "zero" else blur(images)


def blur(images: Tensor) -> Tensor:
    """(B, C, H, W) blurred by a Gaussian, renormalised at the border."""
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
    """The drop in the class's score when a block becomes 0, the mean colour: (B, rows²).

    Blocks of a grid of `rows` by `rows`, in raster order: 4 for the bottom hierarchy of NesT on
    ImageNet, 8 on CIFAR. rows² + 1 forward passes. InterpretError if the image does not divide.
    """
    model = eager_module(model)
    images = check_images(model, images)
    height, width = images.shape[2:]
    if of not in ("logit", "probability"):
        raise InterpretError(f"of is 'logit' or 'probability', not {of!r}")
    if rows < 1 or height % rows or width % rows:
        raise InterpretError(f"{height}×{width} px are not divisible into {rows}×{rows} blocks")
    whole, drops = _score(model, images, classes, of), []
    h, w = height // rows, width // rows
    for row in range(rows):
        for column in range(rows):
            ablated = images.clone()
            ablated[:, :, row * h : (row + 1) * h, column * w : (column + 1) * w] = 0
            drops.append(whole - _score(model, ablated, classes, of))
    return torch.stack(drops, dim=1)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation for each image (B,) of values (B, ...); NaN if either is constant.

    Ties get the mean of their ranks. InterpretError for other shapes or values that are not finite.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise InterpretError(f"shapes {tuple(a.shape)} and {tuple(b.shape)}: must be equal (B, K)")
    x, y = (_ranks(check_finite(each.flatten(1), "map")) for each in (a, b))
    product = (x * y).sum(1)
    return product / ((x * x).sum(1) * (y * y).sum(1)).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks (B, K) in float64, centred; ties span positions `first` to `last` when sorted."""
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
    """The sanity check: do maps change when weights are randomised from the top down?

    Args:
        explain: returns a model's maps (B, h, w) of some fixed images.
        stages: layers in the order in which they are randomised, cumulatively; by default the
            direct children, last first.

    Returns the rank correlation (B,) of the maps with the trained model's after each stage. It
    drops to about 0 for a method that depends on the model; one that stays near 1 shows the image.
    Each parameter's values are shuffled, so scales stay as trained (our choice). The model is
    copied, not changed. InterpretError for a stage that does not exist or has no parameters.
    """
    shuffled = copy.deepcopy(eager_module(model))
    generator = torch.Generator().manual_seed(seed)
    original = explain(shuffled)
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
        correlations[name] = rank_correlation(original, explain(shuffled))
    return correlations


def _stages(model: nn.Module) -> list[str]:
    """The direct children that have parameters, last first."""
    children = list(model.named_children())[::-1]
    return [name for name, child in children if any(True for _ in child.parameters())]
