"""Demo scale: small versions of the methods on embedded images, with one recipe for all.

It shows in minutes that everything works. It gives no verdicts.
"""

from __future__ import annotations

from dataclasses import replace

from repro.experiments.recipes import adversarial, sourced
from repro.paper import NoVersion
from repro.spec import Classification, Model, Value

DATASETS = {
    "cifar10": "fashion-mnist-6k",
    "cifar100": "glyphs",
    "imagenet": "glyphs",
    "imagenet22k": "glyphs",
    "imagenet-64px": "fashion-mnist-6k",
}

# Small versions of equal size across families (10 classes): 0.25 M parameters, 0.5 M for S and 1 M
# for B. Every token map has half the paper's side: the patches are twice as large, the convnets'
# stems have stride 2, CCT has a second tokenizer layer. Pyramids have three hierarchies instead of
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
# Options under study, kept at every scale.
_KEPT_OPTIONS = ("aggregation", "aggregation_plane", "unsampling")

MODELS: dict[str, Model] = {
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
# Generators of 32 px and their discriminators, with three hierarchies instead of four: the widths
# fall by four and then stay, as in Transposed NesT; TransGAN's fall by four at each hierarchy.
_GENERATOR: dict[str, Value] = {"img_size": 32, "latent_dim": 64}
MODELS |= {
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
# The smallest in timm, 3 M parameters: timm has no options for the stages of a RegNet.
MODELS |= {"regnety_040": Model("regnety_002"), "regnety_160": Model("regnety_004")}

# For localization: images of 64 px with one object each, and maps in the paper's proportions:
# NesT and DeiT have 8 x 8 cells (in the paper 14 x 14), ResNet-50 4 x 4 (7 x 7).
LOCALIZATION_DATASET = "fashion-singles"
LOCALIZATION_MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model.of("nest_small_imagenet", img_size=64, patch_size=2, depths=(1, 1, 1),
                 embed_dims=(26, 52, 104), num_heads=(1, 2, 4)),
        Model.of("deit_small_patch16_224", img_size=64, patch_size=8, depth=5, embed_dim=64,
                 num_heads=2),
        Model.of("resnet50", layers=(1, 1, 1, 1), channels=(16, 32, 64, 64), output_stride=16),
    )
}  # fmt: skip

_TRIED = "our choice: benchmarks/demo_recipe.py, the same for all methods"

RECIPE = sourced(
    epochs=(4, "our choice: about a minute on a CPU"),
    batch_size=(64, "our choice: the smallest that keeps a core busy"),
    lr=(2e-3, _TRIED),
    warmup_epochs=(0.5, "our choice: an eighth of the epochs"),
    weight_decay=(0.05, "as at paper scale"),
    no_decay=(("pos_embed", "relative_position_bias_table"), "as at paper scale, NesT's"),
    crop_padding=(2, "as at paper scale; other augmentation pays off only with more epochs"),
)


LOCALIZATION_RECIPE = replace(
    RECIPE.recipe, epochs=8, clip_norm=1.0
)  # after four epochs localization is poor
_SHORT = "our choice: a few minutes on a CPU"
ADVERSARIAL = adversarial(
    steps=(600, _SHORT),
    batch_size=(32, _SHORT),
    lr=(2e-3, "our choice: one rate for all; 5e-4 was slower for two of them"),
    discriminator_lr=(2e-3, "our choice: the same"),
    ema_decay=(0.99, "our choice: an average over a hundredth of the steps, as at paper scale"),
    evaluate_every_steps=(60, "our choice: ten points per curve, as at paper scale"),
)

# Features for distances in place of Inception's: a small convnet.
FEATURES = Classification(
    model=MODELS["wrn28_10"], dataset="fashion-mnist-6k", recipe=RECIPE.recipe
)


def dataset(name: str) -> str:
    """The embedded data set that stands in for another. NoVersion if none does."""
    if name not in DATASETS:
        raise NoVersion(f"no embedded data set stands in for {name}")
    return DATASETS[name]


def small(model: Model) -> Model:
    """The small version of an architecture, with the options under study.

    NoVersion if there is none.
    """
    if model.name not in MODELS:
        raise NoVersion(f"{model.name} has no small version")
    small, options = MODELS[model.name], dict(model.options)
    if "depths" in options:  # another number of hierarchies, or another patch
        depths, patch = options["depths"], options["patch_size"]
        assert isinstance(depths, tuple)
        assert isinstance(patch, int)
        small = Model.of(
            model.name, img_size=32, patch_size=2 * patch, depths=(1,) * len(depths), **_NEST_T
        )
    return small.updated(**{name: options[name] for name in _KEPT_OPTIONS if name in options})
