"""Figure 4: maps side by side; how well they point, and what the model makes of their pixels."""

from __future__ import annotations

from repro.experiments import figure3_right, seeing
from repro.spec import Cell, Claim, Decision, Experiment

POINTING = "Pointing game (%)"
MEASURES = {
    POINTING: "pointing",
    "Energy in boxes (%)": "energy",
    "Insertion (%)": "insertion",
    "Deletion (%)": "deletion",
    "Randomised": "randomised",
}
NEST, RESNET, ROLLOUT = figure3_right.NEST, figure3_right.RESNET, figure3_right.ROLLOUT


CELLS = tuple(
    Cell(group="", row=seeing.named(row, group), column=column, metric=metric,
         run=seeing.localization(attribution, method, group))
    for group in (seeing.HERE, seeing.RELEASED)
    for row, (attribution, method) in figure3_right.METHODS.items()
    for column, metric in MEASURES.items()
)  # fmt: skip


EXPERIMENT = Experiment(
    name="figure4",
    place="Figure 4",
    title="Attribution maps side by side",
    caption=(
        "Maps of the true class. The pointing game allows 15 px. Insertion and deletion are areas "
        "under the probability of the class while 32 equal parts of the pixels come (out of a "
        "blur) or go (to the mean colour), those of the largest values first. Randomised: rank "
        "correlation with the map of a model whose weights are shuffled; near 1, a map shows the "
        "image and not the model."
    ),
    cells=CELLS,
    showcase=(NEST, ROLLOUT, RESNET),
    headings=("", "Method"),
    plot="maps",
    drawn=(NEST, ROLLOUT, RESNET),
    pictures=(0, 2, 4, 6, 8, 10),
    claims=tuple(
        Claim(sentence, "Figure 4", ((NEST, POINTING),), ((other, POINTING),))
        for other, sentence in (
            (ROLLOUT, "yielding finer attention to objects than DeiT Rollout"),
            (RESNET, "and less noise than ResNet50 GradCAM++"),
        )
    ),
    decisions=(
        Decision("'finer' and 'less noise'", "the pointing game", "a look at some pictures",
                 "it asks of each map only where its largest value is"),
        Decision("the pictures", "evenly spaced among the images, not chosen by their looks",
                 "the paper's, which are not in our copy", "as in Figure 2"),
    ),
)  # fmt: skip
