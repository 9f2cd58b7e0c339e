"""TransGAN (Jiang, Chang and Wang, 2021, arXiv 2102.07074): the generator that NesT is compared to.

All tokens of a map attend to all others, in every stage, up to a token per pixel. This is the 64 px
generator of the authors' code in May 2021, when NesT appeared (github.com/VITA-Group/TransGAN,
models/Celeba64_TransGAN.py, removed that June): with a latent of 256 it has the 82.6 M parameters
of NesT's Figure 5. Grid attention came later.

It is that file's function (GELU by erf, LayerNorm's eps 1e-5, no bias in qkv, no tanh at the end)
and its initialisation, except for two things: an unused BatchNorm of 2,048 parameters (82,595,571
with, 82,593,523 without), and a restriction of the last layer's attention to a narrow band in their
first 20 epochs. That belongs to their recipe; here the three generators share one.

    generator = timm.create_model("transgan_64")            # registered on import
    images = generator(torch.randn(16, 256))                # (B, 256) -> (B, 3, 64, 64)
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

from repro.models.aggregation import blockify, unblockify
from repro.models.nest import TransformerLayer, block_side_of, model_options, per_hierarchy
from repro.models.unsampling import pixel_shuffle

__all__ = ["TransGAN"]

# nn.LayerNorm is torch's own, of eps 1e-5; NesT's has 1e-6.
Layer = partial(TransformerLayer, kind="multi_head", gelu="erf", qkv_bias=False, norm=nn.LayerNorm)


class TransGAN(nn.Module):
    """The defaults are `transgan_64`.

    Args:
        img_size: side of the square image, in pixels.
        latent_dim: dimension of the latent.
        depths: transformer layers of each stage, small maps to large; each map has twice the side
            of the one before.
        embed_dims: for each stage, each a quarter of the one before.
        num_heads: of all stages.
        out_chans: channels of the image.

    Raises ValueError for incompatible sizes.
    """

    def __init__(
        self,
        img_size: int = 64,
        latent_dim: int = 256,
        depths: Sequence[int] = (5, 3, 3, 2),
        embed_dims: Sequence[int] = (1024, 256, 64, 16),
        num_heads: int = 4,
        out_chans: int = 3,
    ) -> None:
        super().__init__()
        dims = per_hierarchy("embed_dims", embed_dims, len(depths))
        if any(dim != 4 * after for dim, after in pairwise(dims)):
            raise ValueError(f"pixel shuffle divides each width by 4, unlike {dims}")
        self.img_size, self.latent_dim, self.out_chans = img_size, latent_dim, out_chans
        self.start_side = block_side_of(img_size, 1, len(depths))

        self.latent_embed = nn.Linear(latent_dim, self.start_side**2 * dims[0])
        self.pos_embed = nn.ParameterList()
        self.transformers = nn.ModuleList()
        for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            side = 2**i * self.start_side
            self.pos_embed.append(torch.empty(1, 1, side**2, dim))  # one block: the whole map
            self.transformers.append(nn.Sequential(*(Layer(dim, num_heads) for _ in range(depth))))
        self.head = nn.Linear(dims[-1], out_chans)  # the published Conv 1×1
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """The published initialisation; layers keep torch's defaults."""
        nn.init.xavier_uniform_(self.head.weight)
        for position_embedding in self.pos_embed:
            nn.init.trunc_normal_(position_embedding, std=0.02)

    def forward(self, latents: Tensor) -> Tensor:
        """Images (B, out_chans, img_size, img_size) of latents (B, latent_dim).

        Training images are in [-1, 1], but the output is not limited to that range.
        """
        if latents.shape[1:] != (self.latent_dim,):
            shape = tuple(latents.shape)
            raise ValueError(f"this generator takes latents (B, {self.latent_dim}), not {shape}")
        side = self.start_side
        x = self.latent_embed(latents).unflatten(1, (1, side**2, -1))
        for i, transformer in enumerate(self.transformers):
            if i:
                plane = pixel_shuffle(unblockify(x, side))
                side *= 2
                x = blockify(plane, side)
            x = transformer(x + self.pos_embed[i])
        pixels: Tensor = self.head(unblockify(x, side))
        return pixels.permute(0, 3, 1, 2)


@register_model
def transgan_64(**overrides: Any) -> TransGAN:
    """64 px: 82,593,523 parameters."""
    return TransGAN(**model_options(overrides, "there are no weights of TransGAN for 64 px"))
