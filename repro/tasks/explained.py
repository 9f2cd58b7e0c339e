"""What runs that explain a classifier share: the classifier, and the pictures that it is shown.

They are measured in fp32, by all ranks together and with the bits of one, and begin anew if they
are interrupted: they take minutes.
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

from repro.data import augment, datasets, loader
from repro.data.crops import CentreCrop
from repro.data.images import Images
from repro.data.photos import Photos
from repro.models.released import load_released, released
from repro.models.weights import load as load_weights
from repro.spec import Classification, Explanation
from repro.tasks import Interrupted, Job, NotFinite
from repro.tasks.classification import TOLERATED, create, normalization
from repro.train.distributed import Ranks

AT_ONCE = 64  # images


def share(count: int, ranks: Ranks, images_each: int = 1) -> slice:
    """A rank's part of `count` pictures, of one image or more each, in the batches that one rank
    would have."""
    return ranks.share(count, AT_ONCE // images_each)


def classifier_of(run: Explanation, classes: int, job: Job, device: torch.device) -> nn.Module:
    """The run's classifier, trained here or released, ready to be asked."""
    trained = run.trained
    assert trained is not None
    weights = job.weights if trained.release else job.weights_of(trained)
    return load_classifier(trained, classes, weights).to(device)


def load_classifier(run: Classification, classes: int, weights: Path | None) -> nn.Module:
    """The run's model with its weights, in eval mode, to be asked and not to be trained.

    `weights`: their file, or of released ones the folder, if not the hub's. Raises NoWeights,
    or WeightsError.
    """
    net = create(run.model, classes, 0.0, run.seed)
    if run.release:
        load_released(net, released(run.release, weights))
    else:
        assert weights is not None
        load_weights(net, weights)
    return net.eval().requires_grad_(False)


def photographs(
    images: Images | Photos, side: int, indices: Tensor, ranks: Ranks, job: Job
) -> Iterator[Tensor]:
    """Of the images of these numbers the rank's `share`, uint8 (B, 3, S, S), some at a time,
    squeezed to `side` px.

    Bilinear with antialias, as the protocol's. With 0, as they are stored. Every rank iterates to
    the end; if one is to stop, all of them raise Interrupted.
    """
    crop = CentreCrop(side, 0.0, "bilinear") if side else None
    mine = [part for part in indices[share(len(indices), ranks)].split(AT_ONCE) if len(part)]
    feed = loader.batches(
        images,
        ((part, torch.zeros_like(part)) for part in mine),
        crop,
        ranks.device,
        workers=loader.default_workers(),
        tolerated=TOLERATED,
    )
    at_once = AT_ONCE * ranks.count
    for done in range(0, len(indices), at_once):  # no rank has more batches than these rounds
        if ranks.any(job.stopping())[0]:
            raise Interrupted(f"stopped at {done} of {len(indices)} images")
        job.progress(done, len(indices), {})
        if batch := next(feed, None):
            yield batch.pixels


def inputs(pixels: Tensor, images: Images | Photos, run: Explanation) -> Tensor:
    """Pixels (B, 3, S, S) as the classifier takes them, float32."""
    how = run.trained.evaluation if run.trained else None
    return augment.normalize(pixels, *normalization(how, images.mean, images.std))


@torch.no_grad()
def logits_of(net: nn.Module, x: Tensor) -> Tensor:
    """The logits (B, K) of inputs (B, 3, S, S). NotFinite if one is NaN or infinite."""
    return checked_finite(net(x), "logits")


def checked_finite(values: Tensor, what: str) -> Tensor:
    """The values, which the classifier computed; NotFinite if one is NaN or infinite."""
    if not values.isfinite().all():
        raise NotFinite(
            f"the classifier's {what} are not finite: train it again, or choose another"
        )
    return values


def spread(count: int, among: int) -> Tensor:
    """`count` of the numbers below `among`, evenly, in their order; all of them for 0."""
    count = min(count or among, among)
    return torch.arange(count) * among // count


def load(run: Explanation, job: Job) -> Images | Photos:
    """The images that the run asks about."""
    return datasets.load(run.dataset, run.split, job.data)


def described(classes: Sequence[str]) -> list[str]:
    """The names of classes for a reader: of a wnid what it stands for."""
    info = ImageNetInfo("imagenet-1k")
    known = set(info.label_names())
    return [
        info.label_name_to_description(name, detailed=False) if name in known else name
        for name in classes
    ]


def packed(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Arrays as the bytes of an .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
