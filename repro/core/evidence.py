"""What a verdict needs from a cell's finished runs besides their numbers, read on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import results
from repro.core.datasets import size_of
from repro.core.verdict import scores_of
from repro.spec import Classification, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLOOR = 0.1  # fraction of the range from chance to 100 % that a classifier or control must exceed

Scores = tuple["NDArray[np.float64]", str]  # (N,), one per test image; a digest of the labels


@dataclass(frozen=True)
class Training:
    """The training of a run, or of the classifier that it explains."""

    length: str  # '4 epochs of 6,000 images'
    parameters: int | None


@dataclass(frozen=True)
class Evidence:
    """The finished runs of a cell: one run, at the seeds that have a number."""

    root: Path
    run: Run
    seeds: tuple[int, ...]
    metric: str
    training_fraction: float = 1.0

    @cached_property
    def scores(self) -> Scores | None:
        """For each test image, the percentage of seeds that are correct; None if not stored."""
        has_scores = self.metric in self.run.image_metrics and self.training_fraction == 1
        if not has_scores or not self.seeds:
            return None
        predictions = [results.arrays(self.root, run, results.PREDICTIONS) for run in self._runs]
        stored = [arrays for arrays in predictions if arrays is not None]
        test_sets = {_digest(arrays["label"]) for arrays in stored}
        if len(stored) < len(predictions) or len(test_sets) > 1:
            return None
        correct = [self.run.correct(arrays, self.metric) for arrays in stored]
        return scores_of(correct), test_sets.pop()

    @property
    def classifier(self) -> Classification | None:
        """The classifier that must be above chance: the run itself, or the one it explains."""
        return self.run.tested_classifier

    def accuracy(self) -> float | None:
        """The classifier's mean top-1 accuracy over the seeds; None if one is unknown."""
        values = [self._metrics(run).get("top1") for run in self._runs]
        accuracies = [float(value) for value in values if value is not None]
        if not accuracies or len(accuracies) < len(values):
            return None
        return sum(accuracies) / len(accuracies)

    def required_accuracy(self) -> float | None:
        """The accuracy that the classifier needs for a verdict; None if chance is unknown."""
        size = size_of(self.classifier.dataset) if self.classifier else None
        if size is None:
            return None
        chance = 100 / size.classes
        return chance + required_margin(chance)

    def training(self) -> Training | None:
        """The training, from the first seed; None if nothing is trained or finished."""
        run = self.classifier or self.run
        if not run.is_training or not self.seeds:
            return None
        first = replace(run, seed=self.seeds[0])
        result = results.outcome(self.root, first).result
        provenance = result.get("provenance", {}) if result else {}
        return Training(run.budget, provenance.get("parameters"))

    @property
    def _runs(self) -> list[Run]:
        return [replace(self.run, seed=seed) for seed in self.seeds]

    def _metrics(self, run: Run) -> dict[str, Any]:
        """The metrics of the run, overridden by those of the classifier's own result."""
        metrics: dict[str, Any] = {}
        for each in (run, run.tested_classifier):
            result = results.outcome(self.root, each).result if each else None
            metrics |= result["metrics"] if result else {}
        return metrics


def required_margin(chance: float) -> float:
    """By how many points a value must exceed the chance level `chance`, in percent."""
    return FLOOR * (100 - chance)


def _digest(labels: NDArray[Any]) -> str:
    """Identifies a test set by its labels in order."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
