"""Statistics and features of the real images, computed once and cached in a file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from repro.core import records
from repro.data.images import DataError
from repro.fidelity import files
from repro.fidelity.features import Extractor, Features
from repro.fidelity.moments import Moments, Statistics

RESERVOIR_SIZE = 10_000  # features for KID, precision and recall, as in guided-diffusion
_REQUIRED = {"dataset", "split", "images", "image_size", "fingerprint"}
_VERSION = 1  # of the computation; a cached reference of another version is computed again


@dataclass(frozen=True, eq=False)
class Reference:
    """Feature statistics of real images, and the features (N, D) of a sample.

    `features` is None for imported statistics. `about` describes the images and the extractor.
    """

    statistics: Statistics
    features: Tensor | None
    about: dict[str, Any]


def reference(
    extractor: Extractor,
    images: Iterable[Tensor],
    about: dict[str, Any],
    cache: Path | None,
    reservoir_size: int = RESERVOIR_SIZE,
) -> Reference:
    """The reference of `images`, batches of uint8 (B, 3, h, w), cached in the folder `cache`.

    Images must not be mirrored. `about` names dataset, split, number of images, image_size and
    fingerprint, and whatever else the pixels depend on: a cached file is used only if all of it,
    and the extractor, are the same. If the cache is not writable, it warns. ValueError if `about`
    is incomplete or its number of images wrong; DataError for too few images.
    """
    if cached := load_cached(extractor, about, cache, reservoir_size):
        return cached
    return measure_reference(extractor, map(extractor, images), about, cache, reservoir_size)


def load_cached(
    extractor: Extractor,
    about: dict[str, Any],
    cache: Path | None,
    reservoir_size: int = RESERVOIR_SIZE,
) -> Reference | None:
    """The reference in the folder `cache`, if it is there and valid: see `reference`."""
    description = _describe(extractor, about, reservoir_size)
    path = _path(cache, description)
    return _read_cached(path, description) if path else None


def measure_reference(
    extractor: Extractor,
    features: Iterable[Features],
    about: dict[str, Any],
    cache: Path | None,
    reservoir_size: int = RESERVOIR_SIZE,
) -> Reference:
    """The reference from the extractor's outputs for the images; writes it to `cache`."""
    description = _describe(extractor, about, reservoir_size)
    reference = _measure(extractor, features, description, reservoir_size)
    if path := _path(cache, description):
        _store(path, reference)
    return reference


def _describe(extractor: Extractor, about: dict[str, Any], reservoir_size: int) -> dict[str, Any]:
    """Everything that a reference depends on, after a round trip through JSON."""
    if missing := _REQUIRED - about.keys():
        raise ValueError(f"about lacks {', '.join(sorted(missing))}")
    description = {
        **about,
        **_extractor_id(extractor),
        "kept": reservoir_size,
        "version": _VERSION,
    }
    return records.decode(records.encode(description).encode(), dict[str, Any])


def _path(cache: Path | None, description: dict[str, Any]) -> Path | None:
    text = records.encode(description, sort_keys=True)
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz" if cache else None


def import_reference(path: Path, extractor: Extractor, about: dict[str, Any]) -> Reference:
    """Statistics that another tool computed, for metrics that need no single features.

    The caller vouches that `extractor` computed them, unless the file names its extractor.
    DataError if that is another one, or the file is damaged.
    """
    statistics, description = files.load_statistics(path)
    if len(statistics.mean) != extractor.dim:
        dims = f"{len(statistics.mean):,} features, but {extractor.name} has {extractor.dim:,}"
        raise DataError(f"{path}: {dims}; use statistics of the same extractor")
    if description.get("digest", extractor.digest) != extractor.digest:
        raise DataError(f"{path}: by {description.get('extractor')}, not by {extractor.name}; "
                        "use statistics of the same extractor")  # fmt: skip
    return Reference(
        statistics, None, {**description, **about, **_extractor_id(extractor), "file": path.name}
    )


def _extractor_id(extractor: Extractor) -> dict[str, str]:
    return {"extractor": extractor.name, "digest": extractor.digest}


def _measure(
    extractor: Extractor,
    batches: Iterable[Features],
    about: dict[str, Any],
    reservoir_size: int,
) -> Reference:
    moments, reservoir = Moments(extractor.dim, extractor.device), Reservoir(reservoir_size)
    for features, _ in batches:
        moments.add(features)
        reservoir.add(features)
    if moments.count != about["images"]:
        raise ValueError(f"got {moments.count:,} images, expected {about['images']:,}")
    return Reference(moments.statistics(), reservoir.rows(), about)


def _read_cached(path: Path, about: dict[str, Any]) -> Reference | None:
    """The reference in `path`, if its description is `about`; else None, with a warning."""
    if not path.exists():
        return None
    try:
        statistics, description, features = files.load_all(path)
    except DataError as error:
        warnings.warn(f"{error}; computing it again", stacklevel=4)
        return None
    if description != about or features is None:
        warnings.warn(f"{path} is of other images; computing it again", stacklevel=4)
        return None
    return Reference(statistics, torch.from_numpy(features), description)


def _store(path: Path, reference: Reference) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.save_statistics(path, reference.statistics, reference.about, reference.features)
    except OSError as error:
        warnings.warn(f"cannot cache {path}: {error.strerror}", stacklevel=3)


class Reservoir:
    """A uniform sample of at most `size` rows of a stream (N, D), in their order.

    Each position of the stream has a random number, and the rows with the smallest are kept, so the
    batch size does not matter.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self._random = np.random.default_rng(seed)
        self._limit = np.inf  # numbers above it are not among the smallest
        self._numbers: list[npt.NDArray[np.float64]] = []
        self._rows: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        numbers = self._random.random(len(rows))
        low = numbers < self._limit
        self._numbers.append(numbers[low])
        self._rows.append(rows[torch.from_numpy(low).to(rows.device)].cpu())
        if sum(map(len, self._numbers)) > 2 * self.size:  # rare, since the limit falls
            self._drop()

    def rows(self) -> Tensor:
        """float32 (n, D), on the CPU; n is at most `size`."""
        self._drop()
        return self._rows[0]

    def _drop(self) -> None:
        numbers, rows = np.concatenate(self._numbers), torch.cat(self._rows)
        if len(numbers) > self.size:
            lowest = np.sort(np.argpartition(numbers, self.size)[: self.size])
            numbers, rows = numbers[lowest], rows[torch.from_numpy(lowest)]
            self._limit = numbers.max()
        self._numbers, self._rows = [numbers], [rows]
