"""The training and the test of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from repro.core.datasets import CROPS_256PX, PART, STORED_SIDE, STORED_SIDES, size_of, train_images
from repro.core.identity import SpecError
from repro.core.recipe import Evaluation, Model, Recipe, Split
from repro.core.records import read_typed_arrays, require
from repro.core.run import PREDICTIONS, TRAINING_OPTIONS, FileCheck, Run, as_slug
from repro.core.work import Footprint, Length, ModelWork, TrainingSteps, UnknownWork
from repro.kinds.profiling import Profiling, costing

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMM = "timm:"  # before the tag of released weights
AUGMENTATION_LAUNCHES = 250  # of a batch by the authors' policy, as tests/test_gpu.py bounds them


def _recount(data: bytes, metrics: Mapping[str, Any]) -> None:
    """Recompute the accuracy, to detect a fraction that is stored as a percentage."""
    if "top1" not in metrics:
        return
    arrays = read_typed_arrays(data, {"label": ("iu", 1), "top5": ("iu", 2)})
    label, top5 = arrays["label"], arrays["top5"]
    require(len(label) == len(top5) > 0 < top5.shape[1], "labels and predictions do not match")
    right = top5 == label[:, None]
    for name, count in (("top1", right[:, 0].sum()), ("top5", right.sum())):
        percent = 100 * int(count) / len(label)
        wrong = abs(metrics.get(name, percent) - percent) > 1e-6
        require(not wrong, f"its predictions give {name} {percent:g}, not {metrics.get(name)!r}")


@dataclass(frozen=True, kw_only=True)
class Classification(Run):
    """Train a classifier and test it. Metrics: `top1`, `top5` in percent, `loss`; untested,
    `train_loss`.

    A run that starts from another is fine-tuned, with a new classifier if the classes differ. With
    zero epochs, weights are only tested: released ones if `pretrained` is 'timm:<tag>'.
    """

    kind: ClassVar[str] = "classification"
    task: ClassVar[str] = "repro.tasks.classification"
    file_checks: ClassVar[Mapping[str, FileCheck]] = {PREDICTIONS: _recount}
    image_metrics: ClassVar[tuple[str, ...]] = ("top1", "top5")
    model: Model
    dataset: str
    recipe: Recipe
    train_split: Split = "train"  # 'fit' and 'validation' are the two parts of 'train'
    test_split: Split | Literal["none"] = "test"
    pretrained: Classification | str | None = None  # whose weights are the initial ones
    evaluation: Evaluation | None = None  # None: test images are as they are stored

    def __post_init__(self) -> None:
        name = self.pretrained
        if isinstance(name, str) and (self.recipe.epochs or not name.startswith(TIMM)):
            raise SpecError(
                f"pretrained: {name!r}; a name is '{TIMM}<tag>', of released weights that are "
                "tested with zero epochs"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("train_loss",) if self.test_split == "none" else ("top1", "top5", "loss")

    @property
    def starts_from(self) -> Run | None:
        return None if isinstance(self.pretrained, str) else self.pretrained

    @property
    def release(self) -> str:
        """timm's tag of the released weights that are tested; '' for others."""
        name = self.pretrained if isinstance(self.pretrained, str) else ""
        return name.removeprefix(TIMM)

    @property
    def is_training(self) -> bool:
        return self.recipe.epochs > 0

    @property
    def is_stochastic(self) -> bool:
        return self.is_training

    @property
    def slug(self) -> str:
        held_out = "" if self.test_split in ("test", "none") else f"-{self.test_split}"
        trained = f"{self.recipe.epochs}ep" if self.recipe.epochs else "released"
        parts = f"{self.model.name}-{self.dataset}{held_out}-{trained}-s{self.seed}"
        return as_slug(parts)

    def with_datasets(self, others: Mapping[str, str]) -> Classification:
        dataset, before = others.get(self.dataset, self.dataset), self.pretrained
        if before is not None and not isinstance(before, str):
            before = before.with_datasets(others)
        return replace(self, dataset=dataset, pretrained=before)

    @property
    def tested_classifier(self) -> Classification:
        return self

    @property
    def launch_options(self) -> frozenset[str]:
        """With 'decode' for photographs, except for those stored as uint8 crops."""
        if not self.is_training:
            return super().launch_options
        is_decoded = self.recipe.image_size > 0 and CROPS_256PX not in self.dataset
        return TRAINING_OPTIONS | {"compiled"} | ({"decode"} if is_decoded else set())

    @property
    def cost_class(self) -> Classification:
        return replace(self, seed=0, recipe=replace(self.recipe, lr=0.0))

    @property
    def length(self) -> Length | None:
        return Length(self.recipe.epochs, "epochs") if self.is_training else None

    @property
    def budget(self) -> str:
        if not self.is_training:
            return ""
        epochs = f"{self.recipe.epochs} epoch{'s' * (self.recipe.epochs != 1)}"
        images = train_images(self.dataset, self.train_split)
        return epochs if images is None else f"{epochs} of {images:,.0f} images"

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """At the ends of epochs, if the recipe says so, and after the last step."""
        images = train_images(self.dataset, self.train_split)
        if images is None or not self.is_training or self.test_split == "none":
            return ()
        size, batch, every = (
            round(images),
            self.recipe.batch_size,
            self.recipe.evaluate_every_epochs,
        )
        last = size * self.recipe.epochs // batch
        epochs = range(every, self.recipe.epochs, every) if every else ()
        ends = (-(-epoch * size // batch) for epoch in epochs)
        return (*(step for step in dict.fromkeys(ends) if step < last), last)

    def recipe_value(self, name: str) -> object:
        field = name.removeprefix("pretrained.")
        if field != name and self.starts_from:
            return self.starts_from.recipe_value(field)
        return getattr(self.recipe, name)

    # --- what it takes ---------------------------------------------------------------------------

    @property
    def cost_profile(self) -> Profiling:
        """The profile that counts the model, at its classes and image side.

        Options that do not change the cost are removed, so that a model is counted once. Raises
        KeyError for a dataset of unknown size.
        """
        if (size := size_of(self.dataset)) is None:
            raise KeyError(self.dataset)
        trained = self.recipe.image_size if self.is_training else 0
        tested = self.evaluation.image_size if self.evaluation else 0
        side = trained or tested or STORED_SIDES.get(self.dataset, STORED_SIDE)
        return Profiling(model=costing(self.model), classes=size.classes, image_size=side)

    @property
    def profile(self) -> Profiling:
        """The profile of the model, with all of its options."""
        return replace(self.cost_profile, model=self.model)

    @property
    def images(self) -> tuple[float, float] | None:
        """The numbers of training and test images over all epochs and tests; None if unknown."""
        if (size := size_of(self.dataset)) is None:
            return None
        tested = (
            size.test if self.test_split == "test" else size.train * PART.get(self.test_split, 1)
        )
        epochs, every = self.recipe.epochs, self.recipe.evaluate_every_epochs
        tests = 1 + (epochs - 1) // every if every and epochs else 1
        tests = 0 if self.test_split == "none" else tests
        return size.train * PART.get(self.train_split, 1) * epochs, tested * tests

    @property
    def work(self) -> ModelWork | UnknownWork:
        """A backward pass costs twice a forward pass."""
        if (images := self.images) is None:
            return UnknownWork(f"the size of {self.dataset} is unknown")
        trained, tested = images
        return ModelWork(((self.cost_profile, 3 * trained + tested),), images)

    @property
    def training_steps(self) -> TrainingSteps | None:
        if not self.is_training or (images := self.images) is None:
            return None
        profile, batch_size = self.profile, self.recipe.batch_size
        name = f"{self.model.name} {profile.image_size} px"
        count = images[0] / batch_size
        return TrainingSteps(profile.id, name, batch_size, count, AUGMENTATION_LAUNCHES)

    @property
    def footprint(self) -> Footprint:
        model = self.cost_profile if size_of(self.dataset) else None
        return Footprint(model, copies=3 if self.is_training else 0)

    # --- its predictions -------------------------------------------------------------------------

    def correct(self, arrays: Mapping[str, NDArray[Any]], metric: str) -> NDArray[Any]:
        """Whether the label is the first prediction, or for top-5 any of the five. (N,)"""
        guesses = arrays["top5"] if metric == "top5" else arrays["top5"][:, :1]
        right: NDArray[Any] = (guesses == arrays["label"][:, None]).any(axis=1)
        return right
