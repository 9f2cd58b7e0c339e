"""Proxy scale: small models on CIFAR-10. docs/protocol.md describes the rules of this file.

Small versions of the methods are trained on CIFAR-10 itself, in hours on a CPU, with one recipe.
The optimizer is each method's own; its learning rate is the best of equally many trials on held-out
training images (`search_rates`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import cast

from repro.experiments import demo
from repro.experiments.recipes import Sourced, adversarial, changed, cifar_transformer, sourced
from repro.paper import NoVersion
from repro.spec import Cell, Classification, Generation, Model, R, Recipe, Run, Value

DATASETS = ("cifar10", "cifar100")  # used by the paper and trainable on a CPU

# T, S and B have about 0.15, 0.29 and 0.55 M parameters (10 classes), the convnets and CCT as T.
# Transformers of size T have six layers. T, S and B differ as in the paper: NesT and DeiT in width,
# PVT in depth, Swin in depth and then in width. Every token map has half the paper's side, and
# pyramids have three hierarchies instead of four.
_DEIT: dict[str, Value] = {"img_size": 32, "patch_size": 4, "depth": 6}
_PVT: dict[str, Value] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dims": (16, 32, 64),
    "num_heads": (1, 2, 4),
    "mlp_ratios": (4, 4, 4),
    "sr_ratios": (4, 2, 1),
}
_SWIN: dict[str, Value] = {"img_size": 32, "patch_size": 2, "window_size": 4}
_NEST: dict[str, Value] = {"img_size": 32, "patch_size": 2, "depths": (2, 2, 2)}

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model.of("pyramidnet164_48", depth=29, alpha=26, stem_stride=2),
        Model.of("wrn28_10", depth=16, widen=0.9375, stem_stride=2),
        Model.of("deit_tiny_patch16_224", **_DEIT, embed_dim=44, num_heads=2),
        Model.of("deit_small_patch16_224", **_DEIT, embed_dim=64, num_heads=2),
        Model.of("deit_base_patch16_224", **_DEIT, embed_dim=88, num_heads=4),
        Model.of("pvt_tiny", **_PVT, depths=(2, 2, 2)),
        Model.of("pvt_small", **_PVT, depths=(3, 6, 3)),
        Model.of("pvt_base", **_PVT, depths=(3, 12, 6)),
        Model.of("cct_7_3x1", img_size=32, embed_dim=48, depth=6, num_heads=2, tokenizer_layers=2),
        Model.of("swin_tiny_patch4_window7_224", **_SWIN,
                 embed_dim=16, depths=(2, 2, 2), num_heads=(2, 4, 8)),
        Model.of("swin_small_patch4_window7_224", **_SWIN,
                 embed_dim=16, depths=(2, 6, 4), num_heads=(2, 4, 8)),
        Model.of("swin_base_patch4_window7_224", **_SWIN,
                 embed_dim=24, depths=(2, 6, 3), num_heads=(3, 6, 12)),
        Model.of("nest_tiny_cifar", **_NEST, embed_dims=(40, 40, 40), num_heads=(2, 2, 2)),
        Model.of("nest_small_cifar", **_NEST, embed_dims=(56, 56, 56), num_heads=(2, 2, 2)),
        Model.of("nest_base_cifar", **_NEST, embed_dims=(80, 80, 80), num_heads=(4, 4, 4)),
    )
}  # fmt: skip
# Block aggregation is compared in a NesT of five hierarchies, which aggregates planes of 32, 16, 8
# and 4 tokens per side; on the first three, the image plane and the block plane differ.
AGGREGATING = Model.of("nest_tiny_cifar", img_size=32, patch_size=1, depths=(1, 1, 1, 1, 1),
                       embed_dims=24, num_heads=2)  # fmt: skip
# NesT-S at the depth of Swin-S and PVT-S.
DEEP: dict[str, Value] = {"depths": (4, 4, 4), "embed_dims": (40, 40, 40)}
CONVNETS = ("pyramidnet164_48", "wrn28_10")
# Learning rates to try, for AdamW and for SGD (a hundred times larger). A fifth was added where a
# method's best was the last of four.
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
SGD_RATES = (0.05, 0.1, 0.2, 0.4, 0.8)
TRIAL_EPOCHS = 2
EPOCHS = 6
# Model name -> the best rate on validation images; models without one await their trials.
CHOSEN: dict[str, float] = {
    "pyramidnet164_48": 0.2,
    "wrn28_10": 0.4,
    "deit_tiny_patch16_224": 2e-3,
    "pvt_tiny": 4e-3,
    "cct_7_3x1": 4e-3,
    "swin_tiny_patch4_window7_224": 4e-3,
    "nest_tiny_cifar": 4e-3,
}

_BUDGET = "our choice: fifteen methods in a few nights on two cores"
_TRIAL = "our choice: the best trial on validation images, docs/protocol.md"
_ADAMW = sourced(
    epochs=(EPOCHS, _BUDGET),
    batch_size=(64, "our choice: the smallest that keeps a core busy"),
    lr=(2e-3, _TRIAL),
    warmup_epochs=(0.5, "our choice: a twelfth of the epochs"),
    weight_decay=(0.05, "as at paper scale"),
    no_decay=(("pos_embed", "relative_position_bias_table"), "as at paper scale, NesT's"),
    crop_padding=(2, "as for the transformers at paper scale"),
    flip=(True, "as at paper scale"),
    evaluate_every_epochs=(1, "our choice: a curve"),
)
_SGD = changed(
    _ADAMW,
    optimizer=("sgd", "as at paper scale"),
    lr=(0.1, _TRIAL),
    weight_decay=(5e-4, "as for WRN at paper scale"),
    decay_biases=(False, "as at paper scale"),
)


def _base_of(model: Model) -> Sourced:
    """The recipe shared by convnets or by transformers."""
    return _SGD if model.name in CONVNETS else _ADAMW


def _recipe_of(model: Model) -> Recipe:
    """The recipe of an architecture at its chosen rate. KeyError if none is chosen yet."""
    return replace(_base_of(model).recipe, lr=CHOSEN[model.name])


def sources(cell: Cell) -> tuple[tuple[str, str], ...]:
    """Where each value of the cell's recipe at proxy scale is from."""
    if cell.run.sampled_model:
        return tuple({**dict(cell.sources), **ADVERSARIAL.sources}.items())
    return _base_of(cell.training.model).listed


def rates_of(model: Model) -> tuple[float, ...]:
    """The rates to try, in the order of the columns of `search_rates`."""
    return SGD_RATES if model.name in CONVNETS else RATES


def trial(model: Model, rate: float) -> Classification:
    """One trial: a short training on the fit split, tested on the validation split."""
    recipe = replace(_base_of(model).recipe, lr=rate, epochs=TRIAL_EPOCHS, evaluate_every_epochs=0)
    return Classification(model=MODELS[model.name], dataset="cifar10", recipe=recipe,
                          train_split="fit", test_split="validation")  # fmt: skip


def training(model: Model, epochs: int = EPOCHS) -> Classification | None:
    """An architecture's small version on CIFAR-10; None if no rate is chosen yet."""
    if model.name not in CHOSEN:
        return None
    recipe = replace(_recipe_of(model), epochs=epochs)
    return Classification(model=MODELS[model.name], dataset="cifar10", recipe=recipe)


def deep(model: Model) -> Classification | None:
    """NesT with twice the layers and about as many parameters, by the same recipe."""
    small = training(model)
    return small and replace(small, model=small.model.updated(**DEEP))


def variant(run: Classification) -> Classification | None:
    """A variant of Figure A1 at proxy scale: one hierarchy less and patches twice as large.

    Blocks then have as many tokens as in the paper; six layers, as in Table 1.
    """
    small, options = training(run.model), dict(run.model.options)
    depths, patch = options.get("depths"), options.get("patch_size")
    if small is None or "nest" not in run.model.name or depths is None:
        return small
    assert isinstance(depths, tuple)
    assert isinstance(patch, int)
    return replace(small, model=_hierarchies(small.model, len(depths) - 1, 2 * patch))


def _hierarchies(model: Model, count: int, patch: int) -> Model:
    """NesT of six layers in `count` hierarchies."""
    widths, heads = (dict(model.options)[name] for name in ("embed_dims", "num_heads"))
    assert isinstance(widths, tuple)
    assert isinstance(heads, tuple)
    return model.updated(patch_size=patch, depths=(6 // count,) * count, embed_dims=widths[0],
                         num_heads=heads[0])  # fmt: skip


def on_cifar(model: Model) -> Model:
    """The CIFAR architecture of the same method: NesT's differs on ImageNet."""
    return Model(model.name.replace("_imagenet", "_cifar"))


def with_all_augmentation(use: Sourced) -> Sourced:
    """The recipe with NesT's full CIFAR augmentation."""
    paper = cifar_transformer("T", ours=True)
    names = ("randaugment_layers", "erase_prob", "mixup_alpha", "cutmix", "label_smoothing")
    return changed(use, **{n: (getattr(paper.recipe, n), paper.sources[n]) for n in names})


def model_of(run: Classification) -> Model | None:
    """The small version of the model of a run on CIFAR-10; None if Table 1 does not have it.

    Runs with another aggregation use a separate model, in which the two planes differ.
    """
    names = dict(run.model.options).keys()
    if names & {"depths", "patch_size"} and "nest" in run.model.name:
        return None
    aggregates = any(name.startswith("aggregation") for name in names)
    return _aggregating(run.model) if aggregates else MODELS.get(run.model.name)


def aggregation(run: Classification) -> Classification | None:
    """The small version of a run with its aggregation, by the recipe of NesT-T."""
    small = training(run.model)
    return small and replace(small, model=_aggregating(run.model))


def _aggregating(model: Model) -> Model:
    """The NesT for comparing block aggregations, with the aggregation of `model`."""
    aggregation = {name: value for name, value in model.options if name.startswith("aggregation")}
    return AGGREGATING.updated(**aggregation)


@singledispatch
def exists(run: Run) -> bool:
    """Whether the run has a small version: its dataset is available and a rate is chosen."""
    return False


@exists.register
def _(run: Classification) -> bool:
    is_trained = run.dataset in DATASETS and not run.pretrained
    return is_trained and run.model.name in CHOSEN


@exists.register
def _(run: Generation) -> bool:
    return run.generator.name in GENERATOR_CHOSEN


def small(run: R) -> R:
    """The small version of a run. NoVersion where there is none."""
    return cast(R, _small(run))


@singledispatch
def _small(run: Run) -> Run:
    raise NoVersion(run.id)


@_small.register
def _(run: Classification) -> Classification:
    if run.model.name not in CHOSEN:
        raise NoVersion(run.id)
    model, recipe = MODELS[run.model.name], _recipe_of(run.model)
    return replace(run, model=model, recipe=recipe, evaluation=None)


@_small.register
def _(run: Generation) -> Generation:
    if run.generator.name not in GENERATOR_CHOSEN:
        raise NoVersion(run.id)
    return generation(run, GENERATOR_CHOSEN[run.generator.name])


# Items whose proxy runs need the learning rates that a search chooses.
_ITEMS_OF_SEARCH = {
    "search_rates": (
        "table1", "figure6_top", "figure6_bottom", "figure7", "figure_a1", "figure_a3",
    ),
    "search_generators": ("figure5_left", "figure5_left_sagan", "figure5_middle", "figure_a6"),
}  # fmt: skip


def search_of(item: str) -> str:
    """The search that chooses an item's rates; '' if none is needed."""
    return next((search for search, items in _ITEMS_OF_SEARCH.items() if item in items), "")


# --- generators ----------------------------------------------------------------------------------

# Features for distances in place of Inception's: a convnet with an accuracy of about 90 %.
FEATURES = Classification(
    model=Model.of("wrn28_10", depth=16, widen=2),
    dataset="cifar10",
    recipe=changed(
        _SGD,
        epochs=(12, "our choice: about 90 %"),
        crop_padding=(4, "Zagoruyko & Komodakis 2016"),
        evaluate_every_epochs=(0, "our choice: at the end"),
    ).recipe,
)
GENERATOR_RATES = (5e-4, 1e-3, 2e-3)
GENERATOR_TRIAL_STEPS = 1_000
# Generator name -> the best rate; generators without one await their trials.
GENERATOR_CHOSEN: dict[str, float] = {}

_RATE = "our choice: the best of three trials, docs/protocol.md"
_SHORT = "our choice: a quarter of an hour on a CPU"
ADVERSARIAL = adversarial(
    steps=(4_000, _SHORT),
    batch_size=(32, _SHORT),
    lr=(1e-3, _RATE),
    discriminator_lr=(1e-3, f"{_RATE}; the same as the generator's"),
    ema_decay=(0.998, "our choice: an average over an eighth of the steps"),
    evaluate_every_steps=(400, "our choice: ten points per curve, as at paper scale"),
)


def generation(run: Generation, rate: float, steps: int = 0) -> Generation:
    """A generator's small version on CIFAR-10 at a learning rate, with the run's own losses."""
    values = {name: getattr(ADVERSARIAL.recipe, name) for name in ADVERSARIAL.sources}
    recipe = replace(run.recipe, **(values | {"lr": rate, "discriminator_lr": rate}))
    if steps:
        recipe = replace(recipe, steps=steps, evaluate_every_steps=0)
    return replace(
        run,
        generator=demo.small(run.generator),
        discriminator=demo.small(run.discriminator),
        dataset="cifar10",
        recipe=recipe,
        samples=5_000,
        features=FEATURES,
    )
