"""Figure 3, right, by the required IoU. It is not in the paper."""

from __future__ import annotations

from repro.experiments import cues, figure3_right, interpretability
from repro.spec import Cell, Experiment

IOUS = range(10, 100, 10)  # hundredths

CELLS = tuple(
    Cell(group="", row=row, column=f"{iou / 100:g}", metric=f"gt_known_iou{iou}",
         run=interpretability.localization(attribution, method),
         proxy=cues.localization(attribution, method))
    for row, (attribution, method) in figure3_right.METHODS.items()
    for iou in IOUS
) + tuple(
    Cell(group="", row=box.capitalize(), column=f"{iou / 100:g}", metric=f"gt_known_iou{iou}",
         run=interpretability.localization(box), proxy=cues.localization(box))
    for box in figure3_right.BASELINES
    for iou in IOUS
) + tuple(
    Cell(group="", row=row, column=f"{iou / 100:g}", metric=f"ceiling_gt_known_iou{iou}",
         run=interpretability.localization("ceiling", grid=grid),
         proxy=cues.localization("ceiling"),
         scales=figure3_right.WITHOUT_DEMO)
    for row, grid in figure3_right.CEILINGS.items()
    for iou in IOUS
)  # fmt: skip

EXPERIMENT = Experiment(
    name="figure3_right_iou",
    place="Supplement to Figure 3, right",
    title="Localization by required IoU",
    caption=(
        "Share of images whose box reaches the IoU with a true box; the threshold is tuned on "
        "ImageNetV2 for an IoU of 0.5."
    ),
    at_proxy=cues.OF_MAPS,
    cells=CELLS,
    representative_rows=figure3_right.EXPERIMENT.representative_rows,
    plot="lines",
    x_label="IoU",
    y_label="correct boxes (%)",
    decisions=figure3_right.EXPERIMENT.decisions,
)
