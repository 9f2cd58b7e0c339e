"""The training of a generator of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, Literal

from repro.core.recipe import AdversarialRecipe, Model
from repro.core.run import TRAINING_OPTIONS, Run, as_slug
from repro.core.work import Footprint, Length, ModelWork, TrainingSteps
from repro.kinds.classification import Classification
from repro.kinds.profiling import Profiling

INCEPTION = "inception"  # what measures generated images, and the folder of its weights
DEFAULT_SIDE = 64  # px, of a generator that says nothing else


@dataclass(frozen=True, kw_only=True)
class Generation(Run):
    """Train a generator of images, and compare the distributions of its images and real ones.

    Metrics, by Inception's features: `fid`, `inception_score`; where those of each real image are
    kept, also `kid`, `precision`, `recall`. By the features of a classifier that was trained here,
    they begin with `proxy_`, and `proxy_frechet` stands for `fid`, since no other features are
    Inception's.
    """

    kind: ClassVar[str] = "generation"
    task: ClassVar[str] = "repro.tasks.generation"
    generator: Model
    discriminator: Model
    dataset: str  # of squares, as large as the generator's images
    recipe: AdversarialRecipe
    samples: int = 50_000  # that are generated for an evaluation
    reference_split: Literal["train", "test"] = "train"  # the real images they are compared with
    features: Classification | Literal["inception"] = "inception"

    @property
    def metrics(self) -> tuple[str, ...]:
        return (
            ("fid", "inception_score") if self._by_inception else ("proxy_frechet", "proxy_score")
        )

    @property
    def evaluations(self) -> Iterable[int]:
        steps = self.recipe.steps
        every = max(1, self.recipe.evaluate_every_steps or steps)
        return chain(range(every, steps, every), [steps])

    @property
    def starts_from(self) -> Run | None:
        return self.features if isinstance(self.features, Classification) else None

    @property
    def slug(self) -> str:
        return as_slug(f"{self.generator.name}-{self.dataset}-{self.recipe.steps}st-s{self.seed}")

    @property
    def _by_inception(self) -> bool:
        return self.features == INCEPTION

    @property
    def required_data(self) -> frozenset[str]:
        return super().required_data | ({INCEPTION} if self._by_inception else set())

    @property
    def launch_options(self) -> frozenset[str]:
        return TRAINING_OPTIONS | ({"weights"} if self._by_inception else set())

    @property
    def is_training(self) -> bool:
        return True

    @property
    def cost_class(self) -> Generation:
        return replace(self, seed=0, recipe=replace(self.recipe, lr=0.0))

    @property
    def length(self) -> Length:
        return Length(self.recipe.steps, "steps")

    @property
    def budget(self) -> str:
        return f"{self.recipe.steps:,} steps of {self.recipe.batch_size} images"

    @property
    def sampled_model(self) -> Model:
        return self.generator

    def recipe_value(self, name: str) -> object:
        return getattr(self.recipe, name)

    @property
    def profiles(self) -> tuple[Profiling, Profiling]:
        """The profiles that count the generator and the discriminator."""
        side = dict(self.generator.options).get("img_size", DEFAULT_SIDE)
        assert isinstance(side, int)
        return (
            Profiling(model=self.generator, classes=0, image_size=side),
            Profiling(model=self.discriminator, classes=1, image_size=side),
        )

    @property
    def work(self) -> ModelWork:
        """Of an image, the generator's pass and its gradient (3); the discriminator's of a real and
        a generated one (6), and R1's second gradient (our estimate: 3).

        Evaluations, a few in a hundred thousand steps, are left out.
        """
        generator, discriminator = self.profiles
        images = self.recipe.steps * self.recipe.batch_size
        passes = 9 if self.recipe.r1_weight else 6
        return ModelWork(((generator, 3 * images), (discriminator, passes * images)))

    @property
    def training_steps(self) -> TrainingSteps:
        """More than the models determine a step, so that it is measured by the run at seed 0."""
        name = f"{self.generator.name} against {self.discriminator.name}"
        recipe = self.recipe
        return TrainingSteps(replace(self, seed=0).id, name, recipe.batch_size, recipe.steps)

    @property
    def footprint(self) -> Footprint:
        """Checkpoints have the average of the generator's weights, and the discriminator."""
        generator, discriminator = self.profiles
        return Footprint(generator, 4, discriminator)
