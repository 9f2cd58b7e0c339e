"""What is committed in results/: every folder is the run it is named after; its accuracy
is recounted from the predictions kept with it, its model's size from the model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from repro import results, spec
from repro.experiments.scales import PROXY_FEATURES
from repro.spec import Generation, Profiling
from repro.tasks import profiling

ROOT = Path(__file__).parents[1]


def committed() -> list[Path]:
    """The folders of runs that git has."""
    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted({ROOT / path.rpartition("/")[0] for path in listed.stdout.split()})


def test_there_are_some() -> None:
    assert committed()


@pytest.mark.parametrize("folder", committed(), ids=lambda folder: folder.name)
def test_a_committed_run_is_what_it_says(folder: Path) -> None:
    run = spec.from_json((folder / results.SPEC).read_text())
    assert run.id == folder.name
    assert spec.difference(json.loads((folder / results.SPEC).read_text()), run) is None
    found = results.outcome(ROOT / "results", run)
    assert found.state in ("done", "diverged"), found.note
    assert found.result is not None
    assert not found.result["provenance"]["commit"].endswith("+"), "from a changed checkout"
    if found.state == "diverged":
        return
    metrics = found.result["metrics"]
    if isinstance(run, Generation):
        last = results.read_metrics(folder)[-1]
        assert metrics == {name: value for name, value in last.items() if name != "epoch"}
        assert metrics["step"] == run.recipe.steps
        return
    if isinstance(run, Profiling):
        assert profiling.count(run) == {name: metrics[name] for name in ("parameters", "macs")}
        return
    with np.load(folder / results.PREDICTIONS, allow_pickle=False) as predictions:
        label, top5 = predictions["label"], predictions["top5"]
    assert metrics["test_images"] == len(label)
    assert metrics["top1"] == 100 * int((top5[:, 0] == label).sum()) / len(label)
    assert metrics["top5"] == 100 * int((top5 == label[:, None]).sum()) / len(label)
    assert results.read_metrics(folder)[-1]["lr"] == 0.0, "the schedule ends at zero"


def test_nothing_but_small_files_is_committed() -> None:
    """And of weights, those of the run by which others are measured."""
    kept = {results.SPEC, results.METRICS, results.PREDICTIONS, results.RESULT}
    kept |= {"samples.png", "interpolation.png"}
    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    weights = f"results/{PROXY_FEATURES.id}/{results.WEIGHTS}"
    assert weights in listed
    listed.remove(weights)
    assert {path.rpartition("/")[2] for path in listed} <= kept
    assert max((ROOT / path).stat().st_size for path in listed) < 150_000  # a grid of 64 samples
