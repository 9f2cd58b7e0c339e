"""Between blocks and image plane: Block, Unblock and ConvNormMaxPool of the paper's Figure 1.

An aggregation is a module made by `factory(dim_in, dim_out, block_side)` that maps the image plane
(B, H, W, dim_in) to (B, H/2, W/2, dim_out). `NesT(aggregation=...)` takes any such factory.
"""

import math
from collections.abc import Callable

from torch import Tensor, nn

AggregationFactory = Callable[[int, int, int], nn.Module]


def blockify(plane: Tensor, side: int) -> Tensor:
    """Cut (B, H, W, C) into blocks of side² tokens: (B, T, side², C), T = H·W/side².

    Blocks, and the tokens within a block, follow each other row by row.
    """
    b, h, w, c = plane.shape
    grid = plane.reshape(b, h // side, side, w // side, side, c)
    return grid.transpose(2, 3).reshape(b, -1, side * side, c)


def unblockify(blocks: Tensor, side: int) -> Tensor:
    """Put (B, T, side², C) back together as the square plane (B, √T·side, √T·side, C)."""
    b, t, _, c = blocks.shape
    rows = math.isqrt(t)
    grid = blocks.reshape(b, rows, rows, side, side, c)
    return grid.transpose(2, 3).reshape(b, rows * side, rows * side, c)


class ConvNormMaxPool(nn.Module):
    """The paper's aggregation: Conv 3×3, LayerNorm over channels, MaxPool 3×3 of stride 2.

    It works on the whole image plane, so that neighbouring blocks see each other across their
    borders; how large a block is (`block_side`) makes no difference to it. Both windows pad as
    the official code does ('SAME'). On an even map that puts the pooling windows at pixels
    0, 2, 4, ... and pads nothing but the far edge, where `ceil_mode` cuts the last window short;
    `padding=1`, as PyTorch users write it, would shift every window by one pixel.
    """

    def __init__(self, dim_in: int, dim_out: int, block_side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(dim_out, eps=1e-6)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)

    def forward(self, plane: Tensor) -> Tensor:
        """(B, H, W, dim_in) -> (B, H/2, W/2, dim_out), for even H and W."""
        z = self.conv(plane.permute(0, 3, 1, 2))
        z = self.norm(z.permute(0, 2, 3, 1))
        z = self.pool(z.permute(0, 3, 1, 2))
        return z.permute(0, 2, 3, 1)  # type: ignore[no-any-return]
