"""Small experiments and invented numbers for them, which never leave the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from repro.core.evidence import Evidence, Scores, Training
from repro.core.verdict import summarize
from repro.render.frame import MeasuredRun, tidy
from repro.spec import Cell, Classification, Experiment, Model, PaperValue, Profiling, Recipe, Scale


@dataclass(frozen=True)
class MadeUp(Evidence):
    """Evidence for invented accuracies: of test images that are all as hard."""

    mean: float | None = None

    @cached_property
    def scores(self) -> Scores | None:
        if self.mean is None or not isinstance(self.run, Classification):
            return None
        return np.full(1000, self.mean), "the same images"

    def accuracy(self) -> float | None:
        return self.mean

    def training(self) -> Training | None:
        return Training("4 epochs of 6,000 images", 250_000) if self.mean is not None else None


Values = Mapping[tuple[str, str, str], Sequence[float | None]]  # (row, column, panel) -> seeds

_MODEL = Model.of("nest_tiny_cifar", img_size=32)
_NOWHERE = Path("/nonexistent")


def cell(
    row: str,
    column: str,
    panel: str = "",
    *,
    group: str = "",
    metric: str = "top1",
    dataset: str = "cifar10",
    paper: float | None = None,
    published: PaperValue | None = None,
    epochs: int = 300,
) -> Cell:
    """A cell that a training measures if it is an accuracy, else a profiling."""
    trained = Classification(
        model=_MODEL,
        dataset=dataset,
        recipe=Recipe(epochs=epochs, batch_size=64, lr=1e-3),
        pretrained=None if epochs else "timm:tag",
    )
    device = "" if metric in ("parameters", "macs") else "H100"
    measured = Profiling(model=_MODEL, classes=10, image_size=32, device=device)
    return Cell(
        group=group,
        row=row,
        column=column,
        panel=panel,
        metric=metric,
        run=trained if metric in ("top1", "top5") else measured,
        proxy=trained if metric in ("top1", "top5") and epochs else None,
        paper=None if paper is None else PaperValue(paper, "here"),
        published=published,
    )


def fill_frame(experiment: Experiment, values: Values, scale: Scale = "paper") -> pd.DataFrame:
    """The frame of the experiment with these values; None: this seed diverged."""
    frame, warnings = tidy(experiment, scale, _NOWHERE, seeds=3)
    assert warnings == []
    rows = []
    for row in frame.to_dict("records"):
        seeds = values.get((row["row"], row["column"], row["panel"]), [])
        done = [value for value in seeds if value is not None]
        summary = summarize(done)
        row |= {"mean": summary.mean, "spread": summary.spread, "values": tuple(done)}
        about: Evidence = row["evidence"]
        row["runs"] = tuple(
            MeasuredRun(seed, about.run.id, "diverged" if value is None else "done", value,
                        None, None, "", "", "", "")
            for seed, value in enumerate(seeds)
        )  # fmt: skip
        row["evidence"] = MadeUp(
            _NOWHERE, about.run, tuple(range(summary.n)), about.metric, mean=summary.mean
        )
        rows.append(row | {"n": summary.n, "diverged": len(seeds) - len(done)})
    return pd.DataFrame(rows)
