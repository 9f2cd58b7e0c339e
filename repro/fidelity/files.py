"""Statistics as .npz files with `mu` and `sigma`, float64, the format of other tools.

pytorch-fid, guided-diffusion and others use these two names. Our files add the number of images, a
description as JSON and optionally some features; other tools ignore these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta

from repro.core import records
from repro.data.images import DataError, reason
from repro.fidelity.moments import Floats, Statistics

_MAX_BYTES = 2**32  # of mu, sigma and features
_Name = Annotated[str, Meta(max_length=200)]


class _Description(TypedDict, total=False):
    """The fields of a description whose types are checked; the rest is compared as a whole."""

    dataset: _Name
    split: _Name
    images: int
    image_size: int
    fingerprint: _Name
    extractor: _Name
    digest: _Name


def save_statistics(
    path: Path, statistics: Statistics, about: dict[str, Any], features: Any = None
) -> None:
    """Write statistics, and features (N, D) if given, atomically. Raises OSError."""
    arrays = {"mu": statistics.mean, "sigma": statistics.covariance}
    if statistics.count is not None:
        arrays["count"] = np.array(statistics.count)
    if features is not None:
        arrays["features"] = np.asarray(features, np.float32)
    with records.atomic_file(path, sync=False) as file:
        np.savez(file, allow_pickle=False, about=np.array(records.encode(about)), **arrays)


def load_statistics(path: Path) -> tuple[Statistics, dict[str, Any]]:
    """The statistics in a file of ours or of another tool, and our description or {}.

    DataError for a file that is missing, damaged, or not of statistics.
    """
    statistics, about, _ = load_all(path)
    return statistics, about


def load_all(path: Path) -> tuple[Statistics, dict[str, Any], Any]:
    """Like `load_statistics`, and the features float32 (N, D), or None."""
    step = "replace or remove it"
    try:
        arrays = _read(path)
        about = _read_description(arrays)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: no statistics of features ({reason(error)}); {step}") from error
    with np.errstate(over="ignore"):  # overflow gives infinity, an error below
        mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
        features = arrays.get("features")
        features = None if features is None else np.asarray(features, np.float32)
    count = int(arrays["count"]) if "count" in arrays else None
    if problem := _statistics_error(mean, covariance) or _extras_error(mean, count, features):
        raise DataError(f"{path}: {problem}; {step}")
    return Statistics(mean, covariance, count), about, features


def _read(path: Path) -> dict[str, Any]:
    """The arrays with known names; `mu` and `sigma` are required. Raises OSError or Damaged."""
    kinds = {"mu": "fiu", "sigma": "fiu", "features": "fiu", "count": "iu", "about": "U"}
    arrays = records.read_arrays(path, kinds, _MAX_BYTES)
    for name in ("mu", "sigma"):
        records.require(name in arrays, f"no array {name!r}")
    for name, array in arrays.items():
        valid = array.dtype.kind in kinds[name] and (array.ndim == 0 or len(kinds[name]) == 3)
        records.require(valid, f"{name!r} is {array.dtype} of shape {array.shape}")
    return arrays


def _read_description(arrays: dict[str, Any]) -> dict[str, Any]:
    """The description in a file; {} if it has none. Raises Damaged."""
    if "about" not in arrays:
        return {}
    try:
        text = str(arrays["about"]).encode()
    except ValueError as error:  # a code point that does not exist
        raise records.Damaged(f"'about' is not text: {error}") from error
    about = records.decode(text, dict[str, Any])
    records.check(about, _Description)
    return about


def _statistics_error(mean: Floats, covariance: Floats) -> str:
    """Why these are not a mean and a covariance; '' if they are."""
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        return f"the shapes of mu {mean.shape} and sigma {covariance.shape} do not match"
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "an entry of mu or sigma is not finite"
    largest = np.abs(covariance).max(initial=0.0)
    if np.abs(covariance - covariance.T).max(initial=0.0) > 1e-5 * largest:  # some are float32
        return "sigma is not symmetric"
    return "sigma has a negative variance" if (covariance.diagonal() < 0).any() else ""


def _extras_error(mean: Floats, count: int | None, features: Any) -> str:
    if count is not None and count < 2:
        return f"a covariance of {count} images"
    if features is not None and (features.ndim != 2 or features.shape[1] != len(mean)):
        return f"the shapes of mu {mean.shape} and features {features.shape} do not match"
    if features is not None and not np.isfinite(features).all():
        return "an entry of features is not finite"
    return ""
