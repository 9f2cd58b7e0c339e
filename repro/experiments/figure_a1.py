"""Figure A1: CIFAR-10 accuracy of NesT's variants against their measured throughput.

Three or four hierarchies, patches of one or two pixels, three widths. The figure is not in our copy
of the paper; the text has one of its points, Table 1 the accuracy of three.
"""

from __future__ import annotations

from repro.experiments.recipes import cifar_transformer
from repro.spec import (
    Cell,
    Claim,
    Classification,
    Decision,
    Experiment,
    Model,
    PaperValue,
    Profiling,
    Value,
)

ACCURACY, SPEED = "C10", "images/s"
NAMES = {"T": "nest_tiny_cifar", "S": "nest_small_cifar", "B": "nest_base_cifar"}
_TEXT = "CIFAR: 'NesT3-T (S = 2) leads to 94.5% CIFAR10 accuracy with 5384 images/s'"
PRINTED = {
    ("NesT3-T, S=2", ACCURACY): PaperValue(94.5, _TEXT),
    ("NesT3-T, S=2", SPEED): PaperValue(5384, _TEXT),
    ("NesT4-T, S=1", ACCURACY): PaperValue(96.04, "Table 1"),
    ("NesT4-S, S=1", ACCURACY): PaperValue(96.97, "Table 1"),
    ("NesT4-B, S=1", ACCURACY): PaperValue(97.20, "Table 1"),
}


def model_of(size: str, hierarchies: int, patch: int) -> Model:
    """The variant; that of Table 1 is spelled as there."""
    if (hierarchies, patch) == (4, 1):
        return Model.of(NAMES[size], img_size=32)
    options: dict[str, Value] = {"img_size": 32, "patch_size": patch}
    return Model.of(NAMES[size], **options, depths=(12 // hierarchies,) * hierarchies)


def _cells(size: str, hierarchies: int, patch: int) -> tuple[Cell, Cell]:
    model, use = model_of(size, hierarchies, patch), cifar_transformer(size, ours=True)
    row = f"NesT{hierarchies}-{size}, S={patch}"
    accuracy = Cell(
        group="",
        row=row,
        column=ACCURACY,
        run=Classification(model=model, dataset="cifar10", recipe=use.recipe),
        paper=PRINTED.get((row, ACCURACY)),
        sources=use.listed,
    )
    speed = Cell(
        group="",
        row=row,
        column=SPEED,
        run=Profiling(model=model, classes=10, image_size=32, device="H100", precision="bf16",
                      batch_size=256),
        paper=PRINTED.get((row, SPEED)),
        metric="forward_images_per_second",
    )  # fmt: skip
    return accuracy, speed


EXPERIMENT = Experiment(
    name="figure_a1",
    place="Figure A1",
    title="NesT on CIFAR-10: accuracy against throughput",
    data="CIFAR-10",
    caption="Throughput of a forward pass on one device; the paper does not say on which its was.",
    cells=tuple(
        cell
        for hierarchies in (3, 4)
        for patch in (1, 2)
        for size in "TSB"
        for cell in _cells(size, hierarchies, patch)
    ),
    showcase=("NesT3-T, S=2", "NesT4-T, S=1"),
    headings=("", "Variant"),
    plot="scatter",
    x_label="images per second, forward",
    y_label="top-1 accuracy (%)",
    claims=(
        Claim("Most variants of NesT have far better throughput (three hierarchies and S = 2)",
              "CIFAR", (("NesT3-T, S=2", SPEED),), (("NesT4-T, S=1", SPEED),)),
    ),
    decisions=(
        Decision("layers of a variant with three hierarchies", "4, 4, 4: twelve, as with four",
                 "3, 3, 3", "not released; so the variants differ in hierarchies and patch alone"),
        Decision("throughput", "forward pass, bf16, batch 256, one H100",
                 "fp32, the training's batch, another device",
                 "the authors' device is not said; speeds compare on one device only"),
    ),
)  # fmt: skip
