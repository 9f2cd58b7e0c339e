"""GradCAT, the paper's Algorithm 1: the path down NesT's tree of blocks that explains a logit.

At each hierarchy, activation times gradient is averaged over each of the four blocks that were
aggregated into the current one, and the largest is the next, down to a leaf, a block of the bottom
hierarchy. One backward pass gives the value of every node of the tree, on the path or not, since
the gradient with respect to a part of a map is a part of the map's gradient.

The authors published no code, so what the algorithm leaves open is an argument here. Compare values
only within one hierarchy: scales differ between them. A block of a feature map does not depend on
its block of pixels alone: convolutions cross borders, and the top attends to everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from timm.models.nest import Nest
from torch import Tensor, nn

from repro.interpret.taps import (
    Classes,
    InterpretError,
    check_classes,
    eager_module,
    gradients,
    tap,
)
from repro.models.aggregation import unblockify
from repro.models.nest import NesT

Sign = Literal["ascent", "literal"]
TopTap = Literal["input", "norm", "output"]
LowerTap = Literal["output", "input"]
Reduction = Literal["mean", "sum"]

ROUNDING = 8  # units in the last place by which the best of four must lead the next


@dataclass(frozen=True)
class GradCat:
    """The trees of B images. L is the number of hierarchies minus one.

    Blocks are in raster order, and so are children: top left, top right, bottom left, bottom right.
    -1 stands for an undecided step and for all below it.
    """

    path: Tensor  # (B, L) int64: the child entered, 0 to 3, from the root down
    leaf: Tensor  # (B, 2) int64: row and column of the leaf on the grid of 2^L by 2^L blocks
    nodes: tuple[Tensor, ...]  # L grids (B, 2, 2), (B, 4, 4), ...: the value of every node
    choices: Tensor  # (B, L, 4): the values of the four children at each step of the path
    floors: Tensor  # (B, L): the margin that rounding alone can cause
    sign: Sign

    @property
    def margins(self) -> Tensor:
        """The lead of the best of four over the second at each step, (B, L)."""
        best = self.choices.topk(2, dim=2).values
        return best[:, :, 0] - best[:, :, 1]

    @property
    def decided(self) -> Tensor:
        """Whether each image's path (B,) reaches a leaf: each margin exceeds rounding.

        False if values tie, are all zero or not finite; `reasons` says which.
        """
        return self.path[:, -1] >= 0

    def block(self, depth: int) -> Tensor:
        """Row and column (B, 2) of the block entered at a depth from 1 to L; -1 if undecided."""
        if not 1 <= depth <= self.path.shape[1]:
            raise InterpretError(f"a path has depths 1 to {self.path.shape[1]}, not {depth}")
        steps = self.path[:, :depth]
        scale = 2 ** torch.arange(depth - 1, -1, -1, device=steps.device)
        block = torch.stack([(steps // 2 * scale).sum(1), (steps % 2 * scale).sum(1)], dim=1)
        return torch.where(steps[:, -1:] >= 0, block, -1)

    def reasons(self) -> list[str]:
        """Why each image's path ends early, '' where it does not."""
        ends = (self.path < 0).int().argmax(1).tolist()
        return [
            "" if decided else _reason(self.choices[image, end], end + 1)
            for image, (decided, end) in enumerate(zip(self.decided.tolist(), ends, strict=True))
        ]


def _reason(values: Tensor, step: int) -> str:
    if not values.isfinite().all():
        return f"step {step}: not all four values are finite"
    if not values.any():
        return f"step {step}: all four values are zero"
    return f"step {step}: the best two of four values tie, up to rounding"


def has_tree(model: nn.Module) -> bool:
    """Whether the model is a NesT, ours or timm's, with a tree that GradCAT can walk."""
    return isinstance(eager_module(model), NesT | Nest)


class NoTree(InterpretError):
    """A NesT with fewer tokens than blocks."""


class HierarchyMaps(NamedTuple):
    """A hierarchy's activation and the logit's gradient, both (B, H, W, C)."""

    activation: Tensor
    gradient: Tensor


def gradcat(
    model: nn.Module,
    images: Tensor,
    classes: Classes,
    *,
    sign: Sign = "ascent",
    top_tap: TopTap = "input",
    tap_below: LowerTap = "output",
    reduction: Reduction = "mean",
    rectified: bool = False,
) -> GradCat:
    """The tree and path of every image for its class, of our NesT or timm's.

    Args:
        images: (B, C, H, W), normalised; moved to the model's device.
        classes: (B,) integers, or one for all. The paper takes the predicted class.
        sign: 'ascent': h = A · ∂logit/∂A, where higher means more important, as in the paper's
            text. 'literal': the negative of it, as in the paper's formula, correct for a loss.
            At the top's 'input' the negative is also the h of what the top adds there, its position
            embedding and its layers' residuals: the norm is invariant to the scale of a position's
            sum, so over channels the h of all its terms sum to 0.
        top_tap: A at the top: 'input', the output of the aggregation, before attention mixes the
            four blocks; 'norm', after the final norm, where the sum is the CAM over H·W.
            'output', before that norm, is an error: a layer norm is invariant to the scale of its
            input, so h sums to 0 over channels.
        tap_below: A below the top: 'output' of the hierarchy's layers, or 'input'.
        reduction: over channels; the argmax is the same. Over positions it is the mean.
        rectified: whether negative h, after the reduction, counts as 0.

    Undecided steps are -1 in the path; see `GradCat.decided`. NoTree for a NesT whose top has too
    few tokens; InterpretError for another model, or for a single hierarchy.
    """
    _check(sign, top_tap, tap_below, reduction)
    maps = _hierarchies(model, images, classes, top_tap, tap_below)
    nodes, floors = [], []
    for depth, (a, g) in enumerate(maps, start=1):
        h = a * g if sign == "ascent" else -a * g
        size = h.abs().mean(3)  # the reduction without cancellation
        h = h.mean(3)
        nodes.append(block_means(h.relu() if rectified else h, 2**depth))
        floors.append(ROUNDING * torch.finfo(h.dtype).eps * block_means(size, 2**depth))
        if reduction == "sum":
            nodes[-1], floors[-1] = nodes[-1] * a.shape[3], floors[-1] * a.shape[3]
    return _descend(tuple(nodes), tuple(floors), sign)


def _descend(nodes: tuple[Tensor, ...], floors: tuple[Tensor, ...], sign: Sign) -> GradCat:
    """Walk from the root to a leaf, for all images at once."""
    block = torch.zeros(len(nodes[0]), 2, dtype=torch.int64, device=nodes[0].device)
    decided = torch.ones(len(block), dtype=torch.bool, device=block.device)
    path, choices, path_floors = [], [], []
    for grid, grid_floors in zip(nodes, floors, strict=True):
        values = children(grid, block)
        best = values.topk(2, dim=1)
        floor = children(grid_floors, block).amax(1)
        margin = best.values[:, 0] - best.values[:, 1]
        decided = decided & (margin > floor)  # False where either is NaN
        child = best.indices[:, 0]
        path.append(torch.where(decided, child, -1))
        block = 2 * block + torch.stack([child // 2, child % 2], dim=1)
        choices.append(values)
        path_floors.append(floor)
    leaf = torch.where(decided[:, None], block, -1)
    steps = [torch.stack(tensors, dim=1) for tensors in (path, choices, path_floors)]
    return GradCat(steps[0], leaf, nodes, steps[1], steps[2], sign)


def block_means(plane: Tensor, side: int) -> Tensor:
    """(B, H, W) -> (B, side, side): the mean of each block; NoTree if blocks do not fit."""
    b, h, w = plane.shape
    if h % side or w % side:
        raise NoTree(f"{h}×{w} tokens do not divide into {side}×{side} blocks")
    return plane.reshape(b, side, h // side, side, w // side).mean((2, 4))


def children(grid: Tensor, parent: Tensor) -> Tensor:
    """The values (B, 4) in a grid (B, 2s, 2s) of the children of blocks (B, 2), row and column."""
    side = grid.shape[1] // 2
    by_parent = grid.reshape(-1, side, 2, side, 2).transpose(2, 3).reshape(-1, side * side, 4)
    index = (parent[:, 0] * side + parent[:, 1])[:, None, None]
    return by_parent.gather(1, index.expand(-1, 1, 4))[:, 0]


def _hierarchies(
    model: nn.Module, images: Tensor, classes: Classes, top_tap: TopTap, tap_below: LowerTap
) -> list[HierarchyMaps]:
    """Activations and gradients from the top hierarchy down to the second, detached."""
    inner = eager_module(model)
    names = _tapped_layers(inner, top_tap, tap_below)
    taps = tap(inner, images, names)
    grads = gradients(taps, check_classes(classes, taps.logits))
    return [
        HierarchyMaps(_to_image_plane(inner, name, a.detach()), _to_image_plane(inner, name, g))
        for name, a, g in zip(names, taps.outputs, grads, strict=True)
    ]


def _tapped_layers(model: nn.Module, top_tap: TopTap, tap_below: LowerTap) -> list[str]:
    """The layers whose outputs are A, from the top hierarchy down to the second."""
    if not isinstance(model, NesT | Nest):
        kind = type(model).__name__
        raise InterpretError(f"GradCAT walks the tree of NesT, ours or timm's; {kind} has none")
    ours = isinstance(model, NesT)
    top = len(model.transformers if isinstance(model, NesT) else model.levels) - 1
    if top < 1:
        raise InterpretError("GradCAT needs two hierarchies or more, and this NesT has one")
    names = []
    for level in range(top, 0, -1):
        point = top_tap if level == top else tap_below
        if point == "norm":
            names.append("norm")
        elif point == "input":
            names.append(f"aggregations.{level - 1}" if ours else f"levels.{level}.pool")
        else:
            names.append(f"transformers.{level}" if ours else f"levels.{level}")
    return names


def _to_image_plane(model: nn.Module, layer: str, output: Tensor) -> Tensor:
    """A layer's output as (B, H, W, C)."""
    if layer.startswith("transformers") and isinstance(model, NesT):
        return unblockify(output, model.block_side)
    return output.permute(0, 2, 3, 1) if layer.startswith("levels") else output


def _check(sign: str, top_tap: str, tap_below: str, reduction: str) -> None:
    if top_tap == "output":
        raise InterpretError(
            "top_tap 'output': activation times gradient before a layer norm sums to 0 over "
            "channels, and an argmax over it is noise; take 'input' or 'norm'"
        )
    for name, value, choices in (
        ("sign", sign, get_args(Sign)),
        ("top_tap", top_tap, ("input", "norm")),
        ("tap_below", tap_below, get_args(LowerTap)),
        ("reduction", reduction, get_args(Reduction)),
    ):
        if value not in choices:
            raise InterpretError(f"{name} is {choices[0]!r} or {choices[1]!r}, not {value!r}")
