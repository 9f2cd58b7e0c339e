"""Transposed NesT, the paper's image generator: NesT from the top to the bottom.

A latent becomes the tokens of a single block; each hierarchy attends only within its blocks, and
block de-aggregation (`unsampling`) turns one block into four, until there is a token per pixel:
(b, n·d) -> (b, 1, n, d) -> (b, 4, n, d') -> ... -> (b, blocks, n, 3) -> image.

    generator = timm.create_model("transposed_nest_64")     # registered on import
    images = generator(torch.randn(16, 256))                # (B, 256) -> (B, 3, 64, 64)
    maps = generator.hierarchies(latents)                   # the feature map of every hierarchy

The paper's sizes are in its Table A6, which is not in our copy, and its official code has no
generator. The three `transposed_nest_64...` are our choice, with the paper's 74.4 M parameters
(Figure 5, right) and a latent of 256, for which the TransGAN of that time has the paper's 82.6 M.
What the text leaves open is as in NesT: layers, initialisation, a position embedding per hierarchy,
a final LayerNorm. The output is a tanh, as in SAGAN.

Letters in shapes: B images, T blocks of an image, N tokens of a block, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from repro.models.aggregation import blockify, unblockify
from repro.models.attention import AttentionKind
from repro.models.nest import (
    Gelu,
    LayerNorm,
    TransformerLayer,
    block_side_of,
    initialise,
    model_options,
    per_hierarchy,
)
from repro.models.unsampling import make_unsampling

__all__ = ["TransposedNesT"]


class TransposedNesT(nn.Module):
    """The paper's section 'Transposed NesT'; the defaults are `transposed_nest_64`.

    Args:
        img_size: side of the square image, in pixels.
        latent_dim: dimension of the latent.
        depths: transformer layers of each hierarchy, from one block to many; their number is the
            number of hierarchies.
        embed_dims, num_heads: for each hierarchy, in that order, or one number for all.
        unsampling: turns one block into four: 'pixel_shuffle', the paper's own, or another name
            from `repro.models.unsampling.make_unsampling`.
        attention, gelu: as in `NesT`.
        out_chans: channels of the image.

    A block has img_size / 2^(hierarchies - 1) tokens a side, in every hierarchy.
    Raises ValueError for incompatible sizes.
    """

    def __init__(
        self,
        img_size: int = 64,
        latent_dim: int = 256,
        depths: Sequence[int] = (4, 4, 4, 4),
        embed_dims: int | Sequence[int] = (1024, 256, 256, 64),
        num_heads: int | Sequence[int] = (32, 8, 8, 2),
        unsampling: str = "pixel_shuffle",
        attention: AttentionKind = "multi_head",
        gelu: Gelu = "tanh",
        out_chans: int = 3,
    ) -> None:
        super().__init__()
        levels = len(depths)
        dims = per_hierarchy("embed_dims", embed_dims, levels)
        heads = per_hierarchy("num_heads", num_heads, levels)
        self.img_size, self.latent_dim, self.out_chans = img_size, latent_dim, out_chans
        self.block_side = block_side_of(img_size, 1, levels)

        self.latent_embed = nn.Linear(latent_dim, self.block_side**2 * dims[0])
        self.pos_embed = nn.ParameterList()
        self.transformers = nn.ModuleList()
        self.unsamplings = nn.ModuleList()
        for i, (dim, head, depth) in enumerate(zip(dims, heads, depths, strict=True)):
            # Each of the 4^i blocks has its own position embedding.
            self.pos_embed.append(torch.empty(1, 4**i, self.block_side**2, dim))
            layers = [TransformerLayer(dim, head, attention, gelu) for _ in range(depth)]
            self.transformers.append(nn.Sequential(*layers))
            if i < levels - 1:
                self.unsamplings.append(make_unsampling(unsampling, dim, dims[i + 1]))
        self.norm = LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], out_chans)
        self.apply(initialise)

    def forward(self, latents: Tensor) -> Tensor:
        """Images (B, out_chans, img_size, img_size) in [-1, 1] of latents (B, latent_dim)."""
        return self.decode(self.hierarchies(latents)[-1])

    def hierarchies(self, latents: Tensor) -> list[Tensor]:
        """The image-plane feature map (B, H, W, C) of every hierarchy, one block to many.

        Each is the output of the hierarchy's transformer layers; the last is the input of `decode`.
        """
        if latents.shape[1:] != (self.latent_dim,):
            shape = tuple(latents.shape)
            raise ValueError(f"this generator takes latents (B, {self.latent_dim}), not {shape}")
        maps: list[Tensor] = []
        x = self.latent_embed(latents).unflatten(1, (1, self.block_side**2, -1))
        for i, transformer in enumerate(self.transformers):
            y = transformer(x + self.pos_embed[i])  # within each block
            maps.append(unblockify(y, self.block_side))
            if i < len(self.unsamplings):  # a block becomes four
                x = blockify(self.unsamplings[i](maps[-1]), self.block_side)
        return maps

    def decode(self, bottom: Tensor) -> Tensor:
        """The images of the last hierarchy's map: each token is mapped to one pixel."""
        pixels: Tensor = self.head(self.norm(bottom))
        return pixels.tanh().permute(0, 3, 1, 2)


NO_WEIGHTS = "there are no weights of Transposed NesT to download: train it"


def _build(overrides: dict[str, Any], **variant: Any) -> TransposedNesT:
    return TransposedNesT(**{**variant, **model_options(overrides, NO_WEIGHTS)})


@register_model
def transposed_nest_64(**overrides: Any) -> TransposedNesT:
    """64 px, equal depths: 74,417,987 parameters, and nearly as many with other un-samplings.

    Its widths need only one Linear after pixel shuffle, so that Figure 5 (middle) compares the
    operators and not the sizes.
    """
    return _build(overrides)


@register_model
def transposed_nest_64_b(**overrides: Any) -> TransposedNesT:
    """64 px, NesT-S's widths and a fourth, Conv 3×3 before the shuffle: 74,402,307 parameters."""
    return _build(
        overrides,
        depths=(5, 5, 5, 5),
        embed_dims=(768, 384, 192, 96),
        num_heads=(24, 12, 6, 3),
        unsampling="conv_pixel_shuffle",
    )


@register_model
def transposed_nest_64_c(**overrides: Any) -> TransposedNesT:
    """64 px, NesT-B's widths and a fourth, a Linear after every shuffle: 74,514,051 parameters."""
    return _build(
        overrides,
        depths=(3, 5, 3, 3),
        embed_dims=(1024, 512, 256, 128),
        num_heads=(32, 16, 8, 4),
    )
