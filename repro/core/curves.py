"""Training curves: the metrics of trainings by step, and their bands over seeds.

A training may still be going on: what it has written so far is read from its files alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from repro import results
from repro.core import plan, records
from repro.core.artifacts import Line
from repro.core.columns import scaled_columns
from repro.core.measures import ACCURACIES, MEASURES
from repro.core.scales import runs_at_scale
from repro.core.scales import title as dataset_title
from repro.results import ResultsError, State
from repro.spec import Cell, Experiment, Run, Scale, canonical, dataset_of, with_seeds

AXES = ("step", "epoch")
_NAMES = {"lr": "learning rate", "train_loss": "training loss", "loss": "test loss",
          "r1": "R1 penalty"}  # fmt: skip
_MAX_DIFFERENCE = 40  # characters in a label


Labels = Callable[[Sequence[Run]], Mapping[Run, str]]  # by the run at seed 0


@dataclass(frozen=True)
class Training:
    """What a training has written so far: `lines` by step, the last one with its final accuracy."""

    run: Run
    state: State
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Curve:
    """One line of a plot: the trainings that differ by seed alone."""

    label: str
    trainings: tuple[Training, ...]


@dataclass(frozen=True)
class Band:
    """A metric by epoch or step: mean, minimum and maximum over the seeds that have come so far."""

    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: tuple[int, ...]  # how many, for each x


def read(root: Path, run: Run) -> Training:
    """The training as its files are now; a last line that is still being written is left out.

    Raises ResultsError if a file of the run is damaged or its folder holds another run.
    """
    outcome = results.outcome(root, run)
    if outcome.note:
        raise ResultsError(outcome.note)
    lines = results.metrics_so_far(results.folder(root, run))
    if outcome.result and lines:
        measured = outcome.result["metrics"]
        final: Line = {name: measured[name] for name in ACCURACIES if name in measured}
        lines[-1] = final | lines[-1]
    return Training(run, outcome.state, tuple(lines))


def of_runs(root: Path, runs: Iterable[Run]) -> list[Curve]:
    """A curve for each of the runs apart from its seed, with a label of what differs.

    Raises ResultsError as `read`.
    """
    return _curves(root, runs, short_names)


def of_item(
    root: Path, experiment: Experiment, scale: Scale, seeds: int, only: Sequence[str] = ()
) -> list[Curve]:
    """A curve for each training of an item; of a cell that only tests a model, for the model's.

    Trainings that have not begun are in it too. `only`: row patterns. Raises ResultsError as
    `read`.
    """
    cells_of = dict[Run, list[Cell]]()
    for cell, run in runs_at_scale(plan.select(experiment, only), scale):
        for seeded in with_seeds(run, seeds):
            if training := training_of(seeded):
                cells_of.setdefault(training, []).append(cell)
    columns = _dataset_columns(cells_of) if scale != "paper" else {}
    columns |= scaled_columns(experiment, scale)
    firsts = {replace(run, seed=0): cells for run, cells in cells_of.items()}
    return _curves(root, cells_of, lambda runs: _labels({r: firsts[r] for r in runs}, columns))


def training_of(run: Run) -> Run | None:
    """The run if it is a training, else the one that it starts from; None without a training."""
    if run.is_training or run.starts_from is None:
        return run if run.is_training else None
    return training_of(run.starts_from)


def _curves(root: Path, runs: Iterable[Run], labels: Labels) -> list[Curve]:
    """The runs read, together with those that differ by seed alone, under the labels."""
    by_first = dict[Run, list[Training]]()
    for run in runs:
        by_first.setdefault(replace(run, seed=0), []).append(read(root, run))
    names = labels(list(by_first))
    return [
        Curve(names[first], tuple(sorted(trainings, key=lambda each: each.run.seed)))
        for first, trainings in by_first.items()
    ]


# --- numbers -------------------------------------------------------------------------------------


def axis(curves: Iterable[Curve]) -> str:
    """'epoch' if every line has one, else 'step'."""
    epochs = [line.get("epoch") for line in lines(curves)]
    return "step" if None in epochs else "epoch"


def metrics(curves: Iterable[Curve]) -> list[str]:
    """Every metric that any of the curves has, in the order of their lines."""
    names = (name for line in lines(curves) for name, value in line.items() if value is not None)
    return [name for name in dict.fromkeys(names) if name not in AXES]


def main_metrics(curves: Sequence[Curve]) -> list[str]:
    """The losses, the learning rate, and the first metric of each kind of run."""
    names = metrics(curves)
    first = {t.run.metrics[0] for c in curves for t in c.trainings if t.run.metrics}
    losses = [name for name in names if name.endswith("loss")]
    others = [name for name in names if name in first and name not in losses]
    return [*losses, *(["lr"] if "lr" in names else []), *others]


def band(curve: Curve, metric: str, axis: str) -> Band:
    """The metric over the seeds at each step at which any of them has it."""
    values, places = dict[float, list[float]](), dict[float, float]()
    for line in lines([curve]):
        value, step = line.get(metric), line["step"] or 0
        if value is not None:
            values.setdefault(step, []).append(value)
            places.setdefault(step, line[axis] or 0)
    by_step = [values[step] for step in sorted(values)]
    return Band(
        x=tuple(places[step] for step in sorted(values)),
        mean=tuple(map(fmean, by_step)),
        low=tuple(map(min, by_step)),
        high=tuple(map(max, by_step)),
        seeds=tuple(map(len, by_step)),
    )


def lines(curves: Iterable[Curve]) -> Iterator[Line]:
    """Every line of metrics of the curves."""
    for curve in curves:
        for training in curve.trainings:
            yield from training.lines


# --- names ---------------------------------------------------------------------------------------


def title(metric: str) -> str:
    """The metric's name: 'training loss', 'top-1 accuracy in percent'."""
    name = MEASURES[metric].name if metric in MEASURES else metric.replace("_", " ")
    return _NAMES.get(metric, name)


def state_note(curves: Sequence[Curve]) -> str:
    """Which of the trainings are not, or not wholly, in their curves; '' if all are."""
    trainings = [training for curve in curves for training in curve.trainings]
    begun = [training for training in trainings if training.lines]
    texts = []
    if ongoing := sum(training.state == "started" for training in begun):
        texts.append(f"Not finished: {ongoing} of {len(begun)} trainings; means are over the seeds "
                     f"that have come to the {axis(curves)}.")  # fmt: skip
    if diverged := sum(training.state == "diverged" for training in begun):
        texts.append(f"Diverged: {diverged} of {len(begun)} trainings.")
    if absent := len(trainings) - len(begun):
        texts.append(f"No metrics yet: {absent} of {len(trainings)} trainings.")
    return " ".join(texts)


def common_name(runs: Sequence[Run]) -> str:
    """The words that all of the runs' ids have at their beginning and end, with '…' between."""
    words = [_words(run) for run in runs]
    before, after = _ends(words)
    middle = ["…"] if len(words[0]) > before + after or len({*map(len, words)}) > 1 else []
    return "-".join([*words[0][:before], *middle, *words[0][len(words[0]) - after :]])


def short_names(runs: Sequence[Run]) -> dict[Run, str]:
    """What differs between the runs: words of their ids, and values where these are equal."""
    words = {run: _words(run) for run in runs}
    before, after = _ends(list(words.values())) if len(runs) > 1 else (0, 0)
    names = {run: "-".join(each[before : len(each) - after]) for run, each in words.items()}
    repeated = {name for name, count in Counter(names.values()).items() if count > 1}
    for name in repeated:
        equal = [run for run in runs if names[run] == name]
        names |= {run: ", ".join(filter(None, (name, _difference(run, equal)))) for run in equal}
    return names


def _words(run: Run) -> list[str]:
    """The words of a run's id, without seed and hash."""
    return run.slug.removesuffix(f"-s{run.seed}").split("-")


def _ends(lists: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many words all lists have in common at their beginning, and then at their end."""
    before = len(_common(lists))
    return before, len(_common([each[before:][::-1] for each in lists]))


def _common(lists: Sequence[Sequence[str]]) -> list[str]:
    """The words that all lists begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False))
    return [column[0] for column in columns]


def _difference(run: Run, others: Sequence[Run]) -> str:
    """'lr 0.001, mixup_alpha 0.8': the values that differ; the hash if they are many or long."""
    stored = [dict(_flat(canonical(each, defaults=True))) for each in others]
    names = dict.fromkeys(name for values in stored for name in values)
    differ = [name for name in names if len({values.get(name) for values in stored}) > 1]
    texts = [
        ", ".join(f"{name.rpartition('.')[2]} {values.get(name, 'none')}" for name in differ)
        for values in stored
    ]
    if max(map(len, texts)) > _MAX_DIFFERENCE:
        return run.id.rpartition("-")[2]
    return texts[others.index(run)]


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The plain values of a spec, as text, by their places; a list of pairs counts as fields."""
    if isinstance(value, list) and value and all(_is_field(item) for item in value):
        value = dict(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{place}.{name}")
    else:
        yield place, value if isinstance(value, str) else records.encode(value)


def _is_field(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _labels(cells_of: Mapping[Run, Sequence[Cell]], columns: Mapping[str, str]) -> dict[Run, str]:
    """The names of rows, columns and panels that tell the trainings apart."""
    shown = {
        run: [
            dict.fromkeys(cell.row for cell in cells),
            dict.fromkeys(columns.get(cell.column, cell.column) for cell in cells),
            dict.fromkeys(cell.panel for cell in cells),
        ]
        for run, cells in cells_of.items()
    }
    used = [
        kind
        for kind in range(3)
        if all(len(names[kind]) == 1 for names in shown.values())
        and len({next(iter(names[kind])) for names in shown.values()}) > 1
    ]
    labels = {
        run: ", ".join(filter(None, (next(iter(names[kind])) for kind in used)))
        for run, names in shown.items()
    }
    for label, count in Counter(labels.values()).items():
        if count > 1 or not label:
            equal = [run for run in labels if labels[run] == label]
            short = short_names(equal)
            labels |= {run: ", ".join(filter(None, (label, short[run]))) for run in equal}
    return labels


def _dataset_columns(cells_of: Mapping[Run, Sequence[Cell]]) -> dict[str, str]:
    """Columns that are the only one with their dataset -> that dataset's name."""
    datasets = dict[str, set[str]]()
    for run, cells in cells_of.items():
        for cell in cells:
            datasets.setdefault(cell.column, set()).add(dataset_title(dataset_of(run)))
    every = [name for names in datasets.values() for name in names]
    return {
        column: next(iter(names))
        for column, names in datasets.items()
        if len(names) == 1 and every.count(next(iter(names))) == 1
    }
