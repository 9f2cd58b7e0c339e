"""Small models of every family, with random values everywhere, on images of 32 or 64 px."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import timm
import torch
import torchvision
from timm.models.nest import Nest
from torch import Tensor, nn

from repro.models.nest import NesT

TREE: dict[str, Any] = {"img_size": 32, "patch_size": 2, "num_classes": 5, "depths": (1, 1, 1)}
WIDTHS: dict[str, Any] = {"embed_dims": (32, 64, 96), "num_heads": (1, 2, 3)}


@torch.no_grad()
def shaken(model: nn.Module, seed: int = 0) -> Any:
    """Random values everywhere, so that no norm, bias or embedding can hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 1:
            value.copy_(0.2 * noise + name.endswith("weight"))
        elif value.shape[0] == 1:
            value.copy_(0.5 * noise)  # a token or a position embedding
        else:
            value.copy_(noise / math.sqrt(value[0].numel()))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
        elif name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
    return model.eval()


@cache
def our_nest() -> Any:
    return shaken(NesT(**TREE, **WIDTHS, attention="multi_head"))


@cache
def our_deep_nest() -> Any:
    """Four hierarchies, as on CIFAR: a path of three steps."""
    return shaken(NesT(depths=(1, 1, 1, 1), embed_dims=12, num_heads=2, patch_size=2))


@cache
def timm_nest(pad_type: str = "same") -> Any:
    return shaken(Nest(**{**TREE, **WIDTHS}, num_levels=3, pad_type=pad_type, drop_path_rate=0.0))


@cache
def torchvision_resnet50() -> Any:
    return shaken(torchvision.models.resnet50(num_classes=7))


@cache
def timm_resnet50() -> Any:
    return shaken(timm.create_model("resnet50", num_classes=7))


@cache
def deit(distilled: bool = False) -> Any:
    name = "deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224"
    sizes = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 3}
    return shaken(timm.create_model(name, num_classes=5, **sizes))


@cache
def torchvision_vit() -> Any:
    return shaken(
        torchvision.models.VisionTransformer(
            image_size=32,
            patch_size=8,
            num_layers=3,
            num_heads=3,
            hidden_dim=24,
            mlp_dim=48,
            num_classes=5,
        )
    )


def pictures(count: int, side: int = 32, seed: int = 0, width: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, width or side, generator=generator)
