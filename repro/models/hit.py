"""HiT-GAN's discriminator (Zhao et al. 2021), StyleGAN2's residual one without its extras.

As in github.com/google-research/hit-gan for 128 px, but for 64: no equalised learning rates, no
minibatch standard deviation. It is the discriminator of all our generators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from repro.models.nest import model_options

__all__ = ["HitDiscriminator"]

Initial = Literal["he", "xavier"]
SLOPE = 0.2  # of the leaky ReLU
LAST_SIDE = 4  # px of the map that the dense layers see


class BlurPool(nn.Module):
    """A 4-tap binomial filter of unit gain, then every second pixel."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = taps.outer(taps)
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2), H and W even; zero padding."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)


class Down(nn.Module):
    """Two convolutions around a blur pool; the shortcut is a blur pool and a 1×1 convolution."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim_in, 3, padding=1)
        self.conv2 = nn.Conv2d(dim_in, dim_out, 3, padding=1)
        self.shortcut = nn.Conv2d(dim_in, dim_out, 1, bias=False)
        self.blur = BlurPool()

    def forward(self, x: Tensor) -> Tensor:
        y = self.blur(F.leaky_relu(self.conv1(x), SLOPE))
        y = F.leaky_relu(self.conv2(y), SLOPE)
        out: Tensor = (y + self.shortcut(self.blur(x))) / math.sqrt(2)
        return out


class HitDiscriminator(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> logits (B, num_classes), large for real ones.

    `widths`: of the map at S, S/2, ... 4 px. `dense`: of the hidden dense layer.
    `initial`: weights, 'he' (normal), or 'xavier' (uniform), which is Keras' default and HiT's.
    Raises ValueError if the number of widths does not match `img_size`.
    """

    def __init__(
        self,
        img_size: int = 64,
        widths: Sequence[int] = (256, 512, 512, 512, 512),
        dense: int = 512,
        initial: Initial = "he",
        num_classes: int = 1,
    ) -> None:
        super().__init__()
        if img_size != LAST_SIDE * 2 ** (len(widths) - 1):
            raise ValueError(
                f"{len(widths)} widths lead from {LAST_SIDE * 2 ** (len(widths) - 1)} px to "
                f"{LAST_SIDE}, not from {img_size}"
            )
        self.img_size, self.num_classes = img_size, num_classes
        self.from_rgb = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*(Down(a, b) for a, b in pairwise(widths)))
        self.last = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.dense = nn.Linear(LAST_SIDE**2 * widths[-1], dense)
        self.head = nn.Linear(dense, num_classes)
        self.apply(partial(_initialise, initial=initial))

    def forward(self, images: Tensor) -> Tensor:
        side, shape = self.img_size, tuple(images.shape)
        if shape[1:] != (3, side, side):
            raise ValueError(f"this discriminator takes images (B, 3, {side}, {side}), not {shape}")
        x = F.leaky_relu(self.from_rgb(images), SLOPE)
        x = F.leaky_relu(self.last(self.blocks(x)), SLOPE)
        x = F.leaky_relu(self.dense(x.flatten(1)), SLOPE)
        logits: Tensor = self.head(x)
        return logits


def _initialise(module: nn.Module, initial: Initial) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        if initial == "xavier":
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.kaiming_normal_(module.weight, SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@register_model
def hit_discriminator_64(**overrides: Any) -> HitDiscriminator:
    """HiT-GAN's widths with a channel multiplier of 1: 23,408,897 parameters."""
    return HitDiscriminator(**model_options(overrides, "there are no weights of HiT for 64 px"))
