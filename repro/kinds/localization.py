"""Localization of objects by a classifier's attribution maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from repro.core.datasets import DatasetSize, size_of
from repro.core.iou import IOU_UNITS, IOUS_V2
from repro.core.recipe import Split
from repro.core.records import read_typed_arrays, require
from repro.core.run import PREDICTIONS, FileCheck
from repro.kinds.explanation import Explanation, check_percentages, check_pictures, with_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAPS = "maps.npz"

Attribution = Literal["cam", "grad_cam_pp", "rollout", "gradient_rollout"]
Baseline = Literal["whole image", "centre box"]
Ceiling = Literal["ceiling"]


def _recount(data: bytes, metrics: Mapping[str, Any]) -> None:
    """Recompute the percentages of boxes from the IoU of each image. Raises Damaged."""
    import numpy as np  # not needed by what only plans

    kinds = {"iou": ("u", 1), "iou_oracle": ("u", 1), "iou_fixed": ("u", 1),
             "iou_every_oracle": ("u", 2)}  # fmt: skip
    if has_classes := "top1" in metrics:
        kinds |= {"label": ("iu", 1), "predicted": ("iu", 1)}
    arrays = read_typed_arrays(data, kinds)
    fits = len({len(arrays[name]) for name in kinds}) == 1 and arrays["iou_every_oracle"].size
    require(fits, "arrays of predictions that do not match")
    ious, half = {name: arrays[name] for name in kinds}, round(0.5 * IOU_UNITS)
    flags = {
        "gt_known": ious["iou"] >= half,
        "max_box_acc": ious["iou_oracle"] >= half,
        "gt_known_fixed": ious["iou_fixed"] >= half,
        "max_box_acc_v2": ious["iou_every_oracle"] >= IOU_UNITS * np.array(IOUS_V2),
        **{f"gt_known_iou{iou}": ious["iou"] >= iou * IOU_UNITS // 100
           for iou in range(10, 100, 10)},
    }  # fmt: skip
    check_percentages(metrics, flags)
    check_percentages(metrics, flags, "ceiling_")
    if has_classes:
        right = ious["label"] == ious["predicted"]
        check_percentages(metrics, {
            "top1": right,
            "top1_error": ~(right & flags["gt_known"]),
            "top1_error_oracle": ~(right & flags["max_box_acc"]),
        })  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Localization(Explanation):
    """Find objects by a classifier that learned their classes only: boxes of attribution maps.

    Metrics, percent of images, each also as `..._low` and `..._high`, a 95 % bootstrap interval:
    `gt_known` with the threshold that is best on `tuning`; `max_box_acc`, `max_box_acc_v2` with
    those that are best on these very images; `gt_known_fixed` with .2 of the largest;
    `gt_known_iou10` to `..90`. Of a classifier also `top1` (without an interval), `top1_error`,
    `top1_error_oracle`, `pointing`, `energy`; and on the first `probed` images `deletion`,
    `insertion` (areas under the probability) and `randomised` (rank correlation with the maps of a
    classifier whose weights are shuffled).

    A 'ceiling' asks nobody: its maps have `grid` cells a side, each the share of the cell that true
    boxes cover. No map of so few cells is expected to do better. Its metrics begin with `ceiling_`.
    """

    kind: ClassVar[str] = "localization"
    task: ClassVar[str] = "repro.tasks.localization"
    file_checks: ClassVar[Mapping[str, FileCheck]] = {
        MAPS: lambda data, _: read_maps(data),
        PREDICTIONS: _recount,
    }
    attribution: Attribution | Baseline | Ceiling
    tuning: str = "imagenetv2"  # the dataset on which the threshold is chosen
    tuning_split: Split = "test"
    probed: int = 0
    grid: int = 0  # cells a side, of a ceiling's maps

    @property
    def metrics(self) -> tuple[str, ...]:
        boxes = ("gt_known", "gt_known_fixed", "max_box_acc", "max_box_acc_v2")
        names = [*boxes, *(f"gt_known_iou{iou}" for iou in range(10, 100, 10))]
        if self.attribution == "ceiling":
            return with_ends(*(f"ceiling_{name}" for name in names))
        if self.classifier is None:
            return with_ends(*names)
        names += ["top1_error", "top1_error_oracle", "pointing", "energy"]
        probes = ["deletion", "insertion", "randomised"] if self.probed else []
        return ("top1", *with_ends(*names, *probes))

    @property
    def method(self) -> str:
        return f"{self.attribution}-{self.grid}x{self.grid}" if self.grid else self.attribution

    @property
    def required_data(self) -> frozenset[str]:
        """A baseline has no threshold."""
        return super().required_data | ({self.tuning} if self.classifier else set())

    def passes(self, size: DatasetSize) -> int:
        """A map takes two passes and a gradient, as 4; a step of insertion or deletion one."""
        tuning = size_of(self.tuning) or size
        return 4 * (size.test + tuning.test) + 66 * self.probed

    @property
    def required_files(self) -> frozenset[str]:
        return frozenset({MAPS} if self.classifier else ())


def read_maps(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of MAPS: pictures with their attribution maps. Raises Damaged."""
    shapes = {"pixels": ("u", 4), "maps": ("f", 3), "shows": ("U", 1), "predicted": ("U", 1),
              "boxes": ("iu", 2), "counts": ("iu", 1)}  # fmt: skip
    arrays = read_typed_arrays(data, shapes)
    check_pictures(arrays, ("maps", "shows", "predicted", "counts"))
    counts, boxes = arrays["counts"], arrays["boxes"]
    good = (counts >= 0).all() and int(counts.sum()) == len(boxes) and boxes.shape[1] == 4
    require(good, "boxes and their counts do not match")
    require(arrays["maps"].size, "maps without a value")
    return arrays
