"""Figure 3, right, over the IoU that a box is asked for. It is not in the paper."""

from __future__ import annotations

from repro.experiments import figure3_right, seeing
from repro.spec import Cell, Experiment

IOUS = range(10, 100, 10)  # hundredths

CELLS = tuple(
    Cell(group="", row=row, column=f"{iou / 100:g}", metric=f"gt_known_iou{iou}",
         run=seeing.localization(attribution, method))
    for row, (attribution, method) in figure3_right.METHODS.items()
    for iou in IOUS
) + tuple(
    Cell(group="", row=box.capitalize(), column=f"{iou / 100:g}", metric=f"gt_known_iou{iou}",
         run=seeing.localization(box))
    for box in figure3_right.BASELINES
    for iou in IOUS
)  # fmt: skip

EXPERIMENT = Experiment(
    name="figure3_right_iou",
    place="Beside Figure 3, right",
    title="Localization over the IoU that is asked for",
    caption=(
        "Images whose box has so large an IoU with a true one, with the threshold that is best on "
        "ImageNetV2 for an IoU of 0.5."
    ),
    cells=CELLS,
    showcase=figure3_right.EXPERIMENT.showcase,
    headings=("", "Method"),
    plot="lines",
    x_label="IoU",
    y_label="right boxes (%)",
    decisions=figure3_right.EXPERIMENT.decisions,
)
