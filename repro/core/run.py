"""A run: everything that determines one result, its name, and how it is stored.

What the rest of the code needs to know about a kind of run is a property of `Run`, which the kind
overrides.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from repro.core import records
from repro.core.identity import SpecError, canonical, digest, parts, revive
from repro.core.work import Footprint, Length, TrainingSteps, UnknownWork, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from repro.core.recipe import Model
    from repro.kinds.classification import Classification
    from repro.kinds.profiling import Profiling

METRICS, PREDICTIONS = "metrics.jsonl", "predictions.npz"
FileCheck = Callable[[bytes, Mapping[str, Any]], object]  # raises Damaged: of content and metrics
TRAINING_OPTIONS = frozenset({"speed", "micro_batch", "checkpoint_seconds"})

RUN_KINDS: dict[str, type[Run]] = {}


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """Everything that determines one result. Tables share equal runs."""

    kind: ClassVar[str]  # one word
    task: ClassVar[str]  # the module whose `execute(run, job)` executes it; it may import torch
    file_checks: ClassVar[Mapping[str, FileCheck]] = {}  # by file, without METRICS
    image_metrics: ClassVar[tuple[str, ...]] = ()  # metrics that PREDICTIONS has per test image
    seed: int = 0

    def __init_subclass__(cls) -> None:
        """Register a class that defines `kind`, so that its specs can be read."""
        super().__init_subclass__()
        if "kind" in vars(cls):
            if not hasattr(cls, "task"):
                raise TypeError(f"{cls.__name__} has no task; name the module that executes it")
            other = RUN_KINDS.setdefault(cls.__name__, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise TypeError(f"{other.__module__} has a kind of run called {cls.__name__} too")
            RUN_KINDS[cls.__name__] = cls

    @property
    def slug(self) -> str:
        """The readable part of the run's id."""
        return as_slug("-".join(filter(None, (self.kind, dataset_of(self), f"s{self.seed}"))))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that a result must have, unless it diverged; it may have more."""
        return self.image_metrics

    def num_images(self, metric: str) -> int:
        """The number of images that a percentage is over; 0 if it is none, or unknown."""
        return 0

    @property
    def evaluations(self) -> Iterable[int]:
        """The steps, in order, after which METRICS must have a line with the metrics."""
        return ()

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """The steps, in order, after which a training is evaluated; () if unknown."""
        return tuple(self.evaluations)

    @property
    def starts_from(self) -> Run | None:
        """The run whose weights this one needs: as its initial weights, or to measure with."""
        return None

    @property
    def is_stochastic(self) -> bool:
        """Whether another seed gives another result."""
        return True

    @property
    def required_data(self) -> frozenset[str]:
        """The names that `repro prepare` must have prepared: datasets, 'inception'."""
        return frozenset({dataset_of(self)} - {""})

    @property
    def release(self) -> str:
        """timm's tag of the released weights that are tested; '' if there are none."""
        return ""

    @property
    def launch_options(self) -> frozenset[str]:
        """The launch options that apply to this run, among those that apply to some kinds."""
        return frozenset({"weights"} if self.release else ())

    @property
    def tested_classifier(self) -> Classification | None:
        """The classifier that is tested or explained, at the run's seed."""
        return None

    @property
    def needs_control(self) -> bool:
        """Whether a claim about the result needs a positive control."""
        return False

    def with_datasets(self, others: Mapping[str, str]) -> Run:
        """The training with its datasets replaced by other forms, by name, and likewise the
        training that it starts from; a run of another kind is unchanged."""
        return self

    # --- cost ------------------------------------------------------------------------------------

    @property
    def is_training(self) -> bool:
        """Whether it trains a model."""
        return False

    @property
    def cost_class(self) -> Run:
        """One run that stands for all that cost the same: at seed 0, without what only tunes."""
        return replace(self, seed=0)

    @property
    def length(self) -> Length | None:
        """How long the training is; None if it is not a training."""
        return None

    @property
    def budget(self) -> str:
        """The length of a training as text: '4 epochs of 6,000 images'; '' if it is not one."""
        return ""

    @property
    def work(self) -> Work:
        """The computation, for its price."""
        return UnknownWork("finish a seed to measure it")

    @property
    def training_steps(self) -> TrainingSteps | None:
        """None if it is not a training, or its dataset is unknown."""
        return None

    @property
    def footprint(self) -> Footprint | None:
        """What it stores on disk; None if it has no weights."""
        return Footprint()

    @property
    def as_profile(self) -> Profiling | None:
        """The run itself, if it measures the cost of a model."""
        return None

    @property
    def sampled_model(self) -> Model | None:
        """The generator whose images `repro samples` can show."""
        return None

    # --- recipe and files ------------------------------------------------------------------------

    def recipe_value(self, name: str) -> object:
        """A value of the recipe; 'pretrained.<name>' is a value of the pre-training's recipe."""
        raise KeyError(f"{self.id} has no recipe")

    @property
    def required_files(self) -> frozenset[str]:
        """The files without which a table or figure of the finished run would have a hole."""
        return frozenset({METRICS} if any(self.evaluations) else ())

    def correct(self, arrays: Mapping[str, NDArray[Any]], metric: str) -> NDArray[Any]:
        """Whether each test image is correct by one of `image_metrics`, (N,), from PREDICTIONS.

        It is if the array of the metric's name, a prediction for each image, equals `label`.
        """
        right: NDArray[Any] = arrays[metric] == arrays["label"]
        return right

    @classmethod
    def narrow(cls, run: Run) -> Self:
        """The run, typed as this kind, which it must be."""
        assert isinstance(run, cls), f"{run.id} is not of the kind {cls.kind}"
        return run

    @cached_property
    def id(self) -> str:
        """A readable slug and 8 hex digits over the class and the non-default fields."""
        return f"{self.slug}-{digest(self)}"


def dataset_of(run: Run) -> str:
    """The run's dataset; '' if it has none."""
    return getattr(run, "dataset", "")


def as_slug(text: str) -> str:
    """The text in the characters of a run's id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def to_json(run: Run) -> str:
    """The whole run, defaults included, as stored in `spec.json`."""
    return records.encode(canonical(run, defaults=True), indent=1, sort_keys=True) + "\n"


def to_line(run: Run) -> str:
    """The whole run as one line of JSON, which `from_json` reads too."""
    return records.encode(canonical(run, defaults=True))


def from_json(text: str | bytes) -> Run:
    """The run that `to_json` wrote, or `to_line`. SpecError for anything else."""
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    try:
        run = revive(records.decode(data, object), parts(tuple(RUN_KINDS.values())))
        if not isinstance(run, Run):
            raise SpecError("not the spec of a run")
        assert run.id  # evaluates every field that the id is made of
    except records.Damaged as error:
        raise SpecError(f"not a spec: {error}") from error
    return run


R = TypeVar("R", bound=Run)


def with_seeds(run: R, seeds: int) -> list[R]:
    """The run at seeds 0 to `seeds` - 1; only seed 0 if it is deterministic."""
    return [replace(run, seed=seed) for seed in range(seeds if run.is_stochastic else 1)]
