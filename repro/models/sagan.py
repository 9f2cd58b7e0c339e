"""SAGAN's residual convnets (Zhang et al. 2019) for 64 px, without labels and self-attention.

The paper's convolutional baseline is 'the widely-used architecture from (Zhang et al. 2019)'
without attention. As in github.com/brain-research/self-attention-gan for 128 px, but for 64 and
unconditional: plain BatchNorms, and no label projection in the discriminator. SAGAN's own widths
give 32 M parameters, the paper prints 77.8 M; the widths here are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from repro.models.nest import model_options
from repro.models.spectral import spectrally_normalize

__all__ = ["SaganDecoder", "SaganDiscriminator"]

M = TypeVar("M", nn.Conv2d, nn.Linear)
NO_WEIGHTS = "there are no weights of SAGAN without labels for 64 px"


def conv(dim_in: int, dim_out: int, size: int) -> nn.Conv2d:
    """A spectrally normalised convolution that keeps the size of the map."""
    return spectrally_normalize(_initialise(nn.Conv2d(dim_in, dim_out, size, padding=size // 2)))


def linear(dim_in: int, dim_out: int) -> nn.Linear:
    return spectrally_normalize(_initialise(nn.Linear(dim_in, dim_out)))


def _initialise(module: M) -> M:
    nn.init.xavier_uniform_(module.weight)
    assert module.bias is not None
    nn.init.zeros_(module.bias)
    return module


class Up(nn.Module):
    """BN, ReLU, upsampling, Conv3×3, BN, ReLU, Conv3×3; the shortcut is a 1×1 convolution.

    The shortcut, too, is computed after upsampling, as in SAGAN's code. The other order is the same
    function with 5 % fewer multiply-adds, but this net serves for timing.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(dim_in), conv(dim_in, dim_out, 3)
        self.norm2, self.conv2 = nn.BatchNorm2d(dim_out), conv(dim_out, dim_out, 3)
        self.shortcut = conv(dim_in, dim_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(_upsample(F.relu(self.norm1(x))))
        y = self.conv2(F.relu(self.norm2(y)))
        out: Tensor = y + self.shortcut(_upsample(x))
        return out


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class SaganDecoder(nn.Module):
    """Latents (B, latent_dim) -> images (B, 3, S, S) in [-1, 1].

    `widths`: of the first map and after each block; every block doubles the side up to `img_size`.
    Raises ValueError if the side cannot be halved that many times.
    """

    def __init__(
        self,
        img_size: int = 64,
        latent_dim: int = 256,
        widths: Sequence[int] = (1584, 1584, 792, 396, 198),
    ) -> None:
        super().__init__()
        self.start_side = _halve(img_size, len(widths) - 1)
        self.img_size, self.latent_dim = img_size, latent_dim
        self.latent_embed = linear(latent_dim, widths[0] * self.start_side**2)
        self.blocks = nn.Sequential(*(Up(a, b) for a, b in pairwise(widths)))
        self.norm, self.to_rgb = nn.BatchNorm2d(widths[-1]), conv(widths[-1], 3, 3)

    def forward(self, latents: Tensor) -> Tensor:
        if latents.shape[1:] != (self.latent_dim,):
            shape = tuple(latents.shape)
            raise ValueError(f"this generator takes latents (B, {self.latent_dim}), not {shape}")
        x = self.latent_embed(latents).unflatten(1, (-1, self.start_side, self.start_side))
        return torch.tanh(self.to_rgb(F.relu(self.norm(self.blocks(x)))))


class Down(nn.Module):
    """ReLU, Conv3×3, ReLU, Conv3×3, average pool; the shortcut is a 1×1 convolution and a pool.

    The `first` block, on the image, has no leading ReLU and pools before the 1×1 convolution. The
    last one does not pool; its shortcut is the identity if it keeps the width.
    """

    def __init__(self, dim_in: int, dim_out: int, first: bool = False, pool: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(dim_in, dim_out, 3), conv(dim_out, dim_out, 3)
        same = dim_in == dim_out and not pool
        self.shortcut = nn.Identity() if same else conv(dim_in, dim_out, 1)
        self.first, self.pool = first, pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x if self.first else F.relu(x))
        y = self.conv2(F.relu(y))
        if self.first and self.pool:
            out: Tensor = F.avg_pool2d(y, 2) + self.shortcut(F.avg_pool2d(x, 2))
            return out
        out = y + self.shortcut(x)
        return F.avg_pool2d(out, 2) if self.pool else out


class SaganDiscriminator(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> logits (B, num_classes), large for real ones.

    `widths`: after each block; all but the last halve the side, and the last map is summed.
    Raises ValueError if the side cannot be halved that many times.
    """

    def __init__(
        self,
        img_size: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        num_classes: int = 1,
    ) -> None:
        super().__init__()
        _halve(img_size, len(widths) - 1)
        self.img_size, self.num_classes = img_size, num_classes
        last = len(widths) - 1
        self.blocks = nn.Sequential(
            *(
                Down(a, b, first=i == 0, pool=i < last)
                for i, (a, b) in enumerate(pairwise((3, *widths)))
            )
        )
        self.head = linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        side, shape = self.img_size, tuple(images.shape)
        if shape[1:] != (3, side, side):
            raise ValueError(f"this discriminator takes images (B, 3, {side}, {side}), not {shape}")
        logits: Tensor = self.head(F.relu(self.blocks(images)).sum(dim=(2, 3)))
        return logits


def _halve(side: int, times: int) -> int:
    parts: int = 2**times
    rest, odd = divmod(side, parts)
    if odd or not rest:
        raise ValueError(f"a side of {side} px cannot be halved {times} times")
    return rest


@register_model
def sagan_decoder_64(**overrides: Any) -> SaganDecoder:
    """The decoder of the paper's baseline: 78,090,015 parameters, 0.4 % more than it prints."""
    return SaganDecoder(**model_options(overrides, NO_WEIGHTS))


@register_model
def sagan_discriminator_64(**overrides: Any) -> SaganDiscriminator:
    """SAGAN's discriminator: 19,542,721 parameters."""
    return SaganDiscriminator(**model_options(overrides, NO_WEIGHTS))
