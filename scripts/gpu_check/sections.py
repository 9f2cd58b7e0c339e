"""What a GPU is asked: seven sections, each with items that are carried out one by one.

An item either measures something or finds two ways equal. On the GPU the sizes are those of the
paper where speed is the question; where it is whether CPU and GPU are equal, models are small.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any, Literal, get_args

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.nest import Nest
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from repro import gpus
from repro.data import composed, datasets, ground_truth, prepare, randomness
from repro.data.augment import Augmentation, augment, mix
from repro.data.pieces import Decode
from repro.experiments import scales, table1, table2
from repro.experiments.recipes import cifar_transformer
from repro.interpret.localization import targets
from repro.models.attention import Attention
from repro.spec import (
    AdversarialRecipe,
    Classification,
    Evaluation,
    Generation,
    Localization,
    Model,
    Profiling,
    Recipe,
    Run,
    Traversal,
)
from repro.tasks import (
    Interrupted,
    Line,
    Result,
    classification,
    explained,
    generation,
    localization,
    profiling,
    traversal,
)
from repro.train import checkpoint, optim, speed
from repro.train import device as devices
from repro.train.distributed import Ranks
from repro.train.speed import Speed

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Found:
    """What came of an item; `well` is None of what is only measured."""

    text: str
    well: bool | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


Item = tuple[str, Callable[[], Found]]


@dataclass
class Asked:
    """What is asked of which device."""

    device: torch.device
    data: Path  # datasets of the user's, CIFAR-10 among them
    scratch: Path
    small: bool  # a trial, on a CPU
    flops: float = 0.0  # a second, of bf16 products where the device has them; measured at first
    deadline: float = float("inf")  # monotonic clock: when the section should be over

    @property
    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    @property
    def smoke(self) -> Path:
        """A folder with the handful of images that come with the code."""
        folder = self.scratch / "data"
        for name in ("cifar10-smoke", "imagenet-smoke"):
            if not (folder / name).exists():
                prepare.prepare(name, folder)
        return folder


class Job:
    """A task's job without a launcher. Initial weights stand for trained ones."""

    weights: Path | None = None
    decode: Literal["cpu", "nvjpeg"] = "cpu"
    micro_batch: int | None = None
    speed: Speed = "fast"
    halvings = 0
    checkpoint_seconds = 60.0

    def __init__(
        self, data: Path, folder: Path, stops_after: int = 0, deadline: float = float("inf")
    ) -> None:
        self.data, self.checkpoints = data, folder
        self.stops_after, self.deadline, self.steps = stops_after, deadline, 0

    def stopping(self) -> bool:
        self.steps += 1
        return self.steps == self.stops_after or time.monotonic() > self.deadline

    def ours(self) -> bool:
        return True

    def weights_of(self, run: Run) -> Path:
        assert isinstance(run, Classification)
        path = self.checkpoints.parent / f"{run.id}.safetensors"
        if not path.exists():
            classes = datasets.load(run.dataset, run.train_split, self.data).classes
            net = classification.create(run.model, len(classes), 0.0, run.seed)
            save_file(net.state_dict(), path)
        return path

    def keep(self, name: str, data: bytes) -> None: ...

    def progress(self, step: int, steps: int, line: Line) -> None: ...

    def history(self, lines: Sequence[Line]) -> None: ...


def _has_none(device: torch.device) -> bool:
    return False


@contextmanager
def computing(device: torch.device, *, fp32: bool) -> Iterator[None]:
    """Tasks run on this device within it, and without bf16 where `fp32` says so."""
    before = devices.choose, devices.has_bf16
    devices.choose = lambda: device
    devices.configure_fp32(device)
    if fp32:
        devices.has_bf16 = _has_none
    try:
        yield
    finally:
        devices.choose, devices.has_bf16 = before


def folder(asked: Asked) -> Path:
    return Path(mkdtemp(dir=asked.scratch))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(step: Callable[[], object], device: torch.device, budget: float) -> float:
    """Of one call: the median of blocks of calls, after one block to warm up."""
    blocks = list[float]()
    end = time.perf_counter() + budget
    calls = 1
    while len(blocks) < 2 or time.perf_counter() < end:
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            step()
        wait(device)
        blocks.append((time.perf_counter() - began) / calls)
        calls = max(1, min(100, int(budget / 8 / blocks[-1])))
    return median(blocks[1:])


# --- 1. the device -------------------------------------------------------------------------------


def device(asked: Asked) -> Iterator[Item]:
    """What it is, and what it does at most."""
    yield "name", lambda: Found(devices.describe(asked.device))
    if asked.device.type == "cuda":
        about = torch.cuda.get_device_properties(asked.device)
        numbers = {"memory_bytes": float(about.total_memory)}
        text = f"{about.total_memory / 2**30:.0f} GiB, {about.multi_processor_count} processors"
        yield "memory", lambda: Found(text, None, numbers)
    side = 256 if asked.small else 8192
    for dtype in (torch.float32, torch.bfloat16):
        yield (
            f"matrix products in {dtype}".replace("torch.", ""),
            partial(_products, asked, side, dtype),
        )

    def bandwidth() -> Found:
        values = torch.zeros(10**6 if asked.small else 10**9, device=asked.device)
        seconds = seconds_of(lambda: values.add_(1.0), asked.device, 0.5)
        rate = 2 * values.nbytes / seconds
        return Found(f"{rate / 1e9:,.0f} GB/s", None, {"bytes_per_second": rate})

    yield "memory, read and written", bandwidth


def _products(asked: Asked, side: int, dtype: torch.dtype) -> Found:
    devices.configure_fp32(asked.device)
    a, b = (torch.randn(side, side, device=asked.device, dtype=dtype) for _ in range(2))
    rate = 2 * side**3 / seconds_of(lambda: a @ b, asked.device, 0.5)
    if dtype == (torch.bfloat16 if devices.has_bf16(asked.device) else torch.float32):
        asked.flops = rate
    return Found(f"{rate / 1e12:,.3g} TFLOP/s", None, {"flops": rate})


# --- 2. what only a device can tell --------------------------------------------------------------


def alone(asked: Asked) -> Iterator[Item]:
    """What tests without a GPU cannot see."""
    yield "fp32 is not TF32", partial(_precise, asked)
    yield "more blocks than a CUDA grid has rows", partial(_many_blocks, asked)
    yield "logits in autocast beside fp32", partial(_autocast, asked)
    yield "a checkpoint while its tensors change", partial(_saved, asked)
    yield "waits of the host in a training step", partial(_waits, asked)
    if asked.device.type == "cuda":
        yield "photographs decoded by nvJPEG", partial(_nvjpeg, asked)


def _precise(asked: Asked) -> Found:
    """TF32 has 10 bits of 23: its products are 1e-3 off, those of fp32 1e-6."""
    devices.configure_fp32(asked.device)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    image, kernel = torch.randn(4, 32, 16, 16), torch.randn(32, 32, 3, 3)
    pairs = [
        ((a.to(asked.device) @ b.to(asked.device)).cpu(), a.double() @ b.double()),
        (
            F.conv2d(image.to(asked.device), kernel.to(asked.device)).cpu(),
            F.conv2d(image.double(), kernel.double()),
        ),
    ]
    worst = max(_distance(found, true) for found, true in pairs)
    return Found(f"largest error {worst:.1e} of the largest value", worst < 1e-5, {"error": worst})


def _distance(found: Tensor, true: Tensor) -> float:
    """The largest difference, over the largest value."""
    return float((found.double() - true.double()).abs().max() / true.abs().max().double())


def _net(asked: Asked, name: str = "nest_tiny_cifar") -> nn.Module:
    model = scales.PROXY_MODELS[name] if asked.small else Model(name)
    return classification.create(model, 10, 0.0, 0).to(asked.device)


@torch.no_grad()
def _many_blocks(asked: Asked) -> Found:
    """A CIFAR image has 64 blocks at the bottom: 1,100 images have more than 65,535."""
    net, images = _net(asked).eval(), 8 if asked.small else 1100
    batch = torch.randn(images, 3, 32, 32, device=asked.device)
    whole = net(batch)
    parts = torch.cat([net(part) for part in batch.split(images // 4)])
    error = _distance(whole, parts)
    return Found(
        f"{images} images at once: largest error {error:.1e}", error < 1e-3, {"error": error}
    )


@torch.no_grad()
def _autocast(asked: Asked) -> Found:
    net = _net(asked).eval()
    batch = torch.randn(8, 3, 32, 32, device=asked.device)
    with devices.autocast(asked.device):
        found = net(batch).float()
    error = _distance(found, net(batch))
    text = f"{devices.precision(asked.device)}: largest error {error:.1e} of the largest logit"
    return Found(text, error < 0.05, {"error": error})


def _saved(asked: Asked) -> Found:
    """Right after the copy has been asked for, training goes on in place."""
    size = 10**4 if asked.small else 10**8
    values = torch.arange(size, dtype=torch.float32, device=asked.device)
    expected, place = torch.arange(size, dtype=torch.float32), folder(asked)
    with checkpoint.Writer(place, 0.0, lambda: True) as writer:
        for step in range(2):  # the second time into buffers that are there
            began = time.perf_counter()
            writer.write(step, {"values": values})
            values.add_(1.0)
            stopped = time.perf_counter() - began
            writer.wait()
            state = checkpoint.load(place)
            if state is None or not torch.equal(state["values"], expected):
                return Found("another state than that of the moment was written", False)
            expected = expected + 1.0
    text = f"copying {values.nbytes / 1e9:.1f} GB stops training for {1e3 * stopped:.1f} ms"
    return Found(text, True, {"seconds": stopped})


def _waits(asked: Asked) -> Found:
    """torch warns of each operation that makes the host wait for the device."""
    recipe = replace(_recipe(), batch_size=10, epochs=4, evaluate_every_epochs=0)
    run = replace(_cifar(), recipe=recipe, test_split="none")
    job = Job(asked.smoke, folder(asked))
    counts, seen = list[int](), list[warnings.WarningMessage]()
    ask = job.stopping

    def stopping() -> bool:
        counts.append(len(seen))
        seen.clear()
        return ask()

    job.stopping = stopping  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = caught
        with computing(asked.device, fp32=False), _reporting_waits(asked.device):
            classification.execute(run, job)
    waits = counts[3]
    return Found(f"{waits} in a step of NesT with the authors' augmentation", None,
                 {"waits": waits})  # fmt: skip


@contextmanager
def _reporting_waits(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _nvjpeg(asked: Asked) -> Found:
    run, ends = _photos(), list[Weights]()
    for decode in get_args(Decode):
        job = Job(asked.smoke, folder(asked))
        job.decode = decode
        with computing(asked.device, fp32=True):
            ends.append(_execute(run, job))
    return _alike(run, *ends, within=0.5)


# --- 3. augmentation -----------------------------------------------------------------------------

_NONE = Augmentation(
    crop_padding=0, flip=False, randaugment_layers=0, erase_prob=0.0, mixup_alpha=0.0,
    cutmix=False, label_smoothing=0.0,
)  # fmt: skip
POLICIES: dict[str, Augmentation] = {
    "crop and flip": replace(_NONE, crop_padding=2, flip=True),
    "the authors' operations": replace(_NONE, randaugment_layers=1, randaugment_prob=1.0),
    "timm's operations": replace(
        _NONE, randaugment_layers=1, randaugment_prob=1.0, augmentation="timm"
    ),
    "colour jitter": replace(_NONE, color_jitter=0.8),
    "the authors' erasing": replace(_NONE, erase_prob=1.0),
    "timm's erasing": replace(_NONE, erase_prob=1.0, augmentation="timm"),
    "Mixup": replace(_NONE, mixup_alpha=0.8, label_smoothing=0.1),
    "CutMix": replace(_NONE, cutmix=True, label_smoothing=0.1),
    "timm's mixing": replace(_NONE, mixup_alpha=0.8, cutmix=True, augmentation="timm"),
    "the authors' policy": Augmentation(color_jitter=0.3),
    "timm's policy": Augmentation(augmentation="timm", randaugment_prob=0.5, color_jitter=0.3),
}
EQUAL = 1e-4  # of all values may differ, by rounding


def augmentation(asked: Asked) -> Iterator[Item]:
    """Every policy on the CPU and on the device, from the same keys."""
    for side, images in ((32, 64), (64, 4)) if asked.small else ((32, 1024), (224, 128)):
        for name, policy in POLICIES.items():
            yield f"{name}, {side} px", partial(_augmented, asked, policy, side, images)


def _augmented(asked: Asked, policy: Augmentation, side: int, images: int) -> Found:
    pixels = datasets.load("fashion-mnist-6k", "test").pixels[:images]
    pixels = F.interpolate(pixels, side)
    pixels[:, 1] //= 2
    labels = torch.arange(images) % 10

    keys = randomness.sample_keys(0, 0, torch.arange(images))
    key = torch.tensor(randomness.seed_of(1))

    def made(device: torch.device) -> tuple[Tensor, Tensor]:
        inputs = augment(pixels.to(device), keys, policy, (0.5,) * 3, (0.25,) * 3)
        inputs, goals = mix(inputs, labels.to(device), keys, 10, policy, batch_key=key)
        return inputs.cpu(), goals.cpu()

    (here, goals), (there, other_goals) = made(CPU), made(asked.device)
    differ = ((here - there).abs() > 1e-5 + 1e-5 * here.abs()).double().mean().item()
    most = float((here - there).abs().max())
    well = differ <= EQUAL and torch.allclose(goals, other_goals, atol=1e-6)
    share = "none" if not differ else f"{100 * differ:.4f} %"
    return Found(f"{share} of the values differ; largest difference {most:.1e}", well,
                 {"differ": differ, "most": most})  # fmt: skip


# --- 4. tasks ------------------------------------------------------------------------------------


def _recipe() -> Recipe:
    return replace(cifar_transformer("T", ours=True).recipe, epochs=3, batch_size=10,
                   warmup_epochs=0.5, evaluate_every_epochs=1)  # fmt: skip


def _cifar() -> Classification:
    """NesT on the twenty images of CIFAR's smoke set."""
    model = scales.PROXY_MODELS["nest_tiny_cifar"]
    return Classification(model=model, dataset="cifar10-smoke", recipe=_recipe())


def _photos() -> Classification:
    """NesT on photographs, cropped, jittered and mixed as the authors do."""
    model = Model.of("nest_tiny_imagenet", img_size=64, patch_size=8, depths=(1, 1, 1),
                     embed_dims=(24, 48, 96), num_heads=(1, 2, 4))  # fmt: skip
    recipe = replace(_recipe(), image_size=64, crop_area=(0.08, 1.0), crop_padding=0,
                     color_jitter=0.3, evaluate_every_epochs=0)  # fmt: skip
    return Classification(
        model=model, dataset="imagenet-smoke", recipe=recipe, test_split="none",
        evaluation=Evaluation(image_size=64),
    )  # fmt: skip


def _adversarial(generator: str, discriminator: str, loss: Literal["logistic", "hinge"]) -> Run:
    recipe = AdversarialRecipe(
        steps=10, batch_size=8, lr=1e-3, discriminator_lr=1e-3, loss=loss, flip=True,
        r1_weight=10.0 * (loss == "logistic"), ema_decay=0.5,
    )  # fmt: skip
    return Generation(
        generator=scales.PROXY_MODELS[generator], discriminator=scales.PROXY_MODELS[discriminator],
        dataset="cifar10-smoke", recipe=recipe, samples=20, features=scales.SMOKE_FEATURES,
    )  # fmt: skip


def _trainings() -> dict[str, Run]:
    timms = replace(_recipe(), augmentation="timm", optimizer="sgd", lr=0.01, clip_norm=1.0)
    return {
        "classification": _cifar(),
        "classification, timm's policy, SGD": replace(_cifar(), recipe=timms),
        "classification of photographs": _photos(),
        "generation by Transposed NesT": _adversarial(
            "transposed_nest_64", "hit_discriminator_64", "logistic"
        ),
        "generation by a convnet": _adversarial(
            "sagan_decoder_64", "sagan_discriminator_64", "hinge"
        ),
    }


def tasks(asked: Asked) -> Iterator[Item]:
    """Every task on the CPU and on the device, in fp32; then what trains in its own precision."""
    for name, run in _trainings().items():
        yield name, partial(_trained, asked, run)
    for method in localization.METHODS:
        yield f"localization by {method}", partial(_located, asked, method)
    yield "traversal by GradCAT", partial(_followed, asked)


Weights = Mapping[str, Tensor]


def _execute(run: Run, job: Job) -> Weights:
    """The trained weights."""
    kinds: dict[str, Any] = {"classification": classification, "generation": generation}
    result: Result = kinds[run.kind].execute(run, job)
    assert result.weights, f"the training ended as {result.status!r}"
    return {name: value.cpu() for name, value in result.weights.items()}


def _trained(asked: Asked, run: Run) -> Found:
    ends = list[Weights]()
    own_too = asked.device.type == "cuda"
    ways = ((CPU, True), (asked.device, True), (asked.device, False))
    for device, fp32 in ways[: 2 + own_too]:
        with computing(device, fp32=fp32):
            ends.append(_execute(run, Job(asked.smoke, folder(asked))))
    found = _alike(run, ends[0], ends[1], within=0.05)
    if own_too:  # how far bf16 leads astray is only measured
        own = _alike(run, ends[0], ends[2], within=1.0)
        words = f"{found.text}; {devices.precision(asked.device)}: {own.text}"
        found = replace(found, text=words, numbers={**found.numbers, "own": own.numbers["apart"]})
    return found


def _alike(run: Run, here: Weights, there: Weights, *, within: float) -> Found:
    """How far apart the weights are, beside how far training has moved them.

    Adam makes of the rounding of a gradient that is nearly zero a whole step of a weight. Of two
    trainings that have nothing in common it is about 1.4.
    """
    if isinstance(run, Generation):
        net = generation.create(run.generator, run.seed)
    else:
        assert isinstance(run, Classification)
        net = classification.create(run.model, len(here["head.bias"]), 0.0, run.seed)
    first = {name: parameter.detach() for name, parameter in net.named_parameters()}
    moved = sum(float((here[name] - first[name]).square().sum()) for name in first) ** 0.5
    apart = sum(float((here[name] - there[name]).square().sum()) for name in first) ** 0.5
    share = apart / moved
    text = f"weights differ by {100 * share:.2g} % of how far training moved them"
    return Found(text, share <= within, {"apart": share})


FINDERS: dict[str, Model] = {
    "cam": Model.of("nest_small_imagenet", img_size=64, patch_size=4, depths=(1, 1, 1),
                    embed_dims=(8, 16, 32), num_heads=(1, 2, 4)),
    "grad_cam_pp": Model.of("resnet50", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)),
    "rollout": Model.of("deit_small_patch16_224", img_size=64, depth=2, embed_dim=16,
                        num_heads=2),
}  # fmt: skip
FINDERS["gradient_rollout"] = FINDERS["rollout"]


def _finder(model: Model) -> Classification:
    recipe = Recipe(epochs=1, batch_size=4, lr=1e-3)
    return Classification(model=model, dataset=composed.SINGLES, recipe=recipe)


def _located(asked: Asked, method: Any) -> Found:
    """The best IoU of each image at the fixed threshold, on the first pictures of one object."""
    count = 8 if asked.small else 64
    run = Localization(
        classifier=_finder(FINDERS[method]), dataset=composed.SINGLES, attribution=method
    )
    images = datasets.load(composed.SINGLES, "test", asked.data)
    truth = targets(ground_truth.load(composed.SINGLES, "test", images, asked.data))[:count]
    images = replace(images, pixels=images.pixels[:count], labels=images.labels[:count])
    scores = list[Tensor]()
    for device in (CPU, asked.device):
        job = Job(asked.data, folder(asked))
        devices.configure_fp32(device)
        net = explained.classifier_of(run, len(images.classes), job, device)
        found = localization.seen(run, net, images, truth, job, Ranks(0, 1, device))
        assert found
        scores.append(torch.from_numpy(found.fixed.best_at("largest", localization.FIXED_TAU)))
    here, there = scores
    differ = ((here.double() - there.double()).abs() > 100).double().mean().item()  # 1 % of IoU
    return Found(f"boxes of {100 * differ:.1f} % of {count} images differ", differ <= 0.05,
                 {"differ": differ})  # fmt: skip


def _followed(asked: Asked) -> Found:
    run = Traversal(classifier=_finder(FINDERS["cam"]), dataset=composed.SINGLES,
                    pictures=4 if asked.small else 64, ablated=2)  # fmt: skip
    paths = list[Tensor]()
    for device in (CPU, asked.device):
        with computing(device, fp32=True):
            result = traversal.execute(run, Job(asked.data, folder(asked)))
        paths.append(torch.from_numpy(result.predictions["path"]))
    differ = (paths[0] != paths[1]).any(-1).double().mean().item()
    return Found(f"{100 * differ:.1f} % of {paths[0][..., 0].numel()} paths differ",
                 differ <= 0.02, {"differ": differ})  # fmt: skip


# --- 5. a run that is interrupted ----------------------------------------------------------------


def resumed(asked: Asked) -> Iterator[Item]:
    """Stopped in the middle and taken up again, beside the run that was not."""
    for name in ("classification", "generation by Transposed NesT"):
        yield name, partial(_resumed, asked, _trainings()[name])


def _resumed(asked: Asked, run: Run) -> Found:
    ends = list[Weights]()
    with computing(asked.device, fp32=False):
        for stops_after in (0, 3):
            place = folder(asked)
            if stops_after:
                try:
                    _execute(run, Job(asked.smoke, place, stops_after))
                except Interrupted:
                    pass
                else:
                    return Found("it did not stop when it was asked to", False)
            ends.append(_execute(run, Job(asked.smoke, place)))
    whole, parts = ends
    if all(torch.equal(whole[name], parts[name]) for name in whole):
        return Found("equal to the last bit", True)
    found = _alike(run, whole, parts, within=0.05)
    return replace(found, text=f"not to the last bit: {found.text}")


# --- 6. rates ------------------------------------------------------------------------------------


def rates(asked: Asked) -> Iterator[Item]:
    """Images a second and share of the peak of every model of Tables 1 and 2, and timm's rate."""
    models = [(method, model, 32, 10) for _, method, model, *_ in table1.METHODS]
    for _, method, run, *_ in table2.METHODS:
        assert run.evaluation
        models.append((method, run.model, run.evaluation.image_size, 1000))
    each = 0.8 * asked.left / len(models)
    runs = dict[str, Profiling]()
    for method, model, side, classes in models:
        if asked.small:
            model, side, classes = scales.PROXY_MODELS[model.name], 32, 10
        bf16 = devices.has_bf16(asked.device) and asked.device.type == "cuda"
        name = f"{method}, {side} px" if not asked.small else f"{method}, small"
        runs[name] = Profiling(
            model=model, classes=classes, image_size=side,
            precision="bf16" if bf16 else "fp32",
            batch_size=2 if asked.small else 192 if side == 32 else 64,
        )  # fmt: skip
        yield name, partial(_rate, asked, runs[name], each)
    if not asked.small:  # each takes a minute or more to compile
        for name in ("NesT-T, 32 px", "NesT-T, 224 px"):
            yield f"{name}, compiled", partial(_rate, asked, runs[name], each, "compiled")


def _rate(asked: Asked, run: Profiling, seconds: float, how: Speed = speed.DEFAULT) -> Found:
    """Of the largest batch that fits, up to that of the run."""
    while True:
        try:
            return _rate_of(asked, run, seconds, how)
        except torch.OutOfMemoryError:
            if run.batch_size < 4:
                raise
            run = replace(run, batch_size=run.batch_size // 2)
            torch.cuda.empty_cache()


def _rate_of(asked: Asked, run: Profiling, seconds: float, how: Speed) -> Found:
    """Both ways take turns, twice, and each one's faster turn counts."""
    devices.configure_fp32(asked.device)
    net = classification.create(run.model, run.classes, 0.0, run.seed).to(asked.device)
    net = speed.set_layout(net, how)
    batch, goals = profiling.inputs(net, run, asked.device)
    optimizer = optim.build(
        net.named_parameters(), optimizer="adamw", weight_decay=0.05, decay_biases=True,
        no_decay=(), fused=speed.is_fused(how, asked.device),
    )  # fmt: skip
    forward = speed.Forward(net, how)
    bf16 = run.precision == "bf16"
    ways = _steps(net, partial(forward, whole=True), optimizer, batch, goals, bf16)
    if theirs := peer(run):
        theirs = theirs.to(asked.device)
        optimizer = create_optimizer_v2(theirs, "adamw", lr=0.0, weight_decay=0.05)
        steps = _steps(theirs, theirs, optimizer, batch, goals, bf16)
        ways |= {f"{way}, timm": step for way, step in steps.items()}
    budget = 0.6 * seconds / (2 * len(ways))  # the rest is for making the models
    blocks: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(2):
        for way, step in ways.items():
            blocks[way].append(seconds_of(step, asked.device, budget))
    rate = {way: run.batch_size / min(found) for way, found in blocks.items()}
    macs = profiling.count(run)["macs"]
    named = gpus.named(devices.describe(asked.device))
    published = gpus.PEAKS[named][0] * 1e12 if named in gpus.PEAKS else 0.0
    peak = published or asked.flops
    numbers = {**rate, "macs": float(macs), "batch": float(run.batch_size)}
    text = f"training {rate['training']:,.0f} images/s"
    if peak:
        numbers["share"] = 6 * macs * rate["training"] / peak
        text += f", {100 * numbers['share']:.1f} % of the {peak / 1e12:,.3g} TFLOP/s that are "
        text += "published" if published else "measured"
    text += f"; inference {rate['inference']:,.0f}"
    if theirs:
        ratios = [rate[way] / rate[f"{way}, timm"] for way in ("training", "inference")]
        text += f"; {ratios[0]:.2f} times timm's rate in training, {ratios[1]:.2f} in inference"
    if forward.speed != how:
        text += f"; {how} did not work"
    return Found(f"{text}; batch {run.batch_size}", None, numbers)


def _steps(
    net: nn.Module,
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    goals: Tensor,
    bf16: bool,
) -> dict[str, Callable[[], object]]:
    """A batch through the model, and a training step without augmentation."""

    def amp() -> Any:
        return torch.autocast(batch.device.type, torch.bfloat16) if bf16 else nullcontext()

    @torch.no_grad()
    def infer() -> None:
        net.eval()
        with amp():
            net(batch)

    def train() -> None:
        net.train()
        optimizer.zero_grad()
        with amp():
            logits = forward(batch)
        loss = optim.soft_cross_entropy(logits, goals).mean()
        torch.autograd.backward(loss)
        optimizer.step()

    return {"inference": infer, "training": train}


def peer(run: Profiling) -> nn.Module | None:
    """timm's model of this architecture, with initial weights; None if timm has none."""
    options = {**dict(run.model.options), "num_classes": run.classes}
    name = run.model.name
    if name.startswith("nest_"):
        with torch.device("meta"):
            ours: Any = timm.create_model(name, **options)
        heads = [[m.query_heads for m in level.modules() if isinstance(m, Attention)]
                 for level in ours.transformers]  # fmt: skip
        theirs: nn.Module = Nest(
            img_size=ours.img_size, patch_size=ours.patch_embed.kernel_size[0],
            num_levels=len(heads), embed_dims=[each.shape[-1] for each in ours.pos_embed],
            depths=[len(each) for each in heads], num_heads=[each[0] for each in heads],
            num_classes=run.classes, drop_path_rate=0.0,
        )  # fmt: skip
        return theirs
    if timm.models.model_entrypoint(name).__module__.startswith("timm."):
        made: nn.Module = timm.create_model(name, **options)
        return made
    return None


# --- 7. a training of the paper ------------------------------------------------------------------


def cifar(asked: Asked) -> Iterator[Item]:
    """NesT-T on CIFAR-10 by the paper's recipe, for as many epochs as fit."""
    yield "NesT-T on CIFAR-10", partial(_learned, asked)


def _learned(asked: Asked) -> Found:
    name, root = ("cifar10-smoke", asked.smoke) if asked.small else ("cifar10", asked.data)
    run = next(cell.run for cell in table1.EXPERIMENT.cells
               if cell.row == "NesT-T" and cell.column == "C10")  # fmt: skip
    assert isinstance(run, Classification)
    run = replace(run, dataset=name)
    if asked.small:
        run = replace(_cifar(), recipe=replace(_recipe(), epochs=1, evaluate_every_epochs=0))
    began = time.monotonic()
    one = replace(run, recipe=replace(run.recipe, epochs=1, warmup_epochs=0.0))
    with computing(asked.device, fp32=False):
        try:
            classification.execute(one, Job(root, folder(asked), deadline=asked.deadline))
        except Interrupted as stopped:
            return Found(f"the time is too short for an epoch: {stopped}")
        epoch = time.monotonic() - began
        epochs = max(1, int(0.9 * asked.left / epoch))
        if asked.small:
            epochs = min(epochs, 2)
        warmup = min(run.recipe.warmup_epochs, epochs / 10)
        recipe = replace(run.recipe, epochs=epochs, warmup_epochs=warmup)
        job = Job(root, folder(asked), deadline=asked.deadline + epoch)
        began = time.monotonic()
        result = classification.execute(replace(run, recipe=recipe), job)
    seconds = time.monotonic() - began
    top1 = float(result.metrics.get("top1", float("nan")))
    text = f"{top1:.2f} % after {epochs} epochs of {seconds / epochs:.1f} s"
    return Found(text, result.status == "done", {"top1": top1, "epochs": float(epochs),
                                                  "seconds": seconds})  # fmt: skip


SECTIONS: dict[str, tuple[float, Callable[[Asked], Iterator[Item]]]] = {
    # title: share of the time, and its items
    "The device": (0.03, device),
    "What only a device can tell": (0.07, alone),
    "Augmentation on the CPU and on the device": (0.05, augmentation),
    "Tasks on the CPU and on the device": (0.15, tasks),
    "An interrupted run": (0.05, resumed),
    "Rates beside timm's": (0.45, rates),
    "A training of the paper": (0.20, cifar),
}
