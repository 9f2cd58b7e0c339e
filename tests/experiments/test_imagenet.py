"""The items on ImageNet as they are declared: numbers, recipes with sources, sizes, shared runs."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

import pytest
import timm
import torch

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments
from repro.core import plan
from repro.core.crops_256px import on_256px_crops
from repro.experiments import figure6_bottom, imagenet_recipes, table2, table3
from repro.experiments.demo import MODELS
from repro.experiments.figure_a3 import DESIGNS, OURS
from repro.experiments.recipes import Sourced
from repro.experiments.scales import at_scale
from repro.experiments.table2 import TOP1
from repro.spec import (
    SCALES,
    Cell,
    Classification,
    Evaluation,
    Experiment,
    Model,
    PaperValue,
    Profiling,
    Recipe,
)
from repro.tasks.classification import create

ITEMS = [experiments.get(name) for name in experiments.names()]
USES: dict[str, Sourced] = {
    **{f"table2 {method}": use for _, method, _, use, *_ in table2.METHODS},
    **{f"table3 {method}": use for method, _, _, use, _ in table3.METHODS},
    **{f"table3 {method}, before": use for method, _, use, *_ in table3.METHODS},
    **{f"figure6 {m} {e}": imagenet_recipes.nest(m, e) for m in "TSB" for e in (30, 60, 100)},
    "figure6 DeiT 30": imagenet_recipes.deit(30),
    **{
        f"without {removed} {method}": imagenet_recipes.without(use, removed)
        for method, (_, use) in figure6_bottom.METHODS.items()
        for removed in list(figure6_bottom.PRINTED)[1:]
    },
    "demo": figure6_bottom.DEMO_FULL,
}
UNSET = Recipe(epochs=0, batch_size=0, lr=0.0)


def cell(item: str, *place: str) -> Cell:
    cells = experiments.get(item).cells
    found = [c for c in cells if (c.row, c.column, c.panel)[: len(place)] == place]
    assert len(found) == 1, place
    return found[0]


# --- the paper's numbers -------------------------------------------------------------------------


def test_table_2_as_printed() -> None:
    """Typed again from the paper: parameters in millions, accuracy."""
    printed = {
        "ResNet-50": (25, 76.2), "RegNetY-4G": (21, 80.0), "RegNetY-16G": (84, 82.9),
        "ViT-B/16": (86, 77.9), "DeiT-S": (22, 79.8), "DeiT-B": (86, 81.8),
        "Swin-T": (29, 81.3), "Swin-S": (50, 83.0), "Swin-B": (88, 83.3),
        "NesT-T": (17, 81.5), "NesT-S": (38, 83.3), "NesT-B": (68, 83.8),
    }  # fmt: skip
    assert experiments.get("table2").rows == tuple(printed)
    for row, (millions, accuracy) in printed.items():
        size, top1 = cell("table2", row, "#Params").paper, cell("table2", row, table2.TOP1).paper
        assert size
        assert top1
        assert (size.value, top1.value) == (millions * 1e6, accuracy)


def test_table_3_and_figure_6_as_printed() -> None:
    values = [c.paper.value for c in experiments.get("table3").cells
              if c.paper and c.column == table3.TOP1]  # fmt: skip
    assert values == [84.0, 86.0, 86.2]
    bottom = experiments.get("figure6_bottom").cells
    assert [c.paper.value for c in bottom if c.paper and c.column == "DeiT-B"] == [
        81.8, 4.3, 79.6, 75.8,
    ]  # fmt: skip
    assert [c.paper.value for c in bottom if c.paper and c.column == "NesT-T"] == [
        81.5, 81.4, 81.2, 79.8,
    ]  # fmt: skip
    known = {(c.row, c.column): c.paper.value
             for c in experiments.get("figure6_top").cells if c.paper}  # fmt: skip
    assert known.pop(("NesT-B", "30")) == 75.9
    assert known.pop(("NesT-B", "100")) == 82.3
    assert {column for _, column in known} == {"300"}


@cache
def parameters(run: Profiling) -> int:
    with torch.device("meta"):
        net = timm.create_model(run.model.name, num_classes=run.classes, **dict(run.model.options))
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("method", experiments.get("table2").rows)
def test_sizes_are_the_paper_s(method: str) -> None:
    """To the million that it prints, some rounded and some cut. Swin-T has 28.3, and is printed
    as 29 as in Swin's own paper."""
    found = cell("table2", method, "#Params")
    assert isinstance(found.run, Profiling)
    assert found.paper
    millions = parameters(found.run) / 1e6
    if method == "Swin-T":
        assert millions == pytest.approx(28.288, abs=1e-3)
        assert found.paper.value == 29e6
    else:
        assert found.paper.value / 1e6 in (round(millions), int(millions))


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", USES)
def test_every_value_has_a_source(name: str) -> None:
    use = USES[name]
    known = {field.name for field in fields(Recipe)}
    assert use.sources.keys() <= known
    used = {n for n in known if getattr(use.recipe, n) != getattr(UNSET, n)}
    assert used <= use.sources.keys()
    for source in use.sources.values():
        starts = (
            "paper",
            "official",
            "our choice",
            "as at paper scale",
            "both use NesT's augmentation",
        )
        assert source.startswith(starts), source


def test_learning_rates_follow_from_the_batch() -> None:
    nest, deit, swin = (imagenet_recipes.nest("T"), imagenet_recipes.deit(),
                        imagenet_recipes.swin("T"))  # fmt: skip
    assert nest.recipe.lr == pytest.approx(2.5e-4 * nest.recipe.batch_size / 256)
    for use in (deit, swin):
        assert use.recipe.lr == pytest.approx(5e-4 * use.recipe.batch_size / 512)
    before = imagenet_recipes.pretraining(swin).recipe
    assert (before.epochs, before.batch_size) == (90, 4096)
    assert before.lr == pytest.approx(1.25e-4 * 4096 / 512)
    assert before.final_lr == pytest.approx(1.25e-6 * 4096 / 512)
    assert before.warmup_lr == pytest.approx(1.25e-7 * 4096 / 512)
    after = imagenet_recipes.finetuning(swin).recipe
    assert (after.epochs, after.image_size, after.weight_decay) == (30, 384, 1e-8)
    assert after.lr == pytest.approx(2e-5 * after.batch_size / 512)
    assert after.final_lr == pytest.approx(2e-7 * after.batch_size / 512)


def test_nest_follows_swin_s_schedule_on_22k() -> None:
    schedule = ("epochs", "batch_size", "lr", "warmup_lr", "final_lr", "warmup_epochs",
                "weight_decay", "clip_norm", "drop_path")  # fmt: skip
    for stage in (imagenet_recipes.pretraining, imagenet_recipes.finetuning):
        ours, theirs = stage(imagenet_recipes.nest("B")), stage(imagenet_recipes.swin("B"))
        assert all(getattr(ours.recipe, n) == getattr(theirs.recipe, n) for n in schedule)
        assert all(ours.sources[n] == theirs.sources[n] for n in schedule)
        assert ours.recipe.augmentation == "authors"


def test_what_goes_with_a_removed_augmentation() -> None:
    """Only what was removed; smoothing goes with NesT's mixing and stays with DeiT's."""
    for method in ("NesT-T", "DeiT-B"):
        full = cell("figure6_bottom", "None", method).training.recipe
        for removed, changed in (
            ("RandomErasing", {"erase_prob"}),
            ("RandAugment", {"randaugment_layers"}),
            ("CutMix&MixUp", {"mixup_alpha", "cutmix"}),
        ):
            recipe = cell("figure6_bottom", removed, method).training.recipe
            different = {f.name for f in fields(Recipe)
                         if getattr(recipe, f.name) != getattr(full, f.name)}  # fmt: skip
            assert different == changed
    assert not cell("figure6_bottom", "CutMix&MixUp", "NesT-T").training.recipe.smooth_unmixed
    assert cell("figure6_bottom", "CutMix&MixUp", "DeiT-B").training.recipe.smooth_unmixed


def test_each_method_is_cropped_by_the_rule_of_its_own_code() -> None:
    """Google's by TensorFlow's operation from 0.05, resized without antialias; the others by
    torchvision's from 0.08."""
    others = ("DeiT", "Swin", "RegNetY")
    for name, use in USES.items():
        recipe = use.recipe
        found = recipe.crop_rule, recipe.crop_area, recipe.crop_resize
        if any(method in name for method in others):
            assert found == ("torchvision", (0.08, 1.0), "bicubic"), name
        elif name != "demo":
            assert found == ("tensorflow", (0.05, 1.0), "aliased"), name
    rules = {c.row: c.training.evaluation for c in experiments.get("table2").cells
             if c.column == TOP1}  # fmt: skip
    for row, test in rules.items():
        assert test
        assert (test.crop_rule == "tensorflow") == row.startswith(("NesT", "ResNet")), row
        assert (test.resize == "aliased") == row.startswith(("NesT", "ResNet", "ViT")), row


@pytest.mark.parametrize(
    ("method", "timm_s", "the_authors"),
    [("NesT-T", 81.428, 81.5), ("NesT-S", 83.132, 83.3), ("NesT-B", 83.552, 83.8)],
)
def test_released_nests_are_tested_both_ways(
    method: str, timm_s: float, the_authors: float
) -> None:
    """Typed again: results-imagenet.csv of timm, and the README of the official code."""
    by_timm = cell("table2", method, table2.RELEASED)
    by_authors = cell("table2", method, table2.AUTHORS_TEST)
    assert (by_timm.published, by_timm.paper) == (PaperValue(timm_s, "timm"), None)
    assert by_authors.published == PaperValue(the_authors, "README")
    assert by_authors.paper == PaperValue(the_authors, "Table 2")
    ours, theirs = by_authors.training, by_timm.training
    assert ours.pretrained == theirs.pretrained
    assert ours.model == cell("table2", method, TOP1).training.model  # whose GELU is by tanh
    assert theirs.model == ours.model.updated(gelu="erf")
    assert ours.evaluation == Evaluation(image_size=224, resize="aliased", crop_rule="tensorflow")
    assert theirs.evaluation == Evaluation(image_size=224, crop_fraction=0.875, resize="bicubic")


def _trained() -> list[Classification]:
    """A run of every model that is trained on ImageNet."""
    found: dict[Model, Classification] = {}
    for experiment in (experiments.get("table2"), experiments.get("table3")):
        for run in plan.runs(experiment.cells, "paper", 1):
            if isinstance(run, Classification) and run.recipe.epochs:
                found.setdefault(run.model, run)
    return list(found.values())


@pytest.mark.parametrize("run", _trained(), ids=lambda run: run.id)
def test_what_is_spared_from_decay_exists(run: Classification) -> None:
    with torch.device("meta"):
        net = timm.create_model(run.model.name, num_classes=10, **dict(run.model.options))
    names = [name for name, _ in net.named_parameters()]
    for part in run.recipe.no_decay:
        assert any(part in name for name in names), part


# --- the same runs -------------------------------------------------------------------------------


def test_what_is_the_same_is_trained_once() -> None:
    for method in ("NesT-T", "NesT-S", "NesT-B", "DeiT-S", "DeiT-B"):
        assert cell("figure6_top", method, "300").run == cell("table2", method, table2.TOP1).run
    assert cell("figure6_bottom", "None", "NesT-T").run == cell("table2", "NesT-T", table2.TOP1).run
    assert cell("figure6_bottom", "None", "DeiT-B").run == cell("table2", "DeiT-B", table2.TOP1).run
    for item in ("figure7", "figure_a3"):
        ours = cell(item, OURS, "image plane", "ImageNet").run
        assert ours == cell("table2", "NesT-T", table2.TOP1).run
        assert (
            cell(item, OURS, "image plane", "CIFAR-10").run == cell("table1", "NesT-T", "C10").run
        )
    for size in "TSB":
        variant = cell("figure_a1", f"NesT4-{size}, S=1", "C10").run
        assert variant == cell("table1", f"NesT-{size}", "C10").run


def test_figure_7_is_part_of_figure_a3() -> None:
    some, all_ = (
        set(plan.runs(experiments.get(i).cells, "paper", 1)) for i in ("figure7", "figure_a3")
    )
    assert some < all_
    for design, (name, planes) in DESIGNS.items():
        for panel in ("CIFAR-10", "ImageNet"):
            block = cell("figure_a3", design, "block plane", panel).training
            options = dict(block.model.options)
            assert options.get("aggregation", "conv_norm_max") == name
            plane = options.get("aggregation_plane", "image")
            assert plane == ("block" if "block" in planes else "image")


@pytest.mark.parametrize("experiment", ITEMS, ids=lambda e: e.name)
def test_every_item_has_its_scales(experiment: Experiment) -> None:
    """At proxy scale there are what the paper asks on CIFAR, and what is ours."""
    for scale in SCALES:
        runs = plan.runs(experiment.cells, scale, seeds=1)
        ours = experiment.name.startswith("search_")
        assert runs or (scale == "proxy" if not ours else scale != "proxy")
        assert len({run.id for run in runs}) == len(runs)
        plan.runs_of_claims(experiment, scale, seeds=1)  # every claim names cells that there are
    assert experiment.place
    assert all(c.paper is None or c.paper.place for c in experiment.cells)


@pytest.mark.parametrize(("name", "millions"), [
    ("nest_tiny_imagenet", 0.25), ("nest_small_imagenet", 0.5), ("nest_base_imagenet", 1.0),
])  # fmt: skip
def test_small_nests_are_as_the_others_of_their_size(name: str, millions: float) -> None:
    net = create(MODELS[name], 10, 0.0, seed=0)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(millions * 1e6, rel=0.06)


def test_smoke_keeps_the_architecture_and_its_own_size() -> None:
    run = cell("table3", "NesT-B", table3.TOP1).training
    smoke = at_scale(run, "smoke")
    assert smoke.model == run.model
    assert smoke.evaluation == run.evaluation
    assert isinstance(smoke.pretrained, Classification)
    assert (smoke.dataset, smoke.pretrained.dataset) == ("imagenet-smoke", "imagenet22k-smoke")
    assert smoke.recipe.image_size == 384


def test_squares_are_another_item_with_runs_of_its_own() -> None:
    table2, crops = experiments.get("table2"), on_256px_crops(experiments.get("table2"))
    assert crops.name == "table2_256px"
    ours, theirs = (set(plan.runs(e.cells, "paper", 1)) for e in (crops, table2))
    assert all(isinstance(run, Profiling) for run in ours & theirs)
    datasets = {run.dataset for run in ours if isinstance(run, Classification)}
    assert datasets == {"imagenet-256px"}
    vit = next(c for c in crops.cells if c.row == "ViT-B/16" and c.column == TOP1)
    assert isinstance(vit.training.pretrained, Classification)
    assert vit.training.pretrained.dataset == "imagenet-256px"
    smoke = {run.dataset for run in plan.runs(crops.cells, "smoke", 1)
             if isinstance(run, Classification)}  # fmt: skip
    assert smoke == {"imagenet-smoke-256px"}
    assert on_256px_crops(experiments.get("table1")) is experiments.get("table1")
