"""Figure A5: more images like Figure 3, left. It is not in our copy."""

from __future__ import annotations

from dataclasses import replace

from repro.experiments import figure3_left

EXPERIMENT = replace(
    figure3_left.EXPERIMENT,
    name="figure_a5",
    place="Figure A5",
    title="GradCAT on more images of one object",
    pictures=(1, 2, 3, 5, 6, 7, 9, 10, 11),
    claims=(),
)
