"""Table 1 as it is declared: the paper's numbers, recipes and their sources, the small scale."""

from __future__ import annotations

from dataclasses import fields

import pytest
import timm

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments
from repro.experiments import recipes, scales
from repro.experiments.recipes import Sourced
from repro.experiments.scales import PROXY, PROXY_MODELS, at_scale
from repro.experiments.table1 import METHODS
from repro.spec import Cell, Model, Recipe, Scale, chosen

TABLE1 = experiments.get("table1")
CELLS = {(cell.row, cell.column): cell for cell in TABLE1.cells}
USES: dict[str, Sourced] = {method: use for _, method, _, use, *_ in METHODS} | {"proxy": PROXY}
UNSET = Recipe(epochs=0, batch_size=0, lr=0.0)

# Values that mean something only where another one is set: they may be stated with a source though
# they equal the default.
PART_OF = {
    "randaugment_magnitude": "randaugment_layers",
    "randaugment_std": "randaugment_layers",
    "randaugment_prob": "randaugment_layers",
    "mix_prob": "mixup_alpha",
}


def test_fifteen_methods_in_the_paper_s_order() -> None:
    assert TABLE1.rows == (
        *("Pyramid-164-48", "WRN28-10"),
        *("DeiT-T", "DeiT-S", "DeiT-B", "PVT-T", "PVT-S", "PVT-B", "CCT-7/3×1"),
        *("Swin-T", "Swin-S", "Swin-B", "NesT-T", "NesT-S", "NesT-B"),
    )
    assert TABLE1.columns == ("C10", "C100")
    assert len(CELLS) == len(TABLE1.cells) == 30
    assert len({cell.run for cell in TABLE1.cells}) == 30
    groups = [cell.group for cell in TABLE1.cells]
    assert [groups.count(g) for g in dict.fromkeys(groups)] == [4, 14, 12]
    assert {(cell.column, cell.training.dataset) for cell in TABLE1.cells} == {
        ("C10", "cifar10"),
        ("C100", "cifar100"),
    }


def printed(method: str, column: str) -> float:
    paper = CELLS[method, column].paper
    assert paper is not None
    return paper.value


def test_the_paper_s_numbers() -> None:
    """Typed again from the paper: the first and last rows, the extremes, and what is starred."""
    assert printed("Pyramid-164-48", "C10") == 95.97
    assert printed("WRN28-10", "C100") == 80.75
    assert printed("CCT-7/3×1", "C100") == 76.67
    assert printed("NesT-T", "C10") == 96.04
    assert printed("NesT-B", "C10") == 97.20
    assert printed("NesT-B", "C100") == 82.56
    for column, low, high in (("C10", 85.05, 97.20), ("C100", 43.78, 82.56)):
        values = [printed(method, column) for method in TABLE1.rows]
        assert (min(values), max(values)) == (low, high)
        assert values.index(high) == 14
        assert TABLE1.rows[values.index(low)] == "PVT-B"
    starred = {place for place, cell in CELLS.items() if cell.paper and cell.paper.starred}
    assert starred == {("PVT-B", "C10"), ("PVT-B", "C100")}
    assert all(cell.paper and cell.paper.place == "Table 1" for cell in TABLE1.cells)


@pytest.mark.parametrize(("size", "batch"), [("T", 192), ("S", 128), ("B", 64)])
def test_batch_sizes_and_absolute_learning_rates(size: str, batch: int) -> None:
    methods = [m for m in TABLE1.rows if m.endswith(f"-{size}") or (m, size) == ("CCT-7/3×1", "T")]
    assert len(methods) == (5 if size == "T" else 4)
    for method in methods:
        for column in TABLE1.columns:
            recipe = CELLS[method, column].training.recipe
            assert recipe.batch_size == batch
            assert recipe.lr == pytest.approx(2.5e-4 * batch / 256)
            assert recipe.epochs == 300


def test_steps_are_the_official_ones() -> None:
    recipe = CELLS["NesT-T", "C10"].training.recipe
    assert 50_000 * recipe.epochs // recipe.batch_size == 78_125


def test_transformers_share_one_augmentation() -> None:
    """All of the recipe but its batch size and the learning rate that follows from it."""
    seen = set()
    for (method, _), cell in CELLS.items():
        if method not in ("Pyramid-164-48", "WRN28-10"):
            recipe = cell.training.recipe
            assert (
                recipe
                == recipes.cifar_transformer(
                    {192: "T", 128: "S", 64: "B"}[recipe.batch_size], ours="NesT" in method
                ).recipe
            )
            seen.add((recipe.crop_padding, recipe.flip, recipe.randaugment_layers,
                      recipe.erase_prob, recipe.mixup_alpha, recipe.cutmix,
                      recipe.label_smoothing, recipe.drop_path))  # fmt: skip
    assert seen == {(2, True, 2, 0.25, 0.8, True, 0.1, 0.1)}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_value_has_a_source_and_every_source_a_value(use: Sourced) -> None:
    set_values = {
        f.name for f in fields(Recipe) if getattr(use.recipe, f.name) != getattr(UNSET, f.name)
    }
    assert set_values <= use.sources.keys()
    assert all(source.strip() for source in use.sources.values())
    for name in use.sources.keys() - set_values:
        assert PART_OF[name] in set_values, f"{name} is not set, yet it has a source"
    assert set(chosen(use.listed)) == {
        name for name, source in use.sources.items() if source.startswith("our choice")
    }


def test_what_is_official_for_nest_is_our_choice_for_the_others() -> None:
    """The values are equal; what the paper says of them is not."""
    ours, others = CELLS["NesT-T", "C10"], CELLS["Swin-T", "C10"]
    assert ours.training.recipe == others.training.recipe
    assert ours.choices == ("batch_size",)
    assert {"epochs", "batch_size", "lr", "weight_decay", "warmup_epochs"} <= set(others.choices)
    assert "crop_padding" not in others.choices  # the paper states the same augmentation


@pytest.mark.parametrize("cell", TABLE1.cells, ids=lambda cell: f"{cell.row}-{cell.column}")
def test_scales(cell: Cell) -> None:
    run = cell.training
    assert at_scale(run, "paper") is run
    proxy, smoke = at_scale(run, "proxy"), at_scale(run, "smoke")
    assert proxy.model.name == smoke.model.name == run.model.name
    assert proxy.model != run.model == smoke.model
    assert proxy.recipe == PROXY.recipe
    assert proxy.dataset == {"C10": "fashion-mnist-6k", "C100": "glyphs"}[cell.column]
    assert smoke.dataset == f"{run.dataset}-smoke"
    assert smoke.recipe.epochs == 1
    assert smoke.recipe.batch_size % 2 == 0
    kept = {f.name for f in fields(Recipe)} - {"epochs", "batch_size", "warmup_epochs",
                                               "evaluate_every_epochs"}  # fmt: skip
    assert all(getattr(smoke.recipe, name) == getattr(run.recipe, name) for name in kept)
    assert len({run.id, proxy.id, smoke.id}) == 3


def test_one_proxy_model_a_method() -> None:
    wanted = {cell.training.model.name for cell in TABLE1.cells}
    assert wanted <= PROXY_MODELS.keys()
    assert len(wanted) == 15


@pytest.mark.parametrize("scale", ["paper", "proxy", "smoke"])
def test_open_values_at_every_scale(scale: Scale) -> None:
    cell = CELLS["NesT-T", "C10"]
    expected = chosen(PROXY.listed) if scale == "proxy" else ("batch_size",)
    assert chosen(scales.sources(cell, scale)) == expected


def _parameters(model: Model) -> int:
    net = timm.create_model(model.name, num_classes=10, **dict(model.options))
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("method", TABLE1.rows)
def test_small_versions_are_alike_in_size(method: str) -> None:
    """0.25, 0.5 and 1 M parameters for T, S and B; the two convnets and CCT are as the T models."""
    wanted = {"S": 500_000, "B": 1_000_000}.get(method.rpartition("-")[2], 250_000)
    model = at_scale(CELLS[method, "C10"].training, "proxy").model
    assert _parameters(model) == pytest.approx(wanted, rel=0.06)
