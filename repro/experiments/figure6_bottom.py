"""Figure 6, bottom, and Figure A4: one augmentation taken away, NesT-T and DeiT-B on ImageNet.

The paper has DeiT-B's numbers from Touvron et al. (2021a); here both are trained.
"""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import imagenet_recipes as recipes
from repro.experiments.recipes import changed
from repro.experiments.scales import PROXY, at_scale
from repro.experiments.table2 import deit, nest
from repro.spec import Cell, Claim, Classification, Decision, Experiment, PaperValue, Recipe

# removed, then the paper's accuracy of DeiT-B and of NesT-T
PRINTED = {
    "None": (81.8, 81.5),
    "RandomErasing": (4.3, 81.4),
    "RandAugment": (79.6, 81.2),
    "CutMix&MixUp": (75.8, 79.8),
}
METHODS = {"DeiT-B": (deit("B"), recipes.deit()), "NesT-T": (nest("T"), recipes.nest("T"))}

_ALL = "the augmentation of both is NesT's, but for colour, of which the images have none"
PROXY_FULL = changed(
    PROXY,
    flip=(True, _ALL),
    randaugment_layers=(2, _ALL),
    erase_prob=(0.25, _ALL),
    mixup_alpha=(0.8, _ALL),
    cutmix=(True, _ALL),
    label_smoothing=(0.1, _ALL),
)


def _proxy(run: Classification, removed: str) -> Classification:
    recipe: Recipe = PROXY_FULL.recipe
    if removed != "None":
        recipe = recipes.without(PROXY_FULL, removed).recipe
    return replace(at_scale(run, "proxy"), dataset="fashion-mnist-6k", recipe=recipe)


def _cell(method: str, removed: str, printed: float) -> Cell:
    run, use = METHODS[method]
    if removed != "None":
        use = recipes.without(use, removed)
        run = replace(run, recipe=use.recipe)
    return Cell(
        group="",
        row=removed,
        column=method,
        run=run,
        paper=PaperValue(printed, "Figure 6, bottom"),
        sources=use.listed,
        proxy=_proxy(run, removed),
    )


EXPERIMENT = Experiment(
    name="figure6_bottom",
    place="Figure 6, bottom, and Figure A4",
    title="One augmentation removed, on ImageNet",
    data="ImageNet",
    caption="300 epochs at 224×224. The paper cites DeiT-B; here it is trained.",
    cells=tuple(
        _cell(method, removed, value)
        for removed, printed in PRINTED.items()
        for method, value in zip(METHODS, printed, strict=True)
    ),
    showcase=("None", "CutMix&MixUp"),
    headings=("", "Augmentation removed"),
    plot="bars",
    x_label="augmentation removed",
    y_label="top-1 accuracy (%)",
    claims=tuple(
        Claim(f"NesT shows less reliance on data augmentation (without {removed})", "Figure 6",
              ((removed, "NesT-T"), ("None", "DeiT-B")), ((removed, "DeiT-B"), ("None", "NesT-T")),
              kind="difference")
        for removed in list(PRINTED)[1:]
    ),
    decisions=(
        Decision("label smoothing where CutMix and Mixup are removed",
                 "goes with them for NesT, stays for DeiT", "the same for both",
                 "each code has it so: official augment/augment_ops.py, DeiT's main.py"),
        Decision("colour jitter where RandAugment is removed", "stays", "goes as well",
                 "separate switches in official configs/imagenet_nest.py; DeiT has none"),
        Decision("how RandomErasing is removed", "its probability is 0", "its area is 0",
                 "official configs/imagenet_nest.py: 'Set to 0 to disable'"),
    ),
)  # fmt: skip
