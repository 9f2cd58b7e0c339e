"""Figure 3, right: weakly supervised localization by attribution maps of classifiers.

None of the figure's numbers are in our copy. Two baseline boxes need no model.
"""

from __future__ import annotations

from repro.experiments import cues, interpretability
from repro.spec import Attribution, Baseline, Cell, Cited, Claim, Decision, Experiment, Scale

ERROR, GT_KNOWN = "Top-1 error (%)", "GT-known (%)"
V1, V2, FIXED = "MaxBoxAcc (%)", "MaxBoxAccV2 (%)", "GT-known at 0.2 (%)"
MEASURES = {
    ERROR: "top1_error",
    GT_KNOWN: "gt_known",
    FIXED: "gt_known_fixed",
    V1: "max_box_acc",
    V2: "max_box_acc_v2",
}
BASELINES: tuple[Baseline, ...] = ("whole image", "centre box")
# Upper bounds for maps of a method's resolution -> cells per side of the map.
WITHOUT_DEMO: tuple[Scale, ...] = ("paper", "proxy", "smoke")
CEILINGS = {"Ceiling, NesT-S and DeiT-S": 14, "Ceiling, ResNet-50": 7}
NEST = "NesT-S, CAM"
RESNET, ROLLOUT = "ResNet-50, Grad-CAM++", "DeiT-S, rollout"
METHODS: dict[str, tuple[Attribution, str]] = {
    "ResNet-50, CAM": ("cam", "ResNet-50"),
    RESNET: ("grad_cam_pp", "ResNet-50"),
    ROLLOUT: ("rollout", "DeiT-S"),
    "DeiT-S, gradient rollout": ("gradient_rollout", "DeiT-S"),
    NEST: ("cam", "NesT-S"),
}


def _cells() -> tuple[Cell, ...]:
    cells = [
        Cell(group="", row=interpretability.row_label(row, group), column=column, metric=metric,
             run=interpretability.localization(attribution, method, group),
             # Released weights have no small version.
             proxy=cues.localization(attribution, method)
             if group == interpretability.TRAINED else None)
        for group in (interpretability.TRAINED, interpretability.RELEASED)
        for row, (attribution, method) in METHODS.items()
        for column, metric in MEASURES.items()
    ]  # fmt: skip
    cells += [
        Cell(group="", row=baseline.capitalize(), column=column, metric=metric,
             run=interpretability.localization(baseline), proxy=cues.localization(baseline))
        for baseline in BASELINES
        for column, metric in MEASURES.items()
        if column != ERROR
    ]  # fmt: skip
    cells += [
        Cell(group="", row=row, column=column, metric=f"ceiling_{metric}", scales=WITHOUT_DEMO,
             run=interpretability.localization("ceiling", grid=grid),
             proxy=cues.localization("ceiling"))
        for row, grid in CEILINGS.items()
        for column, metric in MEASURES.items()
        if column != ERROR
    ]  # fmt: skip
    return tuple(cells)


_CHOE = (
    "README of clovaai/wsolevaluation (Choe et al., 2020), whose protocol is used here; its "
    "ResNet-50 was trained for localization"
)

EXPERIMENT = Experiment(
    name="figure3_right",
    place="Figure 3, right",
    title="Weakly supervised localization, ImageNet validation",
    data="ImageNet validation",
    caption=(
        "Images squeezed to 224×224; maps upsampled bicubically; a box is correct at an IoU of 0.5 "
        "or more with any true box. The threshold for top-1 error and GT-known is tuned on "
        "ImageNetV2; 0.2 is CAM's. MaxBoxAcc and MaxBoxAccV2 tune it on the test images "
        "themselves and are upper bounds."
    ),
    at_proxy=cues.OF_MAPS,
    cells=_cells(),
    representative_rows=("Centre box", RESNET, ROLLOUT, NEST),
    claims=tuple(
        Claim("NesT with standard CAM, outperforms others that are specifically designed for this "
              "task", "Visual Interpretability, CAM results", f"{NEST} above {other}, {column}",
              ((NEST, column),), ((other, column),),
              controls=tuple(((ceiling, column), (box.capitalize(), column))
                             for ceiling in CEILINGS for box in BASELINES))
        for column in (GT_KNOWN, V2)
        for other in (RESNET, ROLLOUT)
    ),
    decisions=(
        interpretability.CLASSIFIERS,
        Decision("upper bound for a map", "a ceiling: the true boxes averaged onto the cells of "
                 "a method's map, then thresholded like a map", "100 %",
                 "a coarse map gives coarse boxes, whatever it shows"),
        Decision("the protocol", "wsolevaluation's: squeezed images, all true boxes, IoU with "
                 "inclusive corners", "a centre crop, as for accuracy; the largest box only",
                 "the paper names none; this one has a public implementation and public boxes"),
        Decision("accuracy within the top-1 error", "the classifier's, on the same squeezed images",
                 "its accuracy on centre crops", "one forward pass gives both"),
        Decision("the 'improved version of Rollout'", "rollout with the maximum over heads and a "
                 "discard ratio of 0.9, and "
                 "gradient rollout with the same ratio", "mean over heads, nothing discarded",
                 "vit-explain, which the paper names, has both with these defaults; here "
                 "each row sums to 1"),
        Decision("ADL and ACoL", "cited", "trained", "they cannot be added to a trained "
                 "classifier, and their published numbers come from several protocols"),
    ),
    cited=(
        Cited("CAM (ResNet-50)", V2, 63.7, _CHOE),
        Cited("ACoL (ResNet-50)", V2, 62.3, _CHOE),
        Cited("ADL (ResNet-50)", V2, 63.7, _CHOE),
        Cited("CAM (ResNet-50)", ERROR, 53.7,
              "README of CutMix (Yun et al., 2019): accuracy 46.3; threshold and crop not said"),
        Cited("ADL (InceptionV3)", ERROR, 51.3,
              "awesome-WSOL's list: accuracy 48.7; centre crop and a threshold of its own"),
        Cited("ACoL (best variant)", ERROR, 45.14,
              "its abstract; equal to the top-5 error of CAM with VGG, so the setting is unclear"),
    ),
)  # fmt: skip
