"""The files of a result, beside the result itself: what each must hold, and how that is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import measures
from repro.records import Damaged, arrays_of, decode, opened, require
from repro.spec import Classification, Localization, Run, Traversal

if TYPE_CHECKING:
    from numpy.typing import NDArray

METRICS, PREDICTIONS, WEIGHTS = "metrics.jsonl", "predictions.npz", "weights.safetensors"
MAPS, TREES, SAMPLES = "maps.npz", "trees.npz", "samples/"
LOOKED_AT = ("samples.png", "interpolation.png", f"{SAMPLES}*.png")
READ = (METRICS, PREDICTIONS, MAPS, TREES)  # by whatever draws

MOST_BYTES = 2**30  # of a file but the weights

Line = dict[str, int | float | None]  # of METRICS

_IMAGES, _TEXTS, _NUMBERS, _FLOATS = ("u", 4), ("U", 1), "iu", "f"


def digest(data: bytes) -> str:
    """The SHA-256 that a result has of a file."""
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    """The same of a file of any size. Raises OSError, or Damaged if it is no regular file."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path, known: Container[str] = ()) -> dict[str, str]:
    """The digests of a result's files in a folder, by name, without those `known`."""
    patterns = (*READ, *LOOKED_AT, WEIGHTS)
    paths = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: digest_of(path) for name, path in named.items() if name not in known}


def may_lack(name: str) -> bool:
    """Whether a result is whole without the file: it is not in git."""
    return name == WEIGHTS or name.startswith(SAMPLES)


def needed(run: Run) -> set[str]:
    """The files without which something that is drawn of a finished run would have a hole."""
    if isinstance(run, Localization):
        return {MAPS} if run.classifier else set()
    if isinstance(run, Traversal):
        return {TREES}
    return {METRICS} if any(run.evaluations) else set()


def verify(name: str, data: bytes, run: Run, result: Mapping[str, Any]) -> None:
    """Raise Damaged if a file of the run does not hold what it must, or not what was counted."""
    if name == METRICS:
        found = lines(data, steps=True)
        if result["status"] == "done":
            _require_evaluations(found, run, result["metrics"])
    elif name == PREDICTIONS and isinstance(run, Classification) and "top1" in result["metrics"]:
        _recount(data, result["metrics"])
    elif name == MAPS:
        maps(data)
    elif name == TREES:
        trees(data)


def lines(data: bytes, *, steps: bool = False) -> list[Line]:
    """The lines of METRICS. Raises Damaged if one is none, or, with `steps`, out of order."""
    found = []
    for number, text in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            found.append(check_line(decode(text, Line)))
        except Damaged as error:
            raise Damaged(f"line {number}: {error}") from error
    require(not data or data.endswith(b"\n"), f"line {len(found) + 1} is cut short")
    if steps:
        places = [line.get("step") for line in found]
        whole = [place for place in places if isinstance(place, int)]
        good = len(whole) == len(places) and whole == sorted(set(whole))
        require(good, "lines whose steps do not rise")
    return found


def _require_evaluations(found: Iterable[Line], run: Run, metrics: Mapping[str, Any]) -> None:
    """Damaged unless there are the metrics of every evaluation, and the last are the result's."""
    by_step = {line.get("step"): line for line in found}
    step = 0
    for step in run.evaluations:
        require(step in by_step, f"no line of step {step}")
        for name in run.metrics:
            require(by_step[step].get(name) is not None, f"no {name!r} in the line of step {step}")
    for name, value in by_step[step].items() if step else ():
        same = name not in metrics or metrics[name] == value
        require(same, f"{name!r} of its last step is not that of the result")


def check_line(line: Line) -> Line:
    """A line of METRICS; Damaged if a number in it cannot be."""
    known = {name: value for name, value in line.items() if value is not None}
    require(not (wrong := measures.wrong(known)), wrong)
    return line


def _recount(data: bytes, metrics: Mapping[str, Any]) -> None:
    """Count the accuracy again: a share that is taken for percent would pass for a number."""
    found = arrays_of(data, {"label": (_NUMBERS, 1), "top5": (_NUMBERS, 2)})
    label, top5 = found["label"], found["top5"]
    require(len(label) == len(top5) > 0 < top5.shape[1], "labels and predictions do not match")
    right = top5 == label[:, None]
    for name, count in (("top1", right[:, 0].sum()), ("top5", right.sum())):
        percent = 100 * int(count) / len(label)
        wrong = abs(metrics.get(name, percent) - percent) > 1e-6
        require(not wrong, f"its predictions give {name} {percent:g}, not {metrics.get(name)!r}")


def maps(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of MAPS: pictures, and what a classifier sees in each. Raises Damaged."""
    shapes = {"pixels": _IMAGES, "maps": (_FLOATS, 3), "shows": _TEXTS, "predicted": _TEXTS,
              "boxes": (_NUMBERS, 2), "counts": (_NUMBERS, 1)}  # fmt: skip
    found = arrays_of(data, shapes)
    _check_pictures(found, ("maps", "shows", "predicted", "counts"))
    counts, boxes = found["counts"], found["boxes"]
    good = (counts >= 0).all() and int(counts.sum()) == len(boxes) and boxes.shape[1] == 4
    require(good, "boxes and their counts do not match")
    require(found["maps"].size, "maps without a value")
    return found


def trees(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of TREES: pictures, and the ways of classes down the blocks. Raises Damaged."""
    shapes = {"pixels": _IMAGES, "shows": (_NUMBERS, 2), "classes": (_NUMBERS, 2),
              "probabilities": (_FLOATS, 2), "paths": (_NUMBERS, 3), "names": _TEXTS}  # fmt: skip
    found = arrays_of(data, shapes)
    levels = sorted(name for name in found if name.startswith("nodes"))
    _check_pictures(found, ("shows", "classes", "probabilities", "paths", *levels))
    for name in ("shows", "classes"):
        labels = found[name]
        good = ((labels >= 0) & (labels < len(found["names"]))).all()
        require(good, f"labels in {name!r} that no class has")
    classes, steps = found["paths"].shape[1:]
    require(levels == [f"nodes{step}" for step in range(1, steps + 1)], f"levels {levels}")
    for step, level in enumerate(levels, start=1):
        array, shape = found[level], (classes, 2**step, 2**step)
        fits = array.dtype.kind == _FLOATS and array.shape[1:] == shape
        require(fits, f"{level!r} is {array.dtype} of shape {array.shape}")
        require(bool((abs(array) < float("inf")).all()), f"{level!r} is not finite")  # nor NaN
    share, paths = found["probabilities"], found["paths"]
    require(((share >= 0) & (share <= 1)).all(), "probabilities outside 0 to 1")
    require(found["classes"].shape[1] == share.shape[1] == classes > 0, "classes do not match")
    ended = paths < 0
    known = ((paths >= -1) & (paths <= 3)).all() and (ended[..., :-1] <= ended[..., 1:]).all()
    require(known, "paths: a child is 0 to 3, or -1 with all below it")
    side = found["pixels"].shape[1]
    require(steps and side % 2**steps == 0, f"pictures of {side} px for {steps} steps")
    return found


def _check_pictures(found: Mapping[str, NDArray[Any]], others: tuple[str, ...]) -> None:
    """Damaged unless the pictures are square and colour, and the other arrays are as many."""
    count, height, width, channels = found["pixels"].shape
    require(count, "no pictures")
    require(height == width > 0 and channels == 3, f"pictures of {height} x {width} x {channels}")
    for name in others:
        require(len(found[name]) == count, f"{len(found[name])} of {name!r} for {count} pictures")
