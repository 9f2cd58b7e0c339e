"""Streaming moments against numpy; the Fréchet distance against torch-fidelity and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch_fidelity import KEY_METRIC_FID
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from repro.data.images import DataError
from repro.fidelity import Moments, Statistics, frechet
from tests import DEVICES

DIM = 5


def rows(count: int, seed: int = 0, far: float = 0.0, dim: int = DIM) -> Tensor:
    """Correlated features (N, D), `far` deviations from 0."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator)
    return torch.randn(count, dim, generator=generator) @ mixing + far


def moments_of(*parts: Tensor) -> Moments:
    moments = Moments(parts[0].shape[1])
    for part in parts:
        moments.add(part)
    return moments


def check(moments: Moments, features: Tensor, relative: float = 1e-12) -> None:
    """They are numpy's."""
    exact, found = features.double().numpy(), moments.statistics()
    covariance = np.cov(exact, rowvar=False)
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=relative, atol=relative)
    scale = np.abs(covariance).max()
    np.testing.assert_allclose(found.covariance, covariance, rtol=relative, atol=relative * scale)
    assert found.count == len(features)


@given(st.lists(st.integers(0, 40), max_size=8), st.sampled_from([0.0, 3.0, 1e4]))
def test_however_the_images_are_cut_into_batches(sizes: list[int], far: float) -> None:
    features = rows(sum(sizes) + 6, len(sizes), far)
    check(moments_of(*features.split([*sizes, 6])), features, 1e-10 if far > 1e3 else 1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_of_features_far_from_zero_nothing_cancels(device: str) -> None:
    """Raw sums Σ x xᵀ would leave 3 digits of the variance, in float64."""
    features = rows(500).double() + 1e7
    moments = Moments(DIM, device)
    for part in features.split(64):
        moments.add(part.to(device))
    check(moments, features, 1e-8)


@given(st.integers(0, 30), st.integers(0, 30))
def test_merging_two_is_adding_all(first: int, second: int) -> None:
    features = rows(first + second + 6, first, 5.0)
    parts = features.split([first + 6, second])
    merged = moments_of(parts[0])
    merged.merge(moments_of(parts[1]))
    check(merged, features)
    empty = Moments(DIM)
    empty.merge(Moments(DIM))
    empty.merge(merged)
    check(empty, features)


def test_no_features_are_kept() -> None:
    """What they hold is D² + D numbers, after any number of images: 34 MB for Inception."""

    def held(moments: Moments) -> int:
        tensors = [value for value in vars(moments).values() if isinstance(value, Tensor)]
        assert len(tensors) + 1 == len(vars(moments))  # and the count
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    assert held(moments_of(rows(2000))) == held(Moments(DIM)) == 8 * (DIM**2 + DIM)
    assert held(Moments(2048)) < 34e6


def test_too_few_images_are_refused_and_the_number_needed_named() -> None:
    with pytest.raises(DataError, match="5 images are too few: the covariance of 5 features need"):
        moments_of(rows(5)).statistics()
    assert moments_of(rows(6)).statistics().count == 6
    with pytest.raises(DataError, match=r"0 images are too few.* needs 2,049; take more images"):
        Moments(2048).statistics()


def test_features_that_are_no_numbers_are_refused() -> None:
    bad = rows(3)
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match="a feature is NaN or infinite"):
        moments_of(bad)
    with pytest.raises(ValueError, match=r"features must be \(B, 5\), not \(2, 6\)"):
        Moments(DIM).add(torch.zeros(2, 6))


# The distance.


def test_it_is_torch_fidelitys() -> None:
    """On float64 features, and to the digits of its float32 mean on float32 ones."""
    a, b = rows(800, 1, dim=40).relu(), rows(700, 2, dim=40).relu() * 1.1
    ours = frechet(moments_of(a).statistics(), moments_of(b).statistics())
    for exact, relative in ((True, 1e-6), (False, 1e-5)):
        pair = [fid_features_to_statistics(x.double() if exact else x) for x in (a, b)]
        theirs = fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID]
        assert ours == pytest.approx(theirs, rel=relative)
    assert ours > 1


def statistics(mean: list[float], deviations: list[float]) -> Statistics:
    return Statistics(np.array(mean), np.diag(np.square(deviations)), None)


NUMBERS = st.lists(st.floats(-30, 30), min_size=4, max_size=4)
DEVIATIONS = st.lists(st.floats(0, 20), min_size=4, max_size=4)


@given(NUMBERS, DEVIATIONS, NUMBERS, DEVIATIONS)
def test_of_diagonal_gaussians_it_is_the_closed_form(
    mean_a: list[float], a: list[float], mean_b: list[float], b: list[float]
) -> None:
    """Σ (μ - μ')² + (σ - σ')², also where a feature is constant."""
    expected = np.square(np.subtract(mean_a, mean_b)).sum() + np.square(np.subtract(a, b)).sum()
    pair = statistics(mean_a, a), statistics(mean_b, b)
    assert frechet(*pair) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_it_is_symmetric_and_of_equal_ones_zero() -> None:
    a, b = moments_of(rows(300, 1)).statistics(), moments_of(rows(300, 2)).statistics()
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
