"""The runs of the paper at the scales below its own: functions on specs.

proxy   a small version of the method, on the paper's own CIFAR
demo    the same on embedded images
smoke   the paper's own architecture, a few images, a few steps
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from repro.core.datasets import CROPS_256PX
from repro.data import catalogue
from repro.experiments import demo, proxy
from repro.paper import NoVersion
from repro.spec import (
    AdversarialRecipe,
    Cell,
    Classification,
    Generation,
    Localization,
    Model,
    Profiling,
    R,
    Recipe,
    Run,
    Scale,
    Traversal,
)

SMOKE_DATASETS = {
    name: f"{name}-smoke"
    for name in ("cifar10", "cifar100", "imagenet", "imagenetv2", "imagenet22k")
} | {f"imagenet-{side}": f"imagenet-smoke-{side}" for side in (CROPS_256PX, "64px")}


def at_scale(run: R, scale: Scale) -> R:
    """The run at another scale; NoVersion, a KeyError, where it has none."""
    if scale == "paper":
        return run
    if scale == "proxy":
        return proxy.small(run)
    of_kind: Callable[[Any, Scale], Run] = _BY_KIND[type(run)]
    return cast(R, of_kind(run, scale))


def version_at(run: Run, scale: Scale) -> Run:
    """The same for a cell: proxy scale has CIFAR alone, and methods whose rate is chosen."""
    if scale == "proxy" and not proxy.exists(run):
        raise NoVersion(run.id)
    return at_scale(run, scale)


def smoke_dataset(name: str) -> str:
    """A few images of a data set. NoVersion if there are none."""
    if name not in SMOKE_DATASETS:
        raise NoVersion(f"{name} has no smoke version")
    return SMOKE_DATASETS[name]


def _classification(run: Classification, scale: Scale) -> Classification:
    if run.release:
        raise NoVersion(f"{run.id}: released weights have no small version")
    if isinstance(run.pretrained, Classification):
        run = replace(run, pretrained=_classification(run.pretrained, scale))
    if scale == "demo":
        return replace(
            run,
            model=demo.small(run.model),
            dataset=demo.dataset(run.dataset),
            recipe=demo.RECIPE.recipe,
            evaluation=None,
        )
    photos = run.dataset.startswith("imagenet")
    return replace(
        run,
        dataset=smoke_dataset(run.dataset),
        recipe=smoke_recipe(run.recipe),
        # Of photographs at 224 px, an image a class is enough to train on, and to test.
        train_split="validation" if photos else run.train_split,
        test_split="validation" if photos and run.test_split == "test" else run.test_split,
    )


def _generation(run: Generation, scale: Scale) -> Generation:
    if scale == "demo":
        return replace(
            run,
            generator=demo.small(run.generator),
            discriminator=demo.small(run.discriminator),
            dataset=demo.dataset(run.dataset),
            recipe=_small(run.recipe),
            samples=1_000,
            features=demo.FEATURES,
        )
    return replace(
        run,
        dataset=smoke_dataset(run.dataset),
        recipe=replace(run.recipe, steps=2, batch_size=2, evaluate_every_steps=0),
        samples=20,
        features=SMOKE_FEATURES,
    )


def _localization(run: Localization, scale: Scale) -> Localization:
    if scale == "smoke":
        tuning, split, probed = smoke_dataset(run.tuning), run.tuning_split, 1
    else:
        tuning, split, probed = demo.LOCALIZATION_DATASET, "validation", 100
        run = replace(run, image_size=0)
    return replace(
        run,
        classifier=_explained(run.classifier, scale),
        dataset=_explained_dataset(run.dataset, scale),
        tuning=tuning,
        tuning_split=split,
        probed=min(run.probed, probed),
    )


def _traversal(run: Traversal, scale: Scale) -> Traversal:
    pictures, ablated = (4, 1) if scale == "smoke" else (500, 100)
    return replace(
        run,
        classifier=_explained(run.classifier, scale),
        dataset=_explained_dataset(run.dataset, scale),
        image_size=run.image_size if scale == "smoke" else 0,
        pictures=pictures,
        ablated=min(run.ablated, ablated),
    )


def _explained(run: Classification | None, scale: Scale) -> Classification | None:
    """The classifier that is explained at a scale; None of a baseline, which has none."""
    if run is None or scale == "smoke":
        return run and _classification(run, scale)
    if run.release or run.model.name not in demo.LOCALIZATION_MODELS:
        raise NoVersion(run.id)
    return Classification(
        model=demo.LOCALIZATION_MODELS[run.model.name],
        dataset=demo.LOCALIZATION_DATASET,
        recipe=demo.LOCALIZATION_RECIPE,
        train_split="fit",  # thresholds are chosen on the other part
    )


def _explained_dataset(name: str, scale: Scale) -> str:
    return smoke_dataset(name) if scale == "smoke" else demo.LOCALIZATION_DATASET


def _small(recipe: AdversarialRecipe) -> AdversarialRecipe:
    """Another length, batch and rates; the losses are the question."""
    names = demo.ADVERSARIAL.sources
    return replace(recipe, **{name: getattr(demo.ADVERSARIAL.recipe, name) for name in names})


def _profiling(run: Profiling, scale: Scale) -> Profiling:
    if scale == "demo":
        classes = 10 if run.classes else 0
        run = replace(run, model=demo.small(run.model), classes=classes, image_size=32)
    if not run.device:
        return run
    batch = 64 if scale == "demo" else 1
    return replace(run, device="cpu", precision="fp32", batch_size=batch)


def sources(cell: Cell, scale: Scale) -> tuple[tuple[str, str], ...]:
    """Where each value of the cell's recipe at this scale is from."""
    if scale not in ("proxy", "demo") or not cell.sources:
        return cell.sources
    if scale == "proxy":
        return proxy.sources(cell)
    if not isinstance(cell.run, Generation):
        return demo.RECIPE.listed
    return tuple({**dict(cell.sources), **demo.ADVERSARIAL.sources}.items())


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The recipe with all its parts and next to no work."""
    batch = 4 if recipe.image_size else 10
    return replace(recipe, epochs=1, batch_size=batch, warmup_epochs=0.0,
                   evaluate_every_epochs=0)  # fmt: skip


SMOKE_FEATURES = Classification(
    model=Model.of("wrn28_10", depth=10, widen=0.25),
    dataset=SMOKE_DATASETS["cifar10"],
    recipe=smoke_recipe(demo.RECIPE.recipe),
)

_BY_KIND: dict[type[Run], Any] = {
    Classification: _classification,
    Generation: _generation,
    Localization: _localization,
    Traversal: _traversal,
    Profiling: _profiling,
}


def title(dataset: str) -> str:
    """The data set's name in a table."""
    entry = catalogue.DATASETS.get(dataset)
    return entry.title if entry else dataset


SCALE_NOTES: dict[Scale, str] = {
    "paper": "",
    "proxy": (
        "Proxy scale: small versions of the same methods, equal in size, trained with one recipe, "
        "each at its best learning rate on validation images (docs/protocol.md). The numbers are "
        "not comparable with the paper's"
    ),
    "demo": (
        "Demo scale: small versions of the same methods on embedded images, to show that all of it "
        "works. The numbers support no verdict and are not comparable with the paper's"
    ),
    "smoke": (
        "Smoke scale: a few steps on a few images, to show that everything runs. "
        "The numbers mean nothing."
    ),
}
