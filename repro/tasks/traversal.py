"""Evaluate GradCAT: does the path lead into the quadrant, and the leaf, of the class's object?

On images composed of four objects, one per quadrant, where a path has to choose; or on images of
one object. The paper shows examples; this counts, and gives the chance level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from repro.data import composed, cues, randomness
from repro.data.imagenet import ground_truth
from repro.data.imagenet.photos import Photos
from repro.data.images import DataError, Images, OfficialSplit
from repro.interpret.bootstrap import Resamples
from repro.interpret.box_iou import targets
from repro.interpret.boxes import Boxes
from repro.interpret.faithfulness import block_ablation, rank_correlation
from repro.interpret.gradcat import GradCat, gradcat
from repro.interpret.pointing import box_masks, leaf_hit, quadrant_hit
from repro.spec import Traversal
from repro.tasks import Job, Result
from repro.tasks import explanation as explain
from repro.tasks.localization import estimates, percent_metrics
from repro.train import device as devices
from repro.train.distributed import Ranks, run_on_ranks

NUM_EXAMPLES = 12  # images whose trees are stored
NUM_TRACED_CLASSES = 4  # classes traced in each example, the most probable ones (Figure 2)
_ORDER = 21  # the purpose of a derived seed: which images are composed

MEASURES = ("quadrant", "quadrant_chance", "leaf", "leaf_chance", "leaf_most", "leaf_most_chance")
ABLATION_MEASURES = ("best_leaf", "ablation_quadrant", "ablation_leaf")


@dataclass(frozen=True)
class ImageBatch:
    """A batch of images of S px, with K objects each."""

    indices: range  # among all images of the run
    pixels: Tensor  # (B, 3, S, S) uint8, on the device
    labels: Tensor  # (B, K) int64, on the CPU
    masks: Tensor  # (B, K, S, S) bool: each object, or its box if there is no mask


def execute(run: Traversal, job: Job) -> Result:
    """Trace all paths, divided over the ranks, and count hits."""
    return run_on_ranks(partial(_measure, run, job)) or Result("done", {})


@dataclass(frozen=True)
class _BatchResults:
    """The results of a batch of images."""

    hits: Tensor
    paths: Tensor
    labels: Tensor
    ablation: Tensor | None  # of ablated images, if any
    examples: dict[str, npt.NDArray[Any]] | None  # of example images, if any


def _measure(run: Traversal, job: Job, ranks: Ranks) -> Result:
    images = explain.load_images(run, job)
    net = explain.load_run_classifier(run, len(images.classes), job, ranks.device)
    every = ranks.gather(list(_evaluate_batches(run, net, images, job, ranks)))
    if not every:
        return Result("done", {})
    results = [batch for batches in every for batch in batches]
    hits = torch.cat([batch.hits for batch in results])
    ablation = [batch.ablation for batch in results if batch.ablation is not None]
    examples = [batch.examples for batch in results if batch.examples is not None]

    values = hits.mean(1).double().numpy()  # over an image's objects, which are not independent
    shares = estimates(Resamples(len(values)).means(values))
    metrics = percent_metrics(dict(zip(MEASURES, shares, strict=True)))
    path = torch.cat([batch.paths for batch in results])
    metrics["undecided"] = 100 * float((path[:, :, -1] < 0).double().mean())
    if ablation:
        rows = torch.cat(ablation).double().numpy()
        correlation, *shares = estimates(Resamples(len(rows)).means(rows))
        metrics |= percent_metrics(dict(zip(ABLATION_MEASURES, shares, strict=True)))
        metrics |= {
            "faithful": correlation.value,
            "faithful_low": correlation.low,
            "faithful_high": correlation.high,
        }
    return Result(
        "done",
        metrics,
        {
            "label": torch.cat([batch.labels for batch in results]).numpy().astype(np.uint16),
            "path": path.numpy().astype(np.int8),
            "hits": (hits[:, :, ::2] > 0).numpy().astype(np.uint8),
        },
        provenance={
            "test_fingerprint": images.fingerprint,
            "pictures": len(hits),
            "device": devices.describe(ranks.device),
            "precision": "fp32",
        },
        files={"trees.npz": _pack_trees(examples, images.classes)} if examples else {},
    )


def _pack_trees(examples: Sequence[dict[str, npt.NDArray[Any]]], classes: Sequence[str]) -> bytes:
    """All example trees as .npz."""
    arrays = {key: np.concatenate([batch[key] for batch in examples]) for key in examples[0]}
    return explain.to_npz(arrays | {"names": np.array(explain.class_descriptions(classes))})


def _evaluate_batches(
    run: Traversal, net: nn.Module, images: Images | Photos, job: Job, ranks: Ranks
) -> Iterator[_BatchResults]:
    """The results of the rank's images."""
    total = num_images(run, images)
    examples = (
        set(explain.evenly_spaced(NUM_EXAMPLES, total).tolist()) if run.keeps_trees else set()
    )
    ablated = set(explain.evenly_spaced(run.ablated, total).tolist()) if run.ablated else set()
    for batch in image_batches(run, images, job, ranks):
        x = explain.model_inputs(batch.pixels, images, run)
        trees = [trace(run, net, x, classes) for classes in batch.labels.T]
        hits = [
            _hits(tree, masks) for tree, masks in zip(trees, batch.masks.unbind(1), strict=True)
        ]
        to_ablate = [row for row, index in enumerate(batch.indices) if index in ablated]
        to_store = [row for row, index in enumerate(batch.indices) if index in examples]
        yield _BatchResults(
            torch.stack(hits, dim=1),
            torch.stack([tree.path.cpu() for tree in trees], dim=1),
            batch.labels,
            _ablation_results(net, x, batch, trees, to_ablate) if to_ablate else None,
            _example_trees(run, net, x[to_store], batch, to_store) if to_store else None,
        )


def trace(run: Traversal, net: nn.Module, x: Tensor, classes: Tensor) -> GradCat:
    """The tree of each input (B, 3, S, S) for its class (B,), by the run's variant of GradCAT.

    NotFinite if a value of a tree is NaN or infinite.
    """
    tree = gradcat(
        net, x, classes.to(x.device), sign=run.sign, top_tap=run.top_tap, tap_below=run.tap_below
    )
    explain.require_finite(torch.cat([nodes.flatten() for nodes in tree.nodes]), "trees")
    return tree


def _hits(tree: GradCat, masks: Tensor) -> Tensor:
    """The values of MEASURES for each image, (B, 6)."""
    hits = [quadrant_hit(tree, masks), leaf_hit(tree, masks), leaf_hit(tree, masks, "most")]
    columns = [column.float().cpu() for hit in hits for column in hit]
    return torch.stack(columns, dim=1)


def _ablation_results(
    net: nn.Module, x: Tensor, batch: ImageBatch, trees: list[GradCat], rows: list[int]
) -> Tensor:
    """Ablation metrics of some images of a batch, means over their objects, (B, 4).

    The rank correlation of the leaves' values with the drop of the logit when a leaf is removed,
    then ABLATION_MEASURES.
    """
    results = []
    for i, tree in enumerate(trees):
        classes, masks = batch.labels[rows, i].to(x.device), batch.masks[rows, i]
        nodes = tree.nodes[-1][rows]
        side = nodes.shape[-1]
        drops = block_ablation(net, x[rows], classes, rows=side)
        correlation = rank_correlation(nodes.flatten(1), drops).nan_to_num(0.0)  # 0/0: constant
        row, column = tree.leaf[rows].unbind(1)
        leaf = drops.argmax(1)
        quadrant = block_ablation(net, x[rows], classes, rows=2).argmax(1)
        columns = [correlation, leaf == row * side + column]
        columns += [_contains_object(masks, quadrant, 2), _contains_object(masks, leaf, side)]
        results.append(torch.stack([column.double().cpu() for column in columns], dim=1))
    return torch.stack(results).mean(0)


def _contains_object(masks: Tensor, block: Tensor, side: int) -> Tensor:
    """Whether each image's block (B,), of side², overlaps its object (B, S, S)."""
    blocks = masks.unflatten(2, (side, -1)).unflatten(1, (side, -1)).any(4).any(2).flatten(1)
    overlaps: Tensor = blocks.gather(1, block.cpu()[:, None])[:, 0]
    return overlaps


def _example_trees(
    run: Traversal, net: nn.Module, x: Tensor, batch: ImageBatch, rows: list[int]
) -> dict[str, npt.NDArray[Any]]:
    """The trees of the most probable classes of some images of a batch."""
    probable = explain.compute_logits(net, x).softmax(1)
    classes = probable.topk(min(NUM_TRACED_CLASSES, probable.shape[1])).indices
    return {
        "pixels": batch.pixels[rows].permute(0, 2, 3, 1).cpu().numpy(),
        "shows": batch.labels[rows].numpy(),
        **tree_arrays(run, net, x, classes, probable),
    }


def tree_arrays(
    run: Traversal, net: nn.Module, x: Tensor, classes: Tensor, probable: Tensor
) -> dict[str, npt.NDArray[Any]]:
    """The trees of inputs (B, 3, S, S) for their classes (B, k), as arrays for rendering.

    `classes`, `probabilities` (B, k) of `probable` (B, K), `paths` (B, k, L), and `nodes1` and so
    on, (B, k, 2, 2), (B, k, 4, 4).
    """
    trees = [trace(run, net, x, each) for each in classes.T]
    levels = zip(*(tree.nodes for tree in trees), strict=True)
    nodes = {f"nodes{n}": torch.stack(level, dim=1) for n, level in enumerate(levels, start=1)}
    arrays = {
        "classes": classes,
        "probabilities": probable.gather(1, classes),
        "paths": torch.stack([tree.path for tree in trees], dim=1),
        **nodes,
    }
    return {name: values.detach().cpu().numpy() for name, values in arrays.items()}


# --- images --------------------------------------------------------------------------------------


def num_images(run: Traversal, images: Images | Photos) -> int:
    """The number of images that the run evaluates."""
    if run.objects == 1:
        return len(explain.evenly_spaced(run.pictures, len(images.labels)))
    return run.pictures


def image_batches(
    run: Traversal, images: Images | Photos, job: Job, ranks: Ranks
) -> Iterator[ImageBatch]:
    """Batches of the rank's share of the run's images."""
    if run.objects == 1:
        yield from _single_object_images(run, images, job, ranks)
    elif isinstance(images, Photos):
        yield from _image_grids(run, images, job, ranks)
    else:
        yield from _composed_images(run, job, ranks)


def _batches(count: int, ranks: Ranks, images_each: int = 1) -> list[range]:
    """The indices of each batch of the rank's share."""
    share = range(count)[explain.rank_share(count, ranks, images_each)]
    size = explain.BATCH_SIZE // images_each
    return [share[start : start + size] for start in range(0, len(share), size)]


def _single_object_images(
    run: Traversal, images: Images | Photos, job: Job, ranks: Ranks
) -> Iterator[ImageBatch]:
    selected, boxes = explain.evenly_spaced(run.pictures, len(images.labels)), list[Boxes]()
    truth = ground_truth.load(run.dataset, run.split, images, job.options.data)
    feed = explain.image_batches(images, run.image_size, selected, ranks, job)
    for indices, pixels in zip(_batches(len(selected), ranks), feed, strict=True):
        side, part = pixels.shape[-1], selected[indices.start : indices.stop]
        boxes = boxes or targets(truth, side)
        masks = box_masks([torch.from_numpy(boxes[n]) for n in part.tolist()], side, side)
        yield ImageBatch(indices, pixels, images.labels[part][:, None], masks[:, None])


def _composed_images(run: Traversal, job: Job, ranks: Ranks) -> Iterator[ImageBatch]:
    """Images with exact masks: composed of embedded images, or synthetic."""
    can_compose = run.dataset == composed.SINGLES or run.dataset in cues.NAMES
    if not can_compose or run.split not in ("train", "test"):
        raise DataError(f"{run.dataset}: cannot compose images of four objects; take imagenet")
    split: OfficialSplit = "test" if run.split == "test" else "train"
    for indices in _batches(run.pictures, ranks):
        if run.dataset == composed.SINGLES:
            fours = composed.fours(split, len(indices), first=indices.start)
        else:
            fours = cues.fours(run.dataset, split, len(indices), first=indices.start)
        job.report_progress(indices.start, run.pictures, {})
        yield ImageBatch(indices, fours.pixels.to(ranks.device), fours.labels, fours.masks)


def _image_grids(run: Traversal, images: Photos, job: Job, ranks: Ranks) -> Iterator[ImageBatch]:
    """Grids of four images of different classes: Böhle et al.'s 'grid pointing game' (Convolutional
    Dynamic Alignment Networks, 2021), with the boxes in each image."""
    fours = sample_quadruples(images.labels, run.pictures)
    half = run.image_size // 2
    truth = targets(ground_truth.load(run.dataset, run.split, images, job.options.data), half)
    feed = explain.image_batches(images, half, fours.flatten(), ranks, job)
    batches = _batches(len(fours), ranks, images_each=4)
    for indices, pixels in zip(batches, feed, strict=True):
        part = fours[indices.start : indices.stop]
        quarters = pixels.view(-1, 2, 2, 3, half, half).permute(0, 3, 1, 4, 2, 5)
        boxes = [torch.from_numpy(truth[number]) for number in part.flatten().tolist()]
        masks = torch.zeros(len(part), 4, 2 * half, 2 * half, dtype=torch.bool)
        for quadrant, mask in enumerate(
            box_masks(boxes, half, half).unflatten(0, (-1, 4)).unbind(1)
        ):
            top, left = quadrant // 2 * half, quadrant % 2 * half
            masks[:, quadrant, top : top + half, left : left + half] = mask
        whole = quarters.reshape(len(part), 3, 2 * half, 2 * half)
        yield ImageBatch(indices, whole, images.labels[part], masks)


def sample_quadruples(labels: Tensor, count: int) -> Tensor:
    """Indices of images (count, 4), of four classes each; the same for every model and seed.

    DataError if there are fewer than four classes.
    """
    if len(labels.unique()) < 4:
        raise DataError("images of four objects need a dataset of four classes or more")
    generator = torch.Generator().manual_seed(randomness.derive_seed(0, _ORDER))
    quadruples = list[list[int]]()
    while len(quadruples) < count:
        order, four = torch.randperm(len(labels), generator=generator).tolist(), list[int]()
        for index in order:
            if int(labels[index]) not in [int(labels[other]) for other in four]:
                four.append(index)
            if len(four) == 4:
                quadruples.append(four)
                four = []
    return torch.tensor(quadruples[:count])
