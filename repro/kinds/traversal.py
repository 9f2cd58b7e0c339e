"""GradCAT's way down a classifier's tree of blocks, beside the objects of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from repro.core.datasets import DatasetSize
from repro.core.records import read_typed_arrays, require
from repro.core.run import PREDICTIONS, FileCheck
from repro.kinds.explanation import Explanation, check_percentages, check_pictures, with_ends

if TYPE_CHECKING:
    from numpy.typing import NDArray

TREES = "trees.npz"

Sign = Literal["ascent", "literal"]
TopTap = Literal["input", "norm"]


def _recount(data: bytes, metrics: Mapping[str, Any]) -> None:
    """Recompute the percentages of paths. Raises Damaged."""
    import numpy as np  # not needed by what only plans

    arrays = read_typed_arrays(data, {"label": ("iu", 2), "path": ("i", 3), "hits": ("u", 3)})
    hits, path = arrays["hits"], arrays["path"]
    fits = hits.shape[:2] == path.shape[:2] == arrays["label"].shape and hits.shape[2] == 3
    require(fits and path.size and hits.max() <= 1, "labels, paths and hits do not match")
    flags = dict(zip(("quadrant", "leaf", "leaf_most"), np.moveaxis(hits > 0, 2, 0), strict=True))
    check_percentages(metrics, {**flags, "undecided": path[..., -1] < 0})


@dataclass(frozen=True, kw_only=True)
class Traversal(Explanation):
    """Follow GradCAT from the root to a leaf, for the class of every object, and see what is there.

    Metrics, percent of objects, each also as `..._low` and `..._high`, a 95 % bootstrap interval:
    `quadrant`, `leaf` (whether the path enters one that holds a part of the object), `leaf_most`
    (the largest part), and of each `..._chance`; `undecided`. On the first `ablated` pictures
    `faithful` (rank correlation of the leaves' values with what each leaf's absence costs the
    logit), `best_leaf` (whether the path ends in the leaf that costs most), and what ablation by
    itself would find: `ablation_quadrant` and `ablation_leaf` (whether the costliest one holds a
    part of the object).
    """

    kind: ClassVar[str] = "traversal"
    task: ClassVar[str] = "repro.tasks.traversal"
    file_checks: ClassVar[Mapping[str, FileCheck]] = {
        TREES: lambda data, _: read_trees(data),
        PREDICTIONS: _recount,
    }
    objects: Literal[1, 4] = 4  # in a picture; four of them are composed, one a quadrant
    pictures: int = 0  # the first of them; 0: all, of one object each
    sign: Sign = "ascent"
    top_tap: TopTap = "input"
    tap_below: Literal["output", "input"] = "output"
    ablated: int = 0
    keeps_trees: bool = True  # of some pictures, to be drawn

    def num_images(self, metric: str) -> int:
        """The pictures that are counted, or of those the ones with every block ablated."""
        is_ablation = metric.startswith(("ablation_", "best_leaf", "faithful"))
        return self.ablated if is_ablation else self.pictures

    @property
    def metrics(self) -> tuple[str, ...]:
        names = [f"{hit}{chance}" for hit in ("quadrant", "leaf", "leaf_most")
                 for chance in ("", "_chance")]  # fmt: skip
        if self.ablated:
            names += ["faithful", "best_leaf", "ablation_quadrant", "ablation_leaf"]
        return ("undecided", *with_ends(*names))

    @property
    def method(self) -> str:
        return f"gradcat-{self.sign}-{self.top_tap}"

    def passes(self, size: DatasetSize) -> int:
        """A path takes two passes and a gradient, as 4; a leaf that is taken away one."""
        pictures = self.pictures or size.test
        return 4 * self.objects * pictures + 17 * self.objects * self.ablated

    @property
    def required_files(self) -> frozenset[str]:
        return frozenset({TREES} if self.keeps_trees else ())


def read_trees(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of TREES: pictures, and the ways of classes down the blocks. Raises Damaged."""
    shapes = {"pixels": ("u", 4), "shows": ("iu", 2), "classes": ("iu", 2),
              "probabilities": ("f", 2), "paths": ("iu", 3), "names": ("U", 1)}  # fmt: skip
    arrays = read_typed_arrays(data, shapes)
    levels = sorted(name for name in arrays if name.startswith("nodes"))
    check_pictures(arrays, ("shows", "classes", "probabilities", "paths", *levels))
    for name in ("shows", "classes"):
        labels = arrays[name]
        good = ((labels >= 0) & (labels < len(arrays["names"]))).all()
        require(good, f"labels in {name!r} that no class has")
    classes, steps = arrays["paths"].shape[1:]
    require(levels == [f"nodes{step}" for step in range(1, steps + 1)], f"levels {levels}")
    for step, level in enumerate(levels, start=1):
        array, shape = arrays[level], (classes, 2**step, 2**step)
        fits = array.dtype.kind == "f" and array.shape[1:] == shape
        require(fits, f"{level!r} is {array.dtype} of shape {array.shape}")
        require(bool((abs(array) < float("inf")).all()), f"{level!r} is not finite")  # nor NaN
    share, paths = arrays["probabilities"], arrays["paths"]
    require(((share >= 0) & (share <= 1)).all(), "probabilities outside 0 to 1")
    require(arrays["classes"].shape[1] == share.shape[1] == classes > 0, "classes do not match")
    ended = paths < 0
    valid = ((paths >= -1) & (paths <= 3)).all() and (ended[..., :-1] <= ended[..., 1:]).all()
    require(valid, "paths: a child is 0 to 3, or -1 with all below it")
    side = arrays["pixels"].shape[1]
    require(steps and side % 2**steps == 0, f"pictures of {side} px for {steps} steps")
    return arrays
