"""The work, length and disk use of a run, for prices, plans and descriptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from repro.kinds.profiling import Profiling


@dataclass(frozen=True)
class FixedWork:
    """Work of known hours, independent of any model; `origin`: their source."""

    hours: float
    origin: str


@dataclass(frozen=True)
class UnknownWork:
    """Work that cannot be priced without a finished seed; `reason`: what is missing."""

    reason: str


@dataclass(frozen=True)
class ModelWork:
    """The passes of models over images.

    passes: for each model, the profile that counts it, and the number of forward passes of an
    image; a backward pass counts as two. images: for a single model, its training and test images,
    to which a measured rate of the model applies.
    """

    passes: tuple[tuple[Profiling, float], ...]
    images: tuple[float, float] | None = None


Work = FixedWork | UnknownWork | ModelWork


@dataclass(frozen=True)
class TrainingSteps:
    """The optimizer steps of a training."""

    key: str  # of the step's measurement in `repro.cost.steps`
    model: str  # for messages
    batch_size: int  # images, over all devices
    count: float
    augmentation_launches: int = 0  # operations per batch, in addition to those of the passes


@dataclass(frozen=True)
class Footprint:
    """What a training stores on disk: weights, and until it ends checkpoints.

    model: the profile that counts the weights; None if only finished seeds show it. copies: numbers
    per weight in a checkpoint, such as itself and Adam's two moments. partner: a model that is
    trained too and only in the checkpoints, with three numbers per weight.
    """

    model: Profiling | None = None
    copies: int = 3
    partner: Profiling | None = None


@dataclass(frozen=True)
class Length:
    """How long a training is."""

    count: int
    unit: Literal["epochs", "steps"]
