"""Finished runs of every kind: complete results with made-up numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repro import artifacts, results
from repro.measures import measure
from repro.spec import Run

_NOTHING: Mapping[str, Any] = {}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


ARRAYS = {
    artifacts.MAPS: npz(
        pixels=np.zeros((1, 8, 8, 3), np.uint8),
        maps=np.zeros((1, 2, 2), np.float32),
        shows=np.array(["Bag"]),
        predicted=np.array(["Bag"]),
        boxes=np.zeros((0, 4), np.int64),
        counts=np.zeros(1, np.int64),
    ),
    artifacts.TREES: npz(
        pixels=np.zeros((1, 8, 8, 3), np.uint8),
        shows=np.zeros((1, 1), np.int64),
        classes=np.zeros((1, 1), np.int64),
        probabilities=np.ones((1, 1), np.float32),
        paths=np.zeros((1, 1, 1), np.int64),
        nodes1=np.ones((1, 1, 2, 2), np.float32),
        names=np.array(["Bag"]),
    ),
}


def metrics(run: Run, given: Mapping[str, float]) -> dict[str, float]:
    """All that a result of the run must have; what is not given is 1, or within its interval."""
    found = dict[str, float]()
    for name in run.metrics:
        base = name.removesuffix("_low").removesuffix("_high")
        found[name] = given.get(base, 1 if measure(base).whole else 1.0)
    return found | dict(given)


def files(run: Run, measured: Mapping[str, float]) -> dict[str, bytes]:
    """The files that a result of the run must have."""
    lines = [json.dumps({**measured, "step": step}) + "\n" for step in run.evaluations]
    every = {artifacts.METRICS: "".join(lines).encode(), **ARRAYS}
    return {name: every[name] for name in artifacts.needed(run)}


def finish(
    root: Path,
    run: Run,
    given: Mapping[str, float] = _NOTHING,
    *,
    kept: Mapping[str, bytes] = _NOTHING,
    provenance: Mapping[str, Any] = _NOTHING,
) -> Path:
    """A finished run under `root`, with some of its metrics and its files; its folder."""
    folder, measured = results.begin(root, run), metrics(run, given)
    result = {"status": "done", "metrics": measured, "provenance": dict(provenance)}
    results.finish(folder, result, files(run, measured) | dict(kept))
    return folder
