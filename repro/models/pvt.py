"""PVT version 1 (Wang et al. 2021, arXiv 2102.12122), a baseline of Table 1, for small images.

The architecture is that of the official classification model (github.com/whai362/PVT, pvt.py).
Two settings of Table 1 are our choice, since the paper does not state them:

* 1-pixel patches, hence maps of 32, 16, 8 and 4, as Swin and NesT have (alternatives: 2, 4);
* "PVT-B" is the official Large, depths 3, 8, 27, 3 (alternative: Medium, 3, 4, 18, 3).
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from repro.models.attention import attend


def to_map(x: Tensor) -> Tensor:
    """The tokens of a square map (B, N, C) as the map (B, C, sqrt N, sqrt N)."""
    batch, tokens, width = x.shape
    size = math.isqrt(tokens)
    return x.transpose(1, 2).reshape(batch, width, size, size)


class SpatialReductionAttention(nn.Module):
    """Attention whose keys and values come from a map `sr_ratio` times smaller per side.

    The input is (B, N, C) with N = size²; with an `sr_ratio` of 1 it may have other tokens too.
    """

    def __init__(self, dim: int, num_heads: int, size: int, sr_ratio: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"PVT: {num_heads} heads do not divide a width of {dim}")
        if size % sr_ratio:
            raise ValueError(f"PVT: sr_ratio {sr_ratio} does not divide a {size}x{size} map")
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.reduction = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def reduce(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N / sr_ratio², C)."""
        if self.sr_ratio == 1:
            return x
        reduced: Tensor = self.norm(self.reduction(to_map(x)).flatten(2).transpose(1, 2))
        return reduced

    def heads(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, self.num_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(self.reduce(x)).chunk(2, dim=2)
        x = attend(self.heads(self.q(x)), self.heads(k), self.heads(v))
        out: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A pre-norm transformer layer with spatial-reduction attention."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, size: int, sr_ratio: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SpatialReductionAttention(dim, num_heads, size, sr_ratio)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


class Stage(nn.Module):
    """Cuts a map (B, in_dim, s, s) into patches and transforms them: (B, N, dim), N = size².

    The last stage puts the class token before them: (B, 1 + N, dim).
    """

    def __init__(
        self, in_dim: int, dim: int, patch_size: int, size: int, blocks: list[Block], last: bool
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if last else None
        self.pos_embed = nn.Parameter(torch.zeros(1, last + size**2, dim))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(x).flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        tokens: Tensor = self.blocks(x + self.pos_embed)
        return tokens


class PyramidVisionTransformer(nn.Module):
    """PVT on square images; one entry per stage in each of the five sequences.

    Raises ValueError if a patch or an `sr_ratio` does not divide its map.
    """

    def __init__(
        self,
        img_size: int = 32,
        patch_size: int = 1,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        depths: Sequence[int] = (2, 2, 2, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        in_chans: int = 3,
        num_classes: int = 10,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if sr_ratios[-1] != 1:
            raise ValueError("PVT: the class token needs an sr_ratio of 1 in the last stage")
        self.num_classes = num_classes
        self.num_features = embed_dims[-1]
        self.stages = nn.ModuleList()
        rates = iter(calculate_drop_path_rates(drop_path_rate, sum(depths)))
        size, in_dim, patch = img_size, in_chans, patch_size
        shapes = zip(embed_dims, num_heads, mlp_ratios, depths, sr_ratios, strict=True)
        for i, (dim, heads, mlp_ratio, depth, sr_ratio) in enumerate(shapes):
            if size % patch:
                raise ValueError(f"PVT: a patch of {patch} does not divide a {size}x{size} map")
            size //= patch
            blocks = [
                Block(dim, heads, mlp_ratio, size, sr_ratio, rate) for rate in islice(rates, depth)
            ]
            last = i == len(embed_dims) - 1
            self.stages.append(Stage(in_dim, dim, patch, size, blocks, last))
            in_dim, patch = dim, 2
        # The last map before the class token is added.
        self.map_layer = f"stages.{len(self.stages) - 1}.proj"
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head = nn.Linear(self.num_features, num_classes)
        self.apply(_init_weights)

    def no_weight_decay(self) -> set[str]:
        """As in the official model: the class token only; position embeddings decay."""
        return {f"stages.{len(self.stages) - 1}.cls_token"}

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> tokens of the last stage, class token first, (B, 1 + N, C)."""
        *maps, last = self.stages
        for stage in maps:
            x = to_map(stage(x))
        tokens: Tensor = self.norm(last(x))
        return tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The class token (B, C), or its logits (B, num_classes)."""
        x = x[:, 0]
        if not pre_logits:
            x = self.head(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _init_weights(module: nn.Module) -> None:
    """The official initialization; convolutions and norms keep torch's own."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Stage):
        trunc_normal_(module.pos_embed, std=0.02)
        if module.cls_token is not None:
            trunc_normal_(module.cls_token, std=0.02)


_SMALL_IMAGES = {"input_size": (3, 32, 32), "num_classes": 10}
default_cfgs = generate_default_cfgs(
    dict.fromkeys(("pvt_tiny", "pvt_small", "pvt_base"), _SMALL_IMAGES)
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> PyramidVisionTransformer:
    model: PyramidVisionTransformer = build_model_with_cfg(
        PyramidVisionTransformer, variant, pretrained, **kwargs
    )
    return model


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-T: 12.5M parameters."""
    return _create("pvt_tiny", pretrained, **{"depths": (2, 2, 2, 2), **kwargs})


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-S: 23.7M parameters."""
    return _create("pvt_small", pretrained, **{"depths": (3, 4, 6, 3), **kwargs})


@register_model
def pvt_base(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-B, which we read as the official Large: 60.6M parameters."""
    return _create("pvt_base", pretrained, **{"depths": (3, 8, 27, 3), **kwargs})
