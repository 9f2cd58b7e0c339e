"""Train a generator against a discriminator, and evaluate its samples: one straight loop.

A step updates both by gradients at the same weights, from one forward pass of the generator. As
in classification, a batch is a function of its step, and all randomness derives from (seed, step,
index in the batch), so a resumed run is the uninterrupted one, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import fidelity
from repro.data import datasets, image_grid, randomness
from repro.data.imagenet.resized import RESIZED, crop_format
from repro.data.images import DataError, Images
from repro.data.loading import loader
from repro.data.loading.loader import Batch
from repro.data.loading.transfer import to_device
from repro.models import weights
from repro.models.spectral import advance_spectral_norms
from repro.spec import AdversarialRecipe, Generation, Model
from repro.tasks import Interrupted, Job, MetricsRow, NotFinite, Result, check_finite
from repro.tasks import classification as classifier
from repro.train import activations, checkpoint, execution, optim, speed
from repro.train import device as devices
from repro.train.accumulation import MicroBatches
from repro.train.distributed import Ranks, run_on_ranks, synchronize_batch_norms

_INIT, _STEP, _LATENTS, _SAMPLES = 11, 12, 13, 14  # the purposes of derived seeds
# The streams of a key: the latent, the end of its interpolation, the horizontal flip.
_LATENT_STREAM, _END_STREAM, _FLIP_STREAM = 1, 2, 3
_CHECK_STEPS = 10  # steps between checks of the losses, which wait for the device
_BATCH_SIZE = 100  # images that are generated, or evaluated, together
COLLAPSED = 0.5  # grey levels; a smaller standard deviation over images is mode collapse
_GRID, _STRIP = 64, 10  # images of a sample grid and of an interpolation

Losses = dict[str, Tensor]


def execute(run: Generation, job: Job) -> Result:
    """Train `run` to its end, from its last checkpoint if there is one, and evaluate it."""
    with checkpoint.Writer(
        job.checkpoints, job.options.checkpoint_seconds, job.still_owner
    ) as writer:
        work = partial(_train, run, job, writer)
        return run_on_ranks(work, run.recipe.batch_size) or Result("done", {})


def _train(run: Generation, job: Job, writer: checkpoint.Writer, ranks: Ranks) -> Result:
    recipe, device = run.recipe, ranks.device

    # The real images, and the reference that samples are compared with.
    train = load_images(run.dataset, "train", job.options.data)
    extractor = make_extractor(run, job, device)
    _check_num_samples(run, extractor)
    reference = make_reference(run, extractor, job, ranks)

    # The two models, the generator's weight average, and the optimisers.
    generator = create(run.generator, run.seed, 0).to(device)
    discriminator = create(run.discriminator, run.seed, 1).to(device)
    _check_size(generator, train)
    each = partial(training_bytes_per_pair, generator, discriminator, recipe)
    limit = job.options.micro_batch or activations.max_images([generator, discriminator], each)
    generator = synchronize_batch_norms(generator, ranks)
    average = copy.deepcopy(generator).requires_grad_(False)
    beta1, beta2 = map(float, recipe.betas)  # a stored spec may have 0 for 0.0
    fused = speed.is_fused(job.options.speed, device)
    optimizers = [
        torch.optim.Adam(net.parameters(), lr, betas=(beta1, beta2), eps=1e-8, fused=fused)
        for net, lr in ((generator, recipe.lr), (discriminator, recipe.discriminator_lr))
    ]
    nets = {"generator": generator, "discriminator": discriminator, "average": average}
    ranks.broadcast_weights(*nets.values())
    trained = [generator, discriminator]
    micro_batches = MicroBatches(trained, recipe.batch_size, ranks, limit, halvings=job.halvings)

    # The state: everything that a resumed run needs.
    first, history = 0, list[MetricsRow]()
    sums, counted = _zeros(device), 0
    previous: list[execution.Execution] = []
    if state := checkpoint.load(job.checkpoints):
        for name, net in nets.items():
            net.load_state_dict(state[name])
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optim.restore(optimizer, stored)
        first, history, counted = state["step"], state["history"], state["counted"]
        previous = state.get("ways", [])
        sums = (
            state["sums"].to(device) if ranks.is_first else sums
        )  # the stored ones are over ranks
    if ranks.is_first:
        job.write_metrics(history)

    def describe_execution() -> execution.Execution:
        """How this attempt is executed."""
        return _describe_execution(run, job, ranks, micro_batches.size)

    def provenance() -> dict[str, object]:
        """How the run was executed, whatever its result."""
        return _provenance(nets, train) | execution.provenance(previous, describe_execution())

    size = len(train.labels)
    feed = loader.batches(
        train,
        (_rank_batch(step, run, size, ranks) for step in range(first, recipe.steps)),
        None,
        device,
        workers=loader.default_workers(),
    )
    for step, batch in enumerate(feed, start=first):
        keys = batch.keys
        for net in (generator, discriminator):
            net.train()
            advance_spectral_norms(net)  # once a step, whatever the number of micro-batches

        # Forward and backward, a micro-batch at a time; each gradient is that of the global mean.
        def backward(
            part: slice, batch: Batch = batch, keys: Tensor = keys, step: int = step
        ) -> Tensor:
            real = _real_inputs(batch.pixels[part], keys[part], recipe)
            latents = _training_latents(run, step, ranks, part, generator)
            with devices.autocast(device):
                fake = generator(latents)
            losses = adversarial_losses(discriminator, real, fake, recipe, device)
            means = {name: loss.sum() / recipe.batch_size for name, loss in losses.items()}
            discriminator_total = means["discriminator_loss"] + recipe.r1_weight * means["r1"]
            means["generator_loss"].backward(inputs=list(generator.parameters()), retain_graph=True)
            discriminator_total.backward(inputs=list(discriminator.parameters()))
            return torch.stack([means[name].detach() for name in LOSSES]).double()

        # For other uses of torch's generator: do not depend on its history.
        seed = randomness.derive_seed(run.seed, _STEP, step, ranks.rank)
        sums += micro_batches.gradient(backward, seed)
        counted += 1
        for optimizer in optimizers:
            optimizer.step()
        steps_done = step + 1
        update_ema(average, generator, recipe.ema_decay if steps_done > recipe.ema_start else 0.0)

        # NaN and infinity persist in the sums.
        every = recipe.evaluate_every_steps
        due = steps_done == recipe.steps or bool(every and steps_done % every == 0)
        if due or steps_done % _CHECK_STEPS == 0:
            mean_losses = dict(zip(LOSSES, (ranks.sum(sums) / counted).tolist(), strict=True))
            epoch = steps_done * recipe.batch_size / size
            job.report_progress(
                steps_done,
                recipe.steps,
                {"epoch": epoch, "loss": mean_losses["discriminator_loss"]},
            )
            if not all(map(math.isfinite, mean_losses.values())):
                return _diverged_result(
                    "not a number", steps_done, run, average, provenance(), ranks
                )

        # A row of metrics, and a sample grid, at every evaluation.
        if due:
            metrics, why = _evaluate(run, job, average, steps_done, extractor, reference, ranks)
            if why:
                return _diverged_result(why, steps_done, run, average, provenance(), ranks)
            history.append({"step": steps_done, "epoch": epoch, **mean_losses, **metrics})
            sums, counted = _zeros(device), 0
            if ranks.is_first:
                job.write_metrics(history)

        # Save periodically, and before stopping. All ranks agree, and the first one writes.
        stop, save = ranks.any(job.should_stop(), ranks.is_first and writer.due())
        if stop or save:
            sums_so_far = ranks.sum(sums)
            if ranks.is_first:
                state = {
                    **{name: net.state_dict() for name, net in nets.items()},
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": steps_done,
                    "history": history,
                    "ways": execution.append(previous, describe_execution()),
                    "sums": sums_so_far,
                    "counted": counted,
                }
                writer.write(steps_done, state)
        if stop:
            raise Interrupted(f"stopped after step {steps_done} of {recipe.steps}")

    last = history[-1]
    files, why = dict[str, bytes](), ""
    try:
        files = sample_sheets(average, run, device) if ranks.is_first else {}
    except NotFinite as error:
        why = str(error)
    if ranks.any(bool(why))[0]:
        return _diverged_result(why, recipe.steps, run, average, provenance(), ranks)
    return Result(
        "done",
        {name: value for name, value in last.items() if name != "epoch" and value is not None},
        weights=average.state_dict() if ranks.is_first else {},  # other ranks have other statistics
        provenance=provenance() | ({"reference": reference.about} if reference else {}),
        files=files,
    )


def _evaluate(
    run: Generation,
    job: Job,
    average: nn.Module,
    step: int,
    extractor: fidelity.Extractor,
    reference: fidelity.Reference | None,
    ranks: Ranks,
) -> tuple[dict[str, float | int], str]:
    """The metrics of samples, and why training has diverged; '' if it has not.

    The ranks generate and evaluate samples in parallel, with the first one's generator.
    """
    ranks.broadcast_weights(average)  # BatchNorm statistics differ between ranks
    metrics, why = dict[str, float | int](), ""
    if ranks.is_first:
        why = _divergence_reason(run, job, average, step, ranks.device)
    if why := ranks.broadcast(why):
        return {}, why
    try:
        features_of = partial(_sample_features, run, average, extractor, ranks.device)
        fakes = ranks.map(features_of, _index_batches(run.samples))
        if reference:
            metrics = fidelity.compare(extractor, fakes, reference, seed=run.seed)
            check_finite(metrics, {})
        else:
            list(fakes)
    except NotFinite as error:
        metrics, why = {}, str(error)
    return ranks.broadcast((metrics, why))


def _divergence_reason(
    run: Generation, job: Job, average: nn.Module, step: int, device: torch.device
) -> str:
    """Save a preview of samples; returns why training has diverged, or ''."""
    try:
        check_finite({}, average.state_dict())
        images = sample(average, run.seed, _grid_samples(run), device)
    except NotFinite as error:
        return str(error)
    job.save_preview(f"samples/step{step:09d}.png", image_grid.grid(images))
    late = step > run.recipe.steps // 2  # early samples may be all alike
    return "collapsed" if late and fidelity.spread(images) < COLLAPSED else ""


def _sample_features(
    run: Generation,
    generator: nn.Module,
    extractor: fidelity.Extractor,
    device: torch.device,
    indices: range,
) -> fidelity.Features:
    """The extractor's outputs for the samples `indices`, on the CPU."""
    return _features_on_cpu(extractor, sample(generator, run.seed, indices, device))


def _features_on_cpu(extractor: fidelity.Extractor, images: Tensor) -> fidelity.Features:
    features, logits = extractor(images)
    return features.cpu(), logits.cpu()


def _diverged_result(
    why: str,
    step: int,
    run: Generation,
    average: nn.Module,
    provenance: dict[str, object],
    ranks: Ranks,
) -> Result:
    """The result of a diverged run, with samples of its generator."""
    latents = _sample_latents(average, run.seed, _grid_samples(run)).to(ranks.device)
    files = {
        "samples.png": image_grid.grid(_to_uint8(_generate_floats(average, latents).nan_to_num()))
    }
    return Result("diverged", {"step": step}, provenance=provenance | {"why": why}, files=files)


# --- the models ----------------------------------------------------------------------------------


def create(model: Model, seed: int, number: int = 0) -> nn.Module:
    """The architecture with initial weights, a function of the seed. ValueError: no such model.

    `number` distinguishes the models of a run: 0 the generator, 1 the discriminator.
    """
    if not timm.is_model(model.name):
        raise ValueError(f"no architecture is registered as {model.name!r}")
    torch.manual_seed(randomness.derive_seed(seed, _INIT, number))
    net = timm.create_model(model.name, **dict(model.options))
    assert isinstance(net, nn.Module)
    return net


@torch.no_grad()
def update_ema(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Update the exponential moving average of weights; with a `decay` of 0 it becomes `net`.

    BatchNorm's statistics are averaged like the weights, since they depend on them; other buffers
    are copied.
    """
    targets, sources = dict(average.named_buffers()), dict(net.named_buffers())
    statistics = [name for name in targets if "running_" in name]
    others = [name for name in targets if "running_" not in name]
    torch._foreach_lerp_(
        [*average.parameters(), *(targets[name] for name in statistics)],
        [*net.parameters(), *(sources[name] for name in statistics)],
        1 - decay,
    )
    if others:
        torch._foreach_copy_([targets[name] for name in others], [sources[name] for name in others])


def _check_num_samples(run: Generation, extractor: fidelity.Extractor) -> None:
    """DataError, before training, if the samples are too few to evaluate."""
    minimum = extractor.dim + 1
    if run.samples < minimum:
        raise DataError(
            f"{run.samples:,} samples are too few: the covariance of {extractor.dim:,} features "
            f"of {extractor.name} needs {minimum:,}"
        )


def _check_size(generator: nn.Module, train: Images) -> None:
    side, stored = image_side(generator), train.pixels.shape[-1]
    if side != stored:
        raise DataError(f"the generator makes images of {side} px, the dataset has {stored} px")


# --- the losses ----------------------------------------------------------------------------------

LOSSES = ("discriminator_loss", "generator_loss", "r1")


def adversarial_losses(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    recipe: AdversarialRecipe,
    device: torch.device,
) -> Losses:
    """Both losses and the R1 penalty (0 without a weight) of each image (B,), float32.

    'logistic' is the non-saturating loss of Goodfellow et al. 2014, 'hinge' that of SAGAN. R1 is
    the squared norm of the discriminator's gradient at real images (Mescheder et al. 2018),
    without the factor 1/2 of some authors.
    """
    penalised = recipe.r1_weight > 0
    real = real.requires_grad_(penalised)
    # In fp32 for second derivatives: bf16's eight bits are too few.
    with nullcontext() if penalised else devices.autocast(device):
        real_logits, fake_logits = discriminator(real), discriminator(fake.float())
    real_logits, fake_logits = real_logits.float().flatten(), fake_logits.float().flatten()
    r1 = torch.zeros_like(real_logits)
    if penalised:
        (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        r1 = gradient.square().sum(dim=(1, 2, 3))
    if recipe.loss == "hinge":
        discriminator_loss = F.relu(1 - real_logits) + F.relu(1 + fake_logits)
        generator_loss = -fake_logits
    else:
        discriminator_loss = F.softplus(-real_logits) + F.softplus(fake_logits)
        generator_loss = F.softplus(-fake_logits)
    return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss, "r1": r1}


def training_bytes_per_pair(
    generator: nn.Module, discriminator: nn.Module, recipe: AdversarialRecipe, bf16: bool = True
) -> int:
    """Bytes saved for the backward pass for each pair of a real and a generated image."""
    return activations.training_bytes_per_pair(
        generator,
        discriminator,
        lambda net, real, fake: adversarial_losses(net, real, fake, recipe, torch.device("cpu")),
        latent_dim=latent_dim(generator),
        side=image_side(generator),
        penalised=recipe.r1_weight > 0,
        bf16=bf16,
    )


def _zeros(device: torch.device) -> Tensor:
    return torch.zeros(len(LOSSES), dtype=torch.float64, device=device)


# --- the batches ---------------------------------------------------------------------------------


def load_images(name: str, split: datasets.Split, root: Path) -> Images:
    """A dataset of images of one size; DataError for one of different sizes."""
    images = datasets.load(name, split, root)
    if not isinstance(images, Images):
        raise DataError(f"{name}: images of different sizes; use {name}-64px")
    return images


def _rank_batch(step: int, run: Generation, size: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The sample indices and keys of a rank's part of a step's real images, int64, on the CPU."""
    batch_size = run.recipe.batch_size
    indices, epochs = classifier.global_batch(step, batch_size, size, run.seed)
    share = ranks.share(batch_size)
    return indices[share], randomness.sample_keys(run.seed, epochs[share], indices[share])


def _training_latents(
    run: Generation, step: int, ranks: Ranks, part: slice, generator: nn.Module
) -> Tensor:
    """The latents (B, latent_dim) of a micro-batch: N(0, 1), by step and index in the batch."""
    share = ranks.share(run.recipe.batch_size)
    indices = torch.arange(share.start, share.stop)[part]
    keys = randomness.sample_keys(randomness.derive_seed(run.seed, _LATENTS), step, indices)
    (latents,) = to_device(
        ranks.device, randomness.normal(keys, _LATENT_STREAM, latent_dim(generator))
    )
    return latents


def latent_dim(generator: nn.Module) -> int:
    """The dimension of the generator's latents."""
    dim = generator.latent_dim
    assert isinstance(dim, int)
    return dim


def image_side(generator: nn.Module) -> int:
    """The side of the generated images, in px."""
    side = generator.img_size
    assert isinstance(side, int)
    return side


def _real_inputs(pixels: Tensor, keys: Tensor, recipe: AdversarialRecipe) -> Tensor:
    """Real images as inputs of the discriminator: randomly mirrored, in [-1, 1]."""
    if recipe.flip:
        (mirrored,) = to_device(pixels.device, randomness.uniform(keys, _FLIP_STREAM)[:, 0] < 0.5)
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    return pixels.float() / 127.5 - 1


# --- sampling and evaluation ---------------------------------------------------------------------


def generate(generator: nn.Module, latents: Tensor) -> Tensor:
    """The images of latents (B, latent_dim), uint8 (B, 3, S, S).

    Raises NotFinite if a pixel is NaN or infinite.
    """
    images = _generate_floats(generator, latents)
    if not images.isfinite().all():
        raise NotFinite("the generator's images are not finite")
    return _to_uint8(images)


@torch.no_grad()
def _generate_floats(generator: nn.Module, latents: Tensor) -> Tensor:
    """The generator's output, float32 (B, 3, S, S), in [-1, 1]."""
    generator.eval()
    with devices.autocast(latents.device):
        images: Tensor = generator(latents)
    return images.float()


def _to_uint8(images: Tensor) -> Tensor:
    """From [-1, 1] to 256 levels, uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sample(generator: nn.Module, seed: int, indices: Iterable[int], device: torch.device) -> Tensor:
    """The samples `indices`, uint8 (B, 3, S, S): each is a function of seed and index."""
    return generate(generator, _sample_latents(generator, seed, indices).to(device))


def _sample_latents(generator: nn.Module, seed: int, indices: Iterable[int]) -> Tensor:
    """The latents (B, latent_dim) of the samples `indices`."""
    keys = randomness.sample_keys(
        randomness.derive_seed(seed, _SAMPLES), 0, torch.tensor([*indices])
    )
    return randomness.normal(keys, _LATENT_STREAM, latent_dim(generator))


def samples(generator: nn.Module, seed: int, count: int, device: torch.device) -> Iterator[Tensor]:
    """The first `count` samples, a batch at a time."""
    for indices in _index_batches(count):
        yield sample(generator, seed, indices, device)


def _index_batches(count: int) -> list[range]:
    """The indices of samples that are generated together."""
    starts = range(0, count, _BATCH_SIZE)
    return [range(start, min(start + _BATCH_SIZE, count)) for start in starts]


def concatenate(parts: Iterable[Tensor]) -> Tensor:
    """Batches of images as one, on the CPU."""
    return torch.cat([part.cpu() for part in parts])


def _grid_samples(run: Generation) -> range:
    """The indices of the samples of a grid: the first of those that are evaluated."""
    return range(min(_GRID, run.samples))


def sample_sheets(generator: nn.Module, run: Generation, device: torch.device) -> dict[str, bytes]:
    """A grid of samples and an interpolation between two latents, both as PNG.

    The interpolation is spherical, since normal latents lie near a sphere.
    """
    keys = randomness.sample_keys(randomness.derive_seed(run.seed, _SAMPLES), 0, torch.tensor([0]))
    dim = latent_dim(generator)
    ends = [randomness.normal(keys, stream, dim) for stream in (_LATENT_STREAM, _END_STREAM)]
    angles = torch.linspace(0, math.pi / 2, _STRIP)[:, None]
    latents = angles.cos() * ends[0] + angles.sin() * ends[1]
    return {
        "samples.png": image_grid.grid(sample(generator, run.seed, _grid_samples(run), device)),
        "interpolation.png": image_grid.strip(generate(generator, latents.to(device))),
    }


def make_extractor(run: Generation, job: Job, device: torch.device) -> fidelity.Extractor:
    """The feature extractor: Inception, or the classifier that the run names."""
    if run.features == "inception":
        return fidelity.inception(job.options.weights or job.options.data / "inception").to(device)
    trained = datasets.load(run.features.dataset, "test", job.options.data)
    assert isinstance(trained, Images)
    net = classifier.create(run.features.model, len(trained.classes), 0.0, run.features.seed)
    path = job.weights_path(run.features)
    weights.load(net, path)
    return fidelity.from_classifier(
        net.to(device),
        classes=len(trained.classes),
        side=trained.pixels.shape[-1],
        mean=trained.mean,
        std=trained.std,
        name=run.features.id,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def make_reference(
    run: Generation, extractor: fidelity.Extractor, job: Job, ranks: Ranks
) -> fidelity.Reference | None:
    """The reference of the run's real images, from the cache or computed. Never mirrored.

    The ranks compute it in parallel. Returns it on the first rank, None on the others.
    """
    real = load_images(run.dataset, run.reference_split, job.options.data)
    about = {
        "dataset": run.dataset,
        "split": run.reference_split,
        "images": len(real.labels),
        "image_size": real.pixels.shape[-1],
        "fingerprint": real.fingerprint,
    }
    if run.dataset in RESIZED:
        about["preprocessing"] = crop_format(run.dataset).kernel
    cache = job.options.data / "statistics"
    cached = fidelity.load_cached(extractor, about, cache) if ranks.is_first else None
    if ranks.broadcast(cached is not None):
        return cached
    features = ranks.map(partial(_features_on_cpu, extractor), real.pixels.split(_BATCH_SIZE))
    if ranks.is_first:
        return fidelity.measure_reference(extractor, features, about, cache)
    list(features)
    return None


def _precision(run: Generation, device: torch.device) -> str:
    precision = devices.precision(device)
    penalised = run.recipe.r1_weight > 0 and precision != "fp32"
    return f"{precision}, discriminator fp32" if penalised else precision


def _describe_execution(
    run: Generation, job: Job, ranks: Ranks, micro_batch: int
) -> execution.Execution:
    return {
        **execution.describe(ranks, _precision(run, ranks.device)),
        "micro_batch": micro_batch,
        "speed": "plain" if job.options.speed == "plain" else "fast",  # a GAN is not compiled
    }


def _provenance(nets: dict[str, nn.Module], train: Images) -> dict[str, object]:
    return {
        **{f"{name}_parameters": sum(p.numel() for p in nets[name].parameters())
           for name in ("generator", "discriminator")},
        "train_fingerprint": train.fingerprint,
        "train_images": len(train.labels),
    }  # fmt: skip
