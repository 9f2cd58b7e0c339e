"""Feature extractors: the Inception of 2015, or a classifier trained here in its place."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.images import RGB, DataError, reason
from repro.fidelity import weights

INCEPTION = "inception-v3-compat"  # torch-fidelity's name of the Inception of 2015
_LAYERS = ["2048", "logits_unbiased"]  # the pooled features, and the logits without their bias

Features = tuple[Tensor, Tensor]  # of a batch of images: features (B, D) and logits (B, classes)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that maps images, uint8 (B, 3, h, w), to features (B, D) and logits (B, classes).

    `digest` is the sha256 of its weights: the same name with other weights is another extractor.
    """

    name: str
    digest: str
    dim: int
    net: nn.Module

    @property
    def prefix(self) -> str:
        """The prefix of metric names: '' only for Inception with its published weights."""
        published = self.name == INCEPTION and self.digest.startswith(weights.SHA256)
        return "" if published else "proxy_"

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> Extractor:
        """Move the network; returns the extractor."""
        self.net.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features (B, D) and logits (B, classes), float32, on the network's device.

        Without TF32 or bf16, so that a GPU gives the numbers of a CPU. ValueError for images of
        another type: floats in [0, 1] would look black to Inception.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            kind = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"images must be torch.uint8 (B, 3, h, w), not {kind}")
        with _full_precision(self.device):
            features, logits = self.net(images.to(self.device))
        return features.float(), logits.float()


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Disable autocast and TF32, which is torch's default for cuDNN."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def inception(folder: Path | None = None, sha256: str = weights.SHA256) -> Extractor:
    """torch-fidelity's Inception, with weights from `folder` or from torch.hub's cache.

    2048 features, 1008 logits. It resizes images to 299 px as the TensorFlow of 2015 did. Downloads
    nothing; DataError if the weights are missing or damaged. Metrics have their published names
    only with the published `sha256`.
    """
    from torch_fidelity import FeatureExtractorInceptionV3  # 1 s to import

    path, data = weights.read_inception(folder, sha256)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("not a state dict")
        # torch-fidelity unpickles without weights_only, so it gets a pickle of plain tensors.
        tensors = io.BytesIO()
        torch.save({name: tensor.clone() for name, tensor in state.items()}, tensors)
        tensors.seek(0)
        net = FeatureExtractorInceptionV3(
            INCEPTION, _LAYERS, feature_extractor_weights_path=tensors, verbose=False
        )
    except Exception as error:  # other files raise nearly anything
        why, step = reason(error)[:120], "remove it and run `repro prepare inception`"
        raise DataError(f"{path}: not the weights of Inception ({why}); {step}") from error
    return Extractor(INCEPTION, weights.sha256_of(data), net.fc.in_features, net)


def from_classifier(
    net: nn.Module, classes: int, side: int, mean: RGB, std: RGB, name: str, digest: str
) -> Extractor:
    """A classifier with timm's methods as an extractor of its pooled features.

    Images of another size are resized to `side` px, bilinearly with antialiasing, and normalised by
    `mean` and `std` of pixels / 255. The classifier is set to eval mode. ValueError if it has
    another number of classes, or if `name` is Inception's.
    """
    if name == INCEPTION:
        raise ValueError(f"{name} is the name of Inception; give the classifier another")
    extractor = _ClassifierFeatures(net, side, mean, std).to(next(net.parameters()).device).eval()
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    features, logits = Extractor(name, digest, 0, extractor)(image)
    if features.ndim != 2 or logits.shape != (1, classes):
        shapes = f"features {tuple(features.shape)} and logits {tuple(logits.shape)}"
        raise ValueError(f"{name} gives {shapes}, not (1, D) and (1, {classes})")
    return Extractor(name, digest, features.shape[1], extractor)


class _ClassifierFeatures(nn.Module):
    """Features and logits of a classifier, from uint8 images."""

    net: Any  # nn.Module with timm's methods
    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, side: int, mean: RGB, std: RGB) -> None:
        super().__init__()
        self.net, self.side = net, side
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels, size = images.float() / 255, (self.side, self.side)
        if images.shape[2:] != size:
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        tokens = self.net.forward_features((pixels - self.mean) / self.std)
        return self.net.forward_head(tokens, pre_logits=True), self.net.forward_head(tokens)
