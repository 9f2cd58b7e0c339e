"""CCT (Hassani et al. 2021, arXiv 2104.05704), a baseline of Table 1.

CCT-7/3x1 as in the official code (github.com/SHI-Labs/Compact-Transformers), but without its
dropout of 0.1 on attention (our choice), so that drop path, which is per sample, is the only
randomness inside the model.
"""

from itertools import pairwise
from typing import Any

import torch
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from repro.models.attention import attend


class Tokenizer(nn.Sequential):
    """Image -> overlapping tokens: per layer a 3x3 conv, ReLU and a max-pool that halves the map.

    All layers but the last have 64 channels, as in the official code.
    """

    def __init__(self, in_chans: int, dim: int, layers: int) -> None:
        super().__init__()
        widths = [in_chans, *[64] * (layers - 1), dim]
        for in_width, width in pairwise(widths):
            conv = nn.Conv2d(in_width, width, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            self.extend([conv, nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, H W / 4^layers, dim)."""
        for layer in self:
            x = layer(x)
        return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, C), without a bias on queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"CCT: {num_heads} heads do not divide a width of {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = attend(*qkv)
        out: Tensor = self.proj(x.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A transformer layer whose `norm2` replaces the residual stream, as in the official code."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = self.norm2(x)
        out: Tensor = x + self.drop_path2(self.mlp(x))
        return out


class CompactConvolutionalTransformer(nn.Module):
    """CCT with learned positions and sequence pooling, on square images.

    `tokenizer_layers` is the second number of the name: CCT-7/3x1 has one 3x3 layer.
    Raises ValueError if the image cannot be halved that many times.
    """

    num_prefix_tokens = 0
    map_layer = "norm"  # its tokens are pooled, with learned weights

    def __init__(
        self,
        img_size: int = 32,
        embed_dim: int = 256,
        depth: int = 7,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
        tokenizer_layers: int = 1,
        in_chans: int = 3,
        num_classes: int = 10,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        size, remainder = divmod(img_size, 2**tokenizer_layers)
        if remainder:
            raise ValueError(f"CCT: cannot halve {img_size} pixels {tokenizer_layers} times")
        self.num_classes = num_classes
        self.num_features = embed_dim
        self.tokenizer = Tokenizer(in_chans, embed_dim, tokenizer_layers)
        self.pos_embed = nn.Parameter(torch.zeros(1, size**2, embed_dim))
        self.blocks = nn.Sequential(
            *(
                Block(embed_dim, num_heads, mlp_ratio, rate)
                for rate in calculate_drop_path_rates(drop_path_rate, depth)
            )
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.attention_pool = nn.Linear(embed_dim, 1)
        self.head = nn.Linear(embed_dim, num_classes)
        trunc_normal_(self.pos_embed, std=0.2)  # not 0.02: the official value
        self.apply(_init_weights)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> normalized tokens (B, N, C)."""
        tokens: Tensor = self.norm(self.blocks(self.tokenizer(x) + self.pos_embed))
        return tokens

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Sequence pooling, softmax(g(x))ᵀ x over tokens, (B, C), or its logits."""
        weights = self.attention_pool(x).softmax(dim=1)
        x = (weights.transpose(1, 2) @ x).squeeze(1)
        if not pre_logits:
            x = self.head(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


default_cfgs = generate_default_cfgs({"cct_7_3x1": {"input_size": (3, 32, 32), "num_classes": 10}})


@register_model
def cct_7_3x1(pretrained: bool = False, **kwargs: Any) -> CompactConvolutionalTransformer:
    """7 layers, one 3x3 tokenizing layer: 3.76M parameters."""
    model: CompactConvolutionalTransformer = build_model_with_cfg(
        CompactConvolutionalTransformer, "cct_7_3x1", pretrained, **kwargs
    )
    return model
