"""Boxes of attribution maps against the true ones: weakly supervised localization.

The protocol is that of wsolevaluation (`repro.interpret.boxes`). One map an image, of its true
class, answers both for GT-known and for top-1. Maps are scored and forgotten; of every image the
IoUs remain, and of some the map, to be looked at.
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
from torch import Tensor, nn

from repro.data import datasets, ground_truth, loader
from repro.data.ground_truth import GroundTruth
from repro.data.images import Images
from repro.data.photos import Photos
from repro.interpret import box_accuracy
from repro.interpret.bootstrap import Estimate, Resamples, estimate
from repro.interpret.boxes import SIDE, Boxes, centre_box, whole_image
from repro.interpret.cam import cam, grad_cam_pp
from repro.interpret.faithfulness import cascade, deletion, insertion
from repro.interpret.heatmap import resized
from repro.interpret.localization import (
    Scores,
    joined,
    score,
    score_box,
    targets,
    upsampled,
)
from repro.interpret.metrics import box_masks, energy_pointing, pointing_game
from repro.interpret.rollout import gradient_rollout, rollout
from repro.spec import Localization
from repro.tasks import Job, Result
from repro.tasks import explained as explain
from repro.train import device as devices
from repro.train.distributed import Ranks, together

DISCARD = 0.9  # of attention, and the largest over heads: what vit-explain's command line takes
STEPS = 32  # of insertion and deletion
SHOWN = 12  # images whose maps are kept
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
class Seen:
    """What remains of the maps of N images."""

    scores: Scores  # of maps from their least value to their largest
    fixed: Scores  # of their positive values over the largest, cut at FIXED_TAU
    points: Floats  # (N, 2): the pointing game, and its energy form
    predicted: npt.NDArray[np.int64]  # (N,)


def execute(run: Localization, job: Job) -> Result:
    """Score the maps of every image, divided over the ranks, and choose thresholds."""
    return together(partial(_measured, run, job)) or Result("done", {})


def _measured(run: Localization, job: Job, ranks: Ranks) -> Result:
    device = ranks.device
    images = explain.load(run, job)
    truth = ground_truth.load(run.dataset, run.split, images, job.data)
    truths = targets(truth)
    if run.attribution in BASELINES:
        scores = score_box(BASELINES[run.attribution], truths)
        found = box_accuracy.localization(scores, None)
        metrics = _by_boxes(found, found, found)
        return Result("done", metrics, _per_image(scores, scores, found, found),
                      provenance=_facts(images, device))  # fmt: skip

    tuning = datasets.load(run.tuning, run.tuning_split, job.data)
    net = explain.classifier_of(run, len(images.classes), job, device)
    there = targets(ground_truth.load(run.tuning, run.tuning_split, tuning, job.data))
    elsewhere = seen(run, net, tuning, there, job, ranks)
    here = seen(run, net, images, truths, job, ranks)
    probed = _probed(run, net, images, job, ranks) if run.probed else {}
    if not (elsewhere and here):
        return Result("done", {})

    chosen = box_accuracy.chosen_on(elsewhere.scores, run.tuning)
    labels = images.labels.numpy()
    right = here.predicted == labels
    resamples = Resamples(len(labels))
    tuned = box_accuracy.localization(here.scores, chosen, right, resamples)
    oracle = box_accuracy.localization(here.scores, None, right, resamples)
    fixed = box_accuracy.fixed(FIXED_TAU)
    by_fixed = box_accuracy.localization(here.fixed, fixed, right, resamples)
    metrics = _by_boxes(tuned, oracle, by_fixed)
    metrics["top1"] = 100 * float(right.mean())
    points = estimates(resamples.means(here.points))
    metrics |= percent({"pointing": points[0], "energy": points[1]})
    metrics |= probed
    arrays = _per_image(here.scores, here.fixed, tuned, oracle)
    arrays |= {"label": labels.astype(np.uint16), "predicted": here.predicted.astype(np.uint16)}
    taus = {
        "tuned": chosen.largest,
        "oracle": oracle.thresholds.largest,
        "oracle_every": oracle.thresholds.every,
    }
    facts = _facts(images, device) | {"thresholds": taus, "tuning_images": len(there)}
    shown = _shown(run, net, images, truth, job, device)
    return Result("done", metrics, arrays, provenance=facts, files={"maps.npz": shown})


def seen(
    run: Localization,
    net: nn.Module,
    images: Images | Photos,
    truths: Sequence[Boxes],
    job: Job,
    ranks: Ranks,
) -> Seen | None:
    """Score the map of every image, for its true class; by several processes where there are.

    The first rank has the scores, the others None.
    """
    explained, predicted = METHODS[run.attribution], list[Tensor]()
    labels, numbers = images.labels.to(ranks.device), torch.arange(len(images.labels))

    def work() -> Iterator[tuple[npt.NDArray[np.float32], list[Boxes], list[str]]]:
        done = explain.share(len(numbers), ranks).start
        for pixels in explain.photographs(images, run.image_size, numbers, ranks, job):
            part = slice(done, done + len(pixels))
            x = explain.inputs(pixels, images, run)
            predicted.append(explain.logits_of(net, x).argmax(1).cpu())
            maps = explained(net, x, labels[part]).float().cpu().numpy()
            names = [f"image {number}" for number in range(done, done + len(pixels))]
            yield maps, list(truths[part]), names
            done = part.stop

    with _scorers() as scored:
        parts = list(scored(work()))
    every = ranks.gathered((parts, predicted))
    if not every:
        return None
    parts = [part for theirs, _ in every for part in theirs]
    predicted = [part for _, theirs in every for part in theirs]
    return Seen(
        joined([part[0] for part in parts]),
        joined([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        torch.cat(predicted).numpy(),
    )


_Work = Iterator[tuple[npt.NDArray[np.float32], list[Boxes], list[str]]]
_Scored = tuple[Scores, Scores, Floats]


@contextmanager
def _scorers() -> Iterator[Callable[[_Work], Iterator[_Scored]]]:
    """Scores parts of a stream in their order, in other processes where there are cores."""
    workers = loader.default_workers()
    if workers == 1:
        yield lambda work: starmap(scored, work)
        return
    # Spawned: the models' device must not be forked.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def spread(work: _Work) -> Iterator[_Scored]:
            yield from [one.result() for one in [pool.submit(scored, *part) for part in work]]

        yield spread


def scored(raw: npt.NDArray[np.float32], truths: list[Boxes], names: list[str]) -> _Scored:
    """The scores of raw maps (B, h, w), by range and by maximum, and where they point (B, 2)."""
    by_range = upsampled(raw, names)
    by_max = upsampled(raw, names, "max")
    masks = box_masks([torch.from_numpy(boxes) for boxes in truths], SIDE, SIDE)
    points = [
        pointing_game(torch.from_numpy(by_range), masks).hit,
        energy_pointing(torch.from_numpy(by_max), masks).nan_to_num(0.0),  # 0/0: an empty map
    ]
    # Of one threshold alone: what passes it has all cuts alike, and one set of contours.
    passed = (by_max.astype(np.float64) * 255).astype(np.uint8) > int(FIXED_TAU * 255)
    return (
        score(by_range, truths, names),
        score(passed.astype(np.float32), truths, names),
        torch.stack(points, dim=1).double().numpy(),
    )


# --- what is reported ----------------------------------------------------------------------------


def percent(found: Mapping[str, Estimate]) -> dict[str, float | int]:
    """Shares as metrics in percent, with the ends of their intervals."""
    metrics: dict[str, float | int] = {}
    for name, share in found.items():
        metrics |= {
            name: 100 * share.value,
            f"{name}_low": 100 * share.low,
            f"{name}_high": 100 * share.high,
        }
    return metrics


def estimates(means: Floats) -> list[Estimate]:
    """Of means in every resample (1 + R, C), the estimate of each column."""
    return [estimate(column) for column in means.T]


def _by_boxes(
    tuned: box_accuracy.Localization,
    oracle: box_accuracy.Localization,
    by_fixed: box_accuracy.Localization,
) -> dict[str, float | int]:
    found = {
        "gt_known": tuned.gt_known,
        "max_box_acc": oracle.gt_known,
        "max_box_acc_v2": oracle.v2,
        "gt_known_fixed": by_fixed.gt_known,
    }
    found |= {
        f"gt_known_iou{round(100 * iou)}": share
        for iou, share in zip(box_accuracy.CURVE, tuned.curve, strict=True)
    }
    if tuned.top1_error and oracle.top1_error:
        found |= {"top1_error": tuned.top1_error, "top1_error_oracle": oracle.top1_error}
    return percent(found) | {"empty_maps": tuned.empty}


def _per_image(
    scores: Scores,
    fixed: Scores,
    tuned: box_accuracy.Localization,
    oracle: box_accuracy.Localization,
) -> dict[str, npt.NDArray[Any]]:
    """The best IoU of each image (N,) in ten-thousandths, by how the threshold was chosen."""
    best, every = oracle.thresholds.largest, oracle.thresholds.every
    return {
        "iou": scores.best_at("largest", tuned.thresholds.largest),
        "iou_oracle": scores.best_at("largest", best),
        "iou_fixed": fixed.best_at("largest", FIXED_TAU),
        "iou_every_oracle": np.stack([scores.best_at("every", tau) for tau in every], axis=1),
    }


def _probed(
    run: Localization, net: nn.Module, images: Images | Photos, job: Job, ranks: Ranks
) -> dict[str, float | int]:
    """What pixels, and weights, do to the maps: measured on some images, evenly among all.

    The first rank has the numbers, the others {}.
    """
    explained, parts = METHODS[run.attribution], list[Tensor]()
    numbers = explain.spread(run.probed, len(images.labels))
    done = explain.share(len(numbers), ranks).start
    for pixels in explain.photographs(images, run.image_size, numbers, ranks, job):
        labels = images.labels[numbers[done : done + len(pixels)]].to(ranks.device)
        done += len(pixels)
        x = explain.inputs(pixels, images, run)
        maps = resized(explained(net, x, labels), x.shape[-1])
        last = [*cascade(net, partial(_of, explained, x, labels)).values()][-1]
        last = last.nan_to_num(0.0)  # 0/0: a constant map has no order
        curves = [f(net, x, labels, maps, steps=STEPS).auc for f in (deletion, insertion)]
        parts.append(torch.stack([*curves, last.to(x.device)], dim=1).double().cpu())
    parts = [part for theirs in ranks.gathered(parts) for part in theirs]
    if not parts:
        return {}
    values = torch.cat(parts).numpy()
    names = ("deletion", "insertion", "randomised")
    found = estimates(Resamples(len(values)).means(values))
    metrics = percent(dict(zip(names[:2], found, strict=False)))
    order = found[2]
    return metrics | {
        "randomised": order.value,
        "randomised_low": order.low,
        "randomised_high": order.high,
    }


def _of(explained: Method, x: Tensor, labels: Tensor, model: nn.Module) -> Tensor:
    return explained(model, x, labels)


def _shown(
    run: Localization,
    net: nn.Module,
    images: Images | Photos,
    truth: GroundTruth,
    job: Job,
    device: torch.device,
) -> bytes:
    """Some images, evenly among all, with their raw maps, boxes and names, as .npz."""
    numbers = explain.spread(SHOWN, len(images.labels))
    alone = Ranks(0, 1, device)
    pixels = torch.cat(list(explain.photographs(images, run.image_size, numbers, alone, job)))
    x, labels = explain.inputs(pixels, images, run), images.labels[numbers]
    predicted = explain.logits_of(net, x).argmax(1).cpu()
    maps = METHODS[run.attribution](net, x, labels.to(device)).float().cpu().numpy()
    every = targets(truth, pixels.shape[-1])
    boxes = [every[number] for number in numbers.tolist()]
    names = explain.described(images.classes)
    kept = {
        "pixels": pixels.permute(0, 2, 3, 1).cpu().numpy(),
        "maps": maps,
        "shows": np.array([names[label] for label in labels.tolist()]),
        "predicted": np.array([names[label] for label in predicted.tolist()]),
        "boxes": np.concatenate(boxes),
        "counts": np.array([len(each) for each in boxes]),
    }
    return explain.packed(kept)


def _facts(images: Images | Photos, device: torch.device) -> dict[str, object]:
    return {
        "test_fingerprint": images.fingerprint,
        "test_images": len(images.labels),
        "device": devices.describe(device),
        "precision": "fp32",
    }
