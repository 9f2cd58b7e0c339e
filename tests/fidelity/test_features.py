"""Extractors: Inception is torch-fidelity's, a classifier is timm's, and neither is the other."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor

from repro.data.images import DataError
from repro.fidelity import Extractor, from_classifier, inception
from repro.fidelity.features import INCEPTION
from repro.fidelity.weights import FILE, SHA256
from repro.models.nest import NesT
from tests import DEVICES
from tests.fidelity.tiny import Tiny, pictures, tiny

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the right tensors with random numbers in them; 95 MB."""
    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        torch.manual_seed(0)
        net = FeatureExtractorInceptionV3(
            "random", ["2048"], feature_extractor_weights_path=folder / "empty.pth"
        )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):  # torch's own would die out over the layers
            nn.init.kaiming_normal_(module.weight)
    torch.save(net.state_dict(), folder / FILE)
    return folder


def begin(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def test_inception_is_torch_fidelitys(weights: Path) -> None:
    images = torch.cat([pictures(2), 255 - pictures(1, seed=1)])
    extractor = inception(weights, begin(weights / FILE))
    features, logits = extractor(images)
    theirs = create_feature_extractor(
        "inception-v3-compat",
        ["logits_unbiased", "2048"],
        cuda=False,
        feature_extractor_weights_path=str(weights / FILE),
        verbose=False,
    )
    with torch.no_grad():
        expected = theirs(images)
    assert torch.equal(features, expected[1])
    assert torch.equal(logits, expected[0])
    assert features.shape == (3, 2048) == (3, extractor.dim)
    assert logits.shape == (3, 1008)
    assert features.std(0).mean() > 1e-3  # of different images
    assert extractor.digest == hashlib.sha256((weights / FILE).read_bytes()).hexdigest()
    assert (extractor.name, extractor.prefix) == (INCEPTION, "proxy_")  # random weights: no FID


def test_other_weights_are_refused(weights: Path) -> None:
    with pytest.raises(DataError, match=f"sha256 .*, not {SHA256}.; remove it and run"):
        inception(weights)


class Harm:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_the_file_is_executed(tmp_path: Path) -> None:
    """Not even where its hash is right, of which the name has no more than 32 bits."""
    torch.save({"fc.weight": Harm(tmp_path / "harm")}, tmp_path / FILE)
    with pytest.raises(DataError, match=r"6726825d\.pth: not the weights of Inception") as caught:
        inception(tmp_path, begin(tmp_path / FILE))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / FILE, weights_only=False)  # the danger is real
    assert (tmp_path / "harm").exists()


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>Not found</html>", saved({"fc.weight": torch.zeros(3)}), saved(torch.zeros(3)),
     saved({"a": 1}), saved([1]), saved({"a": torch.zeros(9)})[:-40]],
    ids=["empty", "page", "other shape", "tensor", "number", "list", "cut"],
)  # fmt: skip
def test_a_file_of_other_things_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    step = r"6726825d\.pth: not the weights of Inception .*; remove it and run `repro prepare inc"
    with pytest.raises(DataError, match=step):
        inception(tmp_path, begin(tmp_path / FILE))


# Names.


@given(st.sampled_from([INCEPTION, "nest-1234", ""]), st.sampled_from([SHA256, ""]), st.text())
def test_only_the_published_inception_has_the_well_known_names(
    name: str, start: str, rest: str
) -> None:
    published = name == INCEPTION and (start + rest).startswith(SHA256)
    assert tiny(name, start + rest).prefix == ("" if published else "proxy_")


def test_a_classifier_cannot_be_called_inception() -> None:
    """Even if its weights happened to have that hash."""
    net = timm.create_model("test_resnet", num_classes=10)
    with pytest.raises(ValueError, match="inception-v3-compat is the name of Inception"):
        from_classifier(net, 10, 32, MEAN, STD, INCEPTION, SHA256 + "0" * 56)
    assert from_classifier(net, 10, 32, MEAN, STD, "it", SHA256 + "0" * 56).prefix == "proxy_"


# Classifiers.


def classifier(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "nest":
        return NesT(img_size=32, patch_size=4, depths=(1, 1), embed_dims=24, num_heads=2)
    net = timm.create_model(name, num_classes=10, drop_rate=0.5)
    assert isinstance(net, nn.Module)
    return net


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "nest"])
def test_a_classifier_gives_its_pooled_features_and_logits(name: str, device: str) -> None:
    net = classifier(name).to(device).train()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    extractor = from_classifier(net, 10, 32, MEAN, STD, name, "00")
    features, logits = extractor(images)
    shape = (1, 3, 1, 1)
    pixels = (images / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    with torch.no_grad():
        head: Any = net.get_classifier()  # type: ignore[operator]
        for expected in (net.eval()(pixels.to(device)), head(features)):
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert features.shape == (5, extractor.dim)
    assert features.dtype == logits.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(extractor(images)[0], features)  # no dropout, and nothing is updated


class Pixels(nn.Module):
    """A classifier whose features are what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward_features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features if pre_logits else features[:, :10]


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (16, 16), (40, 25)])
def test_images_are_scaled_as_pillow_does_it(size: tuple[int, int]) -> None:
    """With antialiasing: without it, small images of the same photographs are far apart."""
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    shown, _ = from_classifier(Pixels(), 10, 32, MEAN, STD, "pixels", "00")(images)
    levels = shown.view(2, 3, 32, 32) * torch.tensor(STD).view(3, 1, 1)
    levels = 255 * (levels + torch.tensor(MEAN).view(3, 1, 1))
    each = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    pillows = [np.asarray(i.resize((32, 32), Image.Resampling.BILINEAR)) for i in each]
    expected = torch.from_numpy(np.stack(pillows)).permute(0, 3, 1, 2)
    assert (levels - expected).abs().max() < (1e-3 if size == (32, 32) else 1.01)


def test_a_classifier_of_other_classes_is_refused() -> None:
    net = timm.create_model("test_resnet", num_classes=10)
    with pytest.raises(ValueError, match=r"it gives features \(1, .*, 10\), not .* \(1, 11\)"):
        from_classifier(net, 11, 32, MEAN, STD, "it", "00")


@pytest.mark.parametrize(
    "images",
    [pictures(2).float() / 255, pictures(2)[0], pictures(2)[:, :1]],
    ids=["float", "single", "grey"],
)
def test_other_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be torch.uint8 \(B, 3, h, w\), not torch"):
        tiny()(images)


class Spy(Tiny):
    """Notes how exactly it is to compute."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = precisions()
        return super().forward(images)


def precisions() -> tuple[bool, str]:
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


@pytest.fixture
def low_precision() -> Iterator[None]:
    """Everything that torch can be told to compute with fewer bits."""
    before = precisions()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.usefixtures("low_precision")
def test_features_are_computed_in_fp32_whatever_surrounds_it() -> None:
    before, spy = precisions(), Spy()
    extractor = Extractor("spy", "00", 12, spy)
    features, _ = extractor(pictures(9))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(pictures(9))[0], features)
    assert spy.seen == (False, "highest")
    assert precisions() == before != spy.seen
    with pytest.raises(RuntimeError):
        Extractor("broken", "00", 12, nn.Conv2d(1, 1, 1))(pictures(1))
    assert precisions() == before
