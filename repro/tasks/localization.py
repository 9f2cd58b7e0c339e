"""Weakly supervised localization: boxes of attribution maps against ground truth.

The protocol is that of wsolevaluation (`repro.interpret.boxes`). One map per image, of its true
class, gives both GT-known and top-1. Only the IoUs of every image and a few example maps are
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data import datasets
from repro.data.imagenet import ground_truth
from repro.data.imagenet.ground_truth import GroundTruth
from repro.data.imagenet.photos import Photos
from repro.data.images import Images
from repro.data.loading import loader
from repro.interpret import box_accuracy
from repro.interpret.bootstrap import Estimate, Resamples, estimate
from repro.interpret.box_iou import (
    Scaling,
    Scores,
    concatenate,
    score,
    score_box,
    targets,
    upsample,
)
from repro.interpret.boxes import SIDE, Boxes, centre_box, whole_image
from repro.interpret.cam import cam, grad_cam_pp
from repro.interpret.faithfulness import cascade, deletion, insertion
from repro.interpret.heatmap import resize
from repro.interpret.pointing import box_masks, energy_pointing, pointing_game
from repro.interpret.rollout import gradient_rollout, rollout
from repro.spec import Localization
from repro.tasks import Interrupted, Job, Result
from repro.tasks import explanation as explain
from repro.train import device as devices
from repro.train.distributed import Ranks, run_on_ranks

DISCARD = 0.9  # share of attention; as in vit-explain's command line, with fusion 'max'
STEPS = 32  # of insertion and deletion
NUM_EXAMPLES = 12  # images whose maps are stored
FIXED_TAU = 0.2

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]

# Attribution maps (B, h, w), raw, of a model, its inputs and their classes.
Method = Callable[[nn.Module, Tensor, Tensor], Tensor]
METHODS: dict[str, Method] = {
    "cam": cam,
    "grad_cam_pp": grad_cam_pp,
    "rollout": lambda model, x, _: rollout(model, x, fusion="max", discard=DISCARD),
    "gradient_rollout": lambda model, x, y: gradient_rollout(model, x, y, discard=DISCARD),
}
BASELINES = {"whole image": whole_image(), "centre box": centre_box()}


@dataclass(frozen=True)
class MapScores:
    """The scores of the maps of N images."""

    scores: Scores  # of min-max scaled maps
    fixed: Scores  # of positive values over the maximum, thresholded at FIXED_TAU
    points: Floats  # (N, 2): the pointing game, and its energy form
    predicted: npt.NDArray[np.int64]  # (N,)


def execute(run: Localization, job: Job) -> Result:
    """Score the maps of every image, divided over the ranks, and choose thresholds."""
    return run_on_ranks(partial(_measure, run, job)) or Result("done", {})


def _measure(run: Localization, job: Job, ranks: Ranks) -> Result:
    device = ranks.device
    images = explain.load_images(run, job)
    truth = ground_truth.load(run.dataset, run.split, images, job.options.data)
    truths = targets(truth)
    if run.attribution in BASELINES:
        scores = score_box(BASELINES[run.attribution], truths)
        oracle = box_accuracy.localization(scores, None)
        metrics = _box_metrics(oracle, oracle, oracle)
        return Result("done", metrics, _per_image(scores, scores, oracle, oracle),
                      provenance=_provenance(images, device))  # fmt: skip

    tuning = datasets.load(run.tuning, run.tuning_split, job.options.data)
    tuning_truths = targets(
        ground_truth.load(run.tuning, run.tuning_split, tuning, job.options.data)
    )
    if run.attribution == "ceiling":
        return _ceiling(run, images, truths, tuning_truths, job, ranks)
    net = explain.load_run_classifier(run, len(images.classes), job, device)
    tuning_scores = score_images(run, net, tuning, tuning_truths, job, ranks)
    test_scores = score_images(run, net, images, truths, job, ranks)
    faithfulness = _faithfulness_metrics(run, net, images, job, ranks) if run.probed else {}
    if not (tuning_scores and test_scores):
        return Result("done", {})

    thresholds = box_accuracy.tune_thresholds(tuning_scores.scores, run.tuning)
    labels = images.labels.numpy()
    correct = test_scores.predicted == labels
    resamples = Resamples(len(labels))
    tuned = box_accuracy.localization(test_scores.scores, thresholds, correct, resamples)
    oracle = box_accuracy.localization(test_scores.scores, None, correct, resamples)
    fixed = box_accuracy.localization(
        test_scores.fixed, box_accuracy.fixed_thresholds(FIXED_TAU), correct, resamples
    )
    metrics = _box_metrics(tuned, oracle, fixed)
    metrics["top1"] = 100 * float(correct.mean())
    points = estimates(resamples.means(test_scores.points))
    metrics |= percent_metrics({"pointing": points[0], "energy": points[1]})
    metrics |= faithfulness
    arrays = _per_image(test_scores.scores, test_scores.fixed, tuned, oracle)
    arrays |= {
        "label": labels.astype(np.uint16),
        "predicted": test_scores.predicted.astype(np.uint16),
    }
    provenance = _provenance(images, device)
    provenance |= _thresholds(thresholds, oracle.thresholds, len(tuning_truths))
    examples = _example_maps(run, net, images, truth, job, device)
    return Result("done", metrics, arrays, provenance=provenance, files={"maps.npz": examples})


def score_images(
    run: Localization,
    net: nn.Module,
    images: Images | Photos,
    truths: Sequence[Boxes],
    job: Job,
    ranks: Ranks,
) -> MapScores | None:
    """Score the map of every image, for its true class, in worker processes if there are cores.

    Returns the scores on the first rank, None on the others.
    """
    method, predicted = METHODS[run.attribution], list[Tensor]()
    labels, indices = images.labels.to(ranks.device), torch.arange(len(images.labels))

    def work() -> _ScoringWork:
        start = explain.rank_share(len(indices), ranks).start
        for pixels in explain.image_batches(images, run.image_size, indices, ranks, job):
            part = slice(start, start + len(pixels))
            x = explain.model_inputs(pixels, images, run)
            predicted.append(explain.compute_logits(net, x).argmax(1).cpu())
            maps = method(net, x, labels[part]).float().cpu().numpy()
            names = [f"image {index}" for index in range(start, part.stop)]
            yield maps, list(truths[part]), names
            start = part.stop

    with _scorers() as score_maps:
        parts = list(score_maps(work()))
    every = ranks.gather((parts, predicted))
    if not every:
        return None
    predicted = [part for _, parts in every for part in parts]
    scores = _concatenate([part for parts, _ in every for part in parts])
    return MapScores(*scores, torch.cat(predicted).numpy())


_ScoringWork = Iterator[tuple[npt.NDArray[np.float32], list[Boxes], list[str]]]
_ChunkScores = tuple[Scores, Scores, Floats]


def _concatenate(parts: Sequence[_ChunkScores]) -> _ChunkScores:
    """The scores of all chunks, in order."""
    scores, fixed, points = zip(*parts, strict=True)
    return concatenate(scores), concatenate(fixed), np.concatenate(points)


@contextmanager
def _scorers(by: Scaling = "range") -> Iterator[Callable[[_ScoringWork], Iterator[_ChunkScores]]]:
    """A function that scores the chunks of a stream in order, in parallel if there are cores."""
    score_chunk = partial(score_maps, by=by)
    workers = loader.default_workers()
    if workers == 1:
        yield lambda work: starmap(score_chunk, work)
        return
    # Spawned, since CUDA does not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def score_in_parallel(work: _ScoringWork) -> Iterator[_ChunkScores]:
            futures = [pool.submit(score_chunk, *chunk) for chunk in work]
            yield from [future.result() for future in futures]

        yield score_in_parallel


def score_maps(
    raw: npt.NDArray[np.float32], truths: list[Boxes], names: list[str], by: Scaling = "range"
) -> _ChunkScores:
    """Score raw maps (B, h, w): scaled `by`; scaled by maximum, at one threshold; and pointing
    scores (B, 2)."""
    maps = upsample(raw, names, by)
    by_max = upsample(raw, names, "max")
    masks = box_masks([torch.from_numpy(boxes) for boxes in truths], SIDE, SIDE)
    points = [
        pointing_game(torch.from_numpy(maps), masks).hit,
        energy_pointing(torch.from_numpy(by_max), masks).nan_to_num(0.0),  # 0/0: an empty map
    ]
    # A binary map has the same contours at every cut.
    binary = (by_max.astype(np.float64) * 255).astype(np.uint8) > int(FIXED_TAU * 255)
    return (
        score(maps, truths, names),
        score(binary.astype(np.float32), truths, names),
        torch.stack(points, dim=1).double().numpy(),
    )


# --- the ceiling of maps of low resolution -------------------------------------------------------


def ideal_maps(boxes: Sequence[Boxes], grid: int, side: int = SIDE) -> npt.NDArray[np.float32]:
    """The share of each of grid x grid cells that an image's boxes cover: (N, grid, grid).

    `boxes` as from `targets`, (K, 4) each, on squares of `side` px; `grid` must divide `side`.
    """
    masks = box_masks([torch.from_numpy(each) for each in boxes], side, side)
    shares: npt.NDArray[np.float32] = F.avg_pool2d(masks.float(), side // grid).numpy()
    return shares


def _ceiling(
    run: Localization,
    images: Images | Photos,
    truths: Sequence[Boxes],
    tuning_truths: Sequence[Boxes],
    job: Job,
    ranks: Ranks,
) -> Result:
    """The metrics of ideal maps, with thresholds tuned like a method's."""
    tuning_scores = _score_ideal_maps(tuning_truths, run.grid, job, ranks)
    test_scores = _score_ideal_maps(truths, run.grid, job, ranks)
    if not (tuning_scores and test_scores):
        return Result("done", {})
    scores, fixed, _ = test_scores
    thresholds = box_accuracy.tune_thresholds(tuning_scores[0], run.tuning)
    resamples = Resamples(len(truths))
    tuned = box_accuracy.localization(scores, thresholds, resamples=resamples)
    oracle = box_accuracy.localization(scores, None, resamples=resamples)
    by_fixed = box_accuracy.localization(
        fixed, box_accuracy.fixed_thresholds(FIXED_TAU), resamples=resamples
    )
    provenance = _provenance(images, ranks.device)
    provenance |= _thresholds(thresholds, oracle.thresholds, len(tuning_truths))
    metrics = {f"ceiling_{name}": n for name, n in _box_metrics(tuned, oracle, by_fixed).items()}
    return Result("done", metrics,
                  _per_image(scores, fixed, tuned, oracle), provenance=provenance)  # fmt: skip


def _score_ideal_maps(
    truths: Sequence[Boxes], grid: int, job: Job, ranks: Ranks
) -> _ChunkScores | None:
    """The scores of ideal maps, scaled by maximum, so that a box that covers all cells counts.

    Returns them on the first rank, None on the others.
    """
    share, size = range(len(truths))[explain.rank_share(len(truths), ranks)], explain.BATCH_SIZE

    def work() -> _ScoringWork:
        for done in range(0, len(truths), size * ranks.count):  # as many rounds on every rank
            if ranks.any(job.should_stop())[0]:
                raise Interrupted(f"stopped at {done} of {len(truths)} images")
            job.report_progress(done, len(truths), {})
            if indices := share[done // ranks.count :][:size]:
                part = [truths[index] for index in indices]
                yield ideal_maps(part, grid), part, [f"image {index}" for index in indices]

    with _scorers("max") as score_maps:
        parts = list(score_maps(work()))
    every = [chunk for chunks in ranks.gather(parts) for chunk in chunks]
    return _concatenate(every) if every else None


# --- metrics -------------------------------------------------------------------------------------


def percent_metrics(shares: Mapping[str, Estimate]) -> dict[str, float | int]:
    """Proportions as metrics in percent, with the ends of their intervals."""
    metrics: dict[str, float | int] = {}
    for name, share in shares.items():
        metrics |= {
            name: 100 * share.value,
            f"{name}_low": 100 * share.low,
            f"{name}_high": 100 * share.high,
        }
    return metrics


def estimates(means: Floats) -> list[Estimate]:
    """The estimate of each column of means in every resample (1 + R, C)."""
    return [estimate(column) for column in means.T]


def _box_metrics(
    tuned: box_accuracy.LocalizationMetrics,
    oracle: box_accuracy.LocalizationMetrics,
    by_fixed: box_accuracy.LocalizationMetrics,
) -> dict[str, float | int]:
    shares = {
        "gt_known": tuned.gt_known,
        "max_box_acc": oracle.gt_known,
        "max_box_acc_v2": oracle.v2,
        "gt_known_fixed": by_fixed.gt_known,
    }

    shares |= {
        f"gt_known_iou{round(100 * iou)}": share
        for iou, share in zip(box_accuracy.CURVE, tuned.curve, strict=True)
    }
    if tuned.top1_error and oracle.top1_error:
        shares |= {"top1_error": tuned.top1_error, "top1_error_oracle": oracle.top1_error}
    return percent_metrics(shares) | {"empty_maps": tuned.empty}


def _per_image(
    scores: Scores,
    fixed: Scores,
    tuned: box_accuracy.LocalizationMetrics,
    oracle: box_accuracy.LocalizationMetrics,
) -> dict[str, npt.NDArray[Any]]:
    """The best IoU of each image (N,) in ten-thousandths, for each choice of threshold."""
    best, every = oracle.thresholds.largest, oracle.thresholds.every
    return {
        "iou": scores.best_at("largest", tuned.thresholds.largest),
        "iou_oracle": scores.best_at("largest", best),
        "iou_fixed": fixed.best_at("largest", FIXED_TAU),
        "iou_every_oracle": np.stack([scores.best_at("every", tau) for tau in every], axis=1),
    }


def _faithfulness_metrics(
    run: Localization, net: nn.Module, images: Images | Photos, job: Job, ranks: Ranks
) -> dict[str, float | int]:
    """Deletion, insertion and weight randomisation, on evenly spaced images.

    Returns the metrics on the first rank, {} on the others.
    """
    method, parts = METHODS[run.attribution], list[Tensor]()
    indices = explain.evenly_spaced(run.probed, len(images.labels))
    start = explain.rank_share(len(indices), ranks).start
    for pixels in explain.image_batches(images, run.image_size, indices, ranks, job):
        labels = images.labels[indices[start : start + len(pixels)]].to(ranks.device)
        start += len(pixels)
        x = explain.model_inputs(pixels, images, run)
        maps = resize(method(net, x, labels), x.shape[-1])
        last = [*cascade(net, partial(_explain, method, x, labels)).values()][-1]
        last = last.nan_to_num(0.0)  # 0/0: a constant map has no order
        curves = [f(net, x, labels, maps, steps=STEPS).auc for f in (deletion, insertion)]
        parts.append(torch.stack([*curves, last.to(x.device)], dim=1).double().cpu())
    parts = [part for rank_parts in ranks.gather(parts) for part in rank_parts]
    if not parts:
        return {}
    values = torch.cat(parts).numpy()

    *shares, correlation = estimates(Resamples(len(values)).means(values))
    metrics = percent_metrics(dict(zip(("deletion", "insertion"), shares, strict=True)))
    return metrics | {
        "randomised": correlation.value,
        "randomised_low": correlation.low,
        "randomised_high": correlation.high,
    }


def _explain(method: Method, x: Tensor, labels: Tensor, model: nn.Module) -> Tensor:
    return method(model, x, labels)


def _example_maps(
    run: Localization,
    net: nn.Module,
    images: Images | Photos,
    truth: GroundTruth,
    job: Job,
    device: torch.device,
) -> bytes:
    """Evenly spaced images with their raw maps, boxes and class names, as .npz."""
    indices = explain.evenly_spaced(NUM_EXAMPLES, len(images.labels))
    one_rank = Ranks(0, 1, device)
    pixels = torch.cat(list(explain.image_batches(images, run.image_size, indices, one_rank, job)))
    x, labels = explain.model_inputs(pixels, images, run), images.labels[indices]
    predicted = explain.compute_logits(net, x).argmax(1).cpu()
    maps = METHODS[run.attribution](net, x, labels.to(device)).float().cpu().numpy()
    every = targets(truth, pixels.shape[-1])
    boxes = [every[index] for index in indices.tolist()]
    names = explain.class_descriptions(images.classes)

    arrays = {
        "pixels": pixels.permute(0, 2, 3, 1).cpu().numpy(),
        "maps": maps,
        "shows": np.array([names[label] for label in labels.tolist()]),
        "predicted": np.array([names[label] for label in predicted.tolist()]),
        "boxes": np.concatenate(boxes),
        "counts": np.array([len(each) for each in boxes]),
    }
    return explain.to_npz(arrays)


def _thresholds(
    tuned: box_accuracy.Thresholds, oracle: box_accuracy.Thresholds, images: int
) -> dict[str, object]:
    """The thresholds, and the number of tuning images."""
    taus = {"tuned": tuned.largest, "oracle": oracle.largest, "oracle_every": oracle.every}
    return {"thresholds": taus, "tuning_images": images}


def _provenance(images: Images | Photos, device: torch.device) -> dict[str, object]:
    return {
        "test_fingerprint": images.fingerprint,
        "test_images": len(images.labels),
        "device": devices.describe(device),
        "precision": "fp32",
    }
