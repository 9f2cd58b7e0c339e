"""Figure A3: every block aggregation that the text names, on the image plane and the block plane.

Figure 7 shows four of them. Three are the same function on both planes, or have only one: merging
2×2 neighbours and taking every second token never look across a block's border, and queries are
sub-sampled within the merged blocks.
"""

from __future__ import annotations

from repro.experiments import imagenet_recipes
from repro.experiments.recipes import cifar_transformer
from repro.experiments.table2 import nest
from repro.spec import Cell, Claim, Classification, Decision, Experiment, Model, Place

OURS = "Conv3x3, LN, MaxPool3x3 (ours)"
# the paper's name, ours, the planes on which it is a function of its own
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
PANELS = ("CIFAR-10", "ImageNet")
PLANES = ("image plane", "block plane")


def run_of(panel: str, design: str, plane: str) -> Classification:
    """NesT-T with an aggregation; the paper's own on the image plane is the run of Tables 1, 2."""
    name, planes = DESIGNS[design]
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


def cells_of(designs: tuple[str, ...]) -> tuple[Cell, ...]:
    """A cell for every design on either plane of either dataset."""
    sources = {
        "CIFAR-10": cifar_transformer("T", ours=True).listed,
        "ImageNet": imagenet_recipes.nest("T").listed,
    }
    return tuple(
        Cell(group="", row=design, column=plane, panel=panel, sources=sources[panel],
             run=run_of(panel, design, plane))
        for panel in PANELS
        for design in designs
        for plane in PLANES
        if not (plane == "image plane" and DESIGNS[design][1] == ("block",))
    )  # fmt: skip


def place(design: str, plane: str, panel: str) -> Place:
    return (design, plane, panel)


DECISIONS = (
    Decision("the block plane's border", "padded as the image's border is",
             "padded with the neighbouring block's edge", "no code was released; the paper says "
             "'partial feature maps corresponding to 2×2 blocks that will be merged'"),
    Decision("the average pooling's border", "padding counts: always divided by 9",
             "divided by what is inside, as TensorFlow does", "flax, the authors' library, counts "
             "it; it weighs more on the block plane, which has more border"),
    Decision("PatchMerge and stride-2 sub-sampling on the block plane", "the run on the image "
             "plane", "a second run", "they look at no neighbour: it is the same function"),
    Decision("normalisation of the alternatives", "none but PatchMerge's own",
             "LN after each, as in the paper's", "the caption names LN for the paper's alone"),
    Decision("query sub-sampling", "an attention of its own before the next hierarchy: queries of "
             "every second row and column attend to the 2×2 blocks being merged",
             "in the first transformer layer after, or the last before",
             "so depth and position embeddings stay the same under every design"),
)  # fmt: skip


def _claims() -> tuple[Claim, ...]:
    claims = []
    for panel in PANELS:
        ours = (place(OURS, "image plane", panel),)
        claims += [
            Claim(f"max. pooling is far better than average pooling ({panel})",
                  "Ablation Studies (3)", ours, (place("AvgPool3x3", "image plane", panel),)),
            Claim(f"max. pooling is far better than stride-2 sub-sampling ({panel})",
                  "Ablation Studies (3)", ours,
                  (place("sub-sampling, stride 2", "image plane", panel),)),
            Claim(f"small kernel convolution has to be applied ahead of pooling ({panel})",
                  "Ablation Studies (2)", ours, (place("MaxPool3x3", "image plane", panel),)),
            Claim(f"sub-sampling the query sequence length performs poorly ({panel})",
                  "Ablation Studies (4)", ours,
                  (place("query sub-sampling (HaloNet)", "block plane", panel),)),
        ]  # fmt: skip
    return tuple(claims)


EXPERIMENT = Experiment(
    name="figure_a3",
    place="Figure A3",
    title="Block aggregation: all designs",
    caption=(
        "NesT-T. The designs are those that the text names; the figure itself is not in our copy "
        "of the paper."
    ),
    cells=cells_of(tuple(DESIGNS)),
    showcase=(OURS, "AvgPool3x3"),
    headings=("", "Aggregation"),
    plot="bars",
    x_label="aggregation",
    y_label="top-1 accuracy (%)",
    claims=_claims(),
    decisions=DECISIONS,
)
