"""Figures 2 to 4 at proxy scale: synthetic images with a known class cue.

Whether GradCAT's path leads to an object depends on what its classifier learned. Small NesTs are
therefore trained on a local or a shape cue, on plain or textured backgrounds, fully or stopped
early, and every variant of GradCAT is evaluated on each. docs/protocol.md describes this file.
"""

from __future__ import annotations

from typing import Literal

from repro.experiments.recipes import changed, sourced
from repro.experiments.scales import title
from repro.spec import (
    Attribution,
    Baseline,
    Ceiling,
    Cell,
    Claim,
    Classification,
    Localization,
    Model,
    Place,
    Scale,
    Sign,
    TopTap,
    Traversal,
)

ONLY: tuple[Scale, ...] = ("proxy",)
SEEDS = 5

# 32 px in 16 x 16 patches of 2 px; blocks of 8 px are the leaves. All maps have 4 x 4 cells.
MODELS: dict[str, Model] = {
    "NesT-S": Model.of("nest_small_imagenet", img_size=32, patch_size=2, depths=(1, 1, 1),
                       embed_dims=48, num_heads=3),
    "DeiT-S": Model.of("deit_small_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=48,
                       num_heads=3),
    "ResNet-50": Model.of("resnet50", layers=(1, 1, 1, 1), channels=(16, 32, 64, 64),
                          output_stride=8),
}  # fmt: skip
DATASETS = ("cues-local-plain", "cues-local-textured", "cues-shape-plain", "cues-shape-textured")
GRID = 4  # cells per side of the map of each model
MAPS_DATASET = "cues-local-textured"  # for comparing attribution maps

TRAINED, EARLY = "trained", "early"
EPOCHS: dict[str, dict[str, int]] = {
    TRAINED: dict.fromkeys(DATASETS, 6),
    EARLY: {name: 1 if "local" in name else 3 for name in DATASETS},
}
PICTURES, ABLATED = 250, 100

_TRIED = "our choice, tried on one seed"
RECIPE = sourced(
    epochs=(6, _TRIED),
    batch_size=(64, "our choice: the smallest that keeps a core busy"),
    lr=(2e-3, _TRIED),
    warmup_epochs=(0.5, "our choice"),
    weight_decay=(0.05, "as at paper scale"),
    no_decay=(("pos_embed", "relative_position_bias_table"), "as at paper scale, NesT's"),
)

ACCURACY, ABLATION, CHANCE = "Classifier accuracy", "Exact ablation", "Chance"
OF_TREES = (
    "Proxy scale: small NesTs of three hierarchies on synthetic images (docs/protocol.md). The "
    "class of an object is its pattern, which any small part of it reveals, or its shape; the "
    "background is plain or textured. Trained: until single objects are classified well; early: "
    "stopped long before. The numbers are not comparable with the paper's."
)
OF_MAPS = (
    "Proxy scale: small versions of the methods on synthetic images of one object, whose class "
    "is its pattern (docs/protocol.md). Every map has 4×4 cells. The numbers are not comparable "
    "with the paper's."
)
REFERENCES = {ABLATION: "ablation_{}", CHANCE: "{}_chance"}


def classifier(dataset: str, training: str, method: str = "NesT-S") -> Classification:
    """A small version of the method, trained on the fit split; thresholds use the other part."""
    recipe = changed(RECIPE, epochs=(EPOCHS[training][dataset], _TRIED)).recipe
    return Classification(model=MODELS[method], dataset=dataset, recipe=recipe, train_split="fit")


def traversal(
    dataset: str, training: str, objects: Literal[1, 4], sign: Sign, top_tap: TopTap
) -> Traversal:
    """One variant of GradCAT; ablation and stored trees only for the default variant."""
    is_default = (sign, top_tap) == ("ascent", "input")
    return Traversal(
        classifier=classifier(dataset, training),
        dataset=dataset,
        objects=objects,
        pictures=PICTURES,
        sign=sign,
        top_tap=top_tap,
        ablated=ABLATED if is_default else 0,
        keeps_trees=is_default,
    )


def localization(attribution: Attribution | Baseline | Ceiling, method: str = "") -> Localization:
    """Boxes from attribution maps, which have 4 x 4 cells for every method."""
    return Localization(
        classifier=classifier(MAPS_DATASET, TRAINED, method) if method else None,
        dataset=MAPS_DATASET,
        attribution=attribution,
        tuning=MAPS_DATASET,
        tuning_split="validation",
        probed=100 if method else 0,
        grid=GRID if attribution == "ceiling" else 0,
    )


def cells(
    objects: Literal[1, 4], measure: str, readings: dict[str, tuple[Sign, TopTap]]
) -> tuple[Cell, ...]:
    """Every variant under every condition, with exact ablation, chance and classifier accuracy.

    A column is a condition; ablation is a metric of the first variant's runs.
    """
    default = next(iter(readings))
    all_cells = []
    for dataset, training in conditions():
        runs = {row: traversal(dataset, training, objects, *how) for row, how in readings.items()}
        rows = [(row, measure, run) for row, run in runs.items()]
        rows += [(row, name.format(measure), runs[default]) for row, name in REFERENCES.items()]
        all_cells += [
            Cell(group="", row=row, column=training, panel=title(dataset), metric=metric, run=run,
                 scales=ONLY)
            for row, metric, run in rows
        ]  # fmt: skip
        all_cells.append(
            Cell(group="", row=ACCURACY, column=training, panel=title(dataset),
                 run=classifier(dataset, training), scales=ONLY)
        )  # fmt: skip
    return tuple(all_cells)


def conditions() -> list[tuple[str, str]]:
    """Every dataset with every training."""
    return [(dataset, training) for dataset in DATASETS for training in EPOCHS]


def claims(quote: str, place: str, row: str, where: str) -> tuple[Claim, ...]:
    """The quotation under every condition: the variant beats chance."""
    return tuple(
        Claim(quote, place, f"paths enter {where} of the object more often than chance: "
              f"{title(dataset)}, {training}",
              (_at(row, dataset, training),), (_at(CHANCE, dataset, training),),
              controls=controls(dataset, training))
        for dataset, training in conditions()
    )  # fmt: skip


def controls(dataset: str, training: str) -> tuple[tuple[Place, Place], ...]:
    """A traversal is judged only where exact ablation beats chance."""
    return ((_at(ABLATION, dataset, training), _at(CHANCE, dataset, training)),)


def _at(row: str, dataset: str, training: str) -> Place:
    return row, training, title(dataset)
