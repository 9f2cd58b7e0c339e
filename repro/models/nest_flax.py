"""The authors' published weights as arguments and a state dict for `repro.models.nest.NesT`.

`read_flax` takes the parameter tree of the official JAX code, `read_timm` timm's conversion of it
(nest_tiny_jx, nest_small_jx, nest_base_jx). Neither needs JAX. `repro.models.nest.from_flax` and
`from_timm` also build the model.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = tuple[dict[str, Any], dict[str, Tensor]]  # arguments of NesT, its state dict


def read_flax(params: Mapping[str, Any], depths: Sequence[int] | None = None) -> Weights:
    """Read a flax tree; see `repro.models.nest.from_flax`."""
    tree = _FlaxTree(params)
    patch, _, in_chans, _ = tree.shape("PatchEmbedding_0/Conv_0/kernel", 4)
    levels, layers = tree.count("PositionEmbedding"), tree.count("EncoderNDBlock")
    _, _, n, _ = tree.shape("PositionEmbedding_0/pos_embedding", 4)
    dims = [tree.shape(f"PositionEmbedding_{i}/pos_embedding", 4)[3] for i in range(levels)]
    widths = [tree.shape(f"EncoderNDBlock_{j}/LayerNorm_0/scale", 1)[0] for j in range(layers)]
    depths = _split_layers(widths, dims, depths)
    attention = "MultiQueryAttention_0" if tree.has("MultiQuery") else "MultiHeadAttention_0"
    query = attention + "/DenseGeneral_0/kernel"
    heads = [tree.shape(f"EncoderNDBlock_{sum(depths[:i])}/{query}", 3)[1] for i in range(levels)]
    classes = tree.shape("Dense_0/kernel", 2)[1]
    side = math.isqrt(n)

    tree.convolution("PatchEmbedding_0/Conv_0", "patch_embed", (patch, in_chans, dims[0]))
    layer = 0
    for i, (dim, head) in enumerate(zip(dims, heads, strict=True)):
        shape = (1, 4 ** (levels - 1 - i), side * side, dim)
        position = tree.take(f"PositionEmbedding_{i}/pos_embedding", *shape)
        tree.state[f"pos_embed.{i}"] = position
        for j in range(depths[i]):
            source, target = f"EncoderNDBlock_{layer}", f"transformers.{i}.{j}"
            tree.norm(f"{source}/LayerNorm_0", f"{target}.norm1", dim)
            tree.attention(f"{source}/{attention}", f"{target}.attn", dim, head)
            tree.norm(f"{source}/LayerNorm_1", f"{target}.norm2", dim)
            tree.dense(f"{source}/MlpBlock_0/Dense_0", f"{target}.mlp.fc1", dim, 4 * dim)
            tree.dense(f"{source}/MlpBlock_0/Dense_1", f"{target}.mlp.fc2", 4 * dim, dim)
            layer += 1
        if i < levels - 1:
            source, target = f"ConvPool_{i}", f"aggregations.{i}"
            tree.convolution(f"{source}/Conv_0", f"{target}.conv", (3, dim, dims[i + 1]))
            tree.norm(f"{source}/LayerNorm_0", f"{target}.norm", dims[i + 1])
    tree.norm("LayerNorm_0", "norm", dims[-1])
    tree.dense("Dense_0", "head", dims[-1], classes)
    if tree.entries:
        raise ValueError(f"flax parameters: unexpected {min(tree.entries)}")

    config = {
        "img_size": side * patch * 2 ** (levels - 1),
        "patch_size": patch,
        "in_chans": in_chans,
        "num_classes": classes,
        "depths": tuple(depths),
        "embed_dims": tuple(dims),
        "num_heads": tuple(heads),
        "attention": "multi_query" if attention.startswith("MultiQuery") else "multi_head",
    }
    return config, tree.state


class _FlaxTree:
    """Moves the entries of a flax tree into a torch state dict, and checks their shapes."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.entries = dict(_flatten(params))
        self.state: dict[str, Tensor] = {}

    def count(self, module: str) -> int:
        return len({e.split("/")[0] for e in self.entries if e.startswith(f"{module}_")})

    def has(self, part: str) -> bool:
        return any(part in entry for entry in self.entries)

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        if name not in self.entries:
            raise ValueError(f"flax parameters: {name} is missing")
        shape = self.entries[name].shape
        if len(shape) != dimensions:
            raise ValueError(f"flax parameters: {name} is {shape}, not of {dimensions} dimensions")
        return shape

    def take(self, name: str, *shape: int) -> Tensor:
        if (actual := self.shape(name, len(shape))) != shape:
            raise ValueError(f"flax parameters: {name} is {actual}, expected {shape}")
        return torch.from_numpy(self.entries.pop(name))

    def norm(self, source: str, target: str, dim: int) -> None:
        self.state[f"{target}.weight"] = self.take(f"{source}/scale", dim)
        self.state[f"{target}.bias"] = self.take(f"{source}/bias", dim)

    def dense(self, source: str, target: str, dim_in: int, dim_out: int) -> None:
        self.state[f"{target}.weight"] = self.take(f"{source}/kernel", dim_in, dim_out).T
        self.state[f"{target}.bias"] = self.take(f"{source}/bias", dim_out)

    def convolution(self, source: str, target: str, size: tuple[int, int, int]) -> None:
        side, dim_in, dim_out = size
        kernel = self.take(f"{source}/kernel", side, side, dim_in, dim_out)  # HWIO, torch has OIHW
        self.state[f"{target}.weight"] = kernel.permute(3, 2, 0, 1)
        self.state[f"{target}.bias"] = self.take(f"{source}/bias", dim_out)

    def attention(self, source: str, target: str, dim: int, heads: int) -> None:
        """Merge flax's query, key and value into one matrix, in that order, heads within each."""
        d = dim // heads
        query = self.take(f"{source}/DenseGeneral_0/kernel", dim, heads, d)
        query_bias = self.take(f"{source}/DenseGeneral_0/bias", heads, d)
        # Key and value are concatenated within each head; multi-query has a single head of them.
        if "MultiQuery" in source:
            both = self.take(f"{source}/Dense_0/kernel", dim, 2 * d).unsqueeze(1)
            both_bias = self.take(f"{source}/Dense_0/bias", 2 * d).unsqueeze(0)
        else:
            both = self.take(f"{source}/DenseGeneral_1/kernel", dim, heads, 2 * d)
            both_bias = self.take(f"{source}/DenseGeneral_1/bias", heads, 2 * d)
        kernel = torch.cat([query, *both.chunk(2, -1)], dim=1)
        bias = torch.cat([query_bias, *both_bias.chunk(2, -1)], dim=0)
        self.state[f"{target}.qkv.weight"] = kernel.flatten(1).T
        self.state[f"{target}.qkv.bias"] = bias.flatten()
        proj = self.take(f"{source}/proj_kernel", heads, d, dim)
        self.state[f"{target}.proj.weight"] = proj.flatten(0, 1).T
        self.state[f"{target}.proj.bias"] = self.take(f"{source}/bias", dim)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, np.array(value)


def _split_layers(
    widths: list[int], dims: list[int], depths: Sequence[int] | None
) -> tuple[int, ...]:
    """The number of layers of each hierarchy; `widths` of layers, `dims` of hierarchies."""
    layers, levels = len(widths), len(dims)
    if depths is not None:
        if len(depths) != levels or sum(depths) != layers:
            raise ValueError(f"depths {tuple(depths)} for {layers} layers in {levels} hierarchies")
        return tuple(depths)
    if len(set(dims)) == levels:
        return tuple(widths.count(dim) for dim in dims)
    if layers % levels:
        raise ValueError(f"{layers} layers of one width in {levels} hierarchies: pass depths=")
    return (layers // levels,) * levels


TIMM_NAMES = (
    (r"^patch_embed\.proj", "patch_embed"),
    (r"^levels\.(\d+)\.pos_embed", r"pos_embed.\1"),
    (r"^levels\.(\d+)\.transformer_encoder", r"transformers.\1"),
    (r"^levels\.(\d+)\.pool", lambda match: f"aggregations.{int(match[1]) - 1}"),
)


def read_timm(state: Mapping[str, Tensor], head_dim: int = 32) -> Weights:
    """Read a state dict of timm's nest_*_jx; see `repro.models.nest.from_timm`."""
    if "levels.0.pos_embed" not in state or "patch_embed.proj.weight" not in state:
        raise ValueError("not the state dict of timm's NesT: it has no levels.0.pos_embed")
    ours: dict[str, Tensor] = {}
    for name, weight in state.items():
        if name.endswith("attn.proj.weight"):
            # timm's input channels are ordered (channel, head), ours (head, channel).
            heads = weight.shape[1] // head_dim
            weight = weight.reshape(-1, head_dim, heads).transpose(1, 2).flatten(1)
        for pattern, replacement in TIMM_NAMES:
            name = re.sub(pattern, replacement, name)
        ours[name] = weight

    positions = [w for name, w in ours.items() if name.startswith("pos_embed.")]
    dims = tuple(p.shape[3] for p in positions)
    _, in_chans, patch, _ = ours["patch_embed.weight"].shape
    side = math.isqrt(positions[0].shape[2])
    config = {
        "img_size": side * patch * 2 ** (len(dims) - 1),
        "patch_size": patch,
        "in_chans": in_chans,
        "num_classes": len(ours["head.bias"]),
        "depths": tuple(
            sum(bool(re.match(rf"transformers\.{i}\.\d+\.norm1\.weight", name)) for name in ours)
            for i in range(len(dims))
        ),
        "embed_dims": dims,
        "num_heads": tuple(dim // head_dim for dim in dims),
        "attention": "multi_head",
        "gelu": "erf",
    }
    return config, ours


def resize_position_embedding(embedding: Tensor, side: int) -> Tensor:
    """(1, T, N, C) -> (1, T, side², C): resize each block's grid, as in the official code.

    Bilinear with aligned corners, like `scipy.ndimage.zoom(order=1)` there.
    """
    t, n, c = embedding.shape[1:]
    old = math.isqrt(n)
    grid = embedding[0].reshape(t, old, old, c).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (side, side), mode="bilinear", align_corners=True)
    return grid.permute(0, 2, 3, 1).reshape(1, t, side * side, c)
