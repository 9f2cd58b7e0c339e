"""Finished runs of every kind: complete results with made-up numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repro import results
from repro.core.measures import measure
from repro.kinds import localization, traversal
from repro.spec import Run

_NOTHING: Mapping[str, Any] = {}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


ARRAYS = {
    localization.MAPS: npz(
        pixels=np.zeros((1, 8, 8, 3), np.uint8),
        maps=np.zeros((1, 2, 2), np.float32),
        shows=np.array(["Bag"]),
        predicted=np.array(["Bag"]),
        boxes=np.zeros((0, 4), np.int64),
        counts=np.zeros(1, np.int64),
    ),
    traversal.TREES: npz(
        pixels=np.zeros((1, 8, 8, 3), np.uint8),
        shows=np.zeros((1, 1), np.int64),
        classes=np.zeros((1, 1), np.int64),
        probabilities=np.ones((1, 1), np.float32),
        paths=np.zeros((1, 1, 1), np.int64),
        nodes1=np.ones((1, 1, 2, 2), np.float32),
        names=np.array(["Bag"]),
    ),
}


def metrics(run: Run, values: Mapping[str, float]) -> dict[str, float]:
    """All metrics that a result of the run must have: `values`, or else 1."""
    filled = dict[str, float]()
    for name in run.metrics:
        base = name.removesuffix("_low").removesuffix("_high")
        filled[name] = values.get(base, 1 if measure(base).whole else 1.0)
    return filled | dict(values)


def files(run: Run, metrics: Mapping[str, float]) -> dict[str, bytes]:
    """The files that a result of the run must have."""
    lines = [json.dumps({**metrics, "step": step}) + "\n" for step in run.evaluations]
    every = {results.METRICS: "".join(lines).encode(), **ARRAYS}
    return {name: every[name] for name in run.required_files}


def finish(
    root: Path,
    run: Run,
    values: Mapping[str, float] = _NOTHING,
    *,
    extra_files: Mapping[str, bytes] = _NOTHING,
    provenance: Mapping[str, Any] = _NOTHING,
) -> Path:
    """Finish a run under `root` with these metrics and additional files; returns its folder."""
    folder, all_metrics = results.begin(root, run), metrics(run, values)
    result = {"status": "done", "metrics": all_metrics, "provenance": dict(provenance)}
    results.finish(folder, result, files(run, all_metrics) | dict(extra_files))
    return folder
