"""What a task is: one module a kind of run, with `execute(run, job) -> Result`, a straight passage.

A task knows its run and this interface. Files, leases and clusters are the launcher's affair, so a
task can be called from a notebook or a test with any object that has these members.
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

from repro.spec import Run
from repro.train.speed import Speed

Line = Mapping[str, float | int | None]


class Interrupted(Exception):
    """The task was asked to stop, has saved its state, and goes on when it is executed again."""


class NotFinite(ValueError):
    """What a model computed, or its weights, have NaN or an infinite number; one line."""


class Job(Protocol):
    """What the launcher provides to a task."""

    data: Path  # the folder of the datasets
    weights: Path | None  # a folder of released weights; None: the hub's cache, or the hub
    decode: Literal["cpu", "nvjpeg"]  # who decodes photographs
    checkpoints: Path  # a folder for the task's own state
    checkpoint_seconds: float  # a kill loses at most this much work, and what a write takes
    micro_batch: int | None  # images on one device at once; None: as many as fit
    speed: Speed  # how models are laid out and compiled
    halvings: int  # of the micro-batch: how often earlier attempts ran out of memory

    def stopping(self) -> bool:
        """Whether the task should save and raise `Interrupted` at this step boundary."""
        ...

    def ours(self) -> bool:
        """Whether this process may still write; to be asked before anything is written."""
        ...

    def weights_of(self, run: Run) -> Path:
        """The trained weights, safetensors, of a run from which this one starts."""
        ...

    def keep(self, name: str, data: bytes) -> None:
        """Put a file beside the metrics: something to look at while the run is under way."""
        ...

    def progress(self, step: int, steps: int, line: Line) -> None:
        """Say how far the task is. Cheap: it may be called at every step."""
        ...

    def history(self, lines: Sequence[Line]) -> None:
        """Replace the recorded metrics by these lines, one an epoch or an evaluation."""
        ...


@dataclass(frozen=True)
class Result:
    """What a finished task hands back. 'diverged' is a result, not a failure.

    Raises NotFinite if a metric or a weight is NaN or infinite.
    """

    status: Literal["done", "diverged"]
    metrics: Mapping[str, float | int]
    predictions: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)  # such as pictures

    def __post_init__(self) -> None:
        check_finite(self.metrics, self.weights)


def check_finite(metrics: Mapping[str, float | int], weights: Mapping[str, Tensor]) -> None:
    """Raises NotFinite if a metric or a weight is NaN or infinite."""
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    wrong += [name for name, value in weights.items() if not value.isfinite().all()]
    if wrong:
        raise NotFinite(f"not finite: {', '.join(wrong[:3])}{', ...' * (len(wrong) > 3)}")
