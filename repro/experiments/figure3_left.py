"""Figure 3, left: GradCAT on images of one object each, with hit rates over all of them."""

from __future__ import annotations

from repro.experiments import cues, figure2, interpretability
from repro.spec import Claim, Experiment

SENTENCE = "the decision path can correctly locate the object corresponding to the model prediction"
PLACE = "Visual Interpretability, GradGAT results"

EXPERIMENT = Experiment(
    name="figure3_left",
    place="Figure 3, left",
    title="GradCAT on images of one object",
    caption=(
        "ImageNet's validation images, squeezed to squares; NesT-S. The table follows the labelled "
        "class, the figure the predicted one. The object is the union of its boxes."
    ),
    at_proxy=f"{cues.OF_TREES} Measure: the leaf where a path ends.",
    cells=figure2.cells_of(objects=1, pictures=0) + cues.cells(1, "leaf", figure2.VARIANTS),
    representative_rows=(figure2.DEFAULT,),
    headings=figure2.EXPERIMENT.headings,
    plot="trees",
    picture_rows=(figure2.DEFAULT,),
    pictures=(0, 4, 8),
    num_traced_classes=1,
    seeds=cues.SEEDS,
    claims=(
        Claim(
            SENTENCE,
            PLACE,
            "paths enter a leaf of the object more often than chance",
            ((figure2.DEFAULT, figure2.LEAF),),
            ((figure2.CHANCE, figure2.LEAF),),
            controls=(((figure2.ABLATION, figure2.LEAF), (figure2.CHANCE, figure2.LEAF)),),
        ),
        *cues.claims(SENTENCE, PLACE, figure2.DEFAULT, "a leaf"),
    ),
    decisions=interpretability.GRADCAT_DECISIONS,
)
