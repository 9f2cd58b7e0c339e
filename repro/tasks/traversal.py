"""Where GradCAT's paths lead: into the quadrant, and the leaf, of the object that was asked for?

On pictures composed of four objects, one a quadrant, where a path has to choose; or on pictures of
one object. What the paper shows by examples is counted here, beside what chance would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from repro.data import composed, ground_truth, randomness
from repro.data.images import DataError, Images, Official
from repro.data.photos import Photos
from repro.interpret.bootstrap import Resamples
from repro.interpret.boxes import Boxes
from repro.interpret.faithfulness import block_ablation, rank_correlation
from repro.interpret.gradcat import GradCat, gradcat
from repro.interpret.localization import targets
from repro.interpret.metrics import box_masks, leaf_hit, quadrant_hit
from repro.spec import Traversal
from repro.tasks import Job, Result
from repro.tasks import explained as explain
from repro.tasks.localization import estimates, percent
from repro.train import device as devices
from repro.train.distributed import Ranks, together

SHOWN = 12  # pictures whose trees are kept
TRACED = 4  # classes that are traced in each of these, the most probable ones (Figure 2)
_ORDER = 21  # what a seed is for: which photographs make a picture of four

MEASURES = ("quadrant", "quadrant_chance", "leaf", "leaf_chance", "leaf_most", "leaf_most_chance")
ABLATED = ("best_leaf", "ablation_quadrant", "ablation_leaf")


@dataclass(frozen=True)
class Pictures:
    """Some pictures of S px, with K objects each."""

    numbers: range  # theirs among all
    pixels: Tensor  # (B, 3, S, S) uint8, on the device
    labels: Tensor  # (B, K) int64, on the CPU
    masks: Tensor  # (B, K, S, S) bool: where each object is; its box, if nothing better is known


def execute(run: Traversal, job: Job) -> Result:
    """Follow all paths, divided over the ranks, and count."""
    return together(partial(_measured, run, job)) or Result("done", {})


@dataclass(frozen=True)
class _Followed:
    """What remains of some pictures."""

    hits: Tensor
    paths: Tensor
    labels: Tensor
    faithful: Tensor | None  # of those that are ablated, if any
    shown: dict[str, npt.NDArray[Any]] | None  # of those that are drawn, if any


def _measured(run: Traversal, job: Job, ranks: Ranks) -> Result:
    images = explain.load(run, job)
    net = explain.classifier_of(run, len(images.classes), job, ranks.device)
    every = ranks.gathered(list(_followed(run, net, images, job, ranks)))
    if not every:
        return Result("done", {})
    found = [part for theirs in every for part in theirs]
    hits = torch.cat([part.hits for part in found])
    faithful = [part.faithful for part in found if part.faithful is not None]
    shown = [part.shown for part in found if part.shown is not None]

    values = hits.mean(1).double().numpy()  # of a picture's objects: they are not apart
    shares = estimates(Resamples(len(values)).means(values))
    metrics = percent(dict(zip(MEASURES, shares, strict=True)))
    path = torch.cat([part.paths for part in found])
    metrics["undecided"] = 100 * float((path[:, :, -1] < 0).double().mean())
    if faithful:
        of_leaves = torch.cat(faithful).double().numpy()
        rank, *shares = estimates(Resamples(len(of_leaves)).means(of_leaves))
        metrics |= percent(dict(zip(ABLATED, shares, strict=True)))
        metrics |= {"faithful": rank.value, "faithful_low": rank.low, "faithful_high": rank.high}
    kept = {key: np.concatenate([one[key] for one in shown]) for key in shown[0]}
    kept["names"] = np.array(explain.described(images.classes))
    return Result(
        "done",
        metrics,
        {
            "label": torch.cat([part.labels for part in found]).numpy().astype(np.uint16),
            "path": path.numpy().astype(np.int8),
            "hits": (hits[:, :, ::2] > 0).numpy().astype(np.uint8),
        },
        provenance={
            "test_fingerprint": images.fingerprint,
            "pictures": len(hits),
            "device": devices.describe(ranks.device),
            "precision": "fp32",
        },
        files={"trees.npz": explain.packed(kept)},
    )


def _followed(
    run: Traversal, net: nn.Module, images: Images | Photos, job: Job, ranks: Ranks
) -> Iterator[_Followed]:
    """What remains of the rank's pictures."""
    total = count_of(run, images)
    chosen = set(explain.spread(SHOWN, total).tolist())
    ablated = set(explain.spread(run.ablated, total).tolist()) if run.ablated else set()
    for part in pictures(run, images, job, ranks):
        x = explain.inputs(part.pixels, images, run)
        trees = [trace(run, net, x, classes) for classes in part.labels.T]
        found = [
            _hits(tree, masks) for tree, masks in zip(trees, part.masks.unbind(1), strict=True)
        ]
        lost = [at for at, number in enumerate(part.numbers) if number in ablated]
        drawn = [at for at, number in enumerate(part.numbers) if number in chosen]
        yield _Followed(
            torch.stack(found, dim=1),
            torch.stack([tree.path.cpu() for tree in trees], dim=1),
            part.labels,
            _faithful(net, x, part, trees, lost) if lost else None,
            _kept(run, net, x[drawn], part, drawn) if drawn else None,
        )


def trace(run: Traversal, net: nn.Module, x: Tensor, classes: Tensor) -> GradCat:
    """The tree of each input (B, 3, S, S) for its class (B,), by the run's reading of GradCAT.

    NotFinite if a value of a tree is NaN or infinite.
    """
    tree = gradcat(
        net, x, classes.to(x.device), sign=run.sign, top_tap=run.top_tap, tap_below=run.tap_below
    )
    explain.checked_finite(torch.cat([nodes.flatten() for nodes in tree.nodes]), "trees")
    return tree


def _hits(tree: GradCat, masks: Tensor) -> Tensor:
    """What MEASURES counts, of each picture (B, 6)."""
    found = [quadrant_hit(tree, masks), leaf_hit(tree, masks), leaf_hit(tree, masks, "most")]
    columns = [column.float().cpu() for hit in found for column in hit]
    return torch.stack(columns, dim=1)


def _faithful(
    net: nn.Module, x: Tensor, part: Pictures, trees: list[GradCat], here: list[int]
) -> Tensor:
    """Of some pictures of a batch, (B, 4), means over their objects: the rank correlation of the
    leaves' values with the fall of the logit when a leaf is taken away, and what ABLATED counts."""
    columns = []
    for place, tree in enumerate(trees):
        classes, masks = part.labels[here, place].to(x.device), part.masks[here, place]
        nodes = tree.nodes[-1][here]
        side = nodes.shape[-1]
        falls = block_ablation(net, x[here], classes, rows=side)
        rank = rank_correlation(nodes.flatten(1), falls).nan_to_num(0.0)  # 0/0: all values equal
        row, column = tree.leaf[here].unbind(1)
        costliest = falls.argmax(1)
        quadrant = block_ablation(net, x[here], classes, rows=2).argmax(1)
        found = [rank, costliest == row * side + column]
        found += [_holds(masks, quadrant, 2), _holds(masks, costliest, side)]
        columns.append(torch.stack([one.double().cpu() for one in found], dim=1))
    return torch.stack(columns).mean(0)


def _holds(masks: Tensor, block: Tensor, side: int) -> Tensor:
    """Whether the block of each number, of side by side, has a part of the object (B, S, S)."""
    parts = masks.unflatten(2, (side, -1)).unflatten(1, (side, -1)).any(4).any(2).flatten(1)
    held: Tensor = parts.gather(1, block.cpu()[:, None])[:, 0]
    return held


def _kept(
    run: Traversal, net: nn.Module, x: Tensor, part: Pictures, here: list[int]
) -> dict[str, npt.NDArray[Any]]:
    """Of some pictures of a batch, the trees of their most probable classes, to be drawn."""
    probable = explain.logits_of(net, x).softmax(1)
    classes = probable.topk(min(TRACED, probable.shape[1])).indices
    return {
        "pixels": part.pixels[here].permute(0, 2, 3, 1).cpu().numpy(),
        "shows": part.labels[here].numpy(),
        **trees_of(run, net, x, classes, probable),
    }


def trees_of(
    run: Traversal, net: nn.Module, x: Tensor, classes: Tensor, probable: Tensor
) -> dict[str, npt.NDArray[Any]]:
    """The trees of inputs (B, 3, S, S) for their classes (B, k), as arrays that can be drawn.

    `classes`, `probabilities` (B, k) of `probable` (B, K), `paths` (B, k, L), and `nodes1` and so
    on, (B, k, 2, 2), (B, k, 4, 4).
    """
    trees = [trace(run, net, x, each) for each in classes.T]
    levels = zip(*(tree.nodes for tree in trees), strict=True)
    nodes = {f"nodes{n}": torch.stack(level, dim=1) for n, level in enumerate(levels, start=1)}
    found = {
        "classes": classes,
        "probabilities": probable.gather(1, classes),
        "paths": torch.stack([tree.path for tree in trees], dim=1),
        **nodes,
    }
    return {name: values.detach().cpu().numpy() for name, values in found.items()}


# --- pictures ------------------------------------------------------------------------------------


def count_of(run: Traversal, images: Images | Photos) -> int:
    """How many pictures there are."""
    if run.objects == 1:
        return len(explain.spread(run.pictures, len(images.labels)))
    return run.pictures


def pictures(run: Traversal, images: Images | Photos, job: Job, ranks: Ranks) -> Iterator[Pictures]:
    """The rank's share of the run's pictures, some at a time."""
    if run.objects == 1:
        yield from _of_one(run, images, job, ranks)
    elif isinstance(images, Photos):
        yield from _of_four_photographs(run, images, job, ranks)
    else:
        yield from _of_four_cut_out(run, job, ranks)


def _batches(count: int, ranks: Ranks, images_each: int = 1) -> list[range]:
    """The numbers of the rank's share of pictures, a batch after another."""
    mine = range(count)[explain.share(count, ranks, images_each)]
    at_once = explain.AT_ONCE // images_each
    return [mine[start : start + at_once] for start in range(0, len(mine), at_once)]


def _of_one(run: Traversal, images: Images | Photos, job: Job, ranks: Ranks) -> Iterator[Pictures]:
    chosen, boxes = explain.spread(run.pictures, len(images.labels)), list[Boxes]()
    truth = ground_truth.load(run.dataset, run.split, images, job.data)
    feed = explain.photographs(images, run.image_size, chosen, ranks, job)
    for numbers, pixels in zip(_batches(len(chosen), ranks), feed, strict=True):
        side, part = pixels.shape[-1], chosen[numbers.start : numbers.stop]
        boxes = boxes or targets(truth, side)
        masks = box_masks([torch.from_numpy(boxes[n]) for n in part.tolist()], side, side)
        yield Pictures(numbers, pixels, images.labels[part][:, None], masks[:, None])


def _of_four_cut_out(run: Traversal, job: Job, ranks: Ranks) -> Iterator[Pictures]:
    """Of the embedded images, each object cut out, so that its very pixels are known."""
    if run.dataset != composed.SINGLES or run.split not in ("train", "test"):
        raise DataError(f"{run.dataset}: no four of its objects can be composed; take imagenet")
    split: Official = "test" if run.split == "test" else "train"
    for numbers in _batches(run.pictures, ranks):
        made = composed.fours(split, len(numbers), first=numbers.start)
        job.progress(numbers.start, run.pictures, {})
        yield Pictures(numbers, made.pixels.to(ranks.device), made.labels, made.masks)


def _of_four_photographs(
    run: Traversal, images: Photos, job: Job, ranks: Ranks
) -> Iterator[Pictures]:
    """A photograph of another class in each quadrant, squeezed to it: Böhle et al.'s 'grid pointing
    game' (Convolutional Dynamic Alignment Networks, 2021), with the boxes in each known as well."""
    fours = of_other_classes(images.labels, run.pictures)
    half = run.image_size // 2
    truth = targets(ground_truth.load(run.dataset, run.split, images, job.data), half)
    feed = explain.photographs(images, half, fours.flatten(), ranks, job)
    batches = _batches(len(fours), ranks, images_each=4)
    for numbers, pixels in zip(batches, feed, strict=True):
        part = fours[numbers.start : numbers.stop]
        quarters = pixels.view(-1, 2, 2, 3, half, half).permute(0, 3, 1, 4, 2, 5)
        boxes = [torch.from_numpy(truth[number]) for number in part.flatten().tolist()]
        masks = torch.zeros(len(part), 4, 2 * half, 2 * half, dtype=torch.bool)
        for quadrant, mask in enumerate(
            box_masks(boxes, half, half).unflatten(0, (-1, 4)).unbind(1)
        ):
            top, left = quadrant // 2 * half, quadrant % 2 * half
            masks[:, quadrant, top : top + half, left : left + half] = mask
        whole = quarters.reshape(len(part), 3, 2 * half, 2 * half)
        yield Pictures(numbers, whole, images.labels[part], masks)


def of_other_classes(labels: Tensor, count: int) -> Tensor:
    """Numbers of images (count, 4), of four classes each; the same for every model and seed.

    DataError if there are fewer than four classes.
    """
    if len(labels.unique()) < 4:
        raise DataError("pictures of four objects need images of four classes or more")
    generator = torch.Generator().manual_seed(randomness.seed_of(0, _ORDER))
    found = list[list[int]]()
    while len(found) < count:
        order, four = torch.randperm(len(labels), generator=generator).tolist(), list[int]()
        for number in order:
            if int(labels[number]) not in [int(labels[other]) for other in four]:
                four.append(number)
            if len(four) == 4:
                found.append(four)
                four = []
    return torch.tensor(found[:count])
