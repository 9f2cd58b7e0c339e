"""The reference: measured once, and never taken for another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repro.data.images import DataError
from repro.fidelity import Reference, import_reference, load_statistics, reference, save_statistics
from repro.fidelity.reference import Reservoir
from tests.fidelity.tiny import ABOUT, DIM, pictures, tiny

REAL = pictures(600)


class Never:
    """Images that nobody may ask for."""

    def __iter__(self) -> Iterator[Tensor]:
        raise AssertionError("measured again")


def check_equal(a: Reference, b: Reference) -> None:
    assert np.array_equal(a.statistics.mean, b.statistics.mean)
    assert np.array_equal(a.statistics.covariance, b.statistics.covariance)
    assert a.statistics.count == b.statistics.count
    assert a.features is not None
    assert b.features is not None
    assert torch.equal(a.features, b.features)
    assert a.about == b.about


def test_it_is_the_moments_and_features_of_the_images() -> None:
    found = reference(tiny(), REAL.split(250), ABOUT, None)
    features, _ = tiny()(REAL)
    np.testing.assert_allclose(found.statistics.mean, features.double().mean(0), rtol=1e-9)
    covariance = np.cov(features.double().numpy(), rowvar=False)
    np.testing.assert_allclose(found.statistics.covariance, covariance, rtol=1e-6)
    assert found.features is not None
    torch.testing.assert_close(found.features, features)
    assert found.about.items() >= {**ABOUT, "extractor": "tiny", "digest": "ab" * 32}.items()


def test_the_second_call_reads_the_first(tmp_path: Path) -> None:
    """A tuple in `about`, which JSON makes a list, and another order are no difference."""
    about = ABOUT | {"crop": (16, 16)}
    first = reference(tiny(), REAL.split(64), about, tmp_path / "new" / "folder")
    second = reference(tiny(), Never(), dict(reversed(about.items())), tmp_path / "new" / "folder")
    check_equal(first, second)
    (path,) = (tmp_path / "new" / "folder").iterdir()
    assert load_statistics(path)[1] == first.about


OTHERS: list[dict[str, Any]] = [
    {"about": ABOUT | {"fingerprint": "fedcba9876543210"}},
    {"about": ABOUT | {"split": "test"}},
    {"about": ABOUT | {"preprocessing": "bicubic"}},
    {"extractor": tiny(digest="cd" * 32)},
    {"extractor": tiny(name="another")},
    {"reservoir_size": 599},
]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_reference_is_measured_and_both_are_kept(
    other: dict[str, Any], tmp_path: Path
) -> None:
    own: dict[str, Any] = {"extractor": tiny(), "about": ABOUT, "cache": tmp_path}
    first = reference(images=REAL.split(64), **own)
    dark = pictures(600, brightest=128)
    second = reference(images=dark.split(64), **(own | other))
    assert not np.array_equal(first.statistics.mean, second.statistics.mean)
    assert len(list(tmp_path.iterdir())) == 2
    check_equal(reference(images=Never(), **own), first)
    check_equal(reference(images=Never(), **(own | other)), second)


def test_a_file_that_says_it_is_of_others_is_not_used(tmp_path: Path) -> None:
    first = reference(tiny(), REAL.split(64), ABOUT, tmp_path)
    (path,) = tmp_path.iterdir()
    false = first.about | {"split": "test"}
    save_statistics(path, first.statistics, false, first.features)
    with pytest.warns(UserWarning, match=f"{path.name} is of other images; computing it again"):
        check_equal(reference(tiny(), REAL.split(64), ABOUT, tmp_path), first)
    check_equal(reference(tiny(), Never(), ABOUT, tmp_path), first)
    save_statistics(path, first.statistics, first.about)  # without features
    with pytest.warns(UserWarning, match="computing it again"):
        check_equal(reference(tiny(), REAL.split(64), ABOUT, tmp_path), first)


def test_a_damaged_file_is_named_and_made_anew(tmp_path: Path) -> None:
    first = reference(tiny(), REAL.split(64), ABOUT, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=f"{path.name}: no statistics.*; computing it again"):
        check_equal(reference(tiny(), REAL.split(64), ABOUT, tmp_path), first)
    check_equal(reference(tiny(), Never(), ABOUT, tmp_path), first)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot cache .*/file/in/.*npz: Not a directory"):
        found = reference(tiny(), REAL.split(64), ABOUT, tmp_path / "file" / "in")
    check_equal(found, reference(tiny(), REAL.split(64), ABOUT, None))


def test_what_does_not_say_what_it_is_of_is_refused(tmp_path: Path) -> None:
    about = {name: value for name, value in ABOUT.items() if name != "fingerprint"}
    with pytest.raises(ValueError, match="about lacks fingerprint"):
        reference(tiny(), Never(), about, tmp_path)


def test_a_stream_that_ends_early_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 599 images, expected 600"):
        reference(tiny(), REAL[:-1].split(64), ABOUT, tmp_path)
    with pytest.raises(DataError, match="12 images are too few"):
        reference(tiny(), [REAL[:DIM]], ABOUT | {"images": DIM}, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Of other tools.


def test_statistics_of_another_tool_have_no_features(tmp_path: Path) -> None:
    path = tmp_path / "adm.npz"
    own = reference(tiny(), REAL.split(64), ABOUT, None).statistics
    np.savez(path, mu=own.mean, sigma=own.covariance)
    found = import_reference(path, tiny(), {"dataset": "ImageNet"})
    assert found.features is None
    assert np.array_equal(found.statistics.covariance, own.covariance)
    assert found.about == {
        "dataset": "ImageNet", "extractor": "tiny", "digest": "ab" * 32, "file": "adm.npz"
    }  # fmt: skip


def test_statistics_of_another_extractor_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(DataError, match=r"wide\.npz: 2,048 features, but tiny has 12; use"):
        import_reference(tmp_path / "wide.npz", tiny(), {})
    reference(tiny("first", "cd" * 32), REAL.split(64), ABOUT, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    with pytest.raises(DataError, match=r"npz: by first, not by tiny; use statistics of the"):
        import_reference(path, tiny(), {})


# Which features are kept.


def kept_of(count: int, size: int, cuts: list[int], seed: int = 0) -> list[int]:
    kept = Reservoir(size, seed)
    for part in np.split(np.arange(count), sorted(min(cut, count) for cut in cuts)):
        kept.add(torch.from_numpy(part).float()[:, None])
    return kept.rows()[:, 0].int().tolist()


@given(st.integers(1, 300), st.integers(1, 40), st.lists(st.integers(0, 300), max_size=9))
def test_it_does_not_matter_how_a_stream_is_cut(count: int, size: int, cuts: list[int]) -> None:
    found = kept_of(count, size, cuts)
    assert found == kept_of(count, size, [])
    assert found == sorted(set(found))
    assert len(found) == min(count, size)


def test_every_image_has_the_same_chance() -> None:
    """Also the last of a data set that is sorted by class."""
    times = np.zeros(50)
    for seed in range(2000):
        times[kept_of(50, 10, [1, 30], seed)] += 1
    assert times.sum() == 20_000
    assert np.abs(times - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)  # 5 deviations


def test_what_is_kept_does_not_grow_with_the_stream() -> None:
    kept = Reservoir(100)
    for _ in range(200):
        kept.add(torch.zeros(50, 2))
        assert sum(map(len, kept._rows)) <= 2 * 100
    assert kept.rows().untyped_storage().nbytes() == 100 * 2 * 4
