"""A kind of run of this paper's own: the class whose mean image is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from repro.core.run import Run


@dataclass(frozen=True, kw_only=True)
class NearestMean(Run):
    """Classify by the nearest class mean of the pixels. Metric: `top1`, in percent."""

    kind: ClassVar[str] = "nearest mean"
    task: ClassVar[str] = "tiny.task"
    image_metrics: ClassVar[tuple[str, ...]] = ("top1",)
    dataset: str
    images: int = 0  # of the training images so many, chosen by the seed; 0: all

    @property
    def is_stochastic(self) -> bool:
        return self.images > 0
