"""Training curves for other programs: CSV, TensorBoard's event files, Weights & Biases offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro import results
from repro.core.curves import AXES, Curve, Training
from repro.results import ResultsError
from repro.spec import canonical

PACKAGES = {"csv": "pandas", "tensorboard": "tensorboard", "wandb": "wandb"}  # each format's


def export(curves: Sequence[Curve], metrics: Sequence[str], form: str, folder: Path) -> int:
    """Write the metrics of every training into the folder; returns the number of trainings.

    'csv' writes curves.csv, with a row for each run and step. 'tensorboard' writes a folder of
    event files for each run, 'wandb' an offline run for each, without using the network.

    Raises ResultsError if the folder cannot be written, or already has the event files of a run,
    and ImportError without the package of the format.
    """
    trainings = [training for curve in curves for training in curve.trainings if training.lines]
    if form == "csv":
        results.write(folder / "curves.csv", _csv(trainings, metrics))
    elif form == "tensorboard":
        _write_events(trainings, metrics, folder)
    else:
        _write_wandb(trainings, metrics, folder)
    return len(trainings)


def _csv(trainings: Sequence[Training], metrics: Sequence[str]) -> str:
    import pandas as pd

    rows = [
        {"run": training.run.id, "seed": training.run.seed, **line}
        for training in trainings
        for line in training.lines
    ]
    frame = pd.DataFrame(rows, columns=["run", "seed", *AXES, *metrics], dtype=object)
    return str(frame.to_csv(index=False, lineterminator="\n"))


def _write_events(trainings: Sequence[Training], metrics: Sequence[str], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for training in trainings:
        if any((folder / training.run.id).glob("events.out.tfevents.*")):
            path = folder / training.run.id
            raise ResultsError(f"{path} has event files already; name another folder")
    for training in trainings:
        with SummaryWriter(folder / training.run.id) as writer:
            for line in training.lines:
                for name, value in _values(line, metrics).items():
                    writer.add_scalar(name, value, line["step"])


def _write_wandb(trainings: Sequence[Training], metrics: Sequence[str], folder: Path) -> None:
    import wandb

    for training in trainings:
        run = training.run
        settings = wandb.Settings(mode="offline", console="off", silent=True)
        with wandb.init(project="repro", name=run.id, id=run.id[-8:], dir=folder, settings=settings,
                        config=canonical(run, defaults=True)) as writer:  # fmt: skip
            for line in training.lines:
                writer.log(_values(line, metrics), step=line["step"])


def _values(line: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """The metrics in a line that have a value."""
    return {name: line[name] for name in metrics if line.get(name) is not None}
