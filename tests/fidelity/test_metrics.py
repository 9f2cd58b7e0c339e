"""The metrics: the same as `torch_fidelity.calculate_metrics`, and called by their own names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from repro.data.datasets import load
from repro.data.images import DataError
from repro.fidelity import Reference, measure, metrics, reference, spread
from repro.fidelity.features import INCEPTION
from repro.fidelity.weights import SHA256
from tests import DEVICES
from tests.fidelity.tiny import ABOUT, DIM, pictures, tiny

REAL, FAKES = pictures(600), pictures(520, seed=1, brightest=230)


class Tensors(Dataset[Tensor]):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        if index >= len(self.images):
            raise IndexError
        return self.images[index]


def real() -> Reference:
    return reference(tiny(), REAL.split(64), ABOUT, None)


@pytest.fixture(scope="module")
def ours() -> dict[str, float]:
    return measure(tiny(), FAKES.split(64), real(), seed=7)


@pytest.fixture(scope="module")
def theirs() -> dict[str, float]:
    found: dict[str, float] = calculate_metrics(
        input1=Tensors(FAKES),
        input2=Tensors(REAL),
        cuda=False,
        feature_extractor="tiny",
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        isc_splits=1,  # of few images
        kid_subset_size=520,
        cache=False,
        save_cpu_ram=True,
        rng_seed=7,
        verbose=False,
    )
    return found


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("proxy_frechet", "frechet_inception_distance"),
        ("proxy_score", "inception_score_mean"),
        ("proxy_kid", "kernel_inception_distance_mean"),
        ("proxy_kid_std", "kernel_inception_distance_std"),
        ("proxy_precision", "precision"),
        ("proxy_recall", "recall"),
    ],
)
def test_they_are_those_of_torch_fidelity(
    name: str, official: str, ours: dict[str, float], theirs: dict[str, float]
) -> None:
    assert ours[name] == pytest.approx(theirs[official], rel=2e-5)
    assert abs(ours[name]) > 1e-6


def test_precision_and_recall_are_not_the_same_here(ours: dict[str, float]) -> None:
    """Or else the test above could not tell generated images from real ones."""
    assert abs(ours["proxy_precision"] - ours["proxy_recall"]) > 0.01


def test_the_score_of_many_images_is_of_ten_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MIN_SPLIT_IMAGES", 52)
    found = measure(tiny(), FAKES.split(64), real(), seed=3)
    official = calculate_metrics(
        input1=Tensors(FAKES), cuda=False, feature_extractor="tiny", isc=True, cache=False,
        save_cpu_ram=True, rng_seed=3, verbose=False,
    )  # fmt: skip
    assert found["proxy_score"] == pytest.approx(official["inception_score_mean"], rel=1e-6)
    assert found["proxy_score_std"] == pytest.approx(official["inception_score_std"], rel=1e-4)
    assert found["proxy_score_splits"] == 10
    assert measure(tiny(), [FAKES[:-1]], real(), 3)["proxy_score_splits"] == 1


def test_sizes_are_recorded(ours: dict[str, float]) -> None:
    assert (ours["fakes"], ours["proxy_score_splits"], ours["proxy_kid_subset"]) == (520, 1, 520)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_do_not_matter(device: str, ours: dict[str, float]) -> None:
    batches = (part.to(device) for part in FAKES.split(100))
    again = measure(tiny().to(device), batches, real(), seed=7)
    assert again == pytest.approx(ours, rel=1e-4)


# Names.


def test_nothing_called_fid_comes_from_a_classifier(ours: dict[str, float]) -> None:
    """Of a network other than Inception, or of Inception with other weights."""
    for name, digest in (("tiny", SHA256 + "0" * 56), (INCEPTION, "ab" * 32)):
        other = tiny(name, digest)
        found = measure(other, [FAKES], reference(other, [REAL], ABOUT, None), seed=0)
        assert found.keys() == ours.keys()
    assert {name for name in ours if not name.startswith("proxy_")} == {"fakes"}
    assert not {"proxy_fid", "proxy_inception_score"} & ours.keys()


def test_inceptions_metrics_have_the_well_known_names(ours: dict[str, float]) -> None:
    published = tiny(INCEPTION, SHA256 + "0" * 56)
    found = measure(published, [FAKES], reference(published, [REAL], ABOUT, None), seed=7)
    known = {"proxy_frechet": "fid", "proxy_score": "inception_score"}
    known |= {f"proxy_score_{name}": f"inception_score_{name}" for name in ("std", "splits")}
    renamed = {known.get(name, name.removeprefix("proxy_")): ours[name] for name in ours}
    assert found == pytest.approx(renamed, rel=1e-4)
    assert found.keys() >= {"fid", "inception_score", "kid", "precision", "recall"}


# What is refused, or left out.


def test_without_real_features_what_needs_them_is_left_out(ours: dict[str, float]) -> None:
    whole = real()
    found = measure(tiny(), [FAKES], Reference(whole.statistics, None, whole.about), seed=7)
    left = {"proxy_frechet", "proxy_score", "proxy_score_std", "proxy_score_splits", "fakes"}
    assert found == pytest.approx({name: ours[name] for name in left}, rel=1e-4)


def test_a_reference_by_another_extractor_is_refused() -> None:
    for other in (tiny(name="other"), tiny(digest="cd" * 32)):
        generated = iter(FAKES.split(64))
        with pytest.raises(ValueError, match="the reference is by tiny, not by"):
            measure(other, generated, real(), seed=0)
        assert len(list(generated)) == 9  # nothing was generated in vain


def test_too_few_generated_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"12 images are too few: .* needs 13"):
        measure(tiny(), [FAKES[:DIM]], real(), seed=0)


def test_no_more_than_ten_thousand_are_compared_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "RESERVOIR_SIZE", 100)
    monkeypatch.setattr(
        metrics, "_feature_metrics", lambda fake, real, *_: {"fake": len(fake), "real": len(real)}
    )
    found = measure(tiny(), FAKES.split(64), real(), seed=0)
    assert (found["fake"], found["real"]) == (100, 600)


# Whether images differ.


def test_spread_is_the_deviation_over_images() -> None:
    exact = FAKES.double().numpy().std(axis=0).mean()
    assert spread(FAKES) == pytest.approx(exact)
    wide = torch.randint(0, 256, (3, 3, 50, 50), dtype=torch.uint8)
    assert spread(wide) == pytest.approx(wide.double().numpy().std(axis=0).mean())


def test_one_image_again_and_again_has_no_spread() -> None:
    one = pictures(1)
    assert spread(one.expand(64, -1, -1, -1)) == 0
    flicker = one.clamp(max=254).repeat(64, 1, 1, 1)
    flicker[::2] += 1
    assert spread(flicker) == 0.5
    halves = torch.cat([torch.zeros(8, 3, 4, 4), torch.full((8, 3, 4, 4), 255.0)])
    assert spread(halves.to(torch.uint8)) == 127.5
    with pytest.raises(ValueError, match="the standard deviation needs 2 images, not 1"):
        spread(one)


def test_real_images_are_far_from_collapsed() -> None:
    assert spread(load("fashion-mnist-6k", "train").pixels[:64]) > 30
