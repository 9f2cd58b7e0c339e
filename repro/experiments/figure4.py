"""Figure 4: attribution maps side by side, with pointing, insertion and deletion scores."""

from __future__ import annotations

from repro.experiments import cues, figure3_right, interpretability
from repro.spec import Cell, Claim, Decision, Experiment

POINTING, INSERTION, DELETION = "Pointing game (%)", "Insertion (%)", "Deletion (%)"
MEASURES = {
    POINTING: "pointing",
    "Energy in boxes (%)": "energy",
    INSERTION: "insertion",
    DELETION: "deletion",
    "Randomised": "randomised",
}
NEST, RESNET, ROLLOUT = figure3_right.NEST, figure3_right.RESNET, figure3_right.ROLLOUT


CELLS = tuple(
    Cell(group="", row=interpretability.row_label(row, group), column=column, metric=metric,
         run=interpretability.localization(attribution, method, group),
         # Released weights have no small version.
         proxy=cues.localization(attribution, method)
         if group == interpretability.TRAINED else None)
    for group in (interpretability.TRAINED, interpretability.RELEASED)
    for row, (attribution, method) in figure3_right.METHODS.items()
    for column, metric in MEASURES.items()
)  # fmt: skip


EXPERIMENT = Experiment(
    name="figure4",
    place="Figure 4",
    has_gaps=True,
    title="Attribution maps side by side",
    caption=(
        "Maps of the true class. The pointing game has a tolerance of 15 px. Insertion and "
        "deletion are areas under the class probability while the pixels are revealed (from a "
        "blur) or removed (to the mean colour) in 32 equal steps, largest map values first. "
        "Randomised: rank correlation with the map of a model with shuffled weights; near 1, the "
        "map depends on the image and not on the model."
    ),
    at_proxy=cues.OF_MAPS,
    cells=CELLS,
    representative_rows=(NEST, ROLLOUT, RESNET),
    plot="maps",
    picture_rows=(NEST, ROLLOUT, RESNET),
    pictures=(0, 2, 4, 6, 8, 10),
    claims=tuple(
        Claim(quote, "Figure 4", f"the pointing game: {NEST} above {other}", ((NEST, POINTING),),
              ((other, POINTING),),
              controls=tuple(((row, INSERTION), (row, DELETION)) for row in (NEST, other)))
        for other, quote in (
            (ROLLOUT, "yielding finer attention to objects than DeiT Rollout"),
            (RESNET, "less noise than ResNet50 GradCAM++"),
        )
    ),
    decisions=(
        interpretability.CLASSIFIERS,
        Decision("'finer' and 'less noise'", "the pointing game", "visual inspection",
                 "it uses only the position of a map's maximum"),
        Decision("the images", "evenly spaced over the dataset, not hand-picked",
                 "the paper's, which are not in our copy", "as in Figure 2"),
    ),
)  # fmt: skip
