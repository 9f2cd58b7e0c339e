"""The three scales of a run, as functions on specs: there is never a second set of specs.

paper   the run as the paper has it
proxy   the same question on a CPU: a small version of the same method, on embedded real images, and
        one recipe for all methods
smoke   does it run at all: the paper's own architecture, a few images, a few steps
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from repro.experiments.recipes import adversarial, sourced
from repro.spec import (
    AdversarialRecipe,
    Cell,
    Classification,
    Experiment,
    Explanation,
    Generation,
    Localization,
    Model,
    Profiling,
    R,
    Recipe,
    Run,
    Scale,
    Traversal,
    Value,
)

SQUARES = "256px"  # made once of each photograph: its centre, the shorter side resized to 256 px
PROXY_DATASETS = {
    "cifar10": "fashion-mnist-6k",
    "cifar100": "glyphs",
    "imagenet": "glyphs",
    "imagenet22k": "glyphs",
    "imagenet-64px": "fashion-mnist-6k",
}
SMOKE_DATASETS = {
    name: f"{name}-smoke"
    for name in ("cifar10", "cifar100", "imagenet", "imagenetv2", "imagenet22k")
} | {f"imagenet-{side}": f"imagenet-smoke-{side}" for side in (SQUARES, "64px")}

_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "imagenet-256px": "ImageNet, 256 px",
    "imagenet-64px": "ImageNet, 64 px",
    "fashion-singles": "Fashion-MNIST on textures",
    "imagenet22k": "ImageNet-22K",
    "fashion-mnist-6k": "Fashion-MNIST-6k",
    "glyphs": "Glyphs-100",
}

# Small versions, alike in size across families (10 classes): 0.25 M parameters, 0.5 M for S and 1 M
# for B. Every token map has half the paper's side: the patches are twice as large, the convnets'
# stems have stride 2, CCT has a second tokenizer layer. Three hierarchies remain of a pyramid's
# four. T, S and B differ as in the paper: NesT and DeiT in width, PVT in depth, Swin in depth and
# then in width.
_DEIT: dict[str, Value] = {"img_size": 32, "patch_size": 4, "depth": 5}
_PVT: dict[str, Value] = {
    "img_size": 32,
    "patch_size": 2,
    "embed_dims": (24, 48, 96),
    "num_heads": (1, 2, 4),
    "mlp_ratios": (4, 4, 4),
    "sr_ratios": (4, 2, 1),
}
_SWIN: dict[str, Value] = {"img_size": 32, "patch_size": 2, "window_size": 4}
_NEST: dict[str, Value] = {"img_size": 32, "patch_size": 2, "depths": (1, 1, 1)}
_NEST_T: dict[str, Value] = {"embed_dims": 66, "num_heads": 2}  # at any number of hierarchies
# Options that are the question at every scale.
_CARRIED = ("aggregation", "aggregation_plane", "unsampling")

PROXY_MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model.of("pyramidnet164_48", depth=29, alpha=40, stem_stride=2),
        Model.of("wrn28_10", depth=16, widen=1.1875, stem_stride=2),
        Model.of("deit_tiny_patch16_224", **_DEIT, embed_dim=64, num_heads=2),
        Model.of("deit_small_patch16_224", **_DEIT, embed_dim=90, num_heads=3),
        Model.of("deit_base_patch16_224", **_DEIT, embed_dim=128, num_heads=4),
        Model.of("pvt_tiny", **_PVT, depths=(2, 2, 1)),
        Model.of("pvt_small", **_PVT, depths=(2, 2, 3)),
        Model.of("pvt_base", **_PVT, depths=(2, 2, 8)),
        Model.of("cct_7_3x1", img_size=32, embed_dim=72, depth=5, num_heads=3, tokenizer_layers=2),
        Model.of("swin_tiny_patch4_window7_224", **_SWIN,
                 embed_dim=16, depths=(2, 2, 4), num_heads=(2, 4, 8)),
        Model.of("swin_small_patch4_window7_224", **_SWIN,
                 embed_dim=16, depths=(2, 2, 9), num_heads=(2, 4, 8)),
        Model.of("swin_base_patch4_window7_224", **_SWIN,
                 embed_dim=24, depths=(2, 2, 8), num_heads=(3, 6, 12)),
        Model.of("nest_tiny_cifar", **_NEST, embed_dims=(66, 66, 66), num_heads=(2, 2, 2)),
        Model.of("nest_small_cifar", **_NEST, embed_dims=(96, 96, 96), num_heads=(3, 3, 3)),
        Model.of("nest_base_cifar", **_NEST, embed_dims=(136, 136, 136), num_heads=(4, 4, 4)),
        # On ImageNet, widths and heads double from a hierarchy to the next.
        Model.of("nest_tiny_imagenet", **_NEST, embed_dims=(26, 52, 104), num_heads=(1, 2, 4)),
        Model.of("nest_small_imagenet", **{**_NEST, "depths": (1, 1, 2)},
                 embed_dims=(30, 60, 120), num_heads=(1, 2, 4)),
        Model.of("nest_base_imagenet", **{**_NEST, "depths": (1, 1, 2)},
                 embed_dims=(43, 86, 172), num_heads=(1, 2, 4)),
        Model.of("resnet50", layers=(1, 1, 1, 1), channels=(16, 32, 64, 64)),
        Model.of("vit_base_patch16_224", **_DEIT, embed_dim=128, num_heads=4),
        Model.of("vit_base_patch16_384", **_DEIT, embed_dim=128, num_heads=4),
        Model.of("swin_base_patch4_window12_384", **_SWIN,
                 embed_dim=24, depths=(2, 2, 8), num_heads=(3, 6, 12)),
    )
}  # fmt: skip
# Generators of 32 px and their judges, with three hierarchies of four: the widths fall by four and
# then stay, as in Transposed NesT's; TransGAN's fall by four each.
_GENERATOR: dict[str, Value] = {"img_size": 32, "latent_dim": 64}
PROXY_MODELS |= {
    model.name: model
    for model in (
        Model.of("transposed_nest_64", **_GENERATOR, embed_dims=(64, 16, 16), depths=(1, 1, 1),
                 num_heads=(2, 1, 1)),
        Model.of("transgan_64", **_GENERATOR, embed_dims=(64, 16, 4), depths=(1, 1, 1),
                 num_heads=1),
        Model.of("sagan_decoder_64", **_GENERATOR, widths=(96, 64, 32, 16)),
        Model.of("hit_discriminator_64", img_size=32, widths=(8, 16, 32, 32), dense=32),
        Model.of("sagan_discriminator_64", img_size=32, widths=(8, 16, 32, 32)),
    )
}  # fmt: skip
# The smallest there are, of 3 M parameters: what a RegNet is made of is no option of timm's.
PROXY_MODELS |= {"regnety_040": Model("regnety_002"), "regnety_160": Model("regnety_004")}

# Where objects are to be found: squares of 64 px with one object each, and tokens in the paper's
# proportion: NesT and DeiT have maps of 8 x 8 (there 14 x 14), ResNet-50 of 4 x 4 (7 x 7).
FINDING = "fashion-singles"
_FINDERS: dict[str, Model] = {
    model.name: model
    for model in (
        Model.of("nest_small_imagenet", img_size=64, patch_size=2, depths=(1, 1, 1),
                 embed_dims=(26, 52, 104), num_heads=(1, 2, 4)),
        Model.of("deit_small_patch16_224", img_size=64, patch_size=8, depth=5, embed_dim=64,
                 num_heads=2),
        Model.of("resnet50", layers=(1, 1, 1, 1), channels=(16, 32, 64, 64), output_stride=16),
    )
}  # fmt: skip

_TRIED = "our choice: benchmarks/proxy_recipe.py, the same for all methods"

PROXY = sourced(
    epochs=(4, "our choice: what a CPU does in about a minute"),
    batch_size=(64, "our choice: the smallest that keeps a core busy"),
    lr=(2e-3, _TRIED),
    warmup_epochs=(0.5, "our choice: an eighth of the epochs"),
    weight_decay=(0.05, "as at paper scale"),
    no_decay=(("pos_embed", "relative_position_bias_table"), "as at paper scale"),
    crop_padding=(2, "as at paper scale; the rest of the augmentation needs more epochs to pay"),
)


_SHORT = "our choice: what a CPU does in some minutes"
_FINDER = replace(PROXY.recipe, epochs=8, clip_norm=1.0)  # four epochs are too few for places
PROXY_ADVERSARIAL = adversarial(
    steps=(600, _SHORT),
    batch_size=(32, _SHORT),
    lr=(2e-3, "our choice: one rate for all; 5e-4 was slower for two of them"),
    discriminator_lr=(2e-3, "our choice: the same"),
    ema_decay=(0.99, "our choice: an average over a hundredth of the steps, as at paper scale"),
    evaluate_every_steps=(60, "our choice: ten points of a curve, as at paper scale"),
)

_BY_OTHERS = {"fid": "proxy_frechet", "inception_score": "proxy_score"}

# What tells images apart where Inception cannot: small convnets, as Inception is one.
PROXY_FEATURES = Classification(
    model=PROXY_MODELS["wrn28_10"], dataset="fashion-mnist-6k", recipe=PROXY.recipe
)


def on_squares(experiment: Experiment) -> Experiment:
    """The item with squares of 256 px for ImageNet-1K's photographs, as another item.

    They are read many times as fast. Random crops are of the squares, so that what lies outside
    them is never seen, crops are of 256 px at most, and pixels are resampled twice.
    """
    cells = tuple(replace(cell, run=_on_squares(cell.run)) for cell in experiment.cells)
    if cells == experiment.cells:
        return experiment
    return replace(
        experiment,
        name=f"{experiment.name}_{SQUARES}",
        title=f"{experiment.title}, from squares of 256 px",
        cells=cells,
    )


def _on_squares(run: R) -> R:
    if not isinstance(run, Classification):
        return run
    before = run.pretrained
    before = _on_squares(before) if isinstance(before, Classification) else before
    squares = f"imagenet-{SQUARES}" if run.dataset == "imagenet" else run.dataset
    return cast(R, replace(run, dataset=squares, pretrained=before))


def asked(cells: Iterable[Cell], scale: Scale) -> list[tuple[Cell, Run]]:
    """The cells that ask something at a scale, each with its run there.

    Released weights have no small version, and a training of two steps has no curve.
    """
    return [(cell, _run_of(cell, scale)) for cell in cells if _exists(cell, scale)]


def _exists(cell: Cell, scale: Scale) -> bool:
    if _is_released(cell.run):
        return scale == "paper"
    return scale != "smoke" or cell.at == 1


def _is_released(run: Run) -> bool:
    if isinstance(run, Explanation):
        return run.classifier is not None and _is_released(run.classifier)
    return isinstance(run, Classification) and bool(run.release)


def _run_of(cell: Cell, scale: Scale) -> Run:
    return cell.proxy if cell.proxy and scale == "proxy" else at_scale(cell.run, scale)


def metric_of(cell: Cell, run: Run) -> str:
    """What a run measures of the cell: by other features than Inception's, under another name."""
    by_others = isinstance(run, Generation) and run.features != "inception"
    return _BY_OTHERS[cell.metric] if by_others else cell.metric


def at_scale(run: R, scale: Scale) -> R:
    """The run at another scale.

    KeyError for a dataset or model that has no version there, SpecError for released weights.
    """
    if scale == "paper":
        return run
    if isinstance(run, Classification):
        return cast(R, _classification(run, scale))
    if isinstance(run, Generation):
        return cast(R, _generation(run, scale))
    if isinstance(run, Explanation):
        return cast(R, _explanation(run, scale))
    assert isinstance(run, Profiling)
    return cast(R, _profiling(run, scale))


def _classification(run: Classification, scale: Scale) -> Classification:
    if isinstance(run.pretrained, Classification):
        run = replace(run, pretrained=_classification(run.pretrained, scale))
    if scale == "proxy":
        return replace(
            run,
            model=proxy_model(run.model),
            dataset=PROXY_DATASETS[run.dataset],
            recipe=PROXY.recipe,
            evaluation=None,
        )
    photos = run.dataset.startswith("imagenet")
    return replace(
        run,
        dataset=SMOKE_DATASETS[run.dataset],
        recipe=smoke_recipe(run.recipe),
        # Of photographs at 224 px, an image a class is enough to train on, and to test.
        train_split="validation" if photos else run.train_split,
        test_split="validation" if photos and run.test_split == "test" else run.test_split,
    )


def _generation(run: Generation, scale: Scale) -> Generation:
    if scale == "proxy":
        return replace(
            run,
            generator=proxy_model(run.generator),
            discriminator=proxy_model(run.discriminator),
            dataset=PROXY_DATASETS[run.dataset],
            recipe=_small(run.recipe),
            samples=1_000,
            features=PROXY_FEATURES,
        )
    return replace(
        run,
        dataset=SMOKE_DATASETS[run.dataset],
        recipe=replace(run.recipe, steps=2, batch_size=2, evaluate_every_steps=0),
        samples=20,
        features=SMOKE_FEATURES,
    )


def _explanation(run: Explanation, scale: Scale) -> Explanation:
    smoke = scale == "smoke"
    classifier = run.classifier
    if classifier and smoke:
        classifier = _classification(classifier, scale)
    elif classifier:
        classifier = Classification(
            model=_FINDERS[classifier.model.name],
            dataset=FINDING,
            recipe=_FINDER,
            train_split="fit",  # thresholds are chosen on the other part
        )
    dataset = SMOKE_DATASETS[run.dataset] if smoke else FINDING
    run = replace(run, classifier=classifier, dataset=dataset)
    run = run if smoke else replace(run, image_size=0)
    if isinstance(run, Localization):
        tuning = (
            (SMOKE_DATASETS[run.tuning], run.tuning_split) if smoke else (FINDING, "validation")
        )
        probed = min(run.probed, 1 if smoke else 100)
        return replace(run, tuning=tuning[0], tuning_split=tuning[1], probed=probed)
    assert isinstance(run, Traversal)
    pictures, ablated = (4, 1) if smoke else (500, 100)
    return replace(run, pictures=pictures, ablated=min(run.ablated, ablated))


def _small(recipe: AdversarialRecipe) -> AdversarialRecipe:
    """Another length, batch and rates; the losses are the question."""
    names = PROXY_ADVERSARIAL.sources
    return replace(recipe, **{name: getattr(PROXY_ADVERSARIAL.recipe, name) for name in names})


def _profiling(run: Profiling, scale: Scale) -> Profiling:
    if scale == "proxy":
        classes = 10 if run.classes else 0
        run = replace(run, model=proxy_model(run.model), classes=classes, image_size=32)
    if not run.device:
        return run
    batch = 64 if scale == "proxy" else 1
    return replace(run, device="cpu", precision="fp32", batch_size=batch)


def proxy_model(model: Model) -> Model:
    """The small version of an architecture, with the options that are asked about."""
    small, options = PROXY_MODELS[model.name], dict(model.options)
    if "depths" in options:  # another number of hierarchies, or another patch
        depths, patch = options["depths"], options["patch_size"]
        assert isinstance(depths, tuple)
        assert isinstance(patch, int)
        small = Model.of(
            model.name, img_size=32, patch_size=2 * patch, depths=(1,) * len(depths), **_NEST_T
        )
    return small.updated(**{name: options[name] for name in _CARRIED if name in options})


def sources(cell: Cell, scale: Scale) -> tuple[tuple[str, str], ...]:
    """Where each value of the cell's recipe at this scale is from."""
    if scale != "proxy" or not cell.sources:
        return cell.sources
    if not isinstance(cell.run, Generation):
        return PROXY.listed
    return tuple({**dict(cell.sources), **PROXY_ADVERSARIAL.sources}.items())


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The recipe with all its parts and next to no work."""
    batch = 4 if recipe.image_size else 10
    return replace(recipe, epochs=1, batch_size=batch, warmup_epochs=0.0,
                   evaluate_every_epochs=0)  # fmt: skip


SMOKE_FEATURES = Classification(
    model=Model.of("wrn28_10", depth=10, widen=0.25),
    dataset=SMOKE_DATASETS["cifar10"],
    recipe=smoke_recipe(PROXY.recipe),
)


def title(dataset: str) -> str:
    """The dataset's name in a table."""
    return _TITLES.get(dataset, dataset)
