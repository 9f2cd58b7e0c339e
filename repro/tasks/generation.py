"""Train a generator against a discriminator, and measure the images it draws: one straight loop.

A step is one gradient of both, at the same weights and from one forward pass of the generator. As
in classification, a batch is defined by its step alone and all randomness derives from (seed, step,
place in the batch), so that a resumed run is the uninterrupted one, bit for bit on a CPU.
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
from repro.data import datasets, loader, pictures, randomness
from repro.data.images import DataError, Images
from repro.data.loader import Batch
from repro.data.resized import RESIZED, form_of
from repro.data.transfer import sent
from repro.models import weights
from repro.models.spectral import advance_spectral_norms
from repro.spec import AdversarialRecipe, Generation, Model
from repro.tasks import Interrupted, Job, Line, NotFinite, Result, check_finite
from repro.tasks import classification as classifier
from repro.train import activations, checkpoint, optim, speed
from repro.train import device as devices
from repro.train.accumulation import MicroBatches
from repro.train.distributed import Ranks, synchronize_batch_norms, together

_INIT, _STEP, _LATENTS, _SAMPLES = 11, 12, 13, 14  # what a seed is for
_LATENT, _GOAL, _FLIP = 1, 2, 3  # streams of a key: a latent, one to walk to, whether mirrored
_CHECK_STEPS = 10  # how often the losses are looked at, since looking waits for the device
_AT_ONCE = 100  # images that are drawn, or measured, together
COLLAPSED = 0.5  # grey levels: images whose standard deviation is less are all alike
_GRID, _STRIP = 64, 10  # images of a sample grid, and of a walk from one latent to another

Losses = dict[str, Tensor]


def execute(run: Generation, job: Job) -> Result:
    """Train `run` to its end from wherever its last checkpoint left it, and measure it."""
    with checkpoint.Writer(job.checkpoints, job.checkpoint_seconds, job.ours) as writer:
        work = partial(_train, run, job, writer)
        return together(work, run.recipe.batch_size) or Result("done", {})


def _train(run: Generation, job: Job, writer: checkpoint.Writer, ranks: Ranks) -> Result:
    recipe, device = run.recipe, ranks.device

    # The real images, and what generated ones are compared with.
    train = squares(run.dataset, "train", job.data)
    extractor = features_of(run, job, device)
    _check_count(run, extractor)
    reference = reference_of(run, extractor, job, ranks)

    # The two models, the average of one of them, and their optimisers.
    generator = create(run.generator, run.seed, 0).to(device)
    discriminator = create(run.discriminator, run.seed, 1).to(device)
    _check_size(generator, train)
    each = partial(bytes_a_pair, generator, discriminator, recipe)
    limit = job.micro_batch or activations.images_that_fit([generator, discriminator], each)
    generator = synchronize_batch_norms(generator, ranks)
    average = copy.deepcopy(generator).requires_grad_(False)
    beta1, beta2 = map(float, recipe.betas)  # a spec that was stored may hold 0 for 0.0
    fused = speed.is_fused(job.speed, device)
    optimizers = [
        torch.optim.Adam(net.parameters(), lr, betas=(beta1, beta2), eps=1e-8, fused=fused)
        for net, lr in ((generator, recipe.lr), (discriminator, recipe.discriminator_lr))
    ]
    nets = {"generator": generator, "discriminator": discriminator, "average": average}
    ranks.align(*nets.values())
    trained = [generator, discriminator]
    micro_batches = MicroBatches(trained, recipe.batch_size, ranks, limit, halvings=job.halvings)

    # The state: everything that a resumed run needs.
    first, history = 0, list[Line]()
    sums, counted = _zeros(device), 0
    if state := checkpoint.load(job.checkpoints):
        for name, net in nets.items():
            net.load_state_dict(state[name])
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optim.restore(optimizer, stored)
        first, history, counted = state["step"], state["history"], state["counted"]
        sums = state["sums"].to(device) if ranks.first else sums  # they are the sums over ranks
    if ranks.first:
        job.history(history)

    size = len(train.labels)
    feed = loader.batches(
        train,
        (_share(step, run, size, ranks) for step in range(first, recipe.steps)),
        None,
        device,
        workers=loader.default_workers(),
    )
    for step, batch in enumerate(feed, start=first):
        keys = batch.keys
        for net in (generator, discriminator):
            net.train()
            advance_spectral_norms(net)  # once a step, however many micro-batches it has

        # Forward and backward, a micro-batch at a time; each gradient is that of the global mean.
        def backward(
            part: slice, batch: Batch = batch, keys: Tensor = keys, step: int = step
        ) -> Tensor:
            real = _real(batch.pixels[part], keys[part], recipe)
            latents = _latents(run, step, ranks, part, generator)
            with devices.autocast(device):
                fake = generator(latents)
            losses = adversarial_losses(discriminator, real, fake, recipe, device)
            means = {name: loss.sum() / recipe.batch_size for name, loss in losses.items()}
            of_discriminator = means["discriminator_loss"] + recipe.r1_weight * means["r1"]
            means["generator_loss"].backward(inputs=list(generator.parameters()), retain_graph=True)
            of_discriminator.backward(inputs=list(discriminator.parameters()))
            return torch.stack([means[name].detach() for name in LOSSES]).double()

        # For whatever still draws from torch's generator: at least not from its history.
        seed = randomness.seed_of(run.seed, _STEP, step, ranks.rank)
        sums += micro_batches.gradient(backward, seed)
        counted += 1
        for optimizer in optimizers:
            optimizer.step()
        done = step + 1
        follow(average, generator, recipe.ema_decay if done > recipe.ema_start else 0.0)

        # Losses that are no numbers stay so, and stay in their sum.
        every = recipe.evaluate_every_steps
        due = done == recipe.steps or bool(every and done % every == 0)
        if due or done % _CHECK_STEPS == 0:
            means_ = dict(zip(LOSSES, (ranks.sum(sums) / counted).tolist(), strict=True))
            epoch = done * recipe.batch_size / size
            job.progress(done, recipe.steps, {"epoch": epoch, "loss": means_["discriminator_loss"]})
            if not all(map(math.isfinite, means_.values())):
                return _diverged("not a number", done, run, average, nets, job, ranks, train)

        # A line of metrics, and a picture, at every evaluation.
        if due:
            metrics, why = _evaluate(run, job, average, done, extractor, reference, ranks)
            if why:
                return _diverged(why, done, run, average, nets, job, ranks, train)
            history.append({"step": done, "epoch": epoch, **means_, **metrics})
            sums, counted = _zeros(device), 0
            if ranks.first:
                job.history(history)

        # Save by the clock, and when asked to stop. All ranks agree, and the first one writes.
        stop, save = ranks.any(job.stopping(), ranks.first and writer.due())
        if stop or save:
            sums_so_far = ranks.sum(sums)
            if ranks.first:
                state = {
                    **{name: net.state_dict() for name, net in nets.items()},
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": done,
                    "history": history,
                    "sums": sums_so_far,
                    "counted": counted,
                }
                writer.write(done, state)
        if stop:
            raise Interrupted(f"stopped after step {done} of {recipe.steps}")

    last = history[-1]
    facts = _facts(run, nets, job, ranks, train) | (
        {"reference": reference.about} if reference else {}
    )
    facts["micro_batch"] = micro_batches.size
    files, why = dict[str, bytes](), ""
    try:
        files = portraits(average, run, device) if ranks.first else {}
    except NotFinite as error:
        why = str(error)
    if ranks.any(bool(why))[0]:
        return _diverged(why, recipe.steps, run, average, nets, job, ranks, train)
    return Result(
        "done",
        {name: value for name, value in last.items() if name != "epoch" and value is not None},
        weights=average.state_dict() if ranks.first else {},  # others' statistics are their own
        provenance=facts,
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
    """The metrics of what the generator draws, and why training has diverged; '' if it has not.

    The ranks draw and look at the images together; the first one's generator, and its numbers.
    """
    ranks.align(average)  # each has BatchNorm statistics of its own
    metrics, why = dict[str, float | int](), ""
    if ranks.first:
        why = _why_hopeless(run, job, average, step, ranks.device)
    if why := ranks.told(why):
        return {}, why
    try:
        seen = partial(_seen, run, average, extractor, ranks.device)
        fakes = ranks.map(seen, _batches(run.samples))
        if reference:
            metrics = fidelity.compare(extractor, fakes, reference, seed=run.seed)
            check_finite(metrics, {})
        else:
            list(fakes)
    except NotFinite as error:
        metrics, why = {}, str(error)
    return ranks.told((metrics, why))


def _why_hopeless(
    run: Generation, job: Job, average: nn.Module, step: int, device: torch.device
) -> str:
    """Why some samples, which are kept as a picture, need not be measured; '' if they do."""
    try:
        check_finite({}, average.state_dict())
        drawn = sample(average, run.seed, _shown(run), device)
    except NotFinite as error:
        return str(error)
    job.keep(f"samples/step{step:09d}.png", pictures.grid(drawn))
    late = step > run.recipe.steps // 2  # before, it may not have begun to draw
    return "collapsed" if late and fidelity.spread(drawn) < COLLAPSED else ""


def _seen(
    run: Generation,
    generator: nn.Module,
    extractor: fidelity.Extractor,
    device: torch.device,
    numbers: range,
) -> fidelity.Seen:
    """What the extractor makes of the samples with these numbers, on the CPU."""
    return _on_cpu(extractor, sample(generator, run.seed, numbers, device))


def _on_cpu(extractor: fidelity.Extractor, images: Tensor) -> fidelity.Seen:
    features, logits = extractor(images)
    return features.cpu(), logits.cpu()


def _diverged(
    why: str,
    step: int,
    run: Generation,
    average: nn.Module,
    nets: dict[str, nn.Module],
    job: Job,
    ranks: Ranks,
    train: Images,
) -> Result:
    """The end of a run that cannot go on, with what the generator draws by then."""
    facts = _facts(run, nets, job, ranks, train) | {"why": why}
    latents = _latents_of(average, run.seed, _shown(run)).to(ranks.device)
    files = {"samples.png": pictures.grid(_levels(_images(average, latents).nan_to_num()))}
    return Result("diverged", {"step": step}, provenance=facts, files=files)


# --- the models ----------------------------------------------------------------------------------


def create(model: Model, seed: int, number: int = 0) -> nn.Module:
    """The architecture with initial weights, a function of the seed. ValueError: no such model.

    `number` tells the models of a run apart: 0 the generator, 1 the discriminator.
    """
    if not timm.is_model(model.name):
        raise ValueError(f"no architecture is registered as {model.name!r}")
    torch.manual_seed(randomness.seed_of(seed, _INIT, number))
    net = timm.create_model(model.name, **dict(model.options))
    assert isinstance(net, nn.Module)
    return net


@torch.no_grad()
def follow(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the average of the weights by 1 - `decay` towards `net`; with 0 it becomes `net`.

    BatchNorm's statistics are averaged as the weights are, since they belong to them; every other
    buffer is taken over as it is.
    """
    mine, theirs = dict(average.named_buffers()), dict(net.named_buffers())
    averaged = [name for name in mine if "running_" in name]
    taken = [name for name in mine if "running_" not in name]
    torch._foreach_lerp_(
        [*average.parameters(), *(mine[name] for name in averaged)],
        [*net.parameters(), *(theirs[name] for name in averaged)],
        1 - decay,
    )
    if taken:
        torch._foreach_copy_([mine[name] for name in taken], [theirs[name] for name in taken])


def _check_count(run: Generation, extractor: fidelity.Extractor) -> None:
    """Before training what would be known after it."""
    need = extractor.dim + 1
    if run.samples < need:
        raise DataError(
            f"{run.samples:,} samples are too few: the covariance of {extractor.dim:,} features "
            f"of {extractor.name} needs {need:,}"
        )


def _check_size(generator: nn.Module, train: Images) -> None:
    side, stored = image_side(generator), train.pixels.shape[-1]
    if side != stored:
        raise DataError(f"the generator makes images of {side} px, the data are of {stored} px")


# --- the losses ----------------------------------------------------------------------------------

LOSSES = ("discriminator_loss", "generator_loss", "r1")


def adversarial_losses(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    recipe: AdversarialRecipe,
    device: torch.device,
) -> Losses:
    """Of each image (B,), float32: both losses, and the penalty, which is zero where it has no
    weight.

    'logistic' is the non-saturating loss of Goodfellow et al. 2014, 'hinge' that of SAGAN. R1 is
    the squared norm of the discriminator's gradient at real images (Mescheder et al. 2018),
    without the factor 1/2 that some write.
    """
    penalised = recipe.r1_weight > 0
    real = real.requires_grad_(penalised)
    # In fp32 where gradients are differentiated: of bf16's eight bits little would be left.
    with nullcontext() if penalised else devices.autocast(device):
        of_real, of_fake = discriminator(real), discriminator(fake.float())
    of_real, of_fake = of_real.float().flatten(), of_fake.float().flatten()
    r1 = torch.zeros_like(of_real)
    if penalised:
        (gradient,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
        r1 = gradient.square().sum(dim=(1, 2, 3))
    if recipe.loss == "hinge":
        of_discriminator, of_generator = F.relu(1 - of_real) + F.relu(1 + of_fake), -of_fake
    else:
        of_discriminator = F.softplus(-of_real) + F.softplus(of_fake)
        of_generator = F.softplus(-of_fake)
    return {"discriminator_loss": of_discriminator, "generator_loss": of_generator, "r1": r1}


def bytes_a_pair(
    generator: nn.Module, discriminator: nn.Module, recipe: AdversarialRecipe, bf16: bool = True
) -> int:
    """Bytes that are kept for the backward pass for each pair of a real and a generated image."""
    return activations.bytes_a_pair(
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


def squares(name: str, split: datasets.Split, root: Path) -> Images:
    """A dataset of images of one size; DataError for photographs, which have to be made so."""
    images = datasets.load(name, split, root)
    if not isinstance(images, Images):
        raise DataError(f"{name}: photographs of all sizes; {name}-64px has squares of them")
    return images


def _share(step: int, run: Generation, size: int, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The sample indices and keys of a rank's part of a step's real images, int64, on the CPU."""
    batch_size = run.recipe.batch_size
    indices, epochs = classifier.batch_of(step, batch_size, size, run.seed)
    share = ranks.share(batch_size)
    return indices[share], randomness.sample_keys(run.seed, epochs[share], indices[share])


def _latents(run: Generation, step: int, ranks: Ranks, part: slice, generator: nn.Module) -> Tensor:
    """The latents (B, latent_dim) of a micro batch: N(0, 1), by step and place in the batch."""
    share = ranks.share(run.recipe.batch_size)
    places = torch.arange(share.start, share.stop)[part]
    keys = randomness.sample_keys(randomness.seed_of(run.seed, _LATENTS), step, places)
    (latents,) = sent(ranks.device, randomness.normal(keys, _LATENT, latent_dim(generator)))
    return latents


def latent_dim(generator: nn.Module) -> int:
    """How many numbers an image is made of."""
    dim = generator.latent_dim
    assert isinstance(dim, int)
    return dim


def image_side(generator: nn.Module) -> int:
    """The side of the images that it makes, in px."""
    side = generator.img_size
    assert isinstance(side, int)
    return side


def _real(pixels: Tensor, keys: Tensor, recipe: AdversarialRecipe) -> Tensor:
    """Real images as the discriminator sees them: perhaps mirrored, in [-1, 1]."""
    if recipe.flip:
        (mirrored,) = sent(pixels.device, randomness.uniform(keys, _FLIP)[:, 0] < 0.5)
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    return pixels.float() / 127.5 - 1


# --- what is drawn, and how it is measured -------------------------------------------------------


def draw(generator: nn.Module, latents: Tensor) -> Tensor:
    """The images of latents (B, latent_dim), uint8 (B, 3, S, S).

    Raises NotFinite if a pixel is NaN or infinite.
    """
    images = _images(generator, latents)
    if not images.isfinite().all():
        raise NotFinite("the generator's images are not finite")
    return _levels(images)


@torch.no_grad()
def _images(generator: nn.Module, latents: Tensor) -> Tensor:
    """The generator's own images, float32 (B, 3, S, S), in [-1, 1]."""
    generator.eval()
    with devices.autocast(latents.device):
        images: Tensor = generator(latents)
    return images.float()


def _levels(images: Tensor) -> Tensor:
    """From [-1, 1] to 256 levels, uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def sample(generator: nn.Module, seed: int, numbers: Iterable[int], device: torch.device) -> Tensor:
    """The samples with these numbers, uint8 (B, 3, S, S): each a function of seed and number."""
    return draw(generator, _latents_of(generator, seed, numbers).to(device))


def _latents_of(generator: nn.Module, seed: int, numbers: Iterable[int]) -> Tensor:
    """The latents (B, latent_dim) of the samples with these numbers."""
    places = torch.tensor([*numbers])
    keys = randomness.sample_keys(randomness.seed_of(seed, _SAMPLES), 0, places)
    return randomness.normal(keys, _LATENT, latent_dim(generator))


def samples(generator: nn.Module, seed: int, count: int, device: torch.device) -> Iterator[Tensor]:
    """The first `count` samples, a batch at a time."""
    for numbers in _batches(count):
        yield sample(generator, seed, numbers, device)


def _batches(count: int) -> list[range]:
    """The numbers of the samples that are drawn together."""
    starts = range(0, count, _AT_ONCE)
    return [range(start, min(start + _AT_ONCE, count)) for start in starts]


def joined(parts: Iterable[Tensor]) -> Tensor:
    """Batches of images as one, on the CPU."""
    return torch.cat([part.cpu() for part in parts])


def _shown(run: Generation) -> range:
    """The samples of a grid: the first of those that are measured."""
    return range(min(_GRID, run.samples))


def portraits(generator: nn.Module, run: Generation, device: torch.device) -> dict[str, bytes]:
    """A grid of samples and a walk between two latents, both as PNG.

    The walk is along the sphere near which normal latents lie.
    """
    keys = randomness.sample_keys(randomness.seed_of(run.seed, _SAMPLES), 0, torch.tensor([0]))
    dim = latent_dim(generator)
    ends = [randomness.normal(keys, stream, dim) for stream in (_LATENT, _GOAL)]
    angles = torch.linspace(0, math.pi / 2, _STRIP)[:, None]
    walk = angles.cos() * ends[0] + angles.sin() * ends[1]
    return {
        "samples.png": pictures.grid(sample(generator, run.seed, _shown(run), device)),
        "interpolation.png": pictures.strip(draw(generator, walk.to(device))),
    }


def features_of(run: Generation, job: Job, device: torch.device) -> fidelity.Extractor:
    """What tells images apart: Inception, or the classifier that the run names."""
    if run.features == "inception":
        return fidelity.inception(job.weights or job.data / "inception").to(device)
    trained = datasets.load(run.features.dataset, "test", job.data)
    assert isinstance(trained, Images)
    net = classifier.create(run.features.model, len(trained.classes), 0.0, run.features.seed)
    path = job.weights_of(run.features)
    weights.load(net, path)
    return fidelity.of_classifier(
        net.to(device),
        classes=len(trained.classes),
        side=trained.pixels.shape[-1],
        mean=trained.mean,
        std=trained.std,
        name=run.features.id,
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def reference_of(
    run: Generation, extractor: fidelity.Extractor, job: Job, ranks: Ranks
) -> fidelity.Reference | None:
    """The real images of the run, measured, or as they were measured before. Never mirrored.

    The ranks measure together. The first one has the reference, the others have None.
    """
    real = squares(run.dataset, run.reference_split, job.data)
    about = {
        "dataset": run.dataset,
        "split": run.reference_split,
        "images": len(real.labels),
        "image_size": real.pixels.shape[-1],
        "fingerprint": real.fingerprint,
    }
    if run.dataset in RESIZED:
        about["preprocessing"] = form_of(run.dataset).kernel
    cache = job.data / "statistics"
    found = fidelity.stored(extractor, about, cache) if ranks.first else None
    if ranks.told(found is not None):
        return found
    seen = ranks.map(partial(_on_cpu, extractor), real.pixels.split(_AT_ONCE))
    if ranks.first:
        return fidelity.measured(extractor, seen, about, cache)
    list(seen)
    return None


def _precision(run: Generation, device: torch.device) -> str:
    precision = devices.precision(device)
    penalised = run.recipe.r1_weight > 0 and precision != "fp32"
    return f"{precision}, discriminator fp32" if penalised else precision


def _facts(
    run: Generation, nets: dict[str, nn.Module], job: Job, ranks: Ranks, train: Images
) -> dict[str, object]:
    return {
        **{f"{name}_parameters": sum(p.numel() for p in nets[name].parameters())
           for name in ("generator", "discriminator")},
        "train_fingerprint": train.fingerprint,
        "train_images": len(train.labels),
        "device": devices.describe(ranks.device),
        "precision": _precision(run, ranks.device),
        "ranks": ranks.count,
        "speed": "plain" if job.speed == "plain" else "fast",  # a GAN is not compiled
    }  # fmt: skip
