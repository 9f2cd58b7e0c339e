"""Shared by runs that explain a classifier: loading the classifier and batches of images.

They compute in fp32, in parallel with the same bits as one rank, and start over if interrupted,
since they take minutes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from repro.data import datasets
from repro.data.augment import augment
from repro.data.augment.crops import CentreCrop
from repro.data.imagenet.photos import Photos
from repro.data.images import Images
from repro.data.loading import loader
from repro.models.released import load_released, read_released
from repro.models.weights import load as load_weights
from repro.spec import Classification, Explanation
from repro.tasks import Interrupted, Job, NotFinite
from repro.tasks.classification import MAX_UNREADABLE_SHARE, create, normalization
from repro.train.distributed import Ranks

BATCH_SIZE = 64  # images


def rank_share(count: int, ranks: Ranks, images_each: int = 1) -> slice:
    """A rank's part of `count` items, of `images_each` images, in the batches of a single rank."""
    return ranks.share(count, BATCH_SIZE // images_each)


def load_run_classifier(
    run: Explanation, classes: int, job: Job, device: torch.device
) -> nn.Module:
    """The run's classifier, trained here or pretrained, in eval mode."""
    trained = run.trained
    assert trained is not None
    weights = job.options.weights if trained.release else job.weights_path(trained)
    return load_classifier(trained, classes, weights).to(device)


def load_classifier(run: Classification, classes: int, weights: Path | None) -> nn.Module:
    """The run's model with its weights, frozen and in eval mode.

    `weights`: their file, or the folder of pretrained ones; None: from the hub. Raises
    WeightsNotFound or WeightsError.
    """
    net = create(run.model, classes, 0.0, run.seed)
    if run.release:
        load_released(net, read_released(run.release, weights))
    else:
        assert weights is not None
        load_weights(net, weights)
    return net.eval().requires_grad_(False)


def image_batches(
    images: Images | Photos, side: int, indices: Tensor, ranks: Ranks, job: Job
) -> Iterator[Tensor]:
    """Batches of the rank's share of the images `indices`, uint8 (B, 3, S, S), of `side` px.

    Resized without keeping the aspect ratio, bilinearly with antialiasing, as in the protocol; with
    a side of 0, as stored. Every rank iterates to the end; if one should stop, all raise
    Interrupted.
    """
    crop = CentreCrop(side, 0.0, "bilinear") if side else None
    batches = [
        part for part in indices[rank_share(len(indices), ranks)].split(BATCH_SIZE) if len(part)
    ]
    feed = loader.batches(
        images,
        ((part, torch.zeros_like(part)) for part in batches),
        crop,
        ranks.device,
        workers=loader.default_workers(),
        max_unreadable=MAX_UNREADABLE_SHARE,
    )
    at_once = BATCH_SIZE * ranks.count
    for done in range(0, len(indices), at_once):  # the same number of rounds on every rank
        if ranks.any(job.should_stop())[0]:
            raise Interrupted(f"stopped at {done} of {len(indices)} images")
        job.report_progress(done, len(indices), {})
        if batch := next(feed, None):
            yield batch.pixels


def model_inputs(pixels: Tensor, images: Images | Photos, run: Explanation) -> Tensor:
    """Pixels (B, 3, S, S) normalised for the classifier, float32."""
    how = run.trained.evaluation if run.trained else None
    return augment.normalize(pixels, *normalization(how, images.mean, images.std))


@torch.no_grad()
def compute_logits(net: nn.Module, x: Tensor) -> Tensor:
    """The logits (B, K) of inputs (B, 3, S, S). NotFinite if one is NaN or infinite."""
    return require_finite(net(x), "logits")


def require_finite(values: Tensor, what: str) -> Tensor:
    """The values; NotFinite if one is NaN or infinite."""
    if not values.isfinite().all():
        raise NotFinite(
            f"the classifier's {what} are not finite: train it again, or choose another"
        )
    return values


def evenly_spaced(count: int, size: int) -> Tensor:
    """`count` evenly spaced indices below `size`, in order; all of them for 0."""
    count = min(count or size, size)
    return torch.arange(count) * size // count


def load_images(run: Explanation, job: Job) -> Images | Photos:
    """The images of the run's dataset and split."""
    return datasets.load(run.dataset, run.split, job.options.data)


def class_descriptions(classes: Sequence[str]) -> list[str]:
    """Readable names of classes; wnids are replaced by their descriptions."""
    info = ImageNetInfo("imagenet-1k")
    wnids = set(info.label_names())
    return [
        info.label_name_to_description(name, detailed=False) if name in wnids else name
        for name in classes
    ]


def to_npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as the bytes of an .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
