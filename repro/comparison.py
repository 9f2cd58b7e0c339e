"""Two runs side by side: their specs, environments, numbers, curves and predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from repro import results
from repro.core.verdict import MIN_SEEDS, summarize
from repro.spec import Run, canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.05  # of the prediction interval in `judge_repetition`
# In every result anew, so no reason for another number.
_VOLATILE = ("seconds", "started", "earlier")
_NO_CURVE = "neither has one"

Repetition = Literal["equal", "within", "outside", "undecided"]


@dataclass(frozen=True)
class Field:
    """A value that differs; None where one has none."""

    name: str
    first: object
    second: object


@dataclass(frozen=True)
class Paired:
    """How two runs predict the same test images, by one metric.

    `p`: exact two-sided McNemar test of equally many images that only one has right.
    """

    metric: str
    images: int
    both: int
    only_first: int
    only_second: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    first: str
    second: str
    spec: tuple[Field, ...]
    environment: tuple[Field, ...]
    metrics: tuple[Field, ...]  # of both, equal or not
    curve: str  # where the curves part, in words
    files: tuple[Field, ...]  # whose digests differ
    paired: tuple[Paired, ...]
    unpaired: str  # why predictions are not paired; '' if they are

    @property
    def is_equal(self) -> bool:
        """Whether all numbers, curves and files are equal."""
        same = all(each.first == each.second for each in self.metrics)
        return same and self.curve in ("equal", _NO_CURVE) and not self.files


def compare(first: tuple[Path, Run], second: tuple[Path, Run]) -> Comparison:
    """Compare two finished runs, each a results folder and a run.

    ResultsError if one has no sound result.
    """
    one, other = _result(*first), _result(*second)
    runs = first[1], second[1]
    paired, unpaired = _pair(first, second)
    return Comparison(
        runs[0].id,
        runs[1].id,
        tuple(_differences(*(_flat(canonical(run, defaults=True)) for run in runs))),
        tuple(_differences(*(_environment(result) for result in (one, other)))),
        tuple(_both(one["metrics"], other["metrics"])),
        _curve(results.folder(*first), results.folder(*second)),
        tuple(_differences(one.get("files", {}), other.get("files", {}))),
        paired,
        unpaired,
    )


def _result(root: Path, run: Run) -> results.Result:
    outcome = results.outcome(root, run)
    if outcome.result is None:
        why = outcome.note or f"{run.id} is {outcome.state}; `repro status` lists the finished runs"
        raise results.ResultsError(why)
    return outcome.result


def _environment(result: results.Result) -> dict[str, object]:
    about = result.get("provenance", {})
    return {name: value for name, value in _flat(about).items() if name not in _VOLATILE}


def _flat(value: object, name: str = "") -> dict[str, object]:
    """The leaves of nested objects, by their path: 'recipe.lr'."""
    if not isinstance(value, Mapping):
        return {name: value}
    leaves = dict[str, object]()
    for key, inner in value.items():
        leaves |= _flat(inner, f"{name}.{key}".lstrip("."))
    return leaves


def _differences(first: Mapping[str, object], second: Mapping[str, object]) -> Iterator[Field]:
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            yield Field(name, first.get(name), second.get(name))


def _both(first: Mapping[str, object], second: Mapping[str, object]) -> Iterator[Field]:
    for name in sorted({*first, *second}):
        yield Field(name, first.get(name), second.get(name))


def _curve(first: Path, second: Path) -> str:
    """'equal', 'neither has one', or the first step at which a value differs, with the values."""
    lines = [results.read_metrics(folder) for folder in (first, second)]
    if not any(lines):
        return _NO_CURVE
    for number, (one, other) in enumerate(zip(*lines, strict=False), start=1):
        for name in sorted({*one, *other}):
            if one.get(name) != other.get(name):
                where = f"line {number} (step {one.get('step')})"
                return f"differ from {where}: {name} {_apart(one.get(name), other.get(name))}"
    counts = [len(each) for each in lines]
    return "equal" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]} lines"


def _apart(one: object, other: object) -> str:
    """Two unequal values in six digits, or in all of them where six are the same."""
    short = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in (one, other)]
    return " and ".join(short if short[0] != short[1] else [str(one), str(other)])


def _pair(first: tuple[Path, Run], second: tuple[Path, Run]) -> tuple[tuple[Paired, ...], str]:
    """The predictions of two runs, paired by test image; or why they are not."""
    one, other = (results.arrays(*each, results.PREDICTIONS) for each in (first, second))
    if one is None or other is None:
        return (), "not every run has predictions"
    common = [name for name in first[1].image_metrics if name in second[1].image_metrics]
    if not common:
        return (), "they have no metric of single images in common"
    if not ("label" in one and "label" in other and _same(one["label"], other["label"])):
        return (), "they were tested on different images"
    pairs = ((first[1].correct(one, name), second[1].correct(other, name)) for name in common)
    return tuple(_paired(name, *pair) for name, pair in zip(common, pairs, strict=True)), ""


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def _paired(metric: str, first: NDArray[Any], second: NDArray[Any]) -> Paired:
    from scipy.stats import binomtest

    one, other = first.astype(bool), second.astype(bool)
    only = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    return Paired(metric, len(one), int((one & other).sum()), *only, p)


# --- the same run, trained again -----------------------------------------------------------------


def judge_repetition(comparison: Comparison, metric: str, seeds: Sequence[float]) -> Repetition:
    """Whether a run that was trained again is the run.

    Args:
        seeds: the metric of the committed runs that differ from it in their seed alone, itself
            included.

    'equal': in every number, curve and file. 'within', 'outside': its metric lies within the 95 %
    prediction interval for one more seed, or not. 'undecided': there are fewer than three seeds.
    """
    if comparison.is_equal:
        return "equal"
    again = next((each.second for each in comparison.metrics if each.name == metric), None)
    summary = summarize(seeds)
    if summary.n < MIN_SEEDS or not summary.spread or not isinstance(again, int | float):
        return "undecided"
    from scipy.stats import t

    assert summary.mean is not None
    width = t.ppf(1 - LEVEL / 2, summary.n - 1) * summary.spread * math.sqrt(1 + 1 / summary.n)
    return "within" if abs(again - summary.mean) <= width else "outside"


def seeds_of(root: Path, run: Run, metric: str) -> list[float]:
    """The metric of the finished runs that differ from a run in their seed alone."""
    values, seed = [], 0
    while seed <= run.seed or results.outcome(root, replace(run, seed=seed)).state != "missing":
        outcome = results.outcome(root, replace(run, seed=seed))
        if outcome.state == "done" and outcome.result and metric in outcome.result["metrics"]:
            values.append(float(outcome.result["metrics"][metric]))
        seed += 1
    return values
