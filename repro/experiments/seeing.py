"""What the items of visual interpretability share: who is asked what, about which pictures."""

from __future__ import annotations

from typing import Literal

from repro.experiments.table2 import METHODS, RELEASES, released
from repro.spec import (
    Attribution,
    Baseline,
    Classification,
    Decision,
    Localization,
    Sign,
    TopTap,
    Traversal,
)

HERE, RELEASED = "Trained here", "Released weights"
SIDE = 224  # px

_RUNS = {method: run for _, method, run, *_ in METHODS}


def classifier(method: str, group: str) -> Classification:
    """A classifier of Table 2, by its name there: as it is trained here, or as it was released."""
    run = _RUNS[method]
    if group == HERE:
        return run
    tag, test, _ = RELEASES[method]
    return released(run.model, tag, test)


def named(row: str, group: str) -> str:
    """A row of the one group or of the other."""
    return row if group == HERE else f"{row}, released"


def localization(
    attribution: Attribution | Baseline, method: str = "", group: str = HERE
) -> Localization:
    """Boxes for ImageNet's validation images; of a baseline, which has no method."""
    return Localization(
        classifier=classifier(method, group) if method else None,
        dataset="imagenet",
        image_size=SIDE,
        attribution=attribution,
        probed=1_000 if method else 0,
    )


def traversal(
    group: str, objects: Literal[1, 4], pictures: int, sign: Sign, top_tap: TopTap
) -> Traversal:
    """GradCAT with NesT-S, by a reading of Algorithm 1; 0 pictures are all."""
    return Traversal(
        classifier=classifier("NesT-S", group),
        dataset="imagenet",
        image_size=SIDE,
        objects=objects,
        pictures=pictures,
        sign=sign,
        top_tap=top_tap,
        ablated=500,
    )


READING = (
    Decision("GradCAT's sign", "the gradient itself: h = A · ∂Y/∂A",
             "minus that, as Algorithm 1 has it, which is measured beside it",
             "for a logit the ascent direction is the gradient, and the text wants higher values "
             "to be more important. At the input of the top, however, minus the gradient asks for "
             "what the top adds at a position, its embedding and layers: the norms make the h of "
             "that and of the input cancel"),
    Decision("GradCAT's activation at the top", "what the aggregation gives, before the attention "
             "of the top mixes the four blocks", "what follows the final norm, of which h is the "
             "CAM, measured beside it; ahead of that norm h sums to 0 over channels",
             "its quadrants are made of the children's blocks alone, up to a convolution's border"),
    Decision("GradCAT's reduction", "the mean over channels and positions", "sums, of which the "
             "largest is the same", "the caption says 'averaged activation value'"),
    Decision("which classes", "counted for the class of each object; drawn for the most probable "
             "ones", "only the predicted class", "Figure 2 has the top-4 classes, Algorithm 1 the "
             "predicted one; a path is right or wrong only for a class that is there"),
)  # fmt: skip
