"""Statistics in files as other tools write and read them: npz with `mu` and `sigma`, float64.

pytorch-fid, guided-diffusion and others share these two names. Ours add the number of images, what
they are, as JSON, and perhaps some features; other tools pass over that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import numpy as np
from msgspec import Meta

from repro import records
from repro.data.images import DataError, reason
from repro.fidelity.moments import Floats, Statistics

_MOST_BYTES = 2**32  # of mu, sigma and features
_Name = Annotated[str, Meta(max_length=200)]


class _About(TypedDict, total=False):
    """What is read of what a file of ours says of itself; the rest is compared as a whole."""

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
    """Write statistics, and features (N, D) if there are, by rename. OSError if it cannot be."""
    arrays = {"mu": statistics.mean, "sigma": statistics.covariance}
    if statistics.count is not None:
        arrays["count"] = np.array(statistics.count)
    if features is not None:
        arrays["features"] = np.asarray(features, np.float32)
    scratch = path.with_name(f"{path.name}.{uuid4().hex}.tmp")  # unique over machines as well
    try:
        with scratch.open("wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(records.encode(about)), **arrays)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)  # of a full disk


def load_statistics(path: Path) -> tuple[Statistics, dict[str, Any]]:
    """The statistics in a file, of ours or of another tool, and what ours says about them.

    DataError for a file that is missing, damaged, or of other things.
    """
    statistics, about, _ = load_all(path)
    return statistics, about


def load_all(path: Path) -> tuple[Statistics, dict[str, Any], Any]:
    """As `load_statistics`, with the features float32 (N, D), or None."""
    step = "put a whole file there, or remove it"
    try:
        arrays = _read(path)
        about = _about(arrays)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: no statistics of features ({reason(error)}); {step}") from error
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused
        mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
        features = arrays.get("features")
        features = None if features is None else np.asarray(features, np.float32)
    count = int(arrays["count"]) if "count" in arrays else None
    if wrong := _wrong(mean, covariance) or _wrong_extras(mean, count, features):
        raise DataError(f"{path}: {wrong}; {step}")
    return Statistics(mean, covariance, count), about, features


def _read(path: Path) -> dict[str, Any]:
    """The arrays we know; `mu` and `sigma` have to be there. Raises OSError or Damaged."""
    kinds = {"mu": "fiu", "sigma": "fiu", "features": "fiu", "count": "iu", "about": "U"}
    found = records.arrays(path, kinds, _MOST_BYTES)
    for name in ("mu", "sigma"):
        records.require(name in found, f"no array {name!r}")
    for name, array in found.items():
        good = array.dtype.kind in kinds[name] and (array.ndim == 0 or len(kinds[name]) == 3)
        records.require(good, f"{name!r} is {array.dtype} of shape {array.shape}")
    return found


def _about(arrays: dict[str, Any]) -> dict[str, Any]:
    """What a file says of itself; {} if nothing. Raises Damaged."""
    if "about" not in arrays:
        return {}
    try:
        text = str(arrays["about"]).encode()
    except ValueError as error:  # no character has this number
        raise records.Damaged(f"'about' is no text: {error}") from error
    about = records.decode(text, dict[str, Any])
    records.check(about, _About)
    return about


def _wrong(mean: Floats, covariance: Floats) -> str:
    """What keeps these from being a mean and a covariance; '' if nothing does."""
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        return f"mu {mean.shape} and sigma {covariance.shape} do not belong together"
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return "an entry of mu or sigma is no number"
    largest = np.abs(covariance).max(initial=0.0)
    if np.abs(covariance - covariance.T).max(initial=0.0) > 1e-5 * largest:  # some are float32
        return "sigma is not symmetric"
    return "sigma has a negative variance" if (covariance.diagonal() < 0).any() else ""


def _wrong_extras(mean: Floats, count: int | None, features: Any) -> str:
    if count is not None and count < 2:
        return f"a covariance of {count} images"
    if features is not None and (features.ndim != 2 or features.shape[1] != len(mean)):
        return f"mu {mean.shape} and features {features.shape} do not belong together"
    if features is not None and not np.isfinite(features).all():
        return "an entry of features is no number"
    return ""
