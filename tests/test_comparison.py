"""`repro compare` and `repro rerun`: two runs side by side."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from repro import cli, results
from repro.comparison import Comparison, compare, judge_repetition, seeds_of
from repro.spec import Run

ROOT = Path(__file__).parents[1] / "results"
Capture = pytest.CaptureFixture[str]


def stored(pattern: str, root: Path = ROOT) -> tuple[Path, Run]:
    (folder,) = root.glob(pattern)
    return root, results.stored_run(folder)


SLOW = stored("nest-tiny-cifar-cifar10-validation-2ep-s0-f3e00c3e")
FAST = stored("nest-tiny-cifar-cifar10-validation-2ep-s0-6177421f")
CUES = stored("nest-small-imagenet-cues-local-plain-6ep-s0-*")
TREES = stored("gradcat-ascent-input-nest-small-imagenet-cues-local-plain-s0-b2c34522")
OTHER_TREES = stored("gradcat-ascent-input-nest-small-imagenet-cues-local-plain-s1-71ab2b0a")


def test_a_run_is_equal_to_itself() -> None:
    found = compare(SLOW, SLOW)
    assert found.is_equal
    assert found.spec == found.environment == found.files == ()
    assert all((p.only_first, p.only_second, p.p) == (0, 0, 1.0) for p in found.paired)
    assert judge_repetition(found, "top1", [50.0]) == "equal"


def test_what_differs_is_listed() -> None:
    found = compare(SLOW, FAST)
    assert not found.is_equal
    assert [(each.name, each.first, each.second) for each in found.spec] == [
        ("recipe.lr", 5e-4, 1e-3)
    ]
    metrics = {each.name: (each.first, each.second) for each in found.metrics}
    assert metrics["test_images"] == (8330, 8330)
    assert found.curve == "differ from line 1 (step 652): lr 0.000374535 and 0.00074907"
    assert {each.name for each in found.files} >= {"metrics.jsonl", "predictions.npz"}


def test_runs_without_training_have_no_curves() -> None:
    assert compare(TREES, TREES).is_equal
    assert compare(TREES, OTHER_TREES).curve == "neither has one"


def test_predictions_are_paired_by_image() -> None:
    """Counts and p-value, from the stored arrays."""
    top1, _ = compare(SLOW, FAST).paired
    arrays = [results.arrays(*each, results.PREDICTIONS) for each in (SLOW, FAST)]
    right = [a["top5"][:, 0] == a["label"] for a in arrays if a is not None]
    assert top1.metric == "top1"
    assert top1.images == len(right[0])
    assert top1.both == int(np.sum(right[0] & right[1]))
    only = int(np.sum(right[0] & ~right[1])), int(np.sum(right[1] & ~right[0]))
    assert (top1.only_first, top1.only_second) == only
    exact = 2 * stats.binom.cdf(min(only), sum(only), 0.5)
    assert top1.p == pytest.approx(exact)
    assert compare(SLOW, CUES).unpaired == "they were tested on different images"


def moved(found: Comparison, by: float) -> Comparison:
    """As if the second run had measured another top-1."""
    shifted = [
        replace(each, second=float(str(each.first)) + by) if each.name == "top1" else each
        for each in found.metrics
    ]
    return replace(found, metrics=tuple(shifted))


def test_a_repetition_is_judged_by_the_spread_of_the_seeds() -> None:
    found = compare(SLOW, SLOW)
    mean = float(str(next(each.first for each in found.metrics if each.name == "top1")))
    seeds = [mean - 1.0, mean, mean + 1.0]
    width = float(stats.t.ppf(0.975, 2)) * np.sqrt(1 + 1 / 3)
    assert judge_repetition(moved(found, width - 1e-6), "top1", seeds) == "within"
    assert judge_repetition(moved(found, width + 1e-6), "top1", seeds) == "outside"
    assert judge_repetition(moved(found, -width - 1e-6), "top1", seeds) == "outside"
    assert judge_repetition(moved(found, 0.1), "top1", seeds[:2]) == "undecided"
    assert judge_repetition(moved(found, 0.1), "top1", [mean] * 3) == "undecided"


def test_seeds_are_those_of_the_same_run() -> None:
    assert len(seeds_of(*CUES, "top1")) == 5
    assert len(seeds_of(*SLOW, "top1")) == 1


def test_a_run_without_a_result_is_refused(tmp_path: Path) -> None:
    results.begin(tmp_path, SLOW[1])
    with pytest.raises(results.ResultsError, match="is started; `repro status`"):
        compare(SLOW, (tmp_path, SLOW[1]))


# --- the commands --------------------------------------------------------------------------------


def test_two_runs_on_the_command_line(capsys: Capture) -> None:
    words = ["compare", SLOW[1].id, FAST[1].id[:-4], "--results", str(ROOT)]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "\n  recipe.lr  0.0005  0.001\n" in text
    assert "predictions, top1: of 8,330 images " in text
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"] == SLOW[1].id
    assert cli.main(["compare", SLOW[1].id, "--results", str(ROOT)]) == 2
    assert cli.main(["compare", SLOW[1].id, "nothing", "--results", str(ROOT)]) == 2
    assert "no run 'nothing'" in capsys.readouterr().err


def test_a_run_is_trained_again(tmp_path: Path, capsys: Capture) -> None:
    """Equal to the byte here; then its committed numbers are altered, and that is noticed."""
    here, again = tmp_path / "results", tmp_path / "again"
    first = ["table1", "--only", "NesT-T", "--scale", "smoke", "--launch", "local", "--out",
             str(tmp_path), "--results", str(here)]  # fmt: skip
    assert cli.main(first) == 0
    run = next(path.name for path in here.iterdir() if (path / results.RESULT).exists())
    capsys.readouterr()
    words = ["rerun", run, "--results", str(here), "--into", str(again)]
    assert cli.main([*words, "--dry-run"]) == 0
    assert not again.exists()
    capsys.readouterr()
    assert cli.main(words) == 0
    assert f"{run}: equal to the byte" in capsys.readouterr().out
    shutil.rmtree(here / run)
    other = results.begin(here, results.stored_run(again / run))
    result = json.loads((again / run / results.RESULT).read_text())
    lines = results.read_metrics(again / run)
    results.write_metrics(other, [{**line, "train_loss": 1.0} for line in lines])
    kept = {results.PREDICTIONS: (again / run / results.PREDICTIONS).read_bytes()}
    results.finish(other, {k: v for k, v in result.items() if k != "files"}, kept)
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "not equal; fewer than three seeds" in text
    assert "curves: differ from line 1 (step" in text
    for refused, why in (
        (["--into", str(here)], "--into names the folder of the run itself"),
        (["--only", "NesT-T"], "--only and --budget choose among runs"),
    ):
        assert cli.main([*words, *refused]) == 2
        assert why in capsys.readouterr().err
