"""Table 3: pre-trained on ImageNet-22K at 224, fine-tuned on ImageNet-1K at 384.

Two runs per method, the second from the weights of the first: position embeddings are resized (for
NesT within each block), and the head is new.
"""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import imagenet_recipes as recipes
from repro.experiments.recipes import Sourced
from repro.experiments.scales import at_scale
from repro.experiments.table2 import MATCHES, released, trained
from repro.spec import (
    Cell,
    Claim,
    Classification,
    Decision,
    Evaluation,
    Experiment,
    Model,
    PaperValue,
)

TOP1, RELEASED = "ImageNet Acc. (%)", "Released weights"


def pretrained(model: Model, use: Sourced) -> Classification:
    """The run on ImageNet-22K, which has no test images."""
    return Classification(model=model, dataset="imagenet22k", recipe=use.recipe, test_split="none")


_NEST = Model("nest_base_imagenet")
_VIT = Model.of("vit_base_patch16_224", pos_drop_rate=0.1, proj_drop_rate=0.1)
_SWIN_FINE, _NEST_FINE = (recipes.finetuning(r) for r in (recipes.swin("B"), recipes.nest("B")))

# method, the run, the recipes of its pre-training and fine-tuning, the paper's number
METHODS: tuple[tuple[str, Classification, Sourced, Sourced, float], ...] = (
    ("ViT-B/16",
     trained(Model("vit_base_patch16_384"), recipes.vit_finetuning(), recipes.VIT_TEST,
             pretrained(_VIT, recipes.vit("22K"))),
     recipes.vit("22K"), recipes.vit_finetuning(), 84.0),
    ("Swin-B",
     trained(Model("swin_base_patch4_window12_384"), _SWIN_FINE, recipes.FINE_TEST,
             pretrained(Model("swin_base_patch4_window7_224"),
                        recipes.pretraining(recipes.swin("B")))),
     recipes.pretraining(recipes.swin("B")), _SWIN_FINE, 86.0),
    ("NesT-B",
     trained(_NEST.updated(img_size=384), _NEST_FINE, recipes.FINE_TEST,
             pretrained(_NEST, recipes.pretraining(recipes.nest("B")))),
     recipes.pretraining(recipes.nest("B")), _NEST_FINE, 86.2),
)  # fmt: skip

# As in Table 2: timm's results/results-imagenet.csv at commit 0173a139.
_T384 = Evaluation(image_size=384, crop_fraction=1.0)
RELEASES: dict[str, tuple[str, Evaluation, float]] = {
    "ViT-B/16": ("vit_base_patch16_384.orig_in21k_ft_in1k",
                 replace(_T384, normalize=(0.5, 0.5)), 84.200),
    "Swin-B": ("swin_base_patch4_window12_384.ms_in22k_ft_in1k", _T384, 86.438),
}  # fmt: skip


def _demo(run: Classification) -> Classification:
    """The run at demo scale: fine-tuned on another dataset than it was pre-trained on."""
    return replace(at_scale(run, "demo"), dataset="fashion-mnist-6k")


def _cells() -> tuple[Cell, ...]:
    cells = []
    for method, run, before, use, accuracy in METHODS:
        paper = PaperValue(accuracy, "Table 3")
        cells.append(Cell(group="", row=method, column=TOP1, run=run, paper=paper,
                          sources=use.after(before), demo=_demo(run)))  # fmt: skip
        if method in RELEASES:
            tag, test, timm = RELEASES[method]
            there = PaperValue(timm, "timm")
            cells.append(Cell(group="", row=method, column=RELEASED, paper=paper, published=there,
                              run=released(run.model, tag, test)))  # fmt: skip
    return tuple(cells)


EXPERIMENT = Experiment(
    name="table3",
    place="Table 3",
    title="Pre-training and fine-tuning on ImageNet-22K and ImageNet",
    data="ImageNet-22K and ImageNet",
    caption=(
        "Pre-trained for 90 epochs at 224×224, fine-tuned at 384×384. No weights of NesT after "
        "ImageNet-22K were released."
    ),
    cells=_cells(),
    representative_rows=("Swin-B", "NesT-B"),
    claims=(
        Claim("NesT again achieves competitive results", "Experiments, ImageNet-22K",
              "NesT-B at most 0.3 points below Swin-B", (("NesT-B", TOP1),), (("Swin-B", TOP1),),
              MATCHES),
        Claim("NesT again achieves competitive results", "Experiments, ImageNet-22K",
              "NesT-B above ViT-B/16", (("NesT-B", TOP1),), (("ViT-B/16", TOP1),)),
    ),
    decisions=(
        *recipes.CROPS,
        Decision("scope of 'the exact training schedules' of Swin", "epochs, batch size, rates, "
                 "weight decay, stochastic depth and clipping of its configurations",
                 "epochs and rates only", "its configurations set all of them; they also set "
                 "augmentation, which belongs to NesT's 'minor modifications'"),
        Decision("initial weights of the new head", "zero", "random; for Swin, the rows of the "
                 "same 1,000 classes, as its utils.py selects them by map22kto1k.txt",
                 "official libml/utils.py has only 'zero_all'; ViT and Swin do the same where "
                 "classes differ"),
        Decision("augmentation of NesT on ImageNet-22K", "its own, as on ImageNet-1K",
                 "Swin's, which is timm's", "the paper follows Swin's schedules and says nothing "
                 "of augmentation"),
        Decision("position embeddings at 384", "resized within each block, bilinear",
                 "over the whole plane, bicubic, as in timm", "official libml/utils.py"),
        Decision("Swin's relative positions for windows of 12", "bicubic",
                 "on a geometric grid, as in timm", "microsoft/Swin-Transformer utils.py"),
        Decision("ViT-B/16", "the schedule of Dosovitskiy et al. (2021), cosine",
                 "their linear decay on ImageNet-22K; 30 epochs at 384",
                 "the paper follows 'the exact training schedules' of both; our schedules are "
                 "cosines"),
        Decision("test images at 384", "the whole image, squeezed to a square", "a centre crop",
                 "TEST.CROP is False in Swin's configuration"),
    ),
)  # fmt: skip
