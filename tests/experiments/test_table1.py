"""Table 1 as it is declared: the paper's numbers, recipes and their sources, the small scale."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import timm

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments
from repro.experiments import recipes, scales
from repro.experiments.demo import MODELS, RECIPE
from repro.experiments.recipes import Sourced
from repro.experiments.scales import at_scale
from repro.experiments.table1 import AUGMENTED, CONV, DEEP, FULL, LOCAL, METHODS
from repro.spec import Cell, Model, Recipe, Scale, our_choices
from repro.train import optim

TABLE1 = experiments.get("table1")
CONTROLS = (AUGMENTED, DEEP)
PAPERS = [cell for cell in TABLE1.cells if cell.row not in CONTROLS]
CELLS = {(cell.row, cell.column): cell for cell in PAPERS}
NAMES = tuple(dict.fromkeys(cell.row for cell in PAPERS))
USES: dict[str, Sourced] = {method: use for _, method, _, use, *_ in METHODS} | {"demo": RECIPE}
UNSET = Recipe(epochs=0, batch_size=0, lr=0.0)

PRINTED = {  # typed from the paper: its methods in their order
    CONV: ("Pyramid-164-48", "WRN28-10"),
    FULL: ("DeiT-T", "DeiT-S", "DeiT-B", "PVT-T", "PVT-S", "PVT-B", "CCT-7/3×1"),
    LOCAL: ("Swin-T", "Swin-S", "Swin-B", "NesT-T", "NesT-S", "NesT-B"),
}
TRANSFORMERS = (*PRINTED[FULL], *PRINTED[LOCAL])
BATCHES = {"T": 384, "S": 128, "B": 64}

# Values that mean something only where another one is set: they may be stated with a source though
# they equal the default.
PART_OF = {
    "randaugment_magnitude": "randaugment_layers",
    "randaugment_std": "randaugment_layers",
    "randaugment_prob": "randaugment_layers",
    "mix_prob": "mixup_alpha",
    "no_decay": "weight_decay",
}


def size_of(method: str) -> str:
    """T, S or B, as its recipe has it: CCT is trained like the T models."""
    return "T" if method == "CCT-7/3×1" else method[-1]


def test_the_methods_in_the_paper_s_order() -> None:
    assert TABLE1.rows[: len(NAMES)] == NAMES
    assert TABLE1.columns == ("C10", "C100")
    assert [(cell.group, cell.row, cell.column) for cell in PAPERS] == [
        (group, method, column)
        for group, methods in PRINTED.items()
        for method in methods
        for column in TABLE1.columns
    ]
    assert len({cell.run for cell in TABLE1.cells}) == len(TABLE1.cells)
    assert {(cell.column, cell.training.dataset) for cell in PAPERS} == {
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
        values = [printed(method, column) for method in NAMES]
        assert (min(values), max(values)) == (low, high)
        assert NAMES[values.index(high)] == "NesT-B"
        assert NAMES[values.index(low)] == "PVT-B"
    starred = {place for place, cell in CELLS.items() if cell.paper and cell.paper.starred}
    assert starred == {("PVT-B", "C10"), ("PVT-B", "C100")}
    assert all(cell.paper and cell.paper.place == "Table 1" for cell in PAPERS)


@pytest.mark.parametrize("method", TRANSFORMERS)
def test_batch_sizes_and_absolute_learning_rates(method: str) -> None:
    batch = BATCHES[size_of(method)]
    for column in TABLE1.columns:
        recipe = CELLS[method, column].training.recipe
        assert recipe.batch_size == batch
        assert recipe.lr == pytest.approx(2.5e-4 * batch / 256)
        assert recipe.epochs == 300


def test_steps_are_the_official_ones() -> None:
    recipe = CELLS["NesT-T", "C10"].training.recipe
    assert 50_000 * recipe.epochs // recipe.batch_size == 39_062


def test_transformers_share_one_augmentation() -> None:
    """All of the recipe but its batch size, the learning rate that follows from it, and what is
    not decayed."""
    seen = set()
    for (method, _), cell in CELLS.items():
        if method in TRANSFORMERS:
            recipe = cell.training.recipe
            shared = recipes.cifar_transformer(size_of(method), ours="NesT" in method).recipe
            assert recipe == replace(
                shared, decay_biases=recipe.decay_biases, no_decay=recipe.no_decay
            )
            assert (recipe == shared) == ("NesT" in method)
            seen.add((recipe.crop_padding, recipe.flip, recipe.randaugment_layers,
                      recipe.erase_prob, recipe.mixup_alpha, recipe.cutmix,
                      recipe.label_smoothing, recipe.drop_path))  # fmt: skip
    assert seen == {(2, True, 2, 0.25, 0.8, True, 0.1, 0.1)}


@pytest.mark.parametrize(
    ("method", "spared"),
    [
        ("DeiT-T", {"cls_token", "pos_embed"}), ("PVT-T", {"cls_token"}), ("CCT-7/3×1", set()),
        ("Swin-T", {"relative_position_bias_table"}), ("NesT-T", {"pos_embed"}),
    ],
)  # fmt: skip
def test_each_transformer_decays_what_its_own_code_does(method: str, spared: set[str]) -> None:
    """Of the tensors with two dimensions or more; of the others NesT decays all, the rest none."""
    run = CELLS[method, "C10"].training
    net = timm.create_model(run.model.name, num_classes=10, **dict(run.model.options))
    groups = optim.build(
        net.named_parameters(),
        optimizer="adamw",
        weight_decay=run.recipe.weight_decay,
        decay_biases=run.recipe.decay_biases,
        no_decay=run.recipe.no_decay,
    ).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    undecayed = {name: p for name, p in net.named_parameters() if id(p) not in decayed}
    large = {next(part for part in reversed(name.split(".")) if not part.isdigit())
             for name, p in undecayed.items() if p.ndim > 1}  # fmt: skip
    assert large == spared
    small = [p.ndim < 2 for name, p in net.named_parameters()]
    assert sum(p.ndim < 2 for p in undecayed.values()) == (0 if "NesT" in method else sum(small))


def test_pyramidnet_has_the_weight_decay_of_its_authors() -> None:
    pyramid, wide = (CELLS[m, "C10"].training.recipe for m in ("Pyramid-164-48", "WRN28-10"))
    assert (pyramid.weight_decay, wide.weight_decay) == (1e-4, 5e-4)
    assert replace(pyramid, weight_decay=5e-4) == wide


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_value_has_a_source_and_every_source_a_value(use: Sourced) -> None:
    set_values = {
        f.name for f in fields(Recipe) if getattr(use.recipe, f.name) != getattr(UNSET, f.name)
    }
    assert set_values <= use.sources.keys()
    assert all(source.strip() for source in use.sources.values())
    for name in use.sources.keys() - set_values:
        assert PART_OF[name] in set_values, f"{name} is not set, yet it has a source"
    assert set(our_choices(use.listed)) == {
        name for name, source in use.sources.items() if source.startswith("our choice")
    }


def test_what_is_official_for_nest_is_our_choice_for_the_others() -> None:
    """The values are equal; what the paper says of them is not."""
    ours, others = CELLS["NesT-T", "C10"], CELLS["Swin-T", "C10"]
    recipe = ours.training.recipe
    assert recipe == replace(
        others.training.recipe, decay_biases=recipe.decay_biases, no_decay=recipe.no_decay
    )
    assert ours.choices == ("batch_size",)
    assert {"epochs", "batch_size", "lr", "weight_decay", "warmup_epochs"} <= set(others.choices)
    assert "crop_padding" not in others.choices  # the paper states the same augmentation


@pytest.mark.parametrize("cell", PAPERS, ids=lambda cell: f"{cell.row}-{cell.column}")
def test_scales(cell: Cell) -> None:
    run = cell.training
    assert at_scale(run, "paper") is run
    demo, smoke = at_scale(run, "demo"), at_scale(run, "smoke")
    assert demo.model.name == smoke.model.name == run.model.name
    assert demo.model != run.model == smoke.model
    assert demo.recipe == RECIPE.recipe
    assert demo.dataset == {"C10": "fashion-mnist-6k", "C100": "glyphs"}[cell.column]
    assert smoke.dataset == f"{run.dataset}-smoke"
    assert smoke.recipe.epochs == 1
    assert smoke.recipe.batch_size % 2 == 0
    kept = {f.name for f in fields(Recipe)} - {"epochs", "batch_size", "warmup_epochs",
                                               "evaluate_every_epochs"}  # fmt: skip
    assert all(getattr(smoke.recipe, name) == getattr(run.recipe, name) for name in kept)
    assert len({run.id, demo.id, smoke.id}) == 3


def test_one_proxy_model_a_method() -> None:
    models = {cell.training.model.name for cell in PAPERS}
    assert models <= MODELS.keys()
    assert len(models) == len(NAMES)


@pytest.mark.parametrize("scale", ["paper", "demo", "smoke"])
def test_open_values_at_every_scale(scale: Scale) -> None:
    cell = CELLS["NesT-T", "C10"]
    expected = our_choices(RECIPE.listed) if scale == "demo" else ("batch_size",)
    assert our_choices(scales.sources(cell, scale)) == expected


def _parameters(model: Model) -> int:
    net = timm.create_model(model.name, num_classes=10, **dict(model.options))
    return sum(p.numel() for p in net.parameters())


def test_wrn_has_a_control_with_the_augmentation_of_nest() -> None:
    """All else is as in its own row."""
    control = next(cell for cell in TABLE1.cells if (cell.row, cell.column) == (AUGMENTED, "C10"))
    own, ours = (CELLS[name, "C10"].training.recipe for name in ("WRN28-10", "NesT-T"))
    names = ("crop_padding", "flip", "randaugment_layers", "randaugment_magnitude",
             "randaugment_prob", "randaugment_std", "erase_prob", "mixup_alpha", "cutmix",
             "mix_prob", "label_smoothing")  # fmt: skip
    assert control.training.recipe == replace(own, **{name: getattr(ours, name) for name in names})
    assert control.paper is None


@pytest.mark.parametrize("method", NAMES)
def test_small_versions_are_alike_in_size(method: str) -> None:
    """0.25, 0.5 and 1 M parameters for T, S and B; the two convnets and CCT are as the T models."""
    wanted = {"S": 500_000, "B": 1_000_000}.get(method.rpartition("-")[2], 250_000)
    model = at_scale(CELLS[method, "C10"].training, "demo").model
    assert _parameters(model) == pytest.approx(wanted, rel=0.06)
