"""NesT, the Nested Hierarchical Transformer (Zhang et al., AAAI 2022, arXiv 2105.12723).

An image is divided into blocks, a transformer attends within every block separately, and four
neighbouring blocks are aggregated into one, until a single block covers the whole image. Where the
paper and its official code differ (github.com/google-research/nested-transformer), this file
follows the code: GELU instead of ReLU, multi-query attention on CIFAR, a final LayerNorm.

    model = timm.create_model("nest_tiny_cifar", num_classes=100)   # registered on import
    logits = model(images)                 # (B, 3, 32, 32) -> (B, 100)
    maps = model.hierarchies(images)       # the feature map of every hierarchy, bottom to top

Letters in shapes: B images, T blocks of an image, N tokens of a block, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from timm.layers import DropPath, Mlp
from timm.models import register_model
from torch import Tensor, nn

from repro.models.aggregation import AggregationPlane, blockify, make_aggregation, unblockify
from repro.models.attention import Attention, AttentionKind
from repro.models.nest_flax import Weights, read_flax, read_timm, resize_position_embedding
from repro.models.stochastic_depth import residual

__all__ = [
    "Attention",
    "AttentionKind",
    "NesT",
    "TransformerLayer",
    "checkpoint_filter_fn",
    "from_flax",
    "from_timm",
    "resize_position_embedding",
]

Gelu = Literal["tanh", "erf"]
GELUS: dict[Gelu, str] = {"tanh": "tanh", "erf": "none"}  # our name -> torch's name
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class TransformerLayer(nn.Module):
    """One pre-norm transformer layer, the paper's Eq. (1), with stochastic depth per image."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kind: AttentionKind,
        gelu: Gelu,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        norm: Callable[[int], nn.Module] = LayerNorm,
    ) -> None:
        super().__init__()
        if gelu not in GELUS:
            raise ValueError(f"gelu is 'tanh' or 'erf', not {gelu!r}")
        self.norm1 = norm(dim)
        self.attn = Attention(dim, num_heads, kind, qkv_bias)
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = norm(dim)
        self.mlp = Mlp(dim, 4 * dim, act_layer=partial(nn.GELU, approximate=GELUS[gelu]))
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, C) -> (B, T, N, C); drop path acts on whole images, the first dimension."""
        y = residual(x, lambda x: self.attn(self.norm1(x)), self.drop_path1)
        return residual(y, lambda y: self.mlp(self.norm2(y)), self.drop_path2)


class NesT(nn.Module):
    """The paper's Figure 1; the defaults are NesT-T for CIFAR.

    Args:
        img_size, patch_size: side of the square image and of a patch, in pixels.
        depths: transformer layers of each hierarchy, bottom (many blocks) to top (one block);
            their number is the number of hierarchies.
        embed_dims, num_heads: for each hierarchy, or one number for all.
        attention: 'multi_head' or 'multi_query', see `Attention`.
        gelu: 'tanh' as in the official code, 'erf' as in timm's port.
        drop_path_rate: stochastic depth of the last layer, rising from 0 in equal steps.
        aggregation: merges 2×2 blocks: 'conv_norm_max', the paper's own, or another name from
            `repro.models.aggregation.make_aggregation`.
        aggregation_plane: 'image': it sees the whole feature map; 'block': only those 2×2 blocks.

    A block has img_size / patch_size / 2^(hierarchies - 1) tokens a side, in every hierarchy.
    Raises ValueError for incompatible sizes.
    """

    def __init__(
        self,
        img_size: int = 32,
        patch_size: int = 1,
        in_chans: int = 3,
        num_classes: int = 10,
        depths: Sequence[int] = (3, 3, 3, 3),
        embed_dims: int | Sequence[int] = 192,
        num_heads: int | Sequence[int] = 3,
        attention: AttentionKind = "multi_query",
        gelu: Gelu = "tanh",
        drop_path_rate: float = 0.1,
        aggregation: str = "conv_norm_max",
        aggregation_plane: AggregationPlane = "image",
    ) -> None:
        super().__init__()
        levels = len(depths)
        dims = per_hierarchy("embed_dims", embed_dims, levels)
        heads = per_hierarchy("num_heads", num_heads, levels)
        self.img_size, self.in_chans, self.num_classes = img_size, in_chans, num_classes
        self.num_features = dims[-1]
        self.block_side = block_side_of(img_size, patch_size, levels)
        last = max(1, sum(depths) - 1)
        aggregate = partial(
            make_aggregation, aggregation, aggregation_plane, self.block_side, attention
        )
        rates = iter([drop_path_rate * layer / last for layer in range(sum(depths))])

        self.patch_embed = nn.Conv2d(in_chans, dims[0], patch_size, stride=patch_size)
        self.pos_embed = nn.ParameterList()
        self.transformers = nn.ModuleList()
        self.aggregations = nn.ModuleList()
        for i, (dim, head, depth) in enumerate(zip(dims, heads, depths, strict=True)):
            blocks = 4 ** (levels - 1 - i)  # each with its own position embedding
            self.pos_embed.append(torch.empty(1, blocks, self.block_side**2, dim))
            layers = [
                TransformerLayer(dim, head, attention, gelu, next(rates)) for _ in range(depth)
            ]
            self.transformers.append(nn.Sequential(*layers))
            if i < levels - 1:
                self.aggregations.append(aggregate(dim, dims[i + 1], heads[i + 1]))
        self.norm = LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of normalised images (B, in_chans, img_size, img_size)."""
        return self.classify(self.hierarchies(images)[-1])

    def hierarchies(self, images: Tensor) -> list[Tensor]:
        """The image-plane feature map (B, H, W, C) of every hierarchy, bottom to top.

        Each is the output of the hierarchy's transformer layers, and part of the graph from the
        images to `classify(maps[-1])`, so a logit can be differentiated with respect to it.
        """
        if images.shape[-2:] != (self.img_size, self.img_size):
            height, width = images.shape[-2:]
            raise ValueError(f"this NesT takes {self.img_size}² pixels, not {height}×{width}")
        maps: list[Tensor] = []
        x = blockify(self.patch_embed(images).permute(0, 2, 3, 1), self.block_side)
        for i, transformer in enumerate(self.transformers):
            y = transformer(x + self.pos_embed[i])  # within each block
            maps.append(unblockify(y, self.block_side))
            if i < len(self.aggregations):  # four blocks become one
                x = blockify(self.aggregations[i](maps[-1]), self.block_side)
        return maps

    def classify(self, top: Tensor) -> Tensor:
        """Logits of the top hierarchy's map: `model(x) == classify(hierarchies(x)[-1])`."""
        return self.forward_head(self.norm(top))

    def forward_features(self, images: Tensor) -> Tensor:
        """The top map after the final norm, (B, H, W, C): `@ head.weight.T` makes the CAM."""
        features: Tensor = self.norm(self.hierarchies(images)[-1])
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Global average pooling of `forward_features`, then the linear classifier."""
        h = features.mean(dim=(1, 2))
        return h if pre_logits else self.head(h)

    def get_classifier(self) -> nn.Linear:
        """The layer to replace for other classes; timm's convention."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Only the position embeddings, as in the official code."""
        return {f"pos_embed.{i}" for i in range(len(self.pos_embed))}


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: NesT) -> dict[str, Tensor]:
    """Resize the position embeddings of a state dict from another image size.

    Name and arguments follow timm, which looks for this function in a model's module.
    """
    resized = {
        name: resize_position_embedding(state_dict[name], model.block_side)
        for name in model.no_weight_decay()
        if name in state_dict
    }
    return {**state_dict, **resized}


def per_hierarchy(name: str, value: int | Sequence[int], levels: int) -> tuple[int, ...]:
    """A value for each hierarchy, from one for all or one each; ValueError for another number."""
    values = (value,) * levels if isinstance(value, int) else tuple(value)
    if len(values) != levels or not levels:
        raise ValueError(f"{name} {values} is for {len(values)} hierarchies, depths for {levels}")
    return values


def block_side_of(img_size: int, patch_size: int, levels: int) -> int:
    """Tokens a side of a block, where the top is one block; ValueError if not an integer."""
    rows: int = 2 ** (levels - 1)
    side, rest = divmod(img_size, patch_size * rows)
    if rest or not side:
        raise ValueError(
            f"an image of {img_size} pixels in patches of {patch_size} does not divide into "
            f"{rows}×{rows} blocks, the bottom of {levels} hierarchies"
        )
    return side


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Weights: 0.02 times a normal truncated at two sigma (std 0.0176); biases 0; norms 1."""
    initialise_weight = partial(nn.init.trunc_normal_, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.ParameterList):
        for position_embedding in module:
            initialise_weight(position_embedding)
    elif isinstance(module, nn.Linear | nn.Conv2d):
        initialise_weight(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def from_flax(
    params: Mapping[str, Any], depths: Sequence[int] | None = None, **changes: Any
) -> NesT:
    """The model of the official JAX code with these parameters; it computes the same function.

    Args:
        params: flax's parameter tree (`state["optimizer"]["target"]` of a published checkpoint):
            nested mappings with numpy or JAX arrays as leaves.
        depths: layers of each hierarchy. Everything else is inferred from the shapes, and so are
            the depths where each hierarchy has another width (ImageNet). Where all have the same
            (CIFAR), the default is an equal split.
        changes: arguments of `NesT` to override, such as `img_size`, or for further training the
            `drop_path_rate`, which weights do not determine and which defaults to 0.1.

    Raises ValueError naming the first entry that is missing, unexpected or of another shape.
    """
    return _load(read_flax(params, depths), changes)


def from_timm(state: Mapping[str, Tensor], **changes: Any) -> NesT:
    """The model with the state dict of timm's nest_tiny_jx, nest_small_jx or nest_base_jx.

    Its GELU is timm's ('erf'); `changes` as in `from_flax`. Do not load timm's plain nest_tiny: its
    weights have the same names, but its pooling windows are shifted by one pixel.
    """
    return _load(read_timm(state), changes)


def _load(weights: Weights, changes: dict[str, Any]) -> NesT:
    config, state = weights
    model = NesT(**{**config, **changes})
    model.load_state_dict(checkpoint_filter_fn(state, model))
    return model


IMAGENET = {"img_size": 224, "patch_size": 4, "num_classes": 1000, "attention": "multi_head"}
NARROW = {"embed_dims": (96, 192, 384), "num_heads": (3, 6, 12)}
WIDE = {"embed_dims": (128, 256, 512), "num_heads": (4, 8, 16)}


def model_options(overrides: Mapping[str, Any], no_weights: str) -> dict[str, Any]:
    """The overrides without timm's arguments for weights; ValueError if `pretrained` is set."""
    if overrides.get("pretrained"):
        raise ValueError(no_weights)
    names = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    return {name: value for name, value in overrides.items() if name not in names}


def _build(overrides: dict[str, Any], **variant: Any) -> NesT:
    no_weights = "NesT has no weights to download: see from_flax and from_timm"
    return NesT(**{**variant, **model_options(overrides, no_weights)})


# On CIFAR the variants differ only in width; the rest are the defaults of NesT.
@register_model
def nest_tiny_cifar(**overrides: Any) -> NesT:
    """NesT-T on CIFAR: 6,006,730 parameters with 10 classes."""
    return _build(overrides, embed_dims=192, num_heads=3)


@register_model
def nest_small_cifar(**overrides: Any) -> NesT:
    """NesT-S on CIFAR: 22,849,930 parameters with 10 classes."""
    return _build(overrides, embed_dims=384, num_heads=6)


@register_model
def nest_base_cifar(**overrides: Any) -> NesT:
    """NesT-B on CIFAR: 89,050,378 parameters with 10 classes."""
    return _build(overrides, embed_dims=768, num_heads=12)


@register_model
def nest_tiny_imagenet(**overrides: Any) -> NesT:
    """NesT-T on ImageNet: 17,057,608 parameters."""
    return _build(overrides, **IMAGENET, **NARROW, depths=(2, 2, 8), drop_path_rate=0.2)


@register_model
def nest_small_imagenet(**overrides: Any) -> NesT:
    """NesT-S on ImageNet: 38,351,176 parameters."""
    return _build(overrides, **IMAGENET, **NARROW, depths=(2, 2, 20), drop_path_rate=0.3)


@register_model
def nest_base_imagenet(**overrides: Any) -> NesT:
    """NesT-B on ImageNet: 67,723,368 parameters."""
    return _build(overrides, **IMAGENET, **WIDE, depths=(2, 2, 20), drop_path_rate=0.5)
