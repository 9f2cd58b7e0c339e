"""Shared by the interpretability items: classifiers, GradCAT runs and localization runs."""

from __future__ import annotations

from typing import Literal

from repro.experiments.table2 import METHODS, release_of
from repro.spec import (
    Attribution,
    Baseline,
    Ceiling,
    Classification,
    Decision,
    Localization,
    Sign,
    TopTap,
    Traversal,
)

TRAINED, RELEASED = "Trained here", "Released weights"
SIDE = 224  # px

_RUNS = {method: run for _, method, run, *_ in METHODS}


def classifier(method: str, group: str) -> Classification:
    """A classifier of Table 2 by its name there: trained here, or released weights."""
    return _RUNS[method] if group == TRAINED else release_of(method)


def row_label(row: str, group: str) -> str:
    """The name of a row in its group."""
    return row if group == TRAINED else f"{row}, released"


def localization(
    attribution: Attribution | Baseline | Ceiling,
    method: str = "",
    group: str = TRAINED,
    grid: int = 0,
) -> Localization:
    """Boxes for ImageNet's validation images; a baseline or a ceiling has no method."""
    return Localization(
        classifier=classifier(method, group) if method else None,
        dataset="imagenet",
        image_size=SIDE,
        attribution=attribution,
        probed=1_000 if method else 0,
        grid=grid,
    )


def traversal(
    group: str, objects: Literal[1, 4], pictures: int, sign: Sign, top_tap: TopTap
) -> Traversal:
    """GradCAT with NesT-S, by one variant of Algorithm 1; 0 pictures: all."""
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


CLASSIFIERS = Decision(
    "the classifiers",
    "NesT-S, DeiT-S and ResNet-50 of Table 2, with its recipes and decisions, including random "
    "crops",
    "other sizes",
    "Figure 3's caption names 'a NesT-S' for GradCAT; the text names no size of the others",
)

GRADCAT_DECISIONS = (
    CLASSIFIERS,
    Decision("GradCAT's sign", "the gradient itself: h = A · ∂Y/∂A",
             "its negative, as in Algorithm 1; also measured",
             "for a logit the ascent direction is the gradient, and the text says that higher "
             "values are more important. At the input of the top, however, the negative gradient "
             "attributes to what the top adds at a position, its embedding and layers: because of "
             "the norms, the h of that and the h of the input cancel"),
    Decision("GradCAT's activation at the top", "the output of the aggregation, before the "
             "attention "
             "of the top mixes the four blocks", "the output of the final norm, for which h is the "
             "CAM; also measured. Before that norm h sums to 0 over channels",
             "its quadrants depend on the child blocks only, up to a convolution's border"),
    Decision("GradCAT's reduction", "the mean over channels and positions", "sums, which have "
             "the same maximum", "the caption says 'averaged activation value'"),
    Decision("classes", "hit rates for the class of each object; figures for the most probable "
             "classes", "only the predicted class", "Figure 2 shows the top-4 classes, Algorithm 1 "
             "the predicted one; a path can only be right or wrong for a class that is present"),
)  # fmt: skip
