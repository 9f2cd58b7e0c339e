"""Block de-aggregation: how Transposed NesT doubles its feature map, the mirror of `aggregation`.

Each maps a plane (B, H, W, dim_in) to (B, 2H, 2W, dim_out), the feature map of a whole image, so
convolutions cross block borders.

The paper uses pixel shuffle and compares it with 'combinations of pixel shuffling (PS), Conv3x3
(C3), and nearest neighbor (NN)' (Figure 5, middle), which its text does not list. Our choice: all
orders of the two steps and, without a Conv 3×3, a Linear to change the width. Convolutions have
biases, and there are no norms.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Upsampler = Callable[[Tensor], Tensor]
Layer = Callable[[int, int], nn.Module]  # of these widths


def pixel_shuffle(plane: Tensor) -> Tensor:
    """(B, H, W, 4C) -> (B, 2H, 2W, C): channel 4c + 2i + j is channel c of a square's pixel (i, j).

    Shi et al. 2016, in torch's channel order.
    """
    return F.pixel_shuffle(plane.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def nearest(plane: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, 2H, 2W, C): nearest-neighbour upsampling."""
    return F.interpolate(plane.permute(0, 3, 1, 2), scale_factor=2).permute(0, 2, 3, 1)


class Conv3x3(nn.Module):
    """A convolution of the plane (B, H, W, C) that keeps its size."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, kernel_size=3, padding=1)

    def forward(self, plane: Tensor) -> Tensor:
        z: Tensor = self.conv(plane.permute(0, 3, 1, 2))
        return z.permute(0, 2, 3, 1)


def _change_width(dim_in: int, dim_out: int) -> nn.Module:
    return nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out)


class Unsampling(nn.Module):
    """A layer on the small plane, upsampling, and a layer on the large plane."""

    def __init__(self, before: nn.Module, up: Upsampler, after: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.up = up
        self.after = after

    def forward(self, plane: Tensor) -> Tensor:
        z: Tensor = self.after(self.up(self.before(plane)))
        return z


OPERATORS: dict[str, tuple[Layer | None, Upsampler, Layer | None]] = {
    "pixel_shuffle": (None, pixel_shuffle, _change_width),  # the paper's own
    "pixel_shuffle_conv": (None, pixel_shuffle, Conv3x3),
    "conv_pixel_shuffle": (Conv3x3, pixel_shuffle, None),
    "linear_pixel_shuffle": (nn.Linear, pixel_shuffle, None),
    # A Linear acts on single pixels: after `nearest` it would be the same at four times the cost.
    "nearest": (nn.Linear, nearest, None),
    "nearest_conv": (None, nearest, Conv3x3),
    "conv_nearest": (Conv3x3, nearest, None),
}


def make_unsampling(name: str, dim_in: int, dim_out: int) -> nn.Module:
    """Build the un-sampling `name`, one of `OPERATORS`, between hierarchies of these widths.

    Raises ValueError, listing the choices, for another name; and for a width that is not divisible
    by 4 if it is shuffled directly.
    """
    if name not in OPERATORS:
        raise ValueError(f"unsampling is one of {', '.join(OPERATORS)}, not {name!r}")
    before, up, after = OPERATORS[name]
    per_pixel = 4 if up is pixel_shuffle else 1  # channels for each channel of the large plane
    if before is None and dim_in % per_pixel:
        raise ValueError(f"unsampling {name!r} needs a width divisible by 4, not {dim_in}")
    return Unsampling(
        before(dim_in, per_pixel * dim_out) if before else nn.Identity(),
        up,
        after(dim_in // per_pixel, dim_out) if after else nn.Identity(),
    )
