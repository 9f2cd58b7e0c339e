"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146), a baseline of Table 1.

The paper's WRN-28-10: pre-activation, 1x1 convolutions where the width changes, no dropout.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


def conv(in_width: int, width: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution with 'same' padding and Kaiming's N(0, 2 / fan_out)."""
    layer = nn.Conv2d(
        in_width, width, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class Block(nn.Module):
    """BN-ReLU-conv twice; a shortcut that changes the width starts after the first BN-ReLU."""

    def __init__(self, in_width: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = conv(in_width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        same = in_width == width and stride == 1
        self.shortcut = None if same else conv(in_width, width, 1, stride)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.conv2(F.relu(self.bn2(self.conv1(y))))
        out: Tensor = x + self.drop_path(y)
        return out


class WideResNet(nn.Module):
    """WRN-depth-widen: three groups of (depth - 4) / 6 blocks, widths widen * (16, 32, 64).

    For small nets `widen` may be a multiple of 1/16, and a `stem_stride` of 2 halves every map.
    Raises ValueError for an impossible size.
    """

    def __init__(
        self,
        depth: int = 28,
        widen: float = 10,
        stem_stride: int = 1,
        in_chans: int = 3,
        num_classes: int = 10,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        blocks, remainder = divmod(depth - 4, 6)
        if blocks < 1 or remainder:
            raise ValueError(f"WRN: a depth is 6n + 4 (10, 16, 22, 28, ...), not {depth}")
        if 16 * widen != int(16 * widen):
            raise ValueError(f"WRN: 16 * widen must be an integer, but widen is {widen}")
        self.num_classes = num_classes
        self.stem = conv(in_chans, 16, 3, stem_stride)
        self.groups = nn.Sequential()
        drop_paths = iter(calculate_drop_path_rates(drop_path_rate, 3 * blocks))
        in_width, width = 16, int(16 * widen)
        for first_stride in (1, 2, 2):
            group = nn.Sequential()
            for stride in (first_stride, *[1] * (blocks - 1)):
                group.append(Block(in_width, width, stride, next(drop_paths)))
                in_width = width
            self.groups.append(group)
            width *= 2
        self.norm = nn.BatchNorm2d(in_width)
        self.act = nn.ReLU()  # a module, so that its output, which is pooled, can be hooked
        self.num_features = in_width
        self.head = nn.Linear(in_width, num_classes)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H / 4, W / 4), for a stem stride of 1."""
        features: Tensor = self.act(self.norm(self.groups(self.stem(x))))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean over the map (B, C), or its logits (B, num_classes)."""
        x = x.mean(dim=(2, 3))
        if not pre_logits:
            x = self.head(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs({"wrn28_10": {"input_size": (3, 32, 32), "num_classes": 10}})


@register_model
def wrn28_10(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """WRN-28-10: 36.5M parameters."""
    model: WideResNet = build_model_with_cfg(WideResNet, "wrn28_10", pretrained, **kwargs)
    return model
