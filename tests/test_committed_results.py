"""What is committed in results/: every folder is the run it is named after; its accuracy
is recounted from the predictions kept with it, its model's size from the model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro import results, spec
from repro.experiments.demo import FEATURES
from repro.spec import Generation, Localization, Profiling, Traversal
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
    with np.load(folder / results.PREDICTIONS, allow_pickle=False) as stored:
        predictions = dict(stored)
    if isinstance(run, Localization):
        prefix = "ceiling_" if run.attribution == "ceiling" else ""
        check_boxes({n.removeprefix(prefix): v for n, v in metrics.items()}, predictions)
        return
    if isinstance(run, Traversal):
        check_paths(metrics, predictions)
        return
    label, top5 = predictions["label"], predictions["top5"]
    assert metrics["test_images"] == len(label)
    assert metrics["top1"] == 100 * int((top5[:, 0] == label).sum()) / len(label)
    assert metrics["top5"] == 100 * int((top5 == label[:, None]).sum()) / len(label)
    assert results.read_metrics(folder)[-1]["lr"] == 0.0, "the schedule ends at zero"


def check_boxes(metrics: dict[str, float], kept: dict[str, Any]) -> None:
    """Shares of images by their best IoU, which is in ten-thousandths."""
    for name, iou in (
        ("gt_known", "iou"),
        ("max_box_acc", "iou_oracle"),
        ("gt_known_fixed", "iou_fixed"),
    ):
        assert metrics[name] == pytest.approx(100 * (kept[iou] >= 5000).mean())
    for tenth in range(1, 10):
        share = (kept["iou"] >= 1000 * tenth).mean()
        assert metrics[f"gt_known_iou{10 * tenth}"] == pytest.approx(100 * share)
    every = (kept["iou_every_oracle"] >= [3000, 5000, 7000]).mean()
    assert metrics["max_box_acc_v2"] == pytest.approx(100 * every)
    if "label" in kept:
        right = kept["label"] == kept["predicted"]
        assert metrics["top1"] == pytest.approx(100 * right.mean())
        wrong = ~(right & (kept["iou"] >= 5000))
        assert metrics["top1_error"] == pytest.approx(100 * wrong.mean())


def check_paths(metrics: dict[str, float], kept: dict[str, Any]) -> None:
    """Shares of objects; of four in a picture, one lies in each quadrant."""
    for place, name in enumerate(("quadrant", "leaf", "leaf_most")):
        assert metrics[name] == pytest.approx(100 * kept["hits"][:, :, place].mean())
    assert metrics["undecided"] == pytest.approx(100 * (kept["path"][:, :, -1] < 0).mean())
    if kept["label"].shape[1] == 4:
        entered = kept["path"][:, :, 0] == np.arange(4)
        undecided = kept["path"][:, :, -1] < 0  # a path that ends early may have entered
        assert (kept["hits"][:, :, 0] <= entered).all()
        assert (kept["hits"][:, :, 0] == entered)[~undecided].all()


def test_nothing_but_small_files_is_committed() -> None:
    """And of weights, those of the run by which others are measured."""
    kept = {results.SPEC, results.METRICS, results.PREDICTIONS, results.RESULT}
    kept |= {"samples.png", "interpolation.png", "maps.npz", "trees.npz"}
    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    weights = f"results/{FEATURES.id}/{results.WEIGHTS}"
    assert weights in listed
    listed.remove(weights)
    assert {path.rpartition("/")[2] for path in listed} <= kept
    assert max((ROOT / path).stat().st_size for path in listed) < 150_000  # a grid of 64 samples
