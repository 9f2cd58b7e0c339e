"""Tasks: one module per kind of run, with `execute(run, job) -> Result`.

A task depends on its run and this interface only. The launcher handles files, leases and clusters,
so a task can be called from a notebook or a test with any object that implements `Job`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from repro.execution import ExecutionOptions
from repro.spec import Run

MetricsRow = Mapping[str, float | int | None]


class Interrupted(Exception):
    """The task was stopped and has saved its state; executing it again resumes."""


class NotFinite(ValueError):
    """A model's outputs, metrics or weights contain NaN or infinity; one line."""


class Job(Protocol):
    """What the launcher provides to a task."""

    options: ExecutionOptions  # as the user and the site chose them
    checkpoints: Path  # a folder for the task's own state
    halvings: int  # of the micro-batch: how often earlier attempts ran out of memory

    def should_stop(self) -> bool:
        """Whether the task should save and raise `Interrupted` at this step boundary."""
        ...

    def still_owner(self) -> bool:
        """Whether this process still owns the run; checked before every write."""
        ...

    def weights_path(self, run: Run) -> Path:
        """The trained weights, safetensors, of a run from which this one starts."""
        ...

    def save_preview(self, name: str, data: bytes) -> None:
        """Save a file beside the metrics, to look at during the run."""
        ...

    def report_progress(self, step: int, steps: int, line: MetricsRow) -> None:
        """Report progress. It is cheap, and may be called at every step."""
        ...

    def write_metrics(self, lines: Sequence[MetricsRow]) -> None:
        """Replace the stored metrics by these rows, one per epoch or evaluation."""
        ...


@dataclass(frozen=True)
class Result:
    """The result of a finished task. 'diverged' is a result, not a failure.

    Raises NotFinite if a metric or a weight is NaN or infinite.
    """

    status: Literal["done", "diverged"]
    metrics: Mapping[str, float | int]
    predictions: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)  # such as images

    def __post_init__(self) -> None:
        check_finite(self.metrics, self.weights)


def check_finite(metrics: Mapping[str, float | int], weights: Mapping[str, Tensor]) -> None:
    """Raises NotFinite if a metric or a weight is NaN or infinite."""
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    wrong += [name for name, value in weights.items() if not value.isfinite().all()]
    if wrong:
        raise NotFinite(f"not finite: {', '.join(wrong[:3])}{', ...' * (len(wrong) > 3)}")
