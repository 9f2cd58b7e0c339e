"""Localization and traversal as tasks, on the smoke files and on composed pictures.

What is reported is recounted from what is kept of each image, and that from the images.
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repro.data import composed, datasets, ground_truth, loader, prepare
from repro.data.images import DataError
from repro.interpret.boxes import centre_box, overlap
from repro.interpret.cam import cam
from repro.interpret.gradcat import gradcat
from repro.interpret.localization import PARTS, targets
from repro.launch import ending
from repro.models.weights import WeightsError
from repro.spec import (
    Attribution,
    Baseline,
    Classification,
    Localization,
    Model,
    Recipe,
    Run,
    Traversal,
)
from repro.tasks import Interrupted, NotFinite, explained, localization, traversal
from repro.tasks.classification import create
from repro.train.distributed import Ranks
from repro.train.speed import Speed
from tests.train.spawned import in_processes

NEST = Model.of(
    "nest_small_imagenet", img_size=64, patch_size=4, depths=(1, 1, 1), embed_dims=(8, 16, 32),
    num_heads=(1, 2, 4),
)  # fmt: skip
MODELS = {
    "cam": NEST,
    "grad_cam_pp": Model.of("resnet50", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)),
    "rollout": Model.of("deit_small_patch16_224", img_size=64, depth=2, embed_dim=16, num_heads=2),
}
MODELS["gradient_rollout"] = MODELS["rollout"]
ONE = Ranks(0, 1, torch.device("cpu"))


def classifier(model: Model, dataset: str = "imagenet-smoke") -> Classification:
    return Classification(
        model=model, dataset=dataset, recipe=Recipe(epochs=1, batch_size=4, lr=1e-3)
    )


def located(attribution: Attribution | Baseline, **changes: Any) -> Localization:
    model = MODELS.get(attribution)
    run = Localization(
        classifier=classifier(model) if model else None,
        dataset="imagenet-smoke",
        image_size=64,
        attribution=attribution,
        tuning="imagenetv2-smoke",
    )
    return replace(run, **changes)


def followed(**changes: Any) -> Traversal:
    """GradCAT on twelve composed pictures."""
    run = Traversal(
        classifier=classifier(NEST, composed.SINGLES), dataset=composed.SINGLES, pictures=12
    )
    return replace(run, **changes)


class Job:
    """As much of a job as these tasks need: initial weights stand for trained ones."""

    weights: Path | None = None
    decode: Literal["cpu", "nvjpeg"] = "cpu"
    micro_batch: int | None = None
    halvings: int = 0
    speed: Speed = "fast"
    checkpoint_seconds = 60.0
    stop = False

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.checkpoints = data, folder

    def stopping(self) -> bool:
        return self.stop

    def ours(self) -> bool:
        return True

    def weights_of(self, run: Run) -> Path:
        assert isinstance(run, Classification)
        path = self.checkpoints / f"{run.id}.safetensors"
        if not path.exists():
            save_file(network(run).state_dict(), path)
        return path

    def keep(self, name: str, data: bytes) -> None:
        raise AssertionError(name)

    def progress(self, step: int, steps: int, line: object) -> None:
        assert 0 <= step <= steps

    def history(self, lines: object) -> None:
        raise AssertionError(lines)


def network(run: Classification) -> torch.nn.Module:
    return create(run.model, 10, 0.0, run.seed).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("imagenet-smoke", "imagenetv2-smoke"):
        prepare.prepare(name, folder)
    return folder


@pytest.fixture
def job(data: Path, tmp_path: Path) -> Job:
    return Job(data, tmp_path)


def arrays(result: Any, name: str) -> dict[str, Any]:
    with np.load(io.BytesIO(result.files[name]), allow_pickle=False) as stored:
        return dict(stored)


# --- what is not finite --------------------------------------------------------------------------

BROKEN = {
    "NaN": (float("nan"), WeightsError, "has NaN or infinite weights: head.weight"),
    "overflow": (3e38, NotFinite, "the classifier's {} are not finite"),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("method", ["cam", "rollout", "GradCAT"])
def test_a_classifier_that_is_not_finite_is_an_error(method: Any, how: str, job: Job) -> None:
    """Rollout does not see the last layer: its maps stay finite."""
    value, error, words = BROKEN[how]
    words = words.format("trees" if method == "GradCAT" else "logits")
    run: Any = followed() if method == "GradCAT" else located(method)
    state = network(run.trained).state_dict()
    state["head.weight"].fill_(value)
    save_file(state, job.checkpoints / f"{run.trained.id}.safetensors")
    execute = (traversal if method == "GradCAT" else localization).execute
    with pytest.raises(error, match=words) as caught:
        execute(run, job)
    assert ending.is_expected(caught.value)
    assert "\n" not in str(caught.value)


# --- localization --------------------------------------------------------------------------------


@pytest.mark.parametrize("attribution", MODELS)
def test_what_is_reported_is_recounted_from_the_images(attribution: Any, job: Job) -> None:
    result = localization.execute(located(attribution, probed=2), job)
    kept, metrics = result.predictions, result.metrics
    right = kept["label"] == kept["predicted"]
    assert len(right) == 20
    assert metrics["top1"] == pytest.approx(100 * right.mean())
    for name, iou in (("gt_known", "iou"), ("max_box_acc", "iou_oracle")):
        assert metrics[name] == pytest.approx(100 * (kept[iou] >= PARTS / 2).mean())
    wrong = ~(right & (kept["iou"] >= PARTS / 2))
    assert metrics["top1_error"] == pytest.approx(100 * wrong.mean())
    every = [(kept["iou_every_oracle"][:, n] >= PARTS * iou).mean()
             for n, iou in enumerate((0.3, 0.5, 0.7))]  # fmt: skip
    assert metrics["max_box_acc_v2"] == pytest.approx(100 * np.mean(every))
    for tenth in range(1, 10):
        share = (kept["iou"] >= PARTS * tenth / 10).mean()
        assert metrics[f"gt_known_iou{10 * tenth}"] == pytest.approx(100 * share)
    assert metrics["max_box_acc"] >= metrics["gt_known"]
    for name in ("gt_known", "pointing", "energy", "insertion", "deletion", "randomised"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]


def test_the_maps_that_are_kept_are_those_of_the_method(job: Job) -> None:
    run = located("cam")
    result = localization.execute(run, job)
    kept = arrays(result, "maps.npz")
    images = datasets.load("imagenet-smoke", "test", job.data)
    net = network(run.classifier)  # type: ignore[arg-type]
    numbers = explained.spread(localization.SHOWN, 20)
    x = explained.inputs(torch.from_numpy(kept["pixels"]).permute(0, 3, 1, 2), images, run)
    expected = cam(net, x, images.labels[numbers])
    np.testing.assert_allclose(kept["maps"], expected.numpy(), rtol=1e-4, atol=1e-6)
    assert kept["shows"].tolist() == [images.classes[n] for n in images.labels[numbers].tolist()]
    truth = targets(ground_truth.load("imagenet-smoke", "test", images, job.data), 64)
    assert kept["boxes"].tolist() == np.concatenate([truth[n] for n in numbers.tolist()]).tolist()


def test_a_box_needs_no_model_and_chance_no_threshold(job: Job) -> None:
    result = localization.execute(located("centre box"), job)
    images = datasets.load("imagenet-smoke", "test", job.data)
    truths = targets(ground_truth.load("imagenet-smoke", "test", images, job.data))
    shares = []
    for boxes in truths:
        shared, union = overlap(centre_box()[None], boxes)
        shares.append((shared / union).max())
    hit = 100 * np.mean(np.array(shares) >= 0.5)
    metrics = result.metrics
    assert metrics["gt_known"] == metrics["gt_known_fixed"] == metrics["max_box_acc"] == hit
    assert "top1_error" not in metrics


def test_several_processes_score_as_one(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = localization.execute(located("cam"), job)
    monkeypatch.setattr(loader, "default_workers", lambda: 2)
    shared = localization.execute(located("cam"), job)
    assert alone.metrics == shared.metrics
    for name, values in alone.predictions.items():
        assert np.array_equal(values, shared.predictions[name])


def test_the_seed_is_the_classifiers(job: Job) -> None:
    first, second = (located("cam", seed=seed) for seed in (0, 1))
    assert first.starts_from == first.classifier
    assert second.starts_from == replace(second.classifier, seed=1)  # type: ignore[type-var]
    metrics = [localization.execute(run, job).metrics for run in (first, second)]
    assert metrics[0] != metrics[1]


def test_a_run_that_is_asked_to_stop_stops(job: Job) -> None:
    job.stop = True
    with pytest.raises(Interrupted):
        localization.execute(located("cam"), job)
    with pytest.raises(Interrupted):
        traversal.execute(followed(objects=1), job)


# --- traversal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["ascent", "literal"])
@pytest.mark.parametrize("top_tap", ["input", "norm"])
def test_paths_are_counted_as_they_are(sign: Any, top_tap: Any, job: Job) -> None:
    run = followed(sign=sign, top_tap=top_tap)
    result = traversal.execute(run, job)
    made = composed.fours("test", 12)
    images = datasets.load(composed.SINGLES, "test")
    assert run.trained
    net = network(run.trained)
    x = explained.inputs(made.pixels, images, run)
    quadrants, leaves = [], []
    for place, labels in enumerate(made.labels.T):
        tree = gradcat(net, x, labels, sign=sign, top_tap=top_tap)
        assert result.predictions["path"][:, place].tolist() == tree.path.tolist()
        quadrants += (tree.path[:, 0] == place).tolist()  # an object lies in its own quadrant
        for mask, (row, column) in zip(made.masks[:, place], tree.leaf.tolist(), strict=True):
            leaf = mask[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            leaves.append(bool(leaf.any()))
    assert result.metrics["quadrant"] == pytest.approx(100 * np.mean(quadrants))
    assert result.metrics["leaf"] == pytest.approx(100 * np.mean(leaves))
    assert result.metrics["quadrant_chance"] == 25
    shares = composed.leaf_shares(made.masks)
    assert result.metrics["leaf_chance"] == pytest.approx(
        100 * float((shares > 0).double().mean()), rel=1e-5
    )
    assert result.metrics["quadrant"] == pytest.approx(
        100 * result.predictions["hits"][:, :, 0].mean()
    )


def test_a_leaf_that_is_taken_away_is_asked_of_the_model(job: Job) -> None:
    """Of the first picture of twelve: the fall of the logit without each leaf, by hand."""
    run = followed(pictures=12, ablated=1)
    metrics = traversal.execute(run, job).metrics
    images = datasets.load(composed.SINGLES, "test")
    made = composed.fours("test", 1)
    assert run.trained
    net, x = network(run.trained), explained.inputs(made.pixels, images, run)
    orders, quadrants, leaves = [], [], []
    for place, label in enumerate(made.labels[0].tolist()):
        nodes = gradcat(net, x, label).nodes[-1].flatten().argsort().argsort()
        falls = []
        with torch.no_grad():
            for row in range(4):
                for column in range(4):
                    holed = x.clone()
                    holed[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 0
                    falls.append((net(x) - net(holed))[0, label])
        ranks = torch.stack(falls).argsort().argsort()
        orders.append(np.corrcoef(nodes.numpy(), ranks.numpy())[0, 1])
        row, column = divmod(int(ranks.argmax()), 4)
        leaf = made.masks[0, place, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        leaves.append(bool(leaf.any()))
        falls = []
        for corner in ((0, 0), (0, 32), (32, 0), (32, 32)):
            holed = x.clone()
            holed[..., corner[0] : corner[0] + 32, corner[1] : corner[1] + 32] = 0
            with torch.no_grad():
                falls.append(float((net(x) - net(holed))[0, label]))
        quadrants.append(int(np.argmax(falls)) == place)
    assert metrics["faithful"] == pytest.approx(np.mean(orders), abs=1e-6)
    assert metrics["ablation_quadrant"] == 100 * np.mean(quadrants)
    assert metrics["ablation_leaf"] == 100 * np.mean(leaves)


def test_trees_are_kept_of_the_most_probable_classes(job: Job) -> None:
    run = followed()
    kept = arrays(traversal.execute(run, job), "trees.npz")
    images = datasets.load(composed.SINGLES, "test")
    assert run.trained
    net = network(run.trained)
    x = explained.inputs(torch.from_numpy(kept["pixels"]).permute(0, 3, 1, 2), images, run)
    with torch.no_grad():
        probable = net(x).softmax(1).topk(4)
    assert kept["classes"].tolist() == probable.indices.tolist()
    tree = gradcat(net, x, probable.indices[:, 2])
    assert kept["paths"][:, 2].tolist() == tree.path.tolist()
    np.testing.assert_allclose(kept["nodes2"][:, 2], tree.nodes[1].numpy(), rtol=1e-5, atol=1e-9)
    assert kept["shows"].tolist() == composed.fours("test", 12).labels.tolist()


def test_four_photographs_have_a_quadrant_each(job: Job) -> None:
    run = followed(classifier=classifier(NEST), dataset="imagenet-smoke", image_size=64, pictures=5)
    images = datasets.load("imagenet-smoke", "test", job.data)
    made = list(traversal.pictures(run, images, job, ONE))
    pixels = torch.cat([part.pixels for part in made])
    labels, masks = (torch.cat([getattr(part, n) for part in made]) for n in ("labels", "masks"))
    assert pixels.shape == (5, 3, 64, 64)
    fours = traversal.of_other_classes(images.labels, 5)
    assert labels.equal(images.labels[fours])
    assert all(len(set(four)) == 4 for four in labels.tolist())
    single = torch.cat([*explained.photographs(images, 32, fours[:, 3], ONE, job)])
    assert pixels[:, :, 32:, 32:].equal(single)
    truth = targets(ground_truth.load("imagenet-smoke", "test", images, job.data), 32)
    for four, mask in zip(fours.tolist(), masks, strict=True):
        x0, y0, x1, y1 = truth[four[1]][0].tolist()  # the upper right one
        rows, columns = mask[1].nonzero().unbind(1)
        assert (columns.min() - 32, rows.min()) == (x0, y0)
        assert (int(columns.max()) - 32, int(rows.max())) == (min(x1, 31), min(y1, 31))


def test_one_object_a_picture(job: Job) -> None:
    run = followed(classifier=classifier(NEST), dataset="imagenet-smoke", image_size=64,
                   objects=1, pictures=0)  # fmt: skip
    result = traversal.execute(run, job)
    assert result.predictions["path"].shape == (20, 1, 2)
    assert result.provenance["pictures"] == 20


def test_what_cannot_be_composed_is_refused(job: Job) -> None:
    run = followed(classifier=classifier(NEST, "glyphs"), dataset="glyphs")
    images = datasets.load("glyphs", "test")
    with pytest.raises(DataError, match="glyphs: no four of its objects can be composed"):
        next(iter(traversal.pictures(run, images, job, ONE)))
    with pytest.raises(DataError, match="four classes or more"):
        traversal.of_other_classes(torch.zeros(9, dtype=torch.int64), 1)


# --- several ranks -------------------------------------------------------------------------------

FOUR_PHOTOGRAPHS = followed(
    classifier=classifier(NEST), dataset="imagenet-smoke", image_size=64, pictures=5, ablated=3
)


def measured(run: Localization | Traversal, job: Job, stop_at: int | None = None) -> object:
    """All that a rank has of a run, in batches of four; `stop_at`: the rank that is to stop."""
    explained.AT_ONCE = 4
    job.stop = os.environ.get("RANK") == str(stop_at)
    task = localization if isinstance(run, Localization) else traversal
    result = task.execute(run, job)
    arrays = {name: values.tolist() for name, values in result.predictions.items()}
    return dict(result.metrics), arrays, dict(result.provenance), dict(result.files)


@pytest.mark.parametrize(
    ("run", "ranks"),
    [
        (located("cam", probed=13), 2),
        (located("cam", probed=13), 12),
        (followed(ablated=5), 3),
        (FOUR_PHOTOGRAPHS, 3),
        (replace(FOUR_PHOTOGRAPHS, objects=1), 12),
    ],
    ids=["maps, 2", "maps, 12", "cut out, 3", "photographs, 3", "one object, 12"],
)
def test_ranks_measure_as_one(run: Localization | Traversal, ranks: int, job: Job) -> None:
    """To the last bit. There are five batches, so of twelve ranks some have none."""
    (alone,) = in_processes(1, measured, run, job)
    assert not isinstance(alone, str), alone
    first, *others = in_processes(ranks, measured, run, job)
    assert first == alone
    assert others == [({}, {}, {}, {})] * (ranks - 1)


def test_all_ranks_stop_when_one_is_to(job: Job) -> None:
    said = in_processes(3, measured, located("cam"), job, 1)
    assert said == ["Interrupted: stopped at 0 of 20 images"] * 3
