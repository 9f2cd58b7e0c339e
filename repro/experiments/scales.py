"""The three scales of a run, as functions on specs: there is never a second set of specs.

paper   the run as the paper has it
proxy   the same question on a CPU: a small version of the same method, on embedded real images, and
        one recipe for all methods
smoke   does it run at all: the paper's own architecture, a few images, a few steps
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from repro.experiments.recipes import sourced
from repro.spec import Cell, Classification, Model, R, Recipe, Scale, Value

PROXY_DATASETS = {"cifar10": "fashion-mnist-6k", "cifar100": "glyphs"}
SMOKE_DATASETS = {"cifar10": "cifar10-smoke", "cifar100": "cifar100-smoke"}

_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
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


def at_scale(run: R, scale: Scale) -> R:
    """The run at another scale. KeyError for a dataset or model that has no version there."""
    return cast(R, _classification(run, scale)) if isinstance(run, Classification) else run


def _classification(run: Classification, scale: Scale) -> Classification:
    if isinstance(run.pretrained, Classification):
        run = replace(run, pretrained=_classification(run.pretrained, scale))
    if scale == "proxy":
        return replace(
            run,
            model=PROXY_MODELS[run.model.name],
            dataset=PROXY_DATASETS[run.dataset],
            recipe=PROXY.recipe,
        )
    if scale == "smoke":
        return replace(run, dataset=SMOKE_DATASETS[run.dataset], recipe=smoke_recipe(run.recipe))
    return run


def sources(cell: Cell, scale: Scale) -> tuple[tuple[str, str], ...]:
    """Where each value of the cell's recipe at this scale is from."""
    return PROXY.listed if scale == "proxy" else cell.sources


def smoke_recipe(recipe: Recipe) -> Recipe:
    """The recipe with all its parts and next to no work."""
    return replace(recipe, epochs=1, batch_size=10, warmup_epochs=0.0, evaluate_every_epochs=0)


def title(dataset: str) -> str:
    """The dataset's name in a table."""
    return _TITLES.get(dataset, dataset)
