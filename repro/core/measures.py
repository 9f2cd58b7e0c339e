"""The metrics: what each measures, the format of its numbers and their valid range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

ACCURACIES = ("top1", "top5")  # in percent, higher is better

_LARGEST = 1e18  # for printed numbers
_ANY = 1e39  # for other numbers, such as a loss in single precision
_ROUNDING = 1e-6  # tolerance at the ends of a range, for floating-point sums


@dataclass(frozen=True)
class Measure:
    """What a metric measures, the format of its numbers and their valid range."""

    name: str  # with the unit
    divisor: float = 1.0
    digits: int = 2
    unit: str = ""  # after the number
    best: Literal["", "most", "least"] = ""  # '': neither is better
    least: float = 0.0
    most: float = _LARGEST
    whole: bool = False  # a count

    def wrong(self, value: float) -> str:
        """Why a number is invalid for this metric; '' if it is valid."""
        if self.whole and not isinstance(value, int):
            return f"{_short(value)} is not a whole number"
        if self.least - _ROUNDING <= value <= self.most + _ROUNDING:
            return ""
        return f"{_short(value)} is not within {self.least:g} to {self.most:g}"


def _short(value: float) -> str:
    """A number of any size in a few characters."""
    try:
        return f"{value:g}"
    except OverflowError:  # an integer beyond the range of floats
        return f"{Decimal(value):.0e}"


_OURS = "by our own classifier"  # not by Inception


def _percent(name: str, best: Literal["", "most", "least"] = "most", digits: int = 2) -> Measure:
    return Measure(name, digits=digits, best=best, most=100.0)


def _share(what: str, best: Literal["", "most", "least"] = "most") -> Measure:
    return _percent(f"{what}, in percent", best, digits=1)


def _of_one(name: str) -> Measure:
    return Measure(name, digits=3, best="most", most=1.0)


def _correlation(name: str, best: Literal["", "most"] = "") -> Measure:
    return Measure(name, best=best, least=-1.0, most=1.0)


def _distance(name: str, digits: int = 2) -> Measure:
    """At least zero, apart from rounding and from the bias correction of an estimate."""
    return Measure(name, digits=digits, best="least", least=-1.0)


def _count(name: str) -> Measure:
    return Measure(name, digits=0, whole=True)


ABLATION = _share("hit rate of exact ablation", best="")
CHANCE = _share("hit rate of chance", best="")
CEILING = _share("upper bound for maps of the same resolution", best="")
_BOXES = ("gt_known", "gt_known_fixed", "max_box_acc", "max_box_acc_v2")
_SUBSETS = ("kid_subset", "proxy_kid_subset", "inception_score_splits", "proxy_score_splits")

MEASURES: Mapping[str, Measure] = {
    "top1": _percent("top-1 accuracy in percent"),
    "top5": _percent("top-5 accuracy in percent"),
    "parameters": Measure("parameters in millions (M)", 1e6, 1, "M", whole=True),
    "macs": Measure("multiply-adds of a forward pass in billions (G)", 1e9, 1, "G", whole=True),
    "forward_images_per_second": Measure("images per second, forward", digits=0),
    "train_images_per_second": Measure("images per second, in training", digits=0),
    "forward_peak_bytes": Measure("peak memory, forward", 2**30, 2, " GiB", whole=True),
    "train_peak_bytes": Measure("peak memory, in training", 2**30, 2, " GiB", whole=True),
    "fid": _distance("FID"),
    "inception_score": Measure("Inception Score", best="most"),
    "kid": _distance("KID", digits=4),
    "precision": _of_one("precision"),
    "recall": _of_one("recall"),
    "proxy_frechet": _distance(f"Fréchet distance of features {_OURS}"),
    "proxy_score": Measure(f"Inception-like score {_OURS}", best="most"),
    "proxy_kid": _distance(f"kernel distance of features {_OURS}", digits=4),
    "proxy_precision": _of_one(f"precision {_OURS}"),
    "proxy_recall": _of_one(f"recall {_OURS}"),
    "top1_error": _share("images with a wrong class or box", best="least"),
    "top1_error_oracle": _share(
        "images with a wrong class or box at the best threshold", best="least"
    ),
    "gt_known": _share("images with a correct box, given the class"),
    "gt_known_fixed": _share("correct boxes at a fixed threshold"),
    "max_box_acc": _share("correct boxes at the best threshold for these images"),
    "max_box_acc_v2": _share("correct boxes over all contours, mean over IoUs of 0.3, 0.5 and 0.7"),
    **{
        f"gt_known_iou{iou}": _share("images with a correct box, by required IoU")
        for iou in range(10, 100, 10)
    },
    **{
        f"ceiling_{name}": CEILING
        for name in (*_BOXES, *(f"gt_known_iou{iou}" for iou in range(10, 100, 10)))
    },
    "pointing": _share("maps with their maximum on an object"),
    "energy": _share("positive values on objects"),
    "insertion": _share("mean probability while pixels are inserted"),
    "deletion": _share("mean probability while pixels are deleted", best="least"),
    "randomised": _correlation("rank correlation with the map of a random model"),
    "quadrant": _share("paths into a quadrant of the object"),
    "leaf": _share("paths to a leaf with part of the object"),
    "leaf_most": _share("paths to the leaf with most of the object"),
    "undecided": _share("paths that end before a leaf", best=""),
    "best_leaf": _share("paths to the leaf whose ablation lowers the logit most"),
    "faithful": _correlation("rank correlation of leaf values with that drop", best="most"),
    "ablation_quadrant": ABLATION,
    "ablation_leaf": ABLATION,
    "quadrant_chance": CHANCE,
    "leaf_chance": CHANCE,
    "leaf_most_chance": CHANCE,
    "step": _count("steps"),
    "test_images": _count("test images"),
    "empty_maps": _count("maps without a positive value"),
    "ceiling_empty_maps": _count("maps without a positive value"),
    "fakes": _count("generated images"),
    **{name: _count("size of a part of the images") for name in _SUBSETS},
}


def measure(metric: str) -> Measure:
    """The entry of the metric; for an unknown one, its name and any range."""
    return MEASURES.get(metric, Measure(metric.replace("_", " "), least=-_ANY, most=_ANY))


def wrong(metrics: Mapping[str, Any]) -> str:
    """The first number that is invalid for its metric, and why; '' if there is none.

    An interval `..._low` to `..._high` lies in the same range and contains its metric.
    """
    for name, value in metrics.items():
        entry = measure(name.removesuffix("_low").removesuffix("_high"))
        if why := entry.wrong(value):
            return f"{name}: {why}"
    for name, value in metrics.items():
        ends = metrics.get(f"{name}_low", value), metrics.get(f"{name}_high", value)
        if not ends[0] - _ROUNDING <= value <= ends[1] + _ROUNDING:
            return f"{name}: {_short(value)} is not between {name}_low and {name}_high"
    return ""
