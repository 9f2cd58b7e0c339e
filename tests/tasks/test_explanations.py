"""Localization and traversal as tasks, on the smoke files and on composed pictures.

What is reported is recounted from what is kept of each image, and that from the images.
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from repro.core.iou import IOU_UNITS
from repro.data import composed, cues, datasets, prepare
from repro.data.imagenet import ground_truth
from repro.data.images import DataError
from repro.data.loading import loader
from repro.execution import ExecutionOptions
from repro.interpret import box_accuracy
from repro.interpret.box_iou import score, targets, upsample
from repro.interpret.boxes import centre_box, overlap
from repro.interpret.cam import cam
from repro.interpret.gradcat import gradcat
from repro.kinds.traversal import TREES
from repro.launch import failures
from repro.models.weights import WeightsError
from repro.spec import (
    Attribution,
    Baseline,
    Ceiling,
    Classification,
    Localization,
    Model,
    Recipe,
    Run,
    Traversal,
)
from repro.tasks import Interrupted, NotFinite, explanation, localization, traversal
from repro.tasks.classification import create
from repro.train.distributed import Ranks
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


def located(attribution: Attribution | Baseline | Ceiling, **changes: Any) -> Localization:
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

    halvings: int = 0
    stop = False

    def __init__(self, data: Path, folder: Path) -> None:
        self.options, self.checkpoints = ExecutionOptions(data), folder

    def should_stop(self) -> bool:
        return self.stop

    def still_owner(self) -> bool:
        return True

    def weights_path(self, run: Run) -> Path:
        assert isinstance(run, Classification)
        path = self.checkpoints / f"{run.id}.safetensors"
        if not path.exists():
            save_file(network(run).state_dict(), path)
        return path

    def save_preview(self, name: str, data: bytes) -> None:
        raise AssertionError(name)

    def report_progress(self, step: int, steps: int, line: object) -> None:
        assert 0 <= step <= steps

    def write_metrics(self, lines: object) -> None:
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
    assert failures.is_expected(caught.value)
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
        assert metrics[name] == pytest.approx(100 * (kept[iou] >= IOU_UNITS / 2).mean())
    wrong = ~(right & (kept["iou"] >= IOU_UNITS / 2))
    assert metrics["top1_error"] == pytest.approx(100 * wrong.mean())
    every = [(kept["iou_every_oracle"][:, n] >= IOU_UNITS * iou).mean()
             for n, iou in enumerate((0.3, 0.5, 0.7))]  # fmt: skip
    assert metrics["max_box_acc_v2"] == pytest.approx(100 * np.mean(every))
    for tenth in range(1, 10):
        share = (kept["iou"] >= IOU_UNITS * tenth / 10).mean()
        assert metrics[f"gt_known_iou{10 * tenth}"] == pytest.approx(100 * share)
    assert metrics["max_box_acc"] >= metrics["gt_known"]
    for name in ("gt_known", "pointing", "energy", "insertion", "deletion", "randomised"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]


def test_the_maps_that_are_kept_are_those_of_the_method(job: Job) -> None:
    run = located("cam")
    result = localization.execute(run, job)
    kept = arrays(result, "maps.npz")
    images = datasets.load("imagenet-smoke", "test", job.options.data)
    net = network(run.classifier)  # type: ignore[arg-type]
    numbers = explanation.evenly_spaced(localization.NUM_EXAMPLES, 20)
    x = explanation.model_inputs(torch.from_numpy(kept["pixels"]).permute(0, 3, 1, 2), images, run)
    expected = cam(net, x, images.labels[numbers])
    np.testing.assert_allclose(kept["maps"], expected.numpy(), rtol=1e-4, atol=1e-6)
    assert kept["shows"].tolist() == [images.classes[n] for n in images.labels[numbers].tolist()]
    truth = targets(ground_truth.load("imagenet-smoke", "test", images, job.options.data), 64)
    assert kept["boxes"].tolist() == np.concatenate([truth[n] for n in numbers.tolist()]).tolist()


@pytest.mark.parametrize(("grid", "right", "v2"), [(2, 1.5, 7.1), (4, 50.7, 51.4), (8, 97.0, 91.8)])
def test_what_coarse_maps_can_reach_of_small_boxes(grid: int, right: float, v2: float) -> None:
    """An independent count of the first 400 boxes of composed pictures, averaged at 64 px."""
    images = datasets.load(composed.SINGLES, "test")
    truths = targets(ground_truth.load(composed.SINGLES, "test", images, Path()))[:400]
    exact = [box.numpy()[None] for box in composed.boxes("test")[:400]]
    maps, names = localization.ideal_maps(exact, grid, side=64), ["a picture"] * 400
    found = box_accuracy.localization(score(upsample(maps, names), truths, names), None)
    assert found.gt_known.value == pytest.approx(right / 100, abs=5e-4)
    assert found.v2.value == pytest.approx(v2 / 100, abs=5e-4)


def test_an_ideal_map_is_the_share_of_each_cell() -> None:
    """Boxes hold both corners; what two of them share counts once."""
    boxes = np.array([[0, 0, 3, 3], [2, 0, 5, 3]])
    (shares,) = localization.ideal_maps([boxes], 2, side=8)
    assert shares.tolist() == [[1.0, 0.5], [0.0, 0.0]]


@pytest.mark.parametrize("grid", [1, 2, 7, 14])
def test_a_ceiling_finds_a_box_that_is_all_of_the_picture(grid: int) -> None:
    whole = [np.array([[0, 0, 223, 223]])]
    scores, _, _ = localization.score_maps(
        localization.ideal_maps(whole, grid), whole, ["x"], "max"
    )
    assert box_accuracy.localization(scores, None).gt_known.value == 1


def test_a_ceiling_asks_no_model_and_rises_with_its_cells(job: Job) -> None:
    runs = [located("ceiling", grid=grid) for grid in (1, 4, 14, 224)]
    found = [localization.execute(run, job) for run in runs]
    best = [result.metrics["ceiling_max_box_acc"] for result in found]
    assert best == sorted(best)
    assert best[-1] == 100
    whole = localization.execute(located("whole image"), job).metrics["gt_known"]
    assert best[0] == pytest.approx(whole)  # one cell tells nothing
    for run, result in zip(runs, found, strict=True):
        assert set(run.metrics) <= set(result.metrics)
        kept, metrics = result.predictions, result.metrics
        known = metrics["ceiling_gt_known"]
        assert known == pytest.approx(100 * (kept["iou"] >= IOU_UNITS / 2).mean())
        assert metrics["ceiling_max_box_acc"] >= known
        assert result.provenance["thresholds"]["tuned"] < 1


def test_a_box_needs_no_model_and_chance_no_threshold(job: Job) -> None:
    result = localization.execute(located("centre box"), job)
    images = datasets.load("imagenet-smoke", "test", job.options.data)
    truths = targets(ground_truth.load("imagenet-smoke", "test", images, job.options.data))
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


def test_a_stop_request_stops_a_run(job: Job) -> None:
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
    x = explanation.model_inputs(made.pixels, images, run)
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


def test_the_model_scores_an_image_without_a_leaf(job: Job) -> None:
    """Of the first picture of twelve: the fall of the logit without each leaf, by hand."""
    run = followed(pictures=12, ablated=1)
    metrics = traversal.execute(run, job).metrics
    images = datasets.load(composed.SINGLES, "test")
    made = composed.fours("test", 1)
    assert run.trained
    net, x = network(run.trained), explanation.model_inputs(made.pixels, images, run)
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
    x = explanation.model_inputs(torch.from_numpy(kept["pixels"]).permute(0, 3, 1, 2), images, run)
    with torch.no_grad():
        probable = net(x).softmax(1).topk(4)
    assert kept["classes"].tolist() == probable.indices.tolist()
    tree = gradcat(net, x, probable.indices[:, 2])
    assert kept["paths"][:, 2].tolist() == tree.path.tolist()
    np.testing.assert_allclose(kept["nodes2"][:, 2], tree.nodes[1].numpy(), rtol=1e-5, atol=1e-9)
    assert kept["shows"].tolist() == composed.fours("test", 12).labels.tolist()


def test_trees_that_nobody_draws_are_not_kept(job: Job) -> None:
    kept, not_kept = (
        traversal.execute(followed(keeps_trees=keeps), job) for keeps in (True, False)
    )
    assert (set(kept.files), set(not_kept.files)) == ({TREES}, set())
    assert kept.metrics == not_kept.metrics
    for keeps, result in ((True, kept), (False, not_kept)):
        assert followed(keeps_trees=keeps).required_files == set(result.files)


@pytest.mark.parametrize("name", cues.NAMES)
def test_synthetic_pictures_are_those_of_their_task(name: str, job: Job) -> None:
    """Four objects with their masks, some at a time; or one, in its box."""
    images = datasets.load(name, "test")
    run = followed(classifier=classifier(NEST, name), dataset=name, pictures=70)
    made = list(traversal.image_batches(run, images, job, ONE))
    whole = cues.fours(name, "test", 70)
    for field in ("pixels", "labels", "masks"):
        assert torch.cat([getattr(part, field) for part in made]).equal(getattr(whole, field))
    alone = list(traversal.image_batches(replace(run, objects=1), images, job, ONE))
    labels = torch.cat([part.labels for part in alone])[:, 0]
    numbers = explanation.evenly_spaced(70, len(images.labels))
    assert labels.equal(images.labels[numbers])
    masks = torch.cat([part.masks for part in alone])[:, 0]
    areas = (cues.boxes(name, "test")[numbers].unflatten(1, (2, 2)).diff(dim=1)[:, 0] + 1).prod(1)
    excess = masks.sum((1, 2)) - areas
    assert (excess >= 0).all()  # a box ends where the pixel after its last begins
    assert (excess <= 2 * 12 + 1).all()


def test_four_photographs_have_a_quadrant_each(job: Job) -> None:
    run = followed(classifier=classifier(NEST), dataset="imagenet-smoke", image_size=64, pictures=5)
    images = datasets.load("imagenet-smoke", "test", job.options.data)
    made = list(traversal.image_batches(run, images, job, ONE))
    pixels = torch.cat([part.pixels for part in made])
    labels, masks = (torch.cat([getattr(part, n) for part in made]) for n in ("labels", "masks"))
    assert pixels.shape == (5, 3, 64, 64)
    fours = traversal.sample_quadruples(images.labels, 5)
    assert labels.equal(images.labels[fours])
    assert all(len(set(four)) == 4 for four in labels.tolist())
    single = torch.cat([*explanation.image_batches(images, 32, fours[:, 3], ONE, job)])
    assert pixels[:, :, 32:, 32:].equal(single)
    truth = targets(ground_truth.load("imagenet-smoke", "test", images, job.options.data), 32)
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
    with pytest.raises(DataError, match="glyphs: cannot compose images of four objects"):
        next(iter(traversal.image_batches(run, images, job, ONE)))
    with pytest.raises(DataError, match="four classes or more"):
        traversal.sample_quadruples(torch.zeros(9, dtype=torch.int64), 1)


# --- several ranks -------------------------------------------------------------------------------

FOUR_PHOTOGRAPHS = followed(
    classifier=classifier(NEST), dataset="imagenet-smoke", image_size=64, pictures=5, ablated=3
)


def measured(run: Localization | Traversal, job: Job, stop_at: int | None = None) -> object:
    """All that a rank has of a run, in batches of four; `stop_at`: the rank that is to stop."""
    explanation.BATCH_SIZE = 4
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
