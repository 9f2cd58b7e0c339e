"""Statistics in files: there and back, from other tools, and what is not statistics."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repro.data.images import DataError
from repro.fidelity import Moments, Statistics, load_statistics, save_statistics


def some(dim: int = 4) -> Statistics:
    moments = Moments(dim)
    moments.add(torch.randn(50, dim, generator=torch.Generator().manual_seed(0)))
    return moments.statistics()


def test_there_and_back(tmp_path: Path) -> None:
    path, about = tmp_path / "real.npz", {"dataset": "Fotos ü", "images": 50}
    save_statistics(path, some(), about)
    found, said = load_statistics(path)
    assert np.array_equal(found.mean, some().mean)
    assert np.array_equal(found.covariance, some().covariance)
    assert (found.count, said) == (50, about)
    assert list(tmp_path.iterdir()) == [path]


def test_other_tools_can_read_ours(tmp_path: Path) -> None:
    """As pytorch-fid and guided-diffusion do: mu and sigma, without pickle."""
    save_statistics(tmp_path / "real.npz", some(), {"a": [1, None]})
    with np.load(tmp_path / "real.npz") as file:
        assert file["mu"].dtype == file["sigma"].dtype == np.float64
        assert file["sigma"].shape == (4, 4)
        for name in file.files:
            assert file[name].dtype != object


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_foreign_file_has_only_mu_and_sigma(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "foreign.npz"
    covariance: Any = some().covariance.astype(dtype)
    np.savez_compressed(path, mu=some().mean.astype(dtype), sigma=covariance, mu_s=np.zeros(23))
    found, about = load_statistics(path)
    assert (found.count, about) == (None, {})
    assert found.mean.dtype == found.covariance.dtype == np.float64
    np.testing.assert_array_equal(found.covariance, covariance)


MU, SIGMA = np.zeros(3), np.eye(3)
SKEWED, NEGATIVE, NAN = SIGMA.copy(), SIGMA.copy(), SIGMA.copy()
SKEWED[0, 1], NEGATIVE[1, 1], NAN[2, 2] = 0.5, -1.0, np.nan


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"mu": MU}, "no statistics of features"),
        ({"mu": MU, "sigma": np.eye(4)}, r"shapes of mu \(3,\) and sigma \(4, 4\) do not match"),
        ({"mu": SIGMA, "sigma": SIGMA}, r"mu \(3, 3\) and sigma \(3, 3\) do not match"),
        ({"mu": MU, "sigma": NAN}, "an entry of mu or sigma is not finite"),
        ({"mu": MU, "sigma": SKEWED}, "sigma is not symmetric"),
        ({"mu": MU, "sigma": NEGATIVE}, "sigma has a negative variance"),
        ({"mu": MU, "sigma": np.full((3, 3), "a")}, "no statistics of features"),
        ({"mu": MU, "sigma": SIGMA, "about": np.array("{")}, "no statistics of features"),
        ({"mu": MU, "sigma": SIGMA, "about": np.array("[]")}, "Expected `object`, got `array`"),
        ({"mu": MU, "sigma": SIGMA, "count": np.array(1)}, "a covariance of 1 images"),
        ({"mu": MU, "sigma": SIGMA, "count": np.array([4, 4])}, "no statistics of features"),
        ({"mu": MU, "sigma": SIGMA, "features": np.ones((9, 4))}, r"features \(9, 4\) do not"),
        ({"mu": MU, "sigma": SIGMA, "features": NAN}, "an entry of features is not finite"),
        ({"mu": np.array([{}]), "sigma": SIGMA}, "no statistics of features"),
    ],
)
def test_what_is_no_statistics_is_named(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=why) as caught:
        load_statistics(path)
    assert str(path) in str(caught.value)
    assert "replace or remove it" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named_wherever_it_is_cut_or_altered(tmp_path: Path) -> None:
    path = tmp_path / "real.npz"
    save_statistics(path, some(), {})
    whole = path.read_bytes()
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"real\.npz: no statistics"):
            load_statistics(path)
    for place in range(0, len(whole), 13):  # of what is altered, some is padding
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            load_statistics(path)
    place = whole.index(some().covariance.tobytes())
    path.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
    with pytest.raises(DataError, match=r"real\.npz: no statistics.*CRC"):
        load_statistics(path)


def test_a_missing_file_and_one_array_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: no statistics of features \(missing\)"):
        load_statistics(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy: .*not an \.npz"):
        load_statistics(tmp_path / "one.npy")


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "real.npz"
    save_statistics(path, some(), {"which": "first"})

    def full_disk(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_statistics(path, some(), {"which": "second"})
    assert load_statistics(path)[1] == {"which": "first"}
    assert list(tmp_path.iterdir()) == [path]
