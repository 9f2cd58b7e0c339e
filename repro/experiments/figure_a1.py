"""Figure A1: CIFAR-10 accuracy of NesT's variants against their measured throughput.

Three or four hierarchies, patches of one or two pixels, three widths; and the methods of Table 1
that the text compares throughput with. The figure is not in our copy of the paper; the text gives
one of its points, and Table 1 the accuracy of others.
"""

from __future__ import annotations

from collections.abc import Iterator

from repro.experiments import proxy
from repro.experiments.recipes import Sourced, cifar_transformer
from repro.experiments.table1 import METHODS
from repro.spec import (
    Cell,
    Claim,
    Classification,
    Decision,
    Experiment,
    MinEffect,
    Model,
    PaperValue,
    Profiling,
    Value,
)

ACCURACY, SPEED = "C10", "images/s"
OURS, COMPARED = "NesT", "Compared"
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
    """The variant; for that of Table 1, the same spec as there."""
    if (hierarchies, patch) == (4, 1):
        return Model.of(NAMES[size], img_size=32)
    options: dict[str, Value] = {"img_size": 32, "patch_size": patch}
    return Model.of(NAMES[size], **options, depths=(12 // hierarchies,) * hierarchies)


def _variant(size: str, hierarchies: int, patch: int) -> tuple[Cell, Cell]:
    """Accuracy and throughput of a NesT."""
    use = cifar_transformer(size, ours=True)
    row = f"NesT{hierarchies}-{size}, S={patch}"
    run = Classification(
        model=model_of(size, hierarchies, patch), dataset="cifar10", recipe=use.recipe
    )
    return _cells(OURS, row, run, use, PRINTED.get((row, ACCURACY)), PRINTED.get((row, SPEED)))


def _compared() -> Iterator[Cell]:
    """Accuracy and throughput of the other methods of Table 1."""
    for _, method, model, use, printed, *_ in METHODS:
        if not method.startswith("NesT"):
            run = Classification(model=model, dataset="cifar10", recipe=use.recipe)
            yield from _cells(COMPARED, method, run, use, PaperValue(printed, "Table 1"))


def _cells(
    group: str,
    row: str,
    run: Classification,
    use: Sourced,
    accuracy: PaperValue | None = None,
    speed: PaperValue | None = None,
) -> tuple[Cell, Cell]:
    profile = Profiling(model=run.model, classes=10, image_size=32, device="H100", precision="bf16",
                        batch_size=256)  # fmt: skip
    small = proxy.variant(run)
    return (
        Cell(group=group, row=row, column=ACCURACY, run=run, paper=accuracy, sources=use.listed,
             proxy=small),
        Cell(group=group, row=row, column=SPEED, run=profile, paper=speed,
             metric="forward_images_per_second", proxy=small and _on_cpu(small)),
    )  # fmt: skip


def _on_cpu(run: Classification) -> Profiling:
    return Profiling(model=run.model, classes=10, image_size=32, device="cpu", batch_size=64)


_MOST = (
    "Most variants of NesT in Fig. A1 of Appendix outperform compared methods with far better "
    "throughput."
)
_FAR = MinEffect(2.0, "ratio", "'far better': at least twice as fast")
_TEN = MinEffect(9.5, "ratio", "rounds to ten")


def _claims() -> tuple[Claim, ...]:
    """Variants with the fewest tokens against methods of their size, and the paper's example."""
    fastest, best = "NesT3-T, S=2", "Swin-B"  # 94.55, which the text rounds to 94.6
    example = Claim("10× faster than the best compared result 94.6% accuracy", "Experiments, CIFAR",
                    f"images per second of {fastest} and {best}", ((fastest, SPEED),),
                    ((best, SPEED),), _TEN)  # fmt: skip
    slower = Claim("while still being larger and slower, as they do not incorporate convolutional "
                   "inductive biases", "Experiments, CIFAR",
                   "images per second: both convnets above NesT-B",
                   (("Pyramid-164-48", SPEED), ("WRN28-10", SPEED)), (("NesT4-B, S=1", SPEED),),
                   scales=("paper",))  # fmt: skip
    return (*(claim for size in "TSB" for claim in _claims_of(size)), example, slower)


def _claims_of(size: str) -> tuple[Claim, Claim]:
    variant, others = f"NesT3-{size}, S=2", [f"{name}-{size}" for name in ("DeiT", "PVT", "Swin")]
    names = f"{', '.join(others[:-1])} and {others[-1]}"

    def claim(what: str, column: str, min_effect: MinEffect | None = None) -> Claim:
        return Claim(_MOST, "Experiments, CIFAR", f"{what}: {variant} above {names}",
                     ((variant, column),), tuple((name, column) for name in others),
                     min_effect)  # fmt: skip

    return claim("accuracy", ACCURACY), claim("images per second", SPEED, _FAR)


EXPERIMENT = Experiment(
    name="figure_a1",
    place="Figure A1",
    has_gaps=True,
    title="Accuracy against throughput on CIFAR-10",
    data="CIFAR-10",
    caption="Throughput of a forward pass on one device; the paper does not name its device.",
    cells=tuple(
        cell
        for hierarchies in (3, 4)
        for patch in (1, 2)
        for size in "TSB"
        for cell in _variant(size, hierarchies, patch)
    )
    + tuple(_compared()),
    representative_rows=("NesT3-T, S=2", "NesT4-T, S=1"),
    headings=("Family", "Variant"),
    plot="scatter",
    x_label="images per second, forward",
    y_label="top-1 accuracy (%)",
    claims=_claims(),
    decisions=(
        Decision("layers of a variant with three hierarchies", "4, 4, 4: twelve in all, as with "
                 "four hierarchies",
                 "3, 3, 3", "not released; the variants then differ in hierarchies and patch only"),
        Decision("throughput", "forward pass, bf16, batch 256, one H100",
                 "fp32, the training batch, another device",
                 "the authors do not name their device; speeds compare on one device only"),
    ),
)  # fmt: skip
