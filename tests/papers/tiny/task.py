"""The task of `NearestMean`, imported where such a run is carried out."""

from __future__ import annotations

import torch

from repro.data import datasets
from repro.tasks import Job, Result

from .nearest import NearestMean


def execute(run: NearestMean, job: Job) -> Result:
    train = datasets.load(run.dataset, "train", job.options.data)
    test = datasets.load(run.dataset, "test", job.options.data)
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(run.seed))
    chosen = order[: run.images or None]
    pixels, labels = train.pixels[chosen].flatten(1).float(), train.labels[chosen]
    means = torch.stack([pixels[labels == c].mean(0) for c in range(len(train.classes))])
    nearest = torch.cdist(test.pixels.flatten(1).float(), means).argmin(1)
    top1 = 100 * int((nearest == test.labels).sum()) / len(nearest)
    guesses = {"label": test.labels.numpy(), "top1": nearest.numpy()}
    return Result("done", {"top1": top1}, guesses)
