"""Block aggregation: how NesT halves its feature map from one hierarchy to the next.

The paper's own is `ConvNormMaxPool`; the others are the alternatives of its Figure 7 and of the
paragraph 'Impact of block aggregation'. Each maps a plane (B, H, W, dim_in), of even H and W, to
(B, H/2, W/2, dim_out). `NesT(aggregation=...)` takes them by name, see `make_aggregation`.

Applied to the feature map of a whole image, they work on the image plane. `OnBlockPlane` applies
them to each 2×2 group of blocks separately, as if it were an image. Windows of stride 2 begin at
pixels 0, 2, 4, ... and are padded at the far edge only: 'SAME' as in the authors' JAX code;
PyTorch's usual `padding=1` would shift every window by one pixel. Blocks begin at even pixels, so
every second pixel, and every 2×2 square, is the same on both planes.

Where the paper is silent, our choice is: norms only in its own aggregation and in PatchMerge,
biases in convolutions, the Conv 1×1 of `Pool` also where Figure 7 does not show it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.attention import AttentionKind, attend_by_heads, head_sizes

AggregationPlane = Literal["image", "block"]
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


def blockify(plane: Tensor, side: int) -> Tensor:
    """Cut (B, H, W, C) into blocks of side² tokens: (B, T, side², C), T = H·W/side².

    Blocks, and the tokens within a block, are in raster order.
    """
    b, h, w, c = plane.shape
    grid = plane.reshape(b, h // side, side, w // side, side, c)
    return grid.transpose(2, 3).reshape(b, -1, side * side, c)


def unblockify(blocks: Tensor, side: int) -> Tensor:
    """Merge (B, T, side², C) into the square plane (B, √T·side, √T·side, C)."""
    b, t, _, c = blocks.shape
    rows = math.isqrt(t)
    grid = blocks.reshape(b, rows, rows, side, side, c)
    return grid.transpose(2, 3).reshape(b, rows * side, rows * side, c)


def max_pool(plane: Tensor) -> Tensor:
    """The maximum of each 3×3 window; `ceil_mode` clips windows, so padding does not count."""
    return F.max_pool2d(plane.permute(0, 3, 1, 2), 3, 2, ceil_mode=True).permute(0, 2, 3, 1)


def average_pool(plane: Tensor) -> Tensor:
    """The mean of each 3×3 window with zero padding included, as in flax, which the authors use.

    TensorFlow would exclude the padding.
    """
    z = F.avg_pool2d(plane.permute(0, 3, 1, 2), 3, 2, ceil_mode=True, divisor_override=9)
    return z.permute(0, 2, 3, 1)


def subsample(plane: Tensor) -> Tensor:
    """Every second row and column."""
    return plane[:, ::2, ::2]


class ConvNormMaxPool(nn.Module):
    """The paper's aggregation: Conv 3×3, LayerNorm over channels, MaxPool 3×3 of stride 2.

    Options beyond the paper, as controls: a larger kernel, of odd size, and pooling first.
    """

    def __init__(
        self, dim_in: int, dim_out: int, kernel_size: int = 3, *, pool_first: bool = False
    ) -> None:
        super().__init__()
        self.pool_first = pool_first
        self.conv = nn.Conv2d(dim_in, dim_out, kernel_size, padding=kernel_size // 2)
        self.norm = LayerNorm(dim_out)

    def forward(self, plane: Tensor) -> Tensor:
        if self.pool_first:
            return self._convolve(max_pool(plane))
        return max_pool(self._convolve(plane))

    def _convolve(self, plane: Tensor) -> Tensor:
        z: Tensor = self.norm(self.conv(plane.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return z


class StridedConv(nn.Module):
    """'Conv3x3' of Figure 7: only a convolution of stride 2."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, kernel_size=3, stride=2)

    def forward(self, plane: Tensor) -> Tensor:
        padded = F.pad(plane.permute(0, 3, 1, 2), (0, 1, 0, 1))
        z: Tensor = self.conv(padded)
        return z.permute(0, 2, 3, 1)


class Pool(nn.Module):
    """Pooling that halves the plane, then Conv 1×1 (a Linear) where the width changes."""

    def __init__(self, pool: Callable[[Tensor], Tensor], dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.pool = pool
        self.proj = _change_width(dim_in, dim_out)

    def forward(self, plane: Tensor) -> Tensor:
        z: Tensor = self.proj(self.pool(plane))
        return z


class PatchMerge(nn.Module):
    """Swin's patch merging (Liu et al. 2021): LayerNorm and Linear over each 2×2 square.

    No square spans two blocks, so it is the same function on both planes.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.norm = LayerNorm(4 * dim_in)
        self.reduction = nn.Linear(4 * dim_in, dim_out, bias=False)

    def forward(self, plane: Tensor) -> Tensor:
        b, h, w, c = plane.shape
        squares = plane.reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        z: Tensor = self.reduction(self.norm(squares.flatten(3)))  # column-major, as in Swin
        return z


class QuerySubsample(nn.Module):
    """HaloNet's strided attention (Vaswani et al. 2021): tokens are keys, a quarter are queries.

    Pre-norm attention with a skip connection; queries and skip take every second row and column:
    z = skip(x↓) + proj(attention(q(LN(x)↓), kv(LN(x)))). HaloNet halves its map in the first
    attention of a stage; likewise, heads and width are those of the next hierarchy. It is a
    separate sub-layer before that hierarchy, without stochastic depth, so that layers and position
    embeddings are the same under every aggregation (our choice).
    """

    def __init__(self, dim_in: int, dim_out: int, num_heads: int, kind: AttentionKind) -> None:
        super().__init__()
        self.head_dim, key_heads = head_sizes(dim_out, num_heads, kind)
        self.norm = LayerNorm(dim_in)
        self.q = nn.Linear(dim_in, dim_out)
        self.kv = nn.Linear(dim_in, 2 * key_heads * self.head_dim)
        self.proj = nn.Linear(dim_out, dim_out)
        self.skip = _change_width(dim_in, dim_out)

    def forward(self, plane: Tensor) -> Tensor:
        b, h, w, _ = plane.shape
        x = self.norm(plane)
        q = self.q(subsample(x)).reshape(b, h * w // 4, -1, self.head_dim)
        k, v = self.kv(x).reshape(b, h * w, -1, self.head_dim).chunk(2, dim=2)
        y = self.proj(attend_by_heads(q, k, v)).reshape(b, h // 2, w // 2, -1)
        z: Tensor = self.skip(subsample(plane)) + y
        return z


def _change_width(dim_in: int, dim_out: int) -> nn.Module:
    return nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out)


class OnBlockPlane(nn.Module):
    """An aggregation that sees only the 2×2 blocks which it merges.

    Such a group has 2 * `block_side` tokens a side, and is padded at its border.
    """

    def __init__(self, operator: nn.Module, block_side: int) -> None:
        super().__init__()
        self.operator = operator
        self.block_side = block_side

    def forward(self, plane: Tensor) -> Tensor:
        side = self.block_side
        groups = blockify(plane, 2 * side)
        b, t, _, c = groups.shape
        blocks = self.operator(groups.reshape(b * t, 2 * side, 2 * side, c))  # each as an image
        return unblockify(blocks.reshape(b, t, side * side, -1), side)


OPERATORS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv_norm_max": ConvNormMaxPool,
    "conv5_norm_max": partial(ConvNormMaxPool, kernel_size=5),
    "conv7_norm_max": partial(ConvNormMaxPool, kernel_size=7),
    "max_conv_norm": partial(ConvNormMaxPool, pool_first=True),
    "conv": StridedConv,
    "avg": partial(Pool, average_pool),
    "max": partial(Pool, max_pool),
    "subsample": partial(Pool, subsample),
    "patch_merge": PatchMerge,
}


def make_aggregation(
    name: str,
    plane: AggregationPlane,
    block_side: int,
    attention: AttentionKind,
    dim_in: int,
    dim_out: int,
    num_heads: int,
) -> nn.Module:
    """Build the aggregation between two hierarchies.

    Args:
        name: one of `OPERATORS`, or 'query' (`QuerySubsample`), which attends within the blocks to
            be merged and so requires the block plane.
        plane: 'image' or 'block', what the operator sees.
        block_side: tokens a side of a block, for the block plane.
        attention: its kind, for 'query'.
        dim_in, dim_out: channels of the hierarchy below and of the one above.
        num_heads: of the hierarchy above, for 'query'.

    Raises ValueError, listing the choices, for another name or plane.
    """
    operators = dict(OPERATORS)
    operators["query"] = partial(QuerySubsample, num_heads=num_heads, kind=attention)
    if name not in operators:
        raise ValueError(f"aggregation is one of {', '.join(operators)}, not {name!r}")
    if plane not in ("image", "block"):
        raise ValueError(f"aggregation_plane is 'image' or 'block', not {plane!r}")
    if name == "query" and plane == "image":
        raise ValueError("aggregation 'query' attends in blocks: set aggregation_plane to 'block'")
    operator = operators[name](dim_in, dim_out)
    return OnBlockPlane(operator, block_side) if plane == "block" else operator
