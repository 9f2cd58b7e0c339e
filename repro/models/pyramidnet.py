"""Deep pyramidal residual networks (Han et al. 2017, arXiv 1610.02915), a baseline of Table 1.

PyramidNet-164 with alpha 48: bottleneck blocks of linearly growing width, and shortcuts without
parameters. As in the authors' code: github.com/dyhan0920/PyramidNet-PyTorch.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from repro.models.wide_resnet import conv

EXPANSION = 4  # a bottleneck's output is four times as wide as its inside
STEM_WIDTH = 16


def bottleneck_widths(depth: int, alpha: float) -> list[int]:
    """Width inside each of the N = (depth - 2) / 3 blocks: 16 + alpha * k / N, k = 1..N, rounded.

    Raises ValueError if the depth is not three equal groups of three-layer blocks.
    """
    if depth < 11 or (depth - 2) % 9:
        raise ValueError(f"PyramidNet: a depth is 9n + 2 (11, 20, ..., 164), not {depth}")
    blocks = (depth - 2) // 3
    return [round(STEM_WIDTH + alpha * k / blocks) for k in range(1, blocks + 1)]


class Bottleneck(nn.Module):
    """BN-conv1x1, BN-ReLU-conv3x3, BN-ReLU-conv1x1, BN: no ReLU at either end (their fig. 6d)."""

    def __init__(self, in_width: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = EXPANSION * width - in_width
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = conv(in_width, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, EXPANSION * width, 1)
        self.bn4 = nn.BatchNorm2d(EXPANSION * width)
        self.drop_path = DropPath(drop_path)

    def shortcut(self, x: Tensor) -> Tensor:
        """The identity, averaged where the map halves, with zeros for the new channels."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        out: Tensor = self.shortcut(x) + self.drop_path(self.bn4(y))
        return out


class PyramidNet(nn.Module):
    """Additive PyramidNet with bottlenecks: three groups, the map halved before the last two.

    A `stem_stride` of 2 halves every map, for small experiments.
    """

    def __init__(
        self,
        depth: int = 164,
        alpha: float = 48,
        stem_stride: int = 1,
        in_chans: int = 3,
        num_classes: int = 10,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        widths = bottleneck_widths(depth, alpha)
        drop_paths = calculate_drop_path_rates(drop_path_rate, len(widths))
        self.num_classes = num_classes
        stem = conv(in_chans, STEM_WIDTH, 3, stem_stride)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(STEM_WIDTH))
        self.blocks = nn.Sequential()
        in_width, group = STEM_WIDTH, len(widths) // 3
        for i, (width, drop_path) in enumerate(zip(widths, drop_paths, strict=True)):
            stride = 2 if i in (group, 2 * group) else 1
            self.blocks.append(Bottleneck(in_width, width, stride, drop_path))
            in_width = EXPANSION * width
        self.norm = nn.BatchNorm2d(in_width)
        self.act = nn.ReLU()  # a module, so that its output, which is pooled, can be hooked
        self.num_features = in_width
        self.head = nn.Linear(in_width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, C, H / 4, W / 4), for a stem stride of 1."""
        features: Tensor = self.act(self.norm(self.blocks(self.stem(x))))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean over the map (B, C), or its logits (B, num_classes)."""
        x = x.mean(dim=(2, 3))
        if not pre_logits:
            x = self.head(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {"pyramidnet164_48": {"input_size": (3, 32, 32), "num_classes": 10}}
)


@register_model
def pyramidnet164_48(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """PyramidNet-164, alpha 48: 1.7M parameters."""
    model: PyramidNet = build_model_with_cfg(PyramidNet, "pyramidnet164_48", pretrained, **kwargs)
    return model
