"""Figure 3, right: localization by attribution maps, of classifiers that learned classes only.

None of the figure's numbers are in our copy. Two boxes that need no model stand beside the rest.
"""

from __future__ import annotations

from repro.experiments import seeing
from repro.spec import Attribution, Baseline, Cell, Cited, Claim, Decision, Experiment

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
    found = [
        Cell(group="", row=seeing.named(row, group), column=column, metric=metric,
             run=seeing.localization(attribution, method, group))
        for group in (seeing.HERE, seeing.RELEASED)
        for row, (attribution, method) in METHODS.items()
        for column, metric in MEASURES.items()
    ]  # fmt: skip
    found += [
        Cell(group="", row=baseline.capitalize(), column=column, metric=metric,
             run=seeing.localization(baseline))
        for baseline in BASELINES
        for column, metric in MEASURES.items()
        if column != ERROR
    ]  # fmt: skip
    return tuple(found)


_CHOE = (
    "README of clovaai/wsolevaluation (Choe et al., 2020): ResNet-50 trained for localization "
    "there, the protocol that is used here"
)

EXPERIMENT = Experiment(
    name="figure3_right",
    place="Figure 3, right",
    title="Weakly supervised localization, ImageNet validation",
    data="ImageNet validation",
    caption=(
        "Images squeezed to 224×224, maps enlarged bicubically, IoU of 0.5 or more with any true "
        "box. The threshold of the top-1 error and of GT-known is the best on ImageNetV2; 0.2 is "
        "that of CAM; MaxBoxAcc and MaxBoxAccV2 have the best ones on these very images, which is "
        "an upper bound."
    ),
    cells=_cells(),
    showcase=("Centre box", RESNET, ROLLOUT, NEST),
    headings=("", "Method"),
    claims=tuple(
        Claim("NesT with standard CAM, outperforms others that are specifically designed for this "
              "task", "Visual Interpretability, CAM results", ((NEST, column),), ((other, column),))
        for column in (GT_KNOWN, V2)
        for other in (RESNET, ROLLOUT)
    ),
    decisions=(
        Decision("the protocol", "wsolevaluation's: squares, every true box, IoU with both corners "
                 "in a box", "a centre crop, as for accuracy; the largest box only",
                 "the paper names none; this one has a public implementation and public boxes"),
        Decision("whose accuracy is in the top-1 error", "the classifier's, on the same squares",
                 "the one on centre crops", "one forward pass answers both"),
        Decision("the 'improved version of Rollout'", "rollout with the largest attention over "
                 "heads, of which nine tenths are discarded, and gradient rollout, also discarding "
                 "nine tenths", "means over heads, nothing discarded",
                 "vit-explain, which the paper names, has both, with these defaults; rows are "
                 "normalised properly here"),
        Decision("ADL and ACoL", "cited", "trained", "they are not plugged into a trained "
                 "classifier, and their published numbers are of several protocols"),
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
