"""Figure 7: block aggregation, four designs on the image plane and the block plane.

The runs are those of Figure A3. The paper prints no numbers, only statements, which are the claims.
"""

from __future__ import annotations

from repro.experiments.figure_a3 import DECISIONS, IN_FIGURE_7, OURS, PANELS, cells_of, place
from repro.spec import Claim, Experiment


def _claims() -> tuple[Claim, ...]:
    claims = []
    for panel in PANELS:
        others = tuple(place(d, "image plane", panel) for d in IN_FIGURE_7 if d != OURS)
        claims.append(
            Claim("the design of block aggregation is critical for performance and data "
                  "efficiency", "Ablation Studies, Impact of block aggregation",
                  f"ours above the other three designs, image plane, {panel}",
                  (place(OURS, "image plane", panel),), others)
        )  # fmt: skip
        claims += [
            Claim("it is important to apply it on the holistic image plane versus the block plane",
                  "Ablation Studies, Impact of block aggregation (1)",
                  f"{design}: the image plane above the block plane, {panel}",
                  (place(design, "image plane", panel),), (place(design, "block plane", panel),))
            for design in (OURS, "Conv3x3, stride 2", "AvgPool3x3")
        ]  # fmt: skip
    return tuple(claims)


EXPERIMENT = Experiment(
    name="figure7",
    place="Figure 7",
    title="Block aggregation",
    caption="NesT-T. Conv3x3 has stride 2; on ImageNet, AvgPool3x3 is followed by Conv1x1.",
    cells=cells_of(IN_FIGURE_7),
    representative_rows=(OURS, "AvgPool3x3"),
    headings=("", "Aggregation"),
    plot="bars",
    x_label="aggregation",
    y_label="top-1 accuracy (%)",
    claims=_claims(),
    decisions=DECISIONS,
)
