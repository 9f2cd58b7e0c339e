"""GradCAT, the paper's Algorithm 1: the way down NesT's tree of blocks that a logit comes from.

At each hierarchy, activation times gradient is averaged over the four blocks that were aggregated
into the one at hand, and the largest is entered, until a leaf, a block of the bottom hierarchy, is
reached. Since the gradient by a part of a map is a part of the gradient by the map, one backward
pass gives the value of every node of the tree, on the path and off it.

The authors published no code, so what the algorithm leaves open are arguments here. Values of
different hierarchies have different scales: compare them within one only. And a block of a feature
map is not purely that block of pixels: convolutions cross borders, and the top attends to all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from timm.models.nest import Nest
from torch import Tensor, nn

from repro.interpret.taps import Classes, InterpretError, checked_classes, eager, gradients, tap
from repro.models.aggregation import unblockify
from repro.models.nest import NesT

Sign = Literal["ascent", "literal"]
TopTap = Literal["input", "norm", "output"]
LowerTap = Literal["output", "input"]
Reduction = Literal["mean", "sum"]

ROUNDING = 8  # units in the last place by which the best of four must lead


@dataclass(frozen=True)
class GradCat:
    """The tree of each of B images. L is one less than the number of hierarchies.

    Blocks follow each other row by row; children in the order top left, top right, bottom left,
    bottom right. -1 stands for what was not decided, and all below it.
    """

    path: Tensor  # (B, L) int64: the child entered, 0 to 3, from the root down
    leaf: Tensor  # (B, 2) int64: row and column of the leaf on the grid of 2^L by 2^L blocks
    nodes: tuple[Tensor, ...]  # L grids (B, 2, 2), (B, 4, 4), ...: the value of every node
    choices: Tensor  # (B, L, 4): the values between which each step of the path decides
    floors: Tensor  # (B, L): the lead that rounding alone may give
    sign: Sign

    @property
    def margins(self) -> Tensor:
        """By how much the best of four leads the next at each step, (B, L)."""
        best = self.choices.topk(2, dim=2).values
        return best[:, :, 0] - best[:, :, 1]

    @property
    def decided(self) -> Tensor:
        """Whether each image's path (B,) reaches a leaf: every best led by more than rounding.

        So not, if values tie, are all zero or not finite; `reasons` tells.
        """
        return self.path[:, -1] >= 0

    def block(self, depth: int) -> Tensor:
        """Row and column (B, 2) of the block entered at a depth from 1 to L; -1 if undecided."""
        if not 1 <= depth <= self.path.shape[1]:
            raise InterpretError(f"a path has depths 1 to {self.path.shape[1]}, not {depth}")
        above = self.path[:, :depth]
        place = 2 ** torch.arange(depth - 1, -1, -1, device=above.device)
        found = torch.stack([(above // 2 * place).sum(1), (above % 2 * place).sum(1)], dim=1)
        return torch.where(above[:, -1:] >= 0, found, -1)

    def reasons(self) -> list[str]:
        """Why each image's path ends early, '' where it does not."""
        ends = (self.path < 0).int().argmax(1).tolist()
        return [
            "" if done else _reason(self.choices[image, end], end + 1)
            for image, (done, end) in enumerate(zip(self.decided.tolist(), ends, strict=True))
        ]


def _reason(values: Tensor, step: int) -> str:
    if not values.isfinite().all():
        return f"step {step}: not all four values are finite"
    if not values.any():
        return f"step {step}: all four values are zero"
    return f"step {step}: the best two of four values tie, up to rounding"


class NoTree(InterpretError):
    """A NesT with fewer tokens than blocks."""


class Maps(NamedTuple):
    """What is kept of a hierarchy, (B, H, W, C)."""

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
        sign: 'ascent': h = A · ∂logit/∂A, by which higher means more important, as the paper's
            text wants it. 'literal': minus that, as its formula says, which is right for a loss.
            At the top's 'input' that is also the h of what the top adds there, its position
            embedding and what its layers compute: the norms hide the scale of a position's sum,
            so that over channels the h of all its parts sum to 0.
        top_tap: what A is at the top: 'input', as the aggregation gives it, before its attention
            mixes the four blocks; 'norm', after the final norm, where the sum is the CAM over H·W.
            'output', ahead of that norm, is refused: a layer norm does not see the scale of its
            input, so h sums to 0 over channels.
        tap_below: the same below the top: 'output' of the hierarchy's layers, or 'input'.
        reduction: over channels; the argmax is the same. Over positions it is the mean.
        rectified: whether negative h, after the reduction, counts as 0.

    What is not decided is -1 in the path, never guessed; see `GradCat.decided`.
    NoTree for a NesT whose top has too few tokens; InterpretError for another model, or for one
    hierarchy.
    """
    _check(sign, top_tap, tap_below, reduction)
    maps = _hierarchies(model, images, classes, top_tap, tap_below)
    nodes, floors = [], []
    for depth, (a, g) in enumerate(maps, start=1):
        h = a * g if sign == "ascent" else -a * g
        size = h.abs().mean(3)  # what the reduction would be, did nothing cancel
        h = h.mean(3)
        nodes.append(block_means(h.relu() if rectified else h, 2**depth))
        floors.append(ROUNDING * torch.finfo(h.dtype).eps * block_means(size, 2**depth))
        if reduction == "sum":
            nodes[-1], floors[-1] = nodes[-1] * a.shape[3], floors[-1] * a.shape[3]
    return _descend(tuple(nodes), tuple(floors), sign)


def _descend(nodes: tuple[Tensor, ...], floors: tuple[Tensor, ...], sign: Sign) -> GradCat:
    """From the root to the leaf, all images at once."""
    at = torch.zeros(len(nodes[0]), 2, dtype=torch.int64, device=nodes[0].device)
    going = torch.ones(len(at), dtype=torch.bool, device=at.device)
    path, choices, floors_there = [], [], []
    for grid, floor in zip(nodes, floors, strict=True):
        four = children(grid, at)
        best = four.topk(2, dim=1)
        least = children(floor, at).amax(1)
        lead = best.values[:, 0] - best.values[:, 1]
        going = going & (lead > least)  # so not, where either is not finite
        child = best.indices[:, 0]
        path.append(torch.where(going, child, -1))
        at = 2 * at + torch.stack([child // 2, child % 2], dim=1)
        choices.append(four)
        floors_there.append(least)
    leaf = torch.where(going[:, None], at, -1)
    each = [torch.stack(one, dim=1) for one in (path, choices, floors_there)]
    return GradCat(each[0], leaf, nodes, each[1], each[2], sign)


def block_means(plane: Tensor, side: int) -> Tensor:
    """(B, H, W) -> (B, side, side): the mean of each block; NoTree if they do not fit."""
    b, h, w = plane.shape
    if h % side or w % side:
        raise NoTree(f"{h}×{w} tokens do not divide into {side}×{side} blocks")
    return plane.reshape(b, side, h // side, side, w // side).mean((2, 4))


def children(grid: Tensor, parent: Tensor) -> Tensor:
    """Of a grid (B, 2s, 2s), the four blocks (B, 4) within each image's block, row and column."""
    side = grid.shape[1] // 2
    fours = grid.reshape(-1, side, 2, side, 2).transpose(2, 3).reshape(-1, side * side, 4)
    number = (parent[:, 0] * side + parent[:, 1])[:, None, None]
    return fours.gather(1, number.expand(-1, 1, 4))[:, 0]


def _hierarchies(
    model: nn.Module, images: Tensor, classes: Classes, top_tap: TopTap, tap_below: LowerTap
) -> list[Maps]:
    """Activations and gradients from the top hierarchy down to the second, detached."""
    inner = eager(model)
    names = _layers(inner, top_tap, tap_below)
    taps = tap(inner, images, names)
    slopes = gradients(taps, checked_classes(classes, taps.logits))
    return [
        Maps(_plane(inner, name, a.detach()), _plane(inner, name, g))
        for name, a, g in zip(names, taps.kept, slopes, strict=True)
    ]


def _layers(model: nn.Module, top_tap: TopTap, tap_below: LowerTap) -> list[str]:
    """The layers that give A, from the top hierarchy down to the second."""
    if not isinstance(model, NesT | Nest):
        kind = type(model).__name__
        raise InterpretError(f"GradCAT walks the tree of NesT, ours or timm's; {kind} has none")
    ours = isinstance(model, NesT)
    top = len(model.transformers if isinstance(model, NesT) else model.levels) - 1
    if top < 1:
        raise InterpretError("GradCAT needs two hierarchies or more, and this NesT has one")
    names = []
    for level in range(top, 0, -1):
        where = top_tap if level == top else tap_below
        if where == "norm":
            names.append("norm")
        elif where == "input":
            names.append(f"aggregations.{level - 1}" if ours else f"levels.{level}.pool")
        else:
            names.append(f"transformers.{level}" if ours else f"levels.{level}")
    return names


def _plane(model: nn.Module, layer: str, output: Tensor) -> Tensor:
    """A layer's output as (B, H, W, C)."""
    if layer.startswith("transformers") and isinstance(model, NesT):
        return unblockify(output, model.block_side)
    return output.permute(0, 2, 3, 1) if layer.startswith("levels") else output


def _check(sign: str, top_tap: str, tap_below: str, reduction: str) -> None:
    if top_tap == "output":
        raise InterpretError(
            "top_tap 'output': activation times gradient ahead of a layer norm sums to 0 over "
            "channels, and an argmax over it is noise; take 'input' or 'norm'"
        )
    for name, value, known in (
        ("sign", sign, get_args(Sign)),
        ("top_tap", top_tap, ("input", "norm")),
        ("tap_below", tap_below, get_args(LowerTap)),
        ("reduction", reduction, get_args(Reduction)),
    ):
        if value not in known:
            raise InterpretError(f"{name} is {known[0]!r} or {known[1]!r}, not {value!r}")
