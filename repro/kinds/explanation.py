"""The base of runs that explain a trained classifier."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from repro.core.datasets import DatasetSize, size_of
from repro.core.recipe import Split
from repro.core.records import require
from repro.core.run import Run, as_slug
from repro.core.work import FixedWork, ModelWork, UnknownWork, Work
from repro.kinds.classification import Classification

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def with_ends(*metrics: str) -> tuple[str, ...]:
    """The metrics, each with the ends of its interval."""
    return tuple(f"{name}{end}" for name in metrics for end in ("", "_low", "_high"))


@dataclass(frozen=True, kw_only=True)
class Explanation(Run):
    """A run that explains a trained classifier, which has the run's seed."""

    classifier: Classification | None = None  # None: a baseline without a classifier
    dataset: str
    split: Split = "test"
    image_size: int = 0  # px, to whose square images are squeezed; 0: as they are stored

    @property
    def trained(self) -> Classification | None:
        """The classifier at this run's seed."""
        return self.classifier and replace(self.classifier, seed=self.seed)

    @property
    def starts_from(self) -> Run | None:
        return self.trained if self.trained and self.trained.recipe.epochs else None

    @property
    def is_stochastic(self) -> bool:
        return self.classifier is not None and self.classifier.is_stochastic

    @property
    def slug(self) -> str:
        model = f"-{self.classifier.model.name}" if self.classifier else ""
        return as_slug(f"{self.method}{model}-{self.dataset}-s{self.seed}")

    @property
    @abstractmethod
    def method(self) -> str:
        """The method of explanation, for the slug."""

    @property
    def tested_classifier(self) -> Classification | None:
        return self.trained

    @property
    def release(self) -> str:
        return self.classifier.release if self.classifier else ""

    @property
    def needs_control(self) -> bool:
        return True

    @property
    def work(self) -> Work:
        """The passes of the classifier; the time for boxes is neglected."""
        classifier, size = self.trained, size_of(self.dataset)
        if classifier is None:
            return FixedWork(0.0, "boxes alone")
        if size is None:
            return UnknownWork(f"the size of {self.dataset} is unknown")
        return ModelWork(((classifier.cost_profile, self.passes(size)),))

    @abstractmethod
    def passes(self, size: DatasetSize) -> int:
        """The classifier's forward passes of an image, on a dataset of this size."""

    @property
    def footprint(self) -> None:
        return None


def check_percentages(
    metrics: Mapping[str, Any], flags: Mapping[str, NDArray[np.bool_]], prefix: str = ""
) -> None:
    """Raise Damaged unless metrics are the percentage of flags that are set, by name."""
    for name, values in flags.items():
        if (stored := metrics.get(prefix + name)) is not None:
            percent = 100 * float(values.mean())
            right = abs(stored - percent) <= 1e-6
            require(right, f"its predictions give {prefix}{name} {percent:g}, not {stored!r}")


def check_pictures(arrays: Mapping[str, NDArray[Any]], others: tuple[str, ...]) -> None:
    """Raise Damaged unless pictures are square and RGB, and the other arrays have their number."""
    count, height, width, channels = arrays["pixels"].shape
    require(count, "no pictures")
    require(height == width > 0 and channels == 3, f"pictures of {height} x {width} x {channels}")
    for name in others:
        require(len(arrays[name]) == count, f"{len(arrays[name])} of {name!r} for {count} pictures")
