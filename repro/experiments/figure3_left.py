"""Figure 3, left: GradCAT on pictures of one object each; counted as well, on all of them."""

from __future__ import annotations

from repro.experiments import figure2, seeing
from repro.spec import Claim, Experiment

EXPERIMENT = Experiment(
    name="figure3_left",
    place="Figure 3, left",
    title="GradCAT on pictures of one object",
    caption=(
        "ImageNet's validation images, squeezed square; counted for the class of the image, drawn "
        "for the class that is predicted. The object is all that its boxes hold."
    ),
    cells=figure2.counted(objects=1, pictures=0),
    showcase=(figure2.DEFAULT,),
    headings=figure2.EXPERIMENT.headings,
    plot="trees",
    drawn=(figure2.DEFAULT,),
    pictures=(0, 4, 8),
    traced=1,
    claims=(
        Claim(
            "the decision path can correctly locate the object corresponding to the model "
            "prediction",
            "Visual Interpretability, GradGAT results",
            ((figure2.DEFAULT, figure2.LEAF),),
            ((figure2.CHANCE, figure2.LEAF),),
        ),
    ),
    decisions=seeing.READING,
)
