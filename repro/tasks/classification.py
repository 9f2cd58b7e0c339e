"""Train a classifier and test it: one straight loop.

All randomness derives from (seed, epoch, sample index), and a batch is defined by its step alone.
So a run that was killed and resumed is the uninterrupted run, bit for bit on a CPU, and any number
of ranks or accumulation steps computes the same gradient, up to the order of a sum. (BatchNorm is
the exception: its statistics are those of one device's micro batch, synchronised on GPUs only.)
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import lru_cache, partial

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro.data import augment, datasets, loader, randomness
from repro.data.ahead import Ahead
from repro.data.crops import CentreCrop, RandomCrop
from repro.data.images import RGB, Images
from repro.data.photos import Photos
from repro.models import stochastic_depth, weights
from repro.models.released import load_released, released, start_from
from repro.spec import Classification, Evaluation, Model, Recipe
from repro.tasks import Interrupted, Job, Line, NotFinite, Result
from repro.train import activations, checkpoint, optim, speed, testing
from repro.train import device as devices
from repro.train.accumulation import MicroBatches
from repro.train.distributed import Ranks, synchronize_batch_norms, together

NO_CLASS = 2**16 - 1  # predicted for an image that could not be read

_INIT, _ORDER, _STEP, _BATCH = 1, 2, 3, 4  # what a seed is for
_PAIR = 2  # neighbours, which are mixed with each other
TOLERATED = 0.001  # share of images that may be unreadable
_TOGETHER = 64  # images, before the first of them comes again in repeated augmentation
_CHECK_STEPS = 10  # how often the loss is looked at, since looking waits for the device


def execute(run: Classification, job: Job) -> Result:
    """Train `run` to its end from wherever its last checkpoint left it, and test it."""
    if not run.recipe.epochs:
        return together(partial(_test_weights, run, job)) or Result("done", {})
    pairs = -(-run.recipe.batch_size // _PAIR)  # a rank beyond these would have none
    with checkpoint.Writer(job.checkpoints, job.checkpoint_seconds, job.ours) as writer:
        return together(partial(_train, run, job, writer), pairs) or Result("done", {})


def _test_weights(run: Classification, job: Job, ranks: Ranks) -> Result:
    """Test weights as they are: released ones, or initial ones. In fp32, as they were published."""
    assert run.test_split != "none"
    test = datasets.load(run.dataset, run.test_split, job.data)
    net = create(run.model, len(test.classes), 0.0, run.seed)
    if run.release:
        load_released(net, released(run.release, job.weights))
    net, side = net.to(ranks.device), side_of(test, run.evaluation)
    at_once = testing.that_fit(net, side, exact=True, halvings=job.halvings)
    metrics, predictions = evaluate(net, test, run.evaluation, ranks, at_once, exact=True)
    facts = _facts(net, ranks, test=test) | {"precision": "fp32"}
    return Result("done", metrics, predictions, provenance=facts)


def _train(run: Classification, job: Job, writer: checkpoint.Writer, ranks: Ranks) -> Result:
    recipe, device = run.recipe, ranks.device

    # The data: small sets whole and as uint8, on the model's device; photographs where they lie.
    train = datasets.load(run.dataset, run.train_split, job.data)
    test = None
    if run.test_split != "none":
        test = datasets.load(run.dataset, run.test_split, job.data)
    size, classes = len(train.labels), len(train.classes)

    # The model, its optimiser, and its schedule, counted in steps.
    net = create(run.model, classes, recipe.drop_path, run.seed).to(device)
    net = speed.set_layout(net, job.speed)
    side = recipe.image_size or (train.pixels.shape[-1] if isinstance(train, Images) else 0)
    each = partial(activations.bytes_an_image, net, side)
    limit = job.micro_batch or activations.images_that_fit([net], each)
    at_once = None
    if test:
        tested = side_of(test, run.evaluation)
        at_once = testing.that_fit(net, tested, halvings=job.halvings)
    if run.starts_from:
        start_from(net, weights.read(job.weights_of(run.starts_from)))
    droppers = stochastic_depth.install(net)
    net = synchronize_batch_norms(net, ranks)
    ranks.align(net)
    micro_batches = MicroBatches(
        [net], recipe.batch_size, ranks, limit, _PAIR, halvings=job.halvings
    )
    optimizer = optim.build(
        net.named_parameters(),
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        decay_biases=recipe.decay_biases,
        no_decay=recipe.no_decay,
        fused=speed.is_fused(job.speed, device),
    )
    forward = speed.Forward(net, job.speed)
    steps = size * recipe.epochs // recipe.batch_size  # batches may straddle epochs (official)
    warmup_steps = round(recipe.warmup_epochs * size / recipe.batch_size)
    policy = augmentation(recipe)

    # The state: everything that a resumed run needs.
    first, history, loss_sum, loss_steps = 0, list[Line](), _zero(device), 0
    if state := checkpoint.load(job.checkpoints):
        net.load_state_dict(state["model"])
        optim.restore(optimizer, state["optimizer"])
        first, history = state["step"], state["history"]
        loss_steps = state["loss_steps"]
        loss_sum = (
            state["loss_sum"].to(device) if ranks.first else loss_sum
        )  # it is the sum over ranks
    if ranks.first:
        job.history(history)

    # Of the samples of each step the share of this rank, read ahead where they have to be read.
    feed = loader.batches(
        train,
        (share_of(step, run, size, ranks) for step in range(first, steps)),
        training_crop(recipe),
        device,
        workers=loader.default_workers(),
        tolerated=TOLERATED,
        decode=job.decode,
    )
    batches = dict(zip([first], feed, strict=False))  # of this step and of the next

    def augmented(which: tuple[int, slice]) -> tuple[Tensor, Tensor]:
        """The inputs and targets of a step's micro-batch."""
        step, part = which
        batch, batch_key = batches[step], _batch_key(run.seed, step)
        keys = batch.keys[part]
        inputs = augment.augment(batch.pixels[part], keys, policy, train.mean, train.std)
        labels = batch.labels[part]
        return augment.mix(inputs, labels, keys, classes, policy, batch_key=batch_key)

    def facts() -> dict[str, object]:
        """How the run was carried out, with whatever end."""
        execution = {
            "decode": job.decode, "micro_batch": micro_batches.size, "speed": forward.speed
        }  # fmt: skip
        return _facts(net, ranks, train=train, test=test) | execution

    inputs_of = Ahead(augmented, device)
    for step in range(first, steps):
        batches.pop(step - 1, None)
        batches.update(zip([step + 1], feed, strict=False))

        rate = optim.learning_rate(
            step + 1,
            steps=steps,
            warmup_steps=warmup_steps,
            peak=recipe.lr,
            first=recipe.warmup_lr,
            final=recipe.final_lr,
        )
        optim.set_learning_rate(optimizer, rate)
        net.train()

        # Forward and backward, a micro-batch at a time; the gradient is that of the global mean.
        def backward(part: slice, step: int = step) -> Tensor:
            following = micro_batches.after(step, part)
            then = following if following[0] in batches else None
            inputs, targets = inputs_of((step, part), then)
            stochastic_depth.draw(droppers, batches[step].keys[part], device)
            with devices.autocast(device):
                logits = forward(inputs, whole=micro_batches.count == 1)
            loss = optim.soft_cross_entropy(logits, targets).sum() / recipe.batch_size
            loss.backward()
            return loss.detach().double()

        # For whatever still draws from torch's generator: at least not from its history.
        seed = randomness.seed_of(run.seed, _STEP, step, ranks.rank)
        loss_sum += micro_batches.gradient(backward, seed)
        loss_steps += 1
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        optimizer.step()

        # A loss that is not a number stays one, and it stays in the sum.
        done = step + 1
        epoch_ends = done * recipe.batch_size // size > step * recipe.batch_size // size
        if epoch_ends or done % _CHECK_STEPS == 0 or done == steps:
            mean_loss = float(ranks.sum(loss_sum)) / loss_steps
            if not math.isfinite(mean_loss):
                return Result("diverged", {"step": done}, provenance=facts())
            job.progress(done, steps, {"epoch": done * recipe.batch_size / size, "loss": mean_loss})

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
            if test and every and epoch % every == 0 and done < steps:
                try:
                    line |= evaluate(net, test, run.evaluation, ranks, at_once)[0]
                except NotFinite as error:
                    why = {"why": str(error)}
                    return Result("diverged", {"step": done}, provenance=facts() | why)
            history.append(line)
            loss_sum, loss_steps = _zero(device), 0
            if ranks.first:
                job.history(history)

        # Save by the clock, and when asked to stop. All ranks agree, and the first one writes.
        stop, save = ranks.any(job.stopping(), ranks.first and writer.due())
        if stop or save:
            loss_so_far = ranks.sum(loss_sum)
            if ranks.first:
                state = {
                    "model": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                    "history": history,
                    "loss_sum": loss_so_far,
                    "loss_steps": loss_steps,
                }
                writer.write(done, state)
        if stop:
            raise Interrupted(f"stopped after step {done} of {steps}")

    metrics: dict[str, float | int] = {"train_loss": _last_loss(history)}
    predictions: dict[str, NDArray[np.uint16]] = {}
    try:
        if test:
            metrics, predictions = evaluate(net, test, run.evaluation, ranks, at_once)
        return Result("done", metrics, predictions, net.state_dict(), facts())
    except NotFinite as error:
        return Result("diverged", {"step": steps}, provenance=facts() | {"why": str(error)})


def _last_loss(history: list[Line]) -> float:
    loss = history[-1]["train_loss"]
    assert loss is not None
    return loss


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


def _zero(device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=device)


def augmentation(recipe: Recipe) -> augment.Augmentation:
    """The part of a recipe that concerns images; the fields have the same names in both."""
    names = augment.Augmentation.__dataclass_fields__
    return augment.Augmentation(**{name: getattr(recipe, name) for name in names})


def training_crop(recipe: Recipe) -> RandomCrop | None:
    """How images of all sizes become training inputs; None where they are of one size."""
    if not recipe.image_size:
        return None
    least, most = recipe.crop_area
    return RandomCrop(recipe.image_size, (least, most), recipe.crop_resize)


def share_of(step: int, run: Classification, size: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The sample indices and keys of a rank's part of a step's batch, int64, on the CPU."""
    recipe = run.recipe
    indices, epochs = batch_of(step, recipe.batch_size, size, run.seed, recipe.repeats)
    share = ranks.share(recipe.batch_size, _PAIR)
    return indices[share], randomness.sample_keys(run.seed, epochs[share], indices[share])


def batch_of(
    step: int, batch_size: int, size: int, seed: int, repeats: int = 1
) -> tuple[Tensor, Tensor]:
    """The sample indices and the epochs of a step's batch, each int64 (batch_size,).

    The stream is epoch after epoch, each in its own order; a batch is the next `batch_size` of it,
    whichever epochs they fall in. With `repeats`, an epoch has the first images of its order only,
    so many times each (DeiT's samplers.py): _TOGETHER images, then again with the neighbours
    shifted, so that another one is each image's partner in mixing. Each time counts as an epoch.
    """
    position = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs, place = position // size, position % size
    group, time_ = place // (_TOGETHER * repeats), place // _TOGETHER % repeats
    place = group * _TOGETHER + (place + time_) % _TOGETHER if repeats > 1 else place
    parts = [
        _order(seed, epoch, size)[place[epochs == epoch] % size]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return torch.cat(parts), epochs * repeats + time_ * (repeats > 1)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(randomness.seed_of(seed, _ORDER, epoch))
    return torch.randperm(size, generator=generator)


def _batch_key(seed: int, step: int) -> Tensor:
    """For what is drawn once for a global batch."""
    return torch.tensor(randomness.seed_of(seed, _BATCH, step))


def normalization(how: Evaluation | None, mean: RGB, std: RGB) -> tuple[RGB, RGB]:
    """Mean and standard deviation of test inputs: what the evaluation says, or the dataset's."""
    if how and how.normalize:
        return (how.normalize[0],) * 3, (how.normalize[1],) * 3
    return mean, std


def side_of(test: Images | Photos, how: Evaluation | None) -> int:
    """The side of test inputs, in px."""
    if how:
        return how.image_size
    assert isinstance(test, Images)
    return int(test.pixels.shape[-1])


@torch.no_grad()
def evaluate(
    net: nn.Module,
    test: Images | Photos,
    how: Evaluation | None,
    ranks: Ranks,
    at_once: testing.AtOnce | None = None,
    exact: bool = False,
) -> tuple[dict[str, float | int], dict[str, NDArray[np.uint16]]]:
    """Test on every image exactly once, divided over the ranks, counted in whole numbers.

    Returns the metrics (`top1`, `top5` in percent, `loss` in nats, `test_images`, and `unreadable`
    if there are any, which count as wrong) and the predictions: `label` (N,) and `top5` (N, 5), the
    most probable class first; NO_CLASS for an image that could not be read. `at_once`: if not as
    many as fit. `exact`: in fp32.

    Raises NotFinite, on all ranks, if a logit is NaN or infinite.
    """
    ranks.align(net)  # each has BatchNorm statistics of its own
    net.eval()
    size, kept = len(test.labels), min(5, len(test.classes))
    top = torch.zeros(size, kept, dtype=torch.int64, device=ranks.device)
    losses = torch.zeros(size, dtype=torch.float64, device=ranks.device)
    mean, std = normalization(how, test.mean, test.std)
    crop = CentreCrop(how.image_size, how.crop_fraction, how.resize) if how else None
    mine = ranks.share(size)
    at_once = at_once or testing.that_fit(net, side_of(test, how), exact=exact)
    parts = [part for part in torch.arange(size)[mine].split(at_once.size) if len(part)]
    feed = loader.batches(
        test,
        ((part, torch.zeros_like(part)) for part in parts),
        crop,
        ranks.device,
        workers=loader.default_workers(),
        tolerated=TOLERATED,
    )

    def logits_of(pixels: Tensor) -> Tensor:
        images = augment.normalize(pixels, mean, std)
        with nullcontext() if exact else devices.autocast(ranks.device):
            logits: Tensor = net(images)
        return logits.float()

    for part, batch in zip(parts, feed, strict=True):
        logits, readable = at_once(logits_of, batch.pixels), batch.readable.to(ranks.device)
        top[part] = torch.where(readable[:, None], logits.topk(kept).indices, NO_CLASS)
        loss = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        losses[part] = torch.where(logits.isfinite().all(1), loss.double() * readable, math.nan)
    top, losses = ranks.sum(top).cpu(), ranks.sum(losses).cpu()
    if count := int((~losses.isfinite()).sum()):
        raise NotFinite(f"the logits of {count:,} of {size:,} test images are not finite")
    hits = top == test.labels[:, None]
    unread = int((top[:, 0] == NO_CLASS).sum())
    metrics = {
        "top1": 100 * int(hits[:, 0].sum()) / size,
        "top5": 100 * int(hits.sum()) / size,
        "loss": float(losses.sum()) / max(1, size - unread),
        "test_images": size,
        **({"unreadable": unread} if unread else {}),
    }
    return metrics, {
        "label": test.labels.numpy().astype(np.uint16),
        "top5": top.numpy().astype(np.uint16),
    }


def _facts(
    net: nn.Module,
    ranks: Ranks,
    *,
    train: Images | Photos | None = None,
    test: Images | Photos | None = None,
) -> dict[str, object]:
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        **({"train_fingerprint": train.fingerprint, "train_images": len(train.labels)}
           if train else {}),
        **({"test_fingerprint": test.fingerprint} if test else {}),
        "device": devices.describe(ranks.device),
        "precision": devices.precision(ranks.device),
        "ranks": ranks.count,
    }  # fmt: skip
