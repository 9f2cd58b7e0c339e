"""Train a classifier and test it: one straight loop.

All randomness derives from (seed, epoch, sample index), and a batch is defined by its step alone.
So a run that was killed and resumed is the uninterrupted run, bit for bit on a CPU, and any number
of ranks or accumulation steps computes the same gradient, up to the order of a sum. (BatchNorm is
the exception: its statistics are those of one device's micro batch, synchronised on GPUs only.)
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro.data import augment, datasets, randomness
from repro.spec import Classification, Model, Recipe
from repro.tasks import Interrupted, Job, Line, Result
from repro.train import checkpoint, optim, stochastic_depth
from repro.train import device as devices
from repro.train.distributed import Ranks, join

_INIT, _ORDER, _STEP = 1, 2, 3  # what a seed is for
_TEST_BATCH = 500  # images
_CHECK_STEPS = 10  # how often the loss is looked at, since looking waits for the device


def execute(run: Classification, job: Job) -> Result:
    """Train `run` to its end from wherever its last checkpoint left it, and test it."""
    devices.speed_up_fp32_matmul()
    with join(devices.choose()) as ranks:
        return _train(run, job, ranks)


def _train(run: Classification, job: Job, ranks: Ranks) -> Result:
    recipe, device = run.recipe, ranks.device

    # The data, whole and as uint8, on the device of the model.
    train = datasets.load(run.dataset, run.train_split, job.data)
    assert run.test_split != "none"
    test = datasets.load(run.dataset, run.test_split, job.data)
    pixels, labels = train.pixels.to(device), train.labels.to(device)
    size, classes = len(labels), len(train.classes)

    # The model, its optimiser, and its schedule, counted in steps.
    net = create(run.model, classes, recipe.drop_path, run.seed).to(device)
    if run.starts_from:
        start_from(net, job.weights_of(run.starts_from))
    droppers = stochastic_depth.install(net)
    if ranks.count > 1 and device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    parallel = DistributedDataParallel(net) if ranks.count > 1 else None
    model = parallel or net
    optimizer = optim.build(
        net.named_parameters(),
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        decay_biases=recipe.decay_biases,
        no_decay=recipe.no_decay,
    )
    steps = size * recipe.epochs // recipe.batch_size  # batches may straddle epochs (official)
    warmup_steps = round(recipe.warmup_epochs * size / recipe.batch_size)
    policy = augmentation(recipe)

    # The state: everything that a resumed run needs.
    first, history, loss_sum, loss_steps = 0, list[Line](), _zero(device), 0
    if state := checkpoint.load(job.checkpoints, device):
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, history = state["step"], state["history"]
        loss_steps = state["loss_steps"]
        loss_sum = state["loss_sum"] if ranks.first else loss_sum  # it is the sum over ranks
    if ranks.first:
        job.history(history)
    saved_at = time.monotonic()

    for step in range(first, steps):
        # The samples of this step, and of them the share of this rank.
        indices, epochs = batch_of(step, recipe.batch_size, size, run.seed)
        share = ranks.share(recipe.batch_size, multiple=2)  # mixing pairs neighbours
        indices, epochs = indices[share].to(device), epochs[share].to(device)
        keys = randomness.sample_keys(run.seed, epochs, indices)

        rate = optim.learning_rate(step + 1, steps=steps, warmup_steps=warmup_steps, peak=recipe.lr)
        optim.set_learning_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        model.train()
        # For whatever still draws from torch's generator: at least not from its history.
        torch.manual_seed(randomness.seed_of(run.seed, _STEP, step, ranks.rank))

        # Forward and backward, a micro batch at a time; the gradient is that of the global mean.
        parts = list(_micro_batches(len(indices), job.micro_batch))
        for number, part in enumerate(parts):
            inputs = augment.augment(
                pixels[indices[part]], keys[part], policy, train.mean, train.std
            )
            inputs, targets = augment.mix(
                inputs, labels[indices[part]], keys[part], classes, policy
            )
            stochastic_depth.draw(droppers, keys[part])
            last = number == len(parts) - 1
            with nullcontext() if last or parallel is None else parallel.no_sync():
                with devices.autocast(device):
                    logits = model(inputs)
                loss = optim.soft_cross_entropy(logits, targets).sum() / recipe.batch_size
                (loss * ranks.count).backward()  # DistributedDataParallel averages over ranks
            loss_sum += loss.detach()
        loss_steps += 1
        optimizer.step()

        # A loss that is not a number stays one, and it stays in the sum.
        done = step + 1
        epoch_ends = done * recipe.batch_size // size > step * recipe.batch_size // size
        if epoch_ends or done % _CHECK_STEPS == 0 or done == steps:
            mean_loss = float(ranks.sum(loss_sum)) / loss_steps
            job.progress(done, steps, {"epoch": done * recipe.batch_size / size, "loss": mean_loss})
            if not math.isfinite(mean_loss):
                facts = _facts(net, train, test, ranks)
                return Result("diverged", {"step": done}, provenance=facts)

        # The end of an epoch: one line of metrics.
        if epoch_ends or done == steps:
            epoch = recipe.epochs if done == steps else done * recipe.batch_size // size
            line: dict[str, float | int | None] = {
                "epoch": epoch,
                "step": done,
                "lr": rate,
                "train_loss": mean_loss,
            }
            every = recipe.evaluate_every_epochs
            if every and epoch % every == 0 and done < steps:
                line |= evaluate(net, test, ranks)[0]
            history.append(line)
            loss_sum, loss_steps = _zero(device), 0
            if ranks.first:
                job.history(history)

        # Save by the clock, and when asked to stop. All ranks agree, and the first one writes.
        due = time.monotonic() - saved_at >= job.checkpoint_seconds
        stop, save = ranks.any(job.stopping(), due)
        if stop or save:
            loss_so_far = ranks.sum(loss_sum)
            if ranks.first and job.ours():
                state = {
                    "model": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "history": history,
                    "loss_sum": loss_so_far,
                    "loss_steps": loss_steps,
                }
                try:
                    checkpoint.save(job.checkpoints, done, state)
                except OSError as error:  # a full disk: go on from, or stop at, the one before
                    warnings.warn(
                        f"cannot save to {job.checkpoints}: {error.strerror}", stacklevel=1
                    )
            saved_at = time.monotonic()
        if stop:
            raise Interrupted(f"stopped after step {done} of {steps}")

    metrics, predictions = evaluate(net, test, ranks)
    return Result("done", metrics, predictions, net.state_dict(), _facts(net, train, test, ranks))


def create(model: Model, classes: int, drop_path: float, seed: int) -> nn.Module:
    """The architecture with initial weights, a function of the seed. ValueError: no such model."""
    if not timm.is_model(model.name):
        raise ValueError(f"no architecture is registered as {model.name!r}")
    torch.manual_seed(randomness.seed_of(seed, _INIT))
    net = timm.create_model(
        model.name, num_classes=classes, drop_path_rate=drop_path, **dict(model.options)
    )
    assert isinstance(net, nn.Module)
    return net


def start_from(net: nn.Module, weights: Path) -> None:
    """Load trained weights; the classifier stays new where it has other classes.

    ValueError names a tensor that does not fit.
    """
    trained = load_file(weights)
    own = net.state_dict()
    head = {name for name, module in net.named_modules() if module is _classifier(net)}
    for name, tensor in own.items():
        is_head = name.rpartition(".")[0] in head
        if name not in trained or trained[name].shape != tensor.shape:
            if not is_head:
                raise ValueError(f"{weights} does not fit: {name} of shape {tuple(tensor.shape)}")
            trained[name] = tensor
    net.load_state_dict(trained)


def _classifier(net: nn.Module) -> object:
    get: Any = getattr(net, "get_classifier", None)
    return get() if get else None


def _zero(device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=device)


def augmentation(recipe: Recipe) -> augment.Augmentation:
    """The part of a recipe that concerns images; the fields have the same names in both."""
    names = augment.Augmentation.__dataclass_fields__
    return augment.Augmentation(**{name: getattr(recipe, name) for name in names})


def batch_of(step: int, batch_size: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """The sample indices and the epochs of a step's batch, each int64 (batch_size,).

    The stream is epoch after epoch, each in its own order; a batch is the next `batch_size` of it,
    whichever epochs they fall in.
    """
    position = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = position // size
    orders = torch.stack([_order(seed, int(e), size) for e in epochs.unique()])
    return orders[epochs - epochs[0], position % size], epochs


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(randomness.seed_of(seed, _ORDER, epoch))
    return torch.randperm(size, generator=generator)


def _micro_batches(size: int, limit: int | None) -> Iterator[slice]:
    """Consecutive slices of at most `limit` samples, even, so that no mixed pair is divided."""
    length = size if limit is None else max(2, limit // 2 * 2)
    for start in range(0, size, max(1, length)):
        yield slice(start, min(start + length, size))


@torch.no_grad()
def evaluate(
    net: nn.Module, test: datasets.Images, ranks: Ranks
) -> tuple[dict[str, float | int], dict[str, NDArray[np.uint16]]]:
    """Test on every image exactly once, divided over the ranks, counted in whole numbers.

    Returns the metrics (`top1`, `top5` in percent, `loss` in nats, `test_images`) and the
    predictions: `label` (N,) and `top5` (N, 5), the most probable class first.
    """
    net.eval()
    size, kept = len(test.labels), min(5, len(test.classes))
    top = torch.zeros(size, kept, dtype=torch.int64, device=ranks.device)
    losses = torch.zeros(size, dtype=torch.float64, device=ranks.device)
    mine = ranks.share(size)
    for start in range(mine.start, mine.stop, _TEST_BATCH):
        part = slice(start, min(start + _TEST_BATCH, mine.stop))
        images = augment.normalize(test.pixels[part].to(ranks.device), test.mean, test.std)
        with devices.autocast(ranks.device):
            logits = net(images)
        logits = logits.float()
        labels = test.labels[part].to(ranks.device)
        top[part] = logits.topk(kept).indices
        losses[part] = nn.functional.cross_entropy(logits, labels, reduction="none").double()
    top, losses = ranks.sum(top).cpu(), ranks.sum(losses).cpu()
    hits = top == test.labels[:, None]
    metrics = {
        "top1": 100 * int(hits[:, 0].sum()) / size,
        "top5": 100 * int(hits.sum()) / size,
        "loss": float(losses.mean()),
        "test_images": size,
    }
    return metrics, {
        "label": test.labels.numpy().astype(np.uint16),
        "top5": top.numpy().astype(np.uint16),
    }


def _facts(
    net: nn.Module, train: datasets.Images, test: datasets.Images, ranks: Ranks
) -> dict[str, object]:
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "train_fingerprint": train.fingerprint,
        "test_fingerprint": test.fingerprint,
        "train_images": len(train.labels),
        "device": devices.describe(ranks.device),
        "precision": devices.precision(ranks.device),
        "ranks": ranks.count,
    }
