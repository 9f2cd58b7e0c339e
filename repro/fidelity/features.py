"""What tells images apart: the Inception of 2015, or a classifier trained here in its stead."""

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

Seen = tuple[Tensor, Tensor]  # of a batch of images: features (B, D) and logits (B, classes)


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
        """Of the names of metrics: '' for Inception with its published weights alone."""
        published = self.name == INCEPTION and self.digest.startswith(weights.SHA256)
        return "" if published else "proxy_"

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: torch.device | str) -> Extractor:
        """Itself, moved."""
        self.net.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Seen:
        """Features (B, D) and logits (B, classes), float32, where the network is.

        Without TF32 or bf16, so that a GPU gives the numbers of a CPU. ValueError for images of
        another type: floats in [0, 1] would be a black image to Inception.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"images must be torch.uint8 (B, 3, h, w), not {found}")
        with _full_precision(self.device):
            features, logits = self.net(images.to(self.device))
        return features.float(), logits.float()


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """fp32 in fp32: without autocast, and without the TF32 that is torch's default for cuDNN."""
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

    2048 features, 1008 logits. It scales images to 299 px as the TensorFlow of 2015 did. Nothing is
    fetched; DataError where the weights are missing or damaged. Metrics have their published names
    only with the published `sha256`.
    """
    from torch_fidelity import FeatureExtractorInceptionV3  # 1 s to import

    path, data = weights.read_inception(folder, sha256)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("no tensors with names")
        # torch-fidelity executes what a pickle says, so it gets one that we made of mere tensors.
        tensors = io.BytesIO()
        torch.save({name: tensor.clone() for name, tensor in state.items()}, tensors)
        tensors.seek(0)
        net = FeatureExtractorInceptionV3(
            INCEPTION, _LAYERS, feature_extractor_weights_path=tensors, verbose=False
        )
    except Exception as error:  # what is no such file raises nearly anything
        why, step = reason(error)[:120], "remove it and run `repro prepare inception`"
        raise DataError(f"{path}: not the weights of Inception ({why}); {step}") from error
    return Extractor(INCEPTION, weights.digest_of(data), net.fc.in_features, net)


def of_classifier(
    net: nn.Module, classes: int, side: int, mean: RGB, std: RGB, name: str, digest: str
) -> Extractor:
    """A classifier as an extractor of its pooled features, with timm's methods for them.

    Images are scaled to `side` px, if they are of another size, bilinearly with antialiasing, and
    normalised by `mean` and `std` of pixels / 255. The classifier is put into its state of
    evaluation. ValueError if it is of other classes, or if `name` is Inception's.
    """
    if name == INCEPTION:
        raise ValueError(f"a classifier cannot be called {name}: its metrics are none of Inception")
    scaled = _Scaled(net, side, mean, std).to(next(net.parameters()).device).eval()
    one = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    features, logits = Extractor(name, digest, 0, scaled)(one)
    if features.ndim != 2 or logits.shape != (1, classes):
        found = f"features {tuple(features.shape)} and logits {tuple(logits.shape)}"
        raise ValueError(f"{name} gives {found}, not (1, D) and (1, {classes})")
    return Extractor(name, digest, features.shape[1], scaled)


class _Scaled(nn.Module):
    """A classifier from uint8 images on."""

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
