"""Figure A3: every block aggregation that the text names, on the image plane and the block plane.

Figure 7 shows four of them. Three exist on one plane only: merging 2×2 neighbours and taking every
second token never cross a block's border, so both planes are the same function; queries are
sub-sampled within the merged blocks.
"""

from __future__ import annotations

from repro.experiments import imagenet_recipes, proxy
from repro.experiments.recipes import cifar_transformer
from repro.experiments.table2 import nest
from repro.spec import (
    SCALES,
    Cell,
    Claim,
    Classification,
    Decision,
    Experiment,
    MinEffect,
    Model,
    Place,
    Scale,
)

OURS = "Conv3x3, LN, MaxPool3x3 (ours)"
# the paper's name, our name, the planes on which it is a distinct function
DESIGNS: dict[str, tuple[str, tuple[str, ...]]] = {
    OURS: ("conv_norm_max", ("image", "block")),
    "Conv3x3, stride 2": ("conv", ("image", "block")),
    "AvgPool3x3": ("avg", ("image", "block")),
    "PatchMerge (Swin)": ("patch_merge", ("image",)),
    "MaxPool3x3": ("max", ("image", "block")),
    "sub-sampling, stride 2": ("subsample", ("image",)),
    "query sub-sampling (HaloNet)": ("query", ("block",)),
}
IN_FIGURE_7 = tuple(DESIGNS)[:4]
CONTROLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "MaxPool3x3, Conv3x3, LN (control)": ("max_conv_norm", ("image",)),
    "Conv5x5, LN, MaxPool3x3 (control)": ("conv5_norm_max", ("image",)),
    "Conv7x7, LN, MaxPool3x3 (control)": ("conv7_norm_max", ("image",)),
}
_WITHOUT_DEMO: tuple[Scale, ...] = ("paper", "proxy", "smoke")
PANELS = ("CIFAR-10", "ImageNet")
PLANES = ("image plane", "block plane")


def run_of(panel: str, design: str, plane: str) -> Classification:
    """NesT-T with an aggregation; the paper's own on the image plane is the run of Tables 1, 2."""
    name, planes = (DESIGNS | CONTROLS)[design]
    options = {} if name == "conv_norm_max" else {"aggregation": name}
    if plane == "block plane" and "block" in planes:
        options["aggregation_plane"] = "block"
    if panel == "ImageNet":
        run, model = nest("T"), Model("nest_tiny_imagenet")
    else:
        model = Model.of("nest_tiny_cifar", img_size=32)
        recipe = cifar_transformer("T", ours=True).recipe
        run = Classification(model=model, dataset="cifar10", recipe=recipe)
    return Classification(
        model=model.updated(**options) if options else run.model,
        dataset=run.dataset,
        recipe=run.recipe,
        evaluation=run.evaluation,
    )


def _has(design: str, plane: str) -> bool:
    """Whether the design has a cell for the plane; controls are on the image plane only."""
    if design in CONTROLS:
        return plane == "image plane"
    return plane == "block plane" or DESIGNS[design][1] != ("block",)


def _proxy(panel: str, design: str, plane: str) -> Classification | None:
    """The run at proxy scale, on CIFAR-10 only."""
    return proxy.aggregation(run_of(panel, design, plane)) if panel == "CIFAR-10" else None


def cells_of(designs: tuple[str, ...]) -> tuple[Cell, ...]:
    """A cell for every design, plane and dataset."""
    sources = {
        "CIFAR-10": cifar_transformer("T", ours=True).listed,
        "ImageNet": imagenet_recipes.nest("T").listed,
    }
    return tuple(
        Cell(group="", row=design, column=plane, panel=panel, sources=sources[panel],
             run=run_of(panel, design, plane), proxy=_proxy(panel, design, plane),
             scales=_WITHOUT_DEMO if design in CONTROLS else SCALES,
             control=design in CONTROLS)
        for panel in PANELS
        for design in designs
        for plane in PLANES
        if _has(design, plane)
    )  # fmt: skip


def place(design: str, plane: str, panel: str) -> Place:
    return (design, plane, panel)


DECISIONS = (
    *imagenet_recipes.CROPS,
    Decision("the fourth design of Figure 7", "PatchMerge, which the text compares 'on both CIFAR "
             "and ImageNet', the two parts of the figure", "MaxPool3x3, which differs on the block "
             "plane, where the caption puts all four; PatchMerge is the same on both",
             "the caption names three and adds Conv1x1 to AvgPool3x3 only, though MaxPool3x3 would "
             "need it too; both are measured in Figure A3"),
    Decision("border of the block plane", "padded like the image border",
             "padded with the neighbouring block's edge", "no code was released; the paper says "
             "'partial feature maps corresponding to 2×2 blocks that will be merged'"),
    Decision("border of average pooling", "padding counts: always divided by 9",
             "divided by the number of pixels inside, as in TensorFlow", "flax, the authors' "
             "library, counts padding; it matters more on the block plane, which has more border"),
    Decision("PatchMerge and stride-2 sub-sampling on the block plane", "the run on the image "
             "plane", "a second run", "they use no neighbour, so it is the same function"),
    Decision("normalisation of the alternatives", "none, except PatchMerge's own",
             "LN after each, as in the paper's", "the caption names LN for that design only"),
    Decision("query sub-sampling", "a separate attention layer before the next hierarchy: queries "
             "of every second row and column attend to the 2×2 blocks being merged",
             "in the first transformer layer after it, or the last before it",
             "depth and position embeddings stay the same for every design"),
)  # fmt: skip


_BLOCKS = "Ablation Studies, Impact of block aggregation"
_FAR = MinEffect(3.0, "spreads", "'far': three standard deviations over seeds, so that two single "
                                 "runs are hardly ever in the other order")  # fmt: skip
_SUFFICIENT = MinEffect(-1.0, "spreads", "'sufficient': at most one standard deviation below")
_POORLY = MinEffect(3.0, "spreads", "'poorly': three standard deviations over seeds")


def _claims() -> tuple[Claim, ...]:
    """The text's statements about the designs; on data-efficient benchmarks, CIFAR-10 only."""
    query = Claim("sub-sampling the query sequence length ... performs poorly on data efficient "
                  "benchmarks", f"{_BLOCKS} (4)", f"query sub-sampling below {OURS}, CIFAR-10",
                  (place(OURS, "image plane", "CIFAR-10"),),
                  (place("query sub-sampling (HaloNet)", "block plane", "CIFAR-10"),),
                  _POORLY)  # fmt: skip
    gap = Claim("Our block aggregation closes the accuracy gap on ImageNet", _BLOCKS,
                f"{OURS} above PatchMerge (Swin), ImageNet",
                (place(OURS, "image plane", "ImageNet"),),
                (place("PatchMerge (Swin)", "image plane", "ImageNet"),))  # fmt: skip
    return (*(claim for panel in PANELS for claim in _claims_on(panel)), query, gap)


def _claims_on(panel: str) -> list[Claim]:
    ours = (place(OURS, "image plane", panel),)
    pooled = (place("MaxPool3x3", "image plane", panel),)
    return [
        *(
            Claim("max. pooling is far better than other options, such as stride-2 sub-sampling "
                  "and average pooling", f"{_BLOCKS} (3)",
                  f"max-pooling alone above {other} alone, {panel}", pooled,
                  (place(other, "image plane", panel),), _FAR)
            for other in ("sub-sampling, stride 2", "AvgPool3x3")
        ),
        Claim("small kernel convolution ... has to be applied ahead of pooling", f"{_BLOCKS} (2)",
              f"a convolution before max-pooling above one after it and above none, {panel}",
              ours, (place("MaxPool3x3, Conv3x3, LN (control)", "image plane", panel), *pooled)),
        Claim("small kernel convolution is sufficient", f"{_BLOCKS} (2)",
              f"a 3×3 kernel no worse than 5×5 and 7×7 kernels, {panel}", ours,
              tuple(place(f"Conv{side}x{side}, LN, MaxPool3x3 (control)", "image plane", panel)
                    for side in (5, 7)), _SUFFICIENT),
    ]  # fmt: skip


EXPERIMENT = Experiment(
    name="figure_a3",
    place="Figure A3",
    has_gaps=True,
    title="Block aggregation: all designs",
    caption=(
        "NesT-T with the designs that the text names; the figure itself is not in our copy "
        "of the paper. The controls are ours."
    ),
    cells=cells_of((*DESIGNS, *CONTROLS)),
    representative_rows=(OURS, "AvgPool3x3"),
    headings=("", "Aggregation"),
    plot="bars",
    x_label="aggregation",
    y_label="top-1 accuracy (%)",
    claims=_claims(),
    decisions=DECISIONS,
)
