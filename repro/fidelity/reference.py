"""The real images that generated ones are compared with, measured once and kept in a file."""

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

from repro import records
from repro.data.images import DataError
from repro.fidelity import files
from repro.fidelity.features import Extractor, Seen
from repro.fidelity.moments import Moments, Statistics

KEPT = 10_000  # features that KID, precision and recall compare, as many as guided-diffusion's
_NEEDED = {"dataset", "split", "images", "image_size", "fingerprint"}
_VERSION = 1  # of how a reference is made; another one is measured again


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images as an extractor sees them: their statistics, and features (N, D) of some.

    `features` is None where only statistics are known. `about` says what was measured, by what.
    """

    statistics: Statistics
    features: Tensor | None
    about: dict[str, Any]


def reference(
    extractor: Extractor,
    images: Iterable[Tensor],
    about: dict[str, Any],
    cache: Path | None,
    kept: int = KEPT,
) -> Reference:
    """The reference of `images`, batches of uint8 (B, 3, h, w), from the folder `cache` if there.

    They must not be mirrored. `about` names dataset, split, number of images, image_size and
    fingerprint, and whatever else the pixels depend on: a file is used only if all of it, and the
    extractor, are the same. A cache that cannot be written is a warning. ValueError if `about`
    lacks something, or if the images are not as many as it says; DataError if they are too few.
    """
    found = stored(extractor, about, cache, kept)
    return found or measured(extractor, map(extractor, images), about, cache, kept)


def stored(
    extractor: Extractor, about: dict[str, Any], cache: Path | None, kept: int = KEPT
) -> Reference | None:
    """The reference that the folder has, if it is in order: see `reference`."""
    described = _described(extractor, about, kept)
    path = _path(cache, described)
    return _cached(path, described) if path else None


def measured(
    extractor: Extractor,
    seen: Iterable[Seen],
    about: dict[str, Any],
    cache: Path | None,
    kept: int = KEPT,
) -> Reference:
    """The reference by what the extractor makes of the images, put into the folder."""
    described = _described(extractor, about, kept)
    found = _measured(extractor, seen, described, kept)
    if path := _path(cache, described):
        _store(path, found)
    return found


def _described(extractor: Extractor, about: dict[str, Any], kept: int) -> dict[str, Any]:
    """All that a reference depends on, as it will be read again."""
    if missing := _NEEDED - about.keys():
        raise ValueError(f"about does not name {', '.join(sorted(missing))}")
    described = {**about, **_of(extractor), "kept": kept, "version": _VERSION}
    return records.decode(records.encode(described).encode(), dict[str, Any])


def _path(cache: Path | None, described: dict[str, Any]) -> Path | None:
    text = records.encode(described, sort_keys=True)
    return cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz" if cache else None


def imported(path: Path, extractor: Extractor, about: dict[str, Any]) -> Reference:
    """Statistics that another tool computed, for metrics that need no features of single images.

    Only the caller knows that they are of `extractor`; what the file says of it is checked.
    DataError where it is another, or the file is damaged.
    """
    statistics, stored = files.load_statistics(path)
    if len(statistics.mean) != extractor.dim:
        found = f"of {len(statistics.mean):,} features, and {extractor.name} has {extractor.dim:,}"
        raise DataError(f"{path}: {found}; name statistics of the same extractor")
    if stored.get("digest", extractor.digest) != extractor.digest:
        raise DataError(f"{path}: of {stored.get('extractor')}, not of {extractor.name}; "
                        "name statistics of the same extractor")  # fmt: skip
    return Reference(statistics, None, {**stored, **about, **_of(extractor), "file": path.name})


def _of(extractor: Extractor) -> dict[str, str]:
    return {"extractor": extractor.name, "digest": extractor.digest}


def _measured(
    extractor: Extractor, seen: Iterable[Seen], about: dict[str, Any], kept: int
) -> Reference:
    moments, some = Moments(extractor.dim, extractor.device), Kept(kept)
    for features, _ in seen:
        moments.add(features)
        some.add(features)
    if moments.count != about["images"]:
        raise ValueError(f"{moments.count:,} images came, and {about['images']:,} were announced")
    return Reference(moments.statistics(), some.rows(), about)


def _cached(path: Path, about: dict[str, Any]) -> Reference | None:
    """What `path` holds, if that is what `about` describes."""
    if not path.exists():
        return None
    try:
        statistics, stored, features = files.load_all(path)
    except DataError as error:
        warnings.warn(f"{error}; measuring again", stacklevel=4)
        return None
    if stored != about or features is None:
        warnings.warn(f"{path} is of other images; measuring again", stacklevel=4)
        return None
    return Reference(statistics, torch.from_numpy(features), stored)


def _store(path: Path, measured: Reference) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.save_statistics(path, measured.statistics, measured.about, measured.features)
    except OSError as error:
        warnings.warn(f"cannot keep {path}: {error.strerror}", stacklevel=3)


class Kept:
    """At most `size` rows of a stream (N, D), each with the same chance, in their order.

    Those with the smallest of random numbers that belong to places in the stream, so that it does
    not matter how the stream is cut into batches. A data set may well be sorted by class.
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
        if sum(map(len, self._numbers)) > 2 * self.size:  # seldom, since the limit falls
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
