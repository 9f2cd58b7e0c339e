"""Train a classifier and test it: one straight loop.

All randomness derives from (seed, epoch, sample index), and a batch is a function of its step. A
resumed run is therefore the uninterrupted run, bit for bit on a CPU, and any number of ranks or
accumulation steps computes the same gradient, up to the order of a sum. (Except for BatchNorm: its
statistics are those of one device's micro-batch, synchronised only on GPUs.)
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
from repro.data import datasets, randomness
from repro.data.augment import augment
from repro.data.augment.crops import CentreCrop, RandomCrop
from repro.data.imagenet.photos import Photos
from repro.data.images import RGB, Images
from repro.data.loading import loader
from repro.data.loading.ahead import Prefetcher
from repro.models import stochastic_depth, weights
from repro.models.released import load_pretrained, load_released, read_released, zero_head
from repro.spec import Classification, Evaluation, Model, Recipe
from repro.tasks import Interrupted, Job, MetricsRow, NotFinite, Result
from repro.train import activations, checkpoint, eval_batch, execution, optim, speed
from repro.train import device as devices
from repro.train.accumulation import MicroBatches
from repro.train.distributed import Ranks, run_on_ranks, synchronize_batch_norms

NO_CLASS = 2**16 - 1  # the prediction for an unreadable image

_INIT, _ORDER, _STEP, _BATCH = 1, 2, 3, 4  # the purposes of derived seeds
_PAIR = 2  # neighbours, which are mixed with each other
MAX_UNREADABLE_SHARE = 0.001  # of the images
REPEAT_GROUP = 64  # images between the repeats of one in repeated augmentation
_CHECK_STEPS = 10  # steps between checks of the loss, which wait for the device


def execute(run: Classification, job: Job) -> Result:
    """Train `run` to its end, from its last checkpoint if there is one, and test it."""
    if not run.recipe.epochs:
        return run_on_ranks(partial(_test_weights, run, job)) or Result("done", {})
    pairs = -(-run.recipe.batch_size // _PAIR)  # more ranks would have no work
    with checkpoint.Writer(
        job.checkpoints, job.options.checkpoint_seconds, job.still_owner
    ) as writer:
        return run_on_ranks(partial(_train, run, job, writer), pairs) or Result("done", {})


def _test_weights(run: Classification, job: Job, ranks: Ranks) -> Result:
    """Test pretrained or initial weights without training, in fp32, as they were published."""
    assert run.test_split != "none"
    test = datasets.load(run.dataset, run.test_split, job.options.data)
    net = create(run.model, len(test.classes), 0.0, run.seed)
    if run.release:
        load_released(net, read_released(run.release, job.options.weights))
    net, side = net.to(ranks.device), input_side(test, run.evaluation)
    batcher = eval_batch.make_batcher(net, side, exact=True, halvings=job.halvings)
    metrics, predictions = evaluate(net, test, run.evaluation, ranks, batcher, exact=True)
    facts = _provenance(net, ranks, test=test) | {"precision": "fp32"}
    return Result("done", metrics, predictions, provenance=facts)


def _train(run: Classification, job: Job, writer: checkpoint.Writer, ranks: Ranks) -> Result:
    recipe, device = run.recipe, ranks.device

    # The data: small sets as uint8 on the model's device; photos are read from their files.
    train = datasets.load(run.dataset, run.train_split, job.options.data)
    test = None
    if run.test_split != "none":
        test = datasets.load(run.dataset, run.test_split, job.options.data)
    size, classes = len(train.labels), len(train.classes)

    # The model, its optimiser, and its schedule, counted in steps.
    net = create(run.model, classes, recipe.drop_path, run.seed).to(device)
    net = speed.set_layout(net, job.options.speed)
    side = recipe.image_size or (train.pixels.shape[-1] if isinstance(train, Images) else 0)
    each = partial(activations.training_bytes_per_image, net, side)
    limit = job.options.micro_batch or activations.max_images([net], each)
    batcher = None
    if test:
        tested = input_side(test, run.evaluation)
        batcher = eval_batch.make_batcher(net, tested, halvings=job.halvings)
    if run.starts_from:
        load_pretrained(net, weights.read(job.weights_path(run.starts_from)))
    if recipe.zero_head:
        zero_head(net)
    droppers = stochastic_depth.install(net)
    net = synchronize_batch_norms(net, ranks)
    ranks.broadcast_weights(net)
    micro_batches = MicroBatches(
        [net], recipe.batch_size, ranks, limit, _PAIR, halvings=job.halvings
    )
    optimizer = optim.build(
        net.named_parameters(),
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        decay_biases=recipe.decay_biases,
        no_decay=recipe.no_decay,
        fused=speed.is_fused(job.options.speed, device),
    )
    forward = speed.Forward(net, job.options.speed)
    steps = size * recipe.epochs // recipe.batch_size  # batches may straddle epochs (official)
    warmup_steps = round(recipe.warmup_epochs * size / recipe.batch_size)
    policy = augmentation(recipe)

    # The state: everything that a resumed run needs.
    first, history, loss_sum, loss_steps = 0, list[MetricsRow](), _zero_loss(device), 0
    previous: list[execution.Execution] = []
    if state := checkpoint.load(job.checkpoints):
        net.load_state_dict(state["model"])
        optim.restore(optimizer, state["optimizer"])
        first, history, previous = state["step"], state["history"], state.get("ways", [])
        loss_steps = state["loss_steps"]
        if ranks.is_first:  # the stored sum is over all ranks
            loss_sum = state["loss_sum"].to(device)
    if ranks.is_first:
        job.write_metrics(history)

    # This rank's share of each step's samples, prefetched.
    feed = loader.batches(
        train,
        (rank_batch(step, run, size, ranks) for step in range(first, steps)),
        training_crop(recipe),
        device,
        workers=loader.default_workers(),
        max_unreadable=MAX_UNREADABLE_SHARE,
        decode=job.options.decode,
    )
    batches = dict(zip([first], feed, strict=False))  # of the current and the next step

    def augment_micro_batch(key: tuple[int, slice]) -> tuple[Tensor, Tensor]:
        """The inputs and targets of a step's micro-batch."""
        step, part = key
        batch, batch_key = batches[step], _batch_key(run.seed, step)
        keys = batch.keys[part]
        inputs = augment.augment(batch.pixels[part], keys, policy, train.mean, train.std)
        labels = batch.labels[part]
        return augment.mix(inputs, labels, keys, classes, policy, batch_key=batch_key)

    def describe_execution() -> execution.Execution:
        """How this attempt is executed."""
        options = {
            "decode": job.options.decode,
            "micro_batch": micro_batches.size,
            "speed": forward.speed,
        }
        return execution.describe(ranks, devices.precision(device)) | options

    def provenance() -> dict[str, object]:
        """How the run was executed, whatever its result."""
        executions = execution.provenance(previous, describe_execution())
        return _provenance(net, ranks, train=train, test=test) | executions

    prefetcher = Prefetcher(augment_micro_batch, device)
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
            prefetch = following if following[0] in batches else None
            inputs, targets = prefetcher((step, part), prefetch)
            stochastic_depth.set_draws(droppers, batches[step].keys[part], device)
            with devices.autocast(device):
                logits = forward(inputs, whole=micro_batches.count == 1)
            loss = optim.soft_cross_entropy(logits, targets).sum() / recipe.batch_size
            loss.backward()
            return loss.detach().double()

        # For other uses of torch's generator: do not depend on its history.
        seed = randomness.derive_seed(run.seed, _STEP, step, ranks.rank)
        loss_sum += micro_batches.gradient(backward, seed)
        loss_steps += 1
        if recipe.clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        optimizer.step()

        # NaN and infinity persist in the sum.
        steps_done = step + 1
        epoch_ends = steps_done * recipe.batch_size // size > step * recipe.batch_size // size
        if epoch_ends or steps_done % _CHECK_STEPS == 0 or steps_done == steps:
            mean_loss = float(ranks.sum(loss_sum)) / loss_steps
            if not math.isfinite(mean_loss):
                return Result("diverged", {"step": steps_done}, provenance=provenance())
            job.report_progress(
                steps_done,
                steps,
                {"epoch": steps_done * recipe.batch_size / size, "loss": mean_loss},
            )

        # The end of an epoch: a row of metrics.
        if epoch_ends or steps_done == steps:
            epoch = recipe.epochs if steps_done == steps else steps_done * recipe.batch_size // size
            row: dict[str, float | int | None] = {
                "epoch": epoch,
                "step": steps_done,
                "lr": rate,
                "train_loss": mean_loss,
            }
            every = recipe.evaluate_every_epochs
            if test and every and epoch % every == 0 and steps_done < steps:
                try:
                    row |= evaluate(net, test, run.evaluation, ranks, batcher)[0]
                except NotFinite as error:
                    why = {"why": str(error)}
                    return Result("diverged", {"step": steps_done}, provenance=provenance() | why)
            history.append(row)
            loss_sum, loss_steps = _zero_loss(device), 0
            if ranks.is_first:
                job.write_metrics(history)

        # Save periodically, and before stopping. All ranks agree, and the first one writes.
        stop, save = ranks.any(job.should_stop(), ranks.is_first and writer.due())
        if stop or save:
            loss_so_far = ranks.sum(loss_sum)
            if ranks.is_first:
                state = {
                    "model": net.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": steps_done,
                    "history": history,
                    "ways": execution.append(previous, describe_execution()),
                    "loss_sum": loss_so_far,
                    "loss_steps": loss_steps,
                }
                writer.write(steps_done, state)
        if stop:
            raise Interrupted(f"stopped after step {steps_done} of {steps}")

    metrics: dict[str, float | int] = {"train_loss": _last_loss(history)}
    predictions: dict[str, NDArray[np.uint16]] = {}
    try:
        if test:
            metrics, predictions = evaluate(net, test, run.evaluation, ranks, batcher)
        return Result("done", metrics, predictions, net.state_dict(), provenance())
    except NotFinite as error:
        return Result("diverged", {"step": steps}, provenance=provenance() | {"why": str(error)})


def _last_loss(history: list[MetricsRow]) -> float:
    loss = history[-1]["train_loss"]
    assert loss is not None
    return loss


def create(model: Model, classes: int, drop_path: float, seed: int) -> nn.Module:
    """The architecture with initial weights, a function of the seed. ValueError: no such model."""
    if not timm.is_model(model.name):
        raise ValueError(f"no architecture is registered as {model.name!r}")
    torch.manual_seed(randomness.derive_seed(seed, _INIT))
    net = timm.create_model(
        model.name, num_classes=classes, drop_path_rate=drop_path, **dict(model.options)
    )
    assert isinstance(net, nn.Module)
    return net


def _zero_loss(device: torch.device) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=device)


def augmentation(recipe: Recipe) -> augment.Augmentation:
    """The part of a recipe that concerns images; the fields have the same names in both."""
    names = augment.Augmentation.__dataclass_fields__
    return augment.Augmentation(**{name: getattr(recipe, name) for name in names})


def training_crop(recipe: Recipe) -> RandomCrop | None:
    """The crop of training images; None for datasets of one image size."""
    if not recipe.image_size:
        return None
    least, most = recipe.crop_area
    return RandomCrop(recipe.image_size, (least, most), recipe.crop_resize, recipe.crop_rule)


def test_crop(how: Evaluation) -> CentreCrop:
    """The crop of test images."""
    return CentreCrop(how.image_size, how.crop_fraction, how.resize, how.crop_rule)


def rank_batch(step: int, run: Classification, size: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The sample indices and keys of a rank's part of a step's batch, int64, on the CPU."""
    recipe = run.recipe
    indices, epochs = global_batch(step, recipe.batch_size, size, run.seed, recipe.repeats)
    share = ranks.share(recipe.batch_size, _PAIR)
    return indices[share], randomness.sample_keys(run.seed, epochs[share], indices[share])


def global_batch(
    step: int, batch_size: int, size: int, seed: int, repeats: int = 1
) -> tuple[Tensor, Tensor]:
    """The sample indices and the epochs of a step's batch, each int64 (batch_size,).

    Epochs follow each other, each in its own order; a batch is the next `batch_size` samples and
    may straddle epochs. With `repeats`, an epoch has only the first images of its order, each that
    many times (DeiT's samplers.py): REPEAT_GROUP images, then the same ones shifted, so that each
    image has another partner in mixing. Each repeat counts as an epoch.
    """
    sample = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs, position = sample // size, sample % size
    group, repeat = position // (REPEAT_GROUP * repeats), position // REPEAT_GROUP % repeats
    position = (
        group * REPEAT_GROUP + (position + repeat) % REPEAT_GROUP if repeats > 1 else position
    )
    parts = [
        _order(seed, epoch, size)[position[epochs == epoch] % size]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return torch.cat(parts), epochs * repeats + repeat * (repeats > 1)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(randomness.derive_seed(seed, _ORDER, epoch))
    return torch.randperm(size, generator=generator)


def _batch_key(seed: int, step: int) -> Tensor:
    """The key of random numbers that apply to a whole global batch."""
    return torch.tensor(randomness.derive_seed(seed, _BATCH, step))


def normalization(how: Evaluation | None, mean: RGB, std: RGB) -> tuple[RGB, RGB]:
    """Mean and standard deviation of test inputs: the evaluation's, or the dataset's."""
    if how and how.normalize:
        return (how.normalize[0],) * 3, (how.normalize[1],) * 3
    return mean, std


def input_side(test: Images | Photos, how: Evaluation | None) -> int:
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
    batcher: eval_batch.EvalBatcher | None = None,
    exact: bool = False,
) -> tuple[dict[str, float | int], dict[str, NDArray[np.uint16]]]:
    """Test on every image exactly once, divided over the ranks.

    Returns the metrics (`top1`, `top5` in percent, `loss` in nats, `test_images`, and `unreadable`
    images, if any, which count as errors) and the predictions: `label` (N,) and `top5` (N, 5), the
    most probable class first; NO_CLASS for an unreadable image. `batcher`: by default, batches of
    as many images as fit. `exact`: in fp32.

    Raises NotFinite, on all ranks, if a logit is NaN or infinite.
    """
    ranks.broadcast_weights(net)  # BatchNorm statistics differ between ranks
    net.eval()
    size, k = len(test.labels), min(5, len(test.classes))
    top = torch.zeros(size, k, dtype=torch.int64, device=ranks.device)
    losses = torch.zeros(size, dtype=torch.float64, device=ranks.device)
    mean, std = normalization(how, test.mean, test.std)
    crop = test_crop(how) if how else None
    batcher = batcher or eval_batch.make_batcher(net, input_side(test, how), exact=exact)
    share = torch.arange(size)[ranks.share(size)]
    parts = [part for part in share.split(batcher.size) if len(part)]
    feed = loader.batches(
        test,
        ((part, torch.zeros_like(part)) for part in parts),
        crop,
        ranks.device,
        workers=loader.default_workers(),
        max_unreadable=MAX_UNREADABLE_SHARE,
    )

    def logits_of(pixels: Tensor) -> Tensor:
        images = augment.normalize(pixels, mean, std)
        with nullcontext() if exact else devices.autocast(ranks.device):
            logits: Tensor = net(images)
        return logits.float()

    for part, batch in zip(parts, feed, strict=True):
        logits, readable = batcher(logits_of, batch.pixels), batch.readable.to(ranks.device)
        top[part] = torch.where(readable[:, None], logits.topk(k).indices, NO_CLASS)
        loss = nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        losses[part] = torch.where(logits.isfinite().all(1), loss.double() * readable, math.nan)
    top, losses = ranks.sum(top).cpu(), ranks.sum(losses).cpu()
    if count := int((~losses.isfinite()).sum()):
        raise NotFinite(f"the logits of {count:,} of {size:,} test images are not finite")
    return _test_metrics(test.labels, top, losses), {
        "label": test.labels.numpy().astype(np.uint16),
        "top5": top.numpy().astype(np.uint16),
    }


def _test_metrics(labels: Tensor, top: Tensor, losses: Tensor) -> dict[str, float | int]:
    """The metrics of `evaluate`, from each image's label, most probable classes and loss."""
    size, hits = len(labels), top == labels[:, None]
    unreadable = int((top[:, 0] == NO_CLASS).sum())
    return {
        "top1": 100 * int(hits[:, 0].sum()) / size,
        "top5": 100 * int(hits.sum()) / size,
        "loss": float(losses.sum()) / max(1, size - unreadable),
        "test_images": size,
        **({"unreadable": unreadable} if unreadable else {}),
    }


def _provenance(
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
        **execution.describe(ranks, devices.precision(ranks.device)),
    }  # fmt: skip
