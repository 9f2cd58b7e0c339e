"""Search for the augmentation at proxy scale: three policies, compared on validation images."""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import proxy
from repro.experiments.imagenet_recipes import without
from repro.experiments.recipes import Sourced
from repro.experiments.table1 import METHODS
from repro.spec import Cell, Classification, Experiment, Model, Recipe

METHOD_NAMES = ("WRN28-10", "DeiT-T", "Swin-T", "NesT-T")
RATE = 2  # index of the learning rate in the trials, since this search precedes that of rates


def _policies(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe with more and more of the paper's augmentation; each policy extends the last."""
    full = proxy.with_all_augmentation(Sourced(recipe, {}))
    unmixed = without(full, "CutMix&MixUp").recipe
    return {
        "crop, flip": recipe,
        "+ RandAugment, erasing": replace(unmixed, label_smoothing=0.0),  # part of mixing
        "+ Mixup, CutMix, smoothing": full.recipe,
    }


def _trials(model: Model) -> dict[str, Classification]:
    """A full-length training for each policy."""
    trial = proxy.trial(model, proxy.rates_of(model)[RATE])
    recipe = replace(trial.recipe, epochs=proxy.EPOCHS)
    return {name: replace(trial, recipe=policy) for name, policy in _policies(recipe).items()}


EXPERIMENT = Experiment(
    name="search_augmentation",
    place="Augmentation search",
    title="Validation accuracy on CIFAR-10 by augmentation",
    caption=(
        f"Ours, not the paper's. {proxy.EPOCHS} epochs on five sixths of the training images, "
        "validated on the rest; test images are not used. Each column adds to the previous one. "
        "All trainings at proxy scale use the policy with the best unweighted mean over methods."
    ),
    headings=("Arch. base", "Method"),
    cells=tuple(
        Cell(group=group, row=method, column=policy, run=run, scales=("proxy",))
        for group, method, model, *_ in METHODS
        if method in METHOD_NAMES
        for policy, run in _trials(model).items()
    ),
    best="row",
    seeds=1,
)
