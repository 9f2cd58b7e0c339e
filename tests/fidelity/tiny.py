"""A small network that tells images apart, as ours and as torch-fidelity's; and some images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase, register_feature_extractor

from repro.fidelity import Extractor

DIM, CLASSES = 12, 7
ABOUT = {
    "dataset": "squares",
    "split": "train",
    "images": 600,
    "image_size": 16,
    "fingerprint": "0123456789abcdef",
}


class Tiny(nn.Module):
    """(B, 3, h, w) uint8 to features (B, 12) and logits (B, 7)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(48, DIM, generator=generator))
        self.head = nn.Parameter(torch.randn(DIM, CLASSES, generator=generator))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = F.adaptive_avg_pool2d(images.float() / 64, 4).flatten(1)
        features = F.softplus(pixels @ self.mix)
        return features, features @ self.head


class TinyOfTorchFidelity(FeatureExtractorBase):  # type: ignore[misc]  # it has no types
    """The same network, as `torch_fidelity.calculate_metrics` takes it."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.net = Tiny()

    @staticmethod
    def get_provided_features_list() -> tuple[str, str]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features, logits = self.net(images)
        return tuple({"features": features, "logits": logits}[name] for name in self.features_list)


register_feature_extractor("tiny", TinyOfTorchFidelity)


def tiny(name: str = "tiny", digest: str = "ab" * 32, seed: int = 0) -> Extractor:
    return Extractor(name, digest, DIM, Tiny(seed))


def pictures(count: int, seed: int = 0, brightest: int = 256) -> Tensor:
    """uint8 (N, 3, 16, 16): coarse noise, so that their means over squares differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, brightest, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
