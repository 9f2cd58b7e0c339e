"""Statistics in files as other tools write and read them: npz with `mu` and `sigma`, float64.

pytorch-fid, guided-diffusion and others share these two names. Ours add the number of images, what
they are, as JSON, and perhaps some features; other tools pass over that.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from repro.data.images import DataError, reason
from repro.fidelity.moments import Floats, Statistics

# What numpy and zipfile raise for bytes that are not what they should be.
_BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError)
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error)


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
            np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
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
        mean = np.asarray(arrays["mu"], np.float64)
        covariance = np.asarray(arrays["sigma"], np.float64)
        count = int(arrays["count"]) if "count" in arrays else None
        about = json.loads(str(arrays["about"])) if "about" in arrays else {}
    except (*_BROKEN, *_BROKEN_ZIP) as error:
        raise DataError(f"{path}: no statistics of features ({reason(error)}); {step}") from error
    features = arrays.get("features")
    if wrong := _wrong(mean, covariance) or _wrong_extras(mean, count, about, features):
        raise DataError(f"{path}: {wrong}; {step}")
    return Statistics(mean, covariance, count), about, features


def _read(path: Path) -> dict[str, Any]:
    """The arrays we know; nothing in the file is executed. `mu` and `sigma` have to be there."""
    with path.open("rb") as file:
        found = np.load(file, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("one array, and no npz")
        names = {"count", "about", "features"} & set(found.files)
        return {name: found[name] for name in ("mu", "sigma", *names)}


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


def _wrong_extras(mean: Floats, count: int | None, about: object, features: Any) -> str:
    if not isinstance(about, dict):
        return "what it says about itself is not a JSON object"
    if count is not None and count < 2:
        return f"a covariance of {count} images"
    if features is not None and (features.ndim != 2 or features.shape[1] != len(mean)):
        return f"mu {mean.shape} and features {features.shape} do not belong together"
    if features is not None and not (features.dtype.kind in "fiu" and np.isfinite(features).all()):
        return "an entry of features is no number"
    return ""
