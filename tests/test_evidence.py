"""Evidence from finished runs: scores per image, accuracies, lengths of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repro import experiments, results
from repro.core.claims import JudgedClaim, judge_claims
from repro.core.evidence import Evidence, Training
from repro.core.scales import runs_at_scale
from repro.experiments import figure2, figure3_left
from repro.render.frame import tidy
from repro.spec import Classification, Explanation, Model, Recipe, Run, with_seeds
from tests import finished

RUN = Classification(
    model=Model.of("nest_tiny_cifar", img_size=32),
    dataset="cifar10",
    recipe=Recipe(epochs=6, batch_size=64, lr=1e-3),
)
LABELS = np.arange(200, dtype=np.uint16) % 4


def finish_with_predictions(
    root: Path, run: Run, right: Sequence[int], second: Sequence[int] = ()
) -> None:
    """Finish a run whose first guess is correct on some images, and its second on others."""
    guesses = np.full((len(LABELS), 5), 9, np.uint16)
    guesses[list(right), 0] = LABELS[list(right)]
    guesses[list(second), 1] = LABELS[list(second)]
    share = 100 / len(LABELS)
    measured = {"top1": share * len(right), "top5": share * (len(right) + len(second))}
    predictions = {results.PREDICTIONS: finished.npz(label=LABELS, top5=guesses)}
    finished.finish(
        root, run, measured, extra_files=predictions, provenance={"parameters": 250_000}
    )


def test_scores_are_averaged_over_seeds(tmp_path: Path) -> None:
    finish_with_predictions(tmp_path, RUN, [0, 1, 2], [3])
    finish_with_predictions(tmp_path, replace(RUN, seed=2), [0, 1, 4], [5])
    found = Evidence(tmp_path, RUN, (0, 2), "top1").scores
    assert found is not None
    assert found[0][:8].tolist() == [100, 100, 50, 0, 50, 0, 0, 0]
    top5 = Evidence(tmp_path, RUN, (0, 2), "top5").scores
    assert top5 is not None
    assert top5[0][:8].tolist() == [100, 100, 50, 50, 50, 50, 0, 0]
    assert top5[1] == found[1]  # the same images


def test_missing_scores(tmp_path: Path) -> None:
    finish_with_predictions(tmp_path, RUN, [0])
    finished.finish(tmp_path, replace(RUN, seed=1), {"top1": 50.0})
    assert Evidence(tmp_path, RUN, (0,), "top1").scores is not None
    assert Evidence(tmp_path, RUN, (0, 1), "top1").scores is None
    assert Evidence(tmp_path, RUN, (0, 2), "top1").scores is None
    assert Evidence(tmp_path, RUN, (), "top1").scores is None
    assert Evidence(tmp_path, RUN, (0,), "loss").scores is None


def test_required_accuracy(tmp_path: Path) -> None:
    """A tenth of the range from chance to 100 % above chance."""
    finish_with_predictions(tmp_path, RUN, range(50))
    found = Evidence(tmp_path, RUN, (0,), "top1")
    assert found.required_accuracy() == pytest.approx(19)
    assert found.accuracy() == 25
    hundred = Evidence(tmp_path, replace(RUN, dataset="cifar100"), (0,), "top1")
    assert hundred.required_accuracy() == pytest.approx(10.9)
    assert hundred.accuracy() is None
    assert (
        Evidence(tmp_path, replace(RUN, dataset="unheard"), (0,), "top1").required_accuracy()
        is None
    )


def test_length_of_training(tmp_path: Path) -> None:
    finish_with_predictions(tmp_path, RUN, [0])
    found = Evidence(tmp_path, RUN, (0,), "top1")
    assert found.training() == Training("6 epochs of 50,000 images", 250_000)
    part = replace(RUN, train_split="fit", recipe=replace(RUN.recipe, epochs=1))
    assert Evidence(tmp_path, part, (0,), "top1").training() == Training(
        "1 epoch of 41,667 images", None
    )
    assert Evidence(tmp_path, RUN, (), "top1").training() is None


# --- a whole item --------------------------------------------------------------------------------


def judge(root: Path, name: str) -> list[JudgedClaim]:
    experiment = experiments.get(name)
    frame, warnings = tidy(experiment, "paper", root, seeds=3)
    assert warnings == []
    return judge_claims(experiment, frame, "paper")


@pytest.mark.parametrize(("shared", "word"), [(True, "holds"), (False, "undecided")])
def test_the_error_of_the_test_images_counts(tmp_path: Path, shared: bool, word: str) -> None:
    """A difference of ten of 200 images is significant if the other correct images are the same."""
    nest, swin = (
        next(c.run for c in experiments.get("table1").cells if (c.row, c.column) == (row, "C10"))
        for row in ("NesT-T", "Swin-T")
    )
    for seed, (ours, theirs) in enumerate(
        zip(with_seeds(nest, 3), with_seeds(swin, 3), strict=True)
    ):
        finish_with_predictions(tmp_path, ours, range(150 + seed))
        right = range(140 + seed)
        finish_with_predictions(
            tmp_path, theirs, right if shared else [199 - image for image in right]
        )
    (found,) = (each for each in judge(tmp_path, "table1")
                if each.claim.tested == "NesT-T above Swin-T on C10")  # fmt: skip
    assert found.why == ""
    assert found.effect == pytest.approx(5)
    assert found.verdict == word


@pytest.mark.parametrize(
    ("top1", "ablation", "verdict", "why"),
    [
        (60.0, 90.0, "holds", ""),
        (60.0, 100.0, "holds", ""),  # of every seed: it has no spread
        (5.0, 90.0, "not trained enough", "has an accuracy of 5.00 %, below 10.09 %"),
        (60.0, 27.0, "undecided", "the positive control fails: Exact ablation"),
        (None, 90.0, "undecided", "the classifier accuracy of + gradient"),
    ],
)
def test_an_explanation_needs_a_classifier_and_a_control(
    tmp_path: Path, top1: float | None, ablation: float, verdict: str, why: str
) -> None:
    metrics = {"leaf": 60.0, "leaf_chance": 25.0, "ablation_leaf": ablation}
    varied = {"leaf", "ablation_leaf"} if ablation < 100 else {"leaf"}
    for cell, run in runs_at_scale(figure3_left.EXPERIMENT.cells, "paper"):
        if cell.row != figure2.DEFAULT or cell.metric != "leaf":
            continue
        for seed, each in enumerate(with_seeds(run, 3)):
            assert isinstance(each, Explanation)
            measured = {name: value + seed * (name in varied) for name, value in metrics.items()}
            ends = {f"{name}{end}": v for name, v in measured.items() for end in ("_low", "_high")}
            finished.finish(tmp_path, each, measured | ends)
            if top1 is not None:
                assert each.trained
                finished.finish(tmp_path, each.trained, {"top1": top1})
    (found,) = judge(tmp_path, "figure3_left")
    assert found.verdict == verdict
    assert why in found.why
    assert found.below
    assert found.below.values == (25.0,)
