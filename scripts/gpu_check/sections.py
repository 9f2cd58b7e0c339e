"""Seven sections of checks on a GPU, each with items that run one by one.

An item either measures something or compares two ways. On the GPU, sizes are the paper's where
speed is measured; models are small where CPU and GPU are compared.
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

from repro.cost import gpus
from repro.data import composed, datasets, prepare, randomness
from repro.data.augment.augment import Augmentation, augment, mix
from repro.data.imagenet import ground_truth
from repro.data.loading.chunks import Decode
from repro.execution import ExecutionOptions, Speed
from repro.experiments import demo, scales, table1, table2
from repro.experiments.recipes import cifar_transformer
from repro.interpret.box_iou import targets
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
    MetricsRow,
    Result,
    classification,
    explanation,
    generation,
    localization,
    profiling,
    traversal,
)
from repro.train import checkpoint, optim, speed
from repro.train import device as devices
from repro.train.distributed import Ranks

CPU = torch.device("cpu")


@dataclass(frozen=True)
class ItemResult:
    """The result of an item; `well` is None if it is only a measurement."""

    text: str
    well: bool | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


Item = tuple[str, Callable[[], ItemResult]]


@dataclass
class Context:
    """The device, the data and the deadline of the checks."""

    device: torch.device
    data: Path  # datasets of the user's, CIFAR-10 among them
    scratch: Path
    small: bool  # a trial, on a CPU
    flops: float = 0.0  # per second, in bf16 if supported; measured first
    deadline: float = float("inf")  # monotonic clock: end of the section

    @property
    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    @property
    def smoke(self) -> Path:
        """A folder with the few images that come with the code."""
        folder = self.scratch / "data"
        for name in ("cifar10-smoke", "imagenet-smoke"):
            if not (folder / name).exists():
                prepare.prepare(name, folder)
        return folder


class Job:
    """A task's job without a launcher. Initial weights stand in for trained ones."""

    halvings = 0

    def __init__(
        self, data: Path, folder: Path, stops_after: int = 0, deadline: float = float("inf")
    ) -> None:
        self.options, self.checkpoints = ExecutionOptions(data), folder
        self.stops_after, self.deadline, self.steps = stops_after, deadline, 0

    def should_stop(self) -> bool:
        self.steps += 1
        return self.steps == self.stops_after or time.monotonic() > self.deadline

    def still_owner(self) -> bool:
        return True

    def weights_path(self, run: Run) -> Path:
        path = self.checkpoints.parent / f"{run.id}.safetensors"
        if not path.exists():
            trained = Classification.narrow(run)
            classes = datasets.load(trained.dataset, trained.train_split, self.options.data).classes
            net = classification.create(trained.model, len(classes), 0.0, run.seed)
            save_file(net.state_dict(), path)
        return path

    def save_preview(self, name: str, data: bytes) -> None: ...

    def report_progress(self, step: int, steps: int, line: MetricsRow) -> None: ...

    def write_metrics(self, lines: Sequence[MetricsRow]) -> None: ...


def _has_none(device: torch.device) -> bool:
    return False


@contextmanager
def computing(device: torch.device, *, fp32: bool) -> Iterator[None]:
    """Run tasks on this device, and without bf16 if `fp32`."""
    before = devices.choose, devices.has_bf16
    devices.choose = lambda: device
    devices.configure_fp32(device)
    if fp32:
        devices.has_bf16 = _has_none
    try:
        yield
    finally:
        devices.choose, devices.has_bf16 = before


def folder(context: Context) -> Path:
    return Path(mkdtemp(dir=context.scratch))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(step: Callable[[], object], device: torch.device, budget: float) -> float:
    """Seconds per call: the median of blocks of calls, after a warm-up block."""
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


def device(context: Context) -> Iterator[Item]:
    """The device and its peak rates."""
    yield "name", lambda: ItemResult(devices.describe(context.device))
    if context.device.type == "cuda":
        about = torch.cuda.get_device_properties(context.device)
        numbers = {"memory_bytes": float(about.total_memory)}
        text = f"{about.total_memory / 2**30:.0f} GiB, {about.multi_processor_count} processors"
        yield "memory", lambda: ItemResult(text, None, numbers)
    side = 256 if context.small else 8192
    for dtype in (torch.float32, torch.bfloat16):
        yield (
            f"matrix products in {dtype}".replace("torch.", ""),
            partial(_product_rate, context, side, dtype),
        )

    def bandwidth() -> ItemResult:
        values = torch.zeros(10**6 if context.small else 10**9, device=context.device)
        seconds = seconds_of(lambda: values.add_(1.0), context.device, 0.5)
        rate = 2 * values.nbytes / seconds
        return ItemResult(f"{rate / 1e9:,.0f} GB/s", None, {"bytes_per_second": rate})

    yield "memory, read and written", bandwidth


def _product_rate(context: Context, side: int, dtype: torch.dtype) -> ItemResult:
    devices.configure_fp32(context.device)
    a, b = (torch.randn(side, side, device=context.device, dtype=dtype) for _ in range(2))
    rate = 2 * side**3 / seconds_of(lambda: a @ b, context.device, 0.5)
    if dtype == (torch.bfloat16 if devices.has_bf16(context.device) else torch.float32):
        context.flops = rate
    return ItemResult(f"{rate / 1e12:,.3g} TFLOP/s", None, {"flops": rate})


# --- 2. what only a device can tell --------------------------------------------------------------


def device_specific(context: Context) -> Iterator[Item]:
    """What tests without a GPU cannot check."""
    yield "fp32 is not TF32", partial(_check_fp32, context)
    yield "more blocks than a CUDA grid has rows", partial(_check_many_blocks, context)
    yield "logits in autocast beside fp32", partial(_check_autocast, context)
    yield "a checkpoint while its tensors change", partial(_check_checkpoint_copy, context)
    yield "waits of the host in a training step", partial(_count_host_waits, context)
    if context.device.type == "cuda":
        yield "photographs decoded by nvJPEG", partial(_check_nvjpeg, context)


def _check_fp32(context: Context) -> ItemResult:
    """TF32 has 10 of 23 mantissa bits: its products are off by 1e-3, those of fp32 by 1e-6."""
    devices.configure_fp32(context.device)
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    image, kernel = torch.randn(4, 32, 16, 16), torch.randn(32, 32, 3, 3)
    pairs = [
        ((a.to(context.device) @ b.to(context.device)).cpu(), a.double() @ b.double()),
        (
            F.conv2d(image.to(context.device), kernel.to(context.device)).cpu(),
            F.conv2d(image.double(), kernel.double()),
        ),
    ]
    worst = max(_distance(result, true) for result, true in pairs)
    return ItemResult(
        f"largest error {worst:.1e} of the largest value", worst < 1e-5, {"error": worst}
    )


def _distance(result: Tensor, true: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((result.double() - true.double()).abs().max() / true.abs().max().double())


def _net(context: Context, name: str = "nest_tiny_cifar") -> nn.Module:
    model = demo.MODELS[name] if context.small else Model(name)
    return classification.create(model, 10, 0.0, 0).to(context.device)


@torch.no_grad()
def _check_many_blocks(context: Context) -> ItemResult:
    """A CIFAR image has 64 blocks at the first level: 1,100 images exceed 65,535."""
    net, images = _net(context).eval(), 8 if context.small else 1100
    batch = torch.randn(images, 3, 32, 32, device=context.device)
    whole = net(batch)
    parts = torch.cat([net(part) for part in batch.split(images // 4)])
    error = _distance(whole, parts)
    return ItemResult(
        f"{images} images at once: largest error {error:.1e}", error < 1e-3, {"error": error}
    )


@torch.no_grad()
def _check_autocast(context: Context) -> ItemResult:
    net = _net(context).eval()
    batch = torch.randn(8, 3, 32, 32, device=context.device)
    with devices.autocast(context.device):
        result = net(batch).float()
    error = _distance(result, net(batch))
    text = f"{devices.precision(context.device)}: largest error {error:.1e} of the largest logit"
    return ItemResult(text, error < 0.05, {"error": error})


def _check_checkpoint_copy(context: Context) -> ItemResult:
    """Right after the copy is requested, training continues in place."""
    size = 10**4 if context.small else 10**8
    values = torch.arange(size, dtype=torch.float32, device=context.device)
    expected, place = torch.arange(size, dtype=torch.float32), folder(context)
    with checkpoint.Writer(place, 0.0, lambda: True) as writer:
        for step in range(2):  # the second time into existing buffers
            began = time.perf_counter()
            writer.write(step, {"values": values})
            values.add_(1.0)
            stopped = time.perf_counter() - began
            writer.wait()
            state = checkpoint.load(place)
            if state is None or not torch.equal(state["values"], expected):
                return ItemResult("the written state is not that of the call", False)
            expected = expected + 1.0
    text = f"copying {values.nbytes / 1e9:.1f} GB stops training for {1e3 * stopped:.1f} ms"
    return ItemResult(text, True, {"seconds": stopped})


def _count_host_waits(context: Context) -> ItemResult:
    """torch warns about each operation that makes the host wait for the device."""
    recipe = replace(_recipe(), batch_size=10, epochs=4, evaluate_every_epochs=0)
    run = replace(_cifar(), recipe=recipe, test_split="none")
    job = Job(context.smoke, folder(context))
    counts, seen = list[int](), list[warnings.WarningMessage]()
    ask = job.should_stop

    def stopping() -> bool:
        counts.append(len(seen))
        seen.clear()
        return ask()

    job.should_stop = stopping  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = caught
        with computing(context.device, fp32=False), _reporting_waits(context.device):
            classification.execute(run, job)
    waits = counts[3]
    return ItemResult(f"{waits} in a step of NesT with the authors' augmentation", None,
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


def _check_nvjpeg(context: Context) -> ItemResult:
    run, weights = _photos(), list[Weights]()
    for decode in get_args(Decode):
        job = Job(context.smoke, folder(context))
        job.options = replace(job.options, decode=decode)
        with computing(context.device, fp32=True):
            weights.append(_execute(run, job))
    return _compare_weights(run, *weights, within=0.5)


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
EQUAL = 1e-4  # fraction of values that may differ, by rounding


def augmentation(context: Context) -> Iterator[Item]:
    """Every policy on the CPU and on the device, with the same keys."""
    for side, images in ((32, 64), (64, 4)) if context.small else ((32, 1024), (224, 128)):
        for name, policy in POLICIES.items():
            yield (
                f"{name}, {side} px",
                partial(_compare_augmentation, context, policy, side, images),
            )


def _compare_augmentation(
    context: Context, policy: Augmentation, side: int, images: int
) -> ItemResult:
    pixels = datasets.load("fashion-mnist-6k", "test").pixels[:images]
    pixels = F.interpolate(pixels, side)
    pixels[:, 1] //= 2
    labels = torch.arange(images) % 10

    keys = randomness.sample_keys(0, 0, torch.arange(images))
    key = torch.tensor(randomness.derive_seed(1))

    def augmented(device: torch.device) -> tuple[Tensor, Tensor]:
        inputs = augment(pixels.to(device), keys, policy, (0.5,) * 3, (0.25,) * 3)
        inputs, goals = mix(inputs, labels.to(device), keys, 10, policy, batch_key=key)
        return inputs.cpu(), goals.cpu()

    (here, goals), (there, other_goals) = augmented(CPU), augmented(context.device)
    differ = ((here - there).abs() > 1e-5 + 1e-5 * here.abs()).double().mean().item()
    most = float((here - there).abs().max())
    well = differ <= EQUAL and torch.allclose(goals, other_goals, atol=1e-6)
    share = "none" if not differ else f"{100 * differ:.4f} %"
    return ItemResult(f"{share} of the values differ; largest difference {most:.1e}", well,
                 {"differ": differ, "most": most})  # fmt: skip


# --- 4. tasks ------------------------------------------------------------------------------------


def _recipe() -> Recipe:
    return replace(cifar_transformer("T", ours=True).recipe, epochs=3, batch_size=10,
                   warmup_epochs=0.5, evaluate_every_epochs=1)  # fmt: skip


def _cifar() -> Classification:
    """NesT on the twenty images of CIFAR's smoke set."""
    model = demo.MODELS["nest_tiny_cifar"]
    return Classification(model=model, dataset="cifar10-smoke", recipe=_recipe())


def _photos() -> Classification:
    """NesT on photographs, cropped, jittered and mixed as by the authors."""
    model = Model.of("nest_tiny_imagenet", img_size=64, patch_size=8, depths=(1, 1, 1),
                     embed_dims=(24, 48, 96), num_heads=(1, 2, 4))  # fmt: skip
    recipe = replace(_recipe(), image_size=64, crop_area=(0.05, 1.0), crop_resize="aliased",
                     crop_rule="tensorflow", crop_padding=0,
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
        generator=demo.MODELS[generator], discriminator=demo.MODELS[discriminator],
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


def tasks(context: Context) -> Iterator[Item]:
    """Every task on the CPU and on the device, in fp32; then training in the device's own
    precision."""
    for name, run in _trainings().items():
        yield name, partial(_compare_training, context, run)
    for method in localization.METHODS:
        yield f"localization by {method}", partial(_compare_localization, context, method)
    yield "traversal by GradCAT", partial(_compare_traversal, context)


Weights = Mapping[str, Tensor]


def _execute(run: Run, job: Job) -> Weights:
    """The trained weights."""
    kinds: dict[str, Any] = {"classification": classification, "generation": generation}
    result: Result = kinds[run.kind].execute(run, job)
    assert result.weights, f"the training ended as {result.status!r}"
    return {name: value.cpu() for name, value in result.weights.items()}


def _compare_training(context: Context, run: Run) -> ItemResult:
    weights = list[Weights]()
    own_too = context.device.type == "cuda"
    ways = ((CPU, True), (context.device, True), (context.device, False))
    for device, fp32 in ways[: 2 + own_too]:
        with computing(device, fp32=fp32):
            weights.append(_execute(run, Job(context.smoke, folder(context))))
    result = _compare_weights(run, weights[0], weights[1], within=0.05)
    if own_too:  # the deviation of bf16 is only measured
        own = _compare_weights(run, weights[0], weights[2], within=1.0)
        words = f"{result.text}; {devices.precision(context.device)}: {own.text}"
        result = replace(
            result, text=words, numbers={**result.numbers, "own": own.numbers["apart"]}
        )
    return result


def _compare_weights(run: Run, here: Weights, there: Weights, *, within: float) -> ItemResult:
    """The distance of the weights, relative to how far training moved them.

    Adam turns the rounding of a nearly zero gradient into a full step of a weight. For two
    unrelated trainings the value is about 1.4.
    """
    if run.sampled_model:
        net = generation.create(run.sampled_model, run.seed)
    else:
        model = Classification.narrow(run).model
        net = classification.create(model, len(here["head.bias"]), 0.0, run.seed)
    first = {name: parameter.detach() for name, parameter in net.named_parameters()}
    moved = sum(float((here[name] - first[name]).square().sum()) for name in first) ** 0.5
    apart = sum(float((here[name] - there[name]).square().sum()) for name in first) ** 0.5
    share = apart / moved
    text = f"weights differ by {100 * share:.2g} % of how far training moved them"
    return ItemResult(text, share <= within, {"apart": share})


CLASSIFIERS: dict[str, Model] = {
    "cam": Model.of("nest_small_imagenet", img_size=64, patch_size=4, depths=(1, 1, 1),
                    embed_dims=(8, 16, 32), num_heads=(1, 2, 4)),
    "grad_cam_pp": Model.of("resnet50", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8)),
    "rollout": Model.of("deit_small_patch16_224", img_size=64, depth=2, embed_dim=16,
                        num_heads=2),
}  # fmt: skip
CLASSIFIERS["gradient_rollout"] = CLASSIFIERS["rollout"]


def _classifier(model: Model) -> Classification:
    recipe = Recipe(epochs=1, batch_size=4, lr=1e-3)
    return Classification(model=model, dataset=composed.SINGLES, recipe=recipe)


def _compare_localization(context: Context, method: Any) -> ItemResult:
    """The best IoU of each image at the fixed threshold, on the first single-object pictures."""
    count = 8 if context.small else 64
    run = Localization(
        classifier=_classifier(CLASSIFIERS[method]), dataset=composed.SINGLES, attribution=method
    )
    images = datasets.load(composed.SINGLES, "test", context.data)
    truth = targets(ground_truth.load(composed.SINGLES, "test", images, context.data))[:count]
    images = replace(images, pixels=images.pixels[:count], labels=images.labels[:count])
    scores = list[Tensor]()
    for device in (CPU, context.device):
        job = Job(context.data, folder(context))
        devices.configure_fp32(device)
        net = explanation.load_run_classifier(run, len(images.classes), job, device)
        result = localization.score_images(run, net, images, truth, job, Ranks(0, 1, device))
        assert result
        scores.append(torch.from_numpy(result.fixed.best_at("largest", localization.FIXED_TAU)))
    here, there = scores
    differ = ((here.double() - there.double()).abs() > 100).double().mean().item()  # 1 % of IoU
    return ItemResult(f"boxes of {100 * differ:.1f} % of {count} images differ", differ <= 0.05,
                 {"differ": differ})  # fmt: skip


def _compare_traversal(context: Context) -> ItemResult:
    run = Traversal(classifier=_classifier(CLASSIFIERS["cam"]), dataset=composed.SINGLES,
                    pictures=4 if context.small else 64, ablated=2)  # fmt: skip
    paths = list[Tensor]()
    for device in (CPU, context.device):
        with computing(device, fp32=True):
            result = traversal.execute(run, Job(context.data, folder(context)))
        paths.append(torch.from_numpy(result.predictions["path"]))
    differ = (paths[0] != paths[1]).any(-1).double().mean().item()
    return ItemResult(f"{100 * differ:.1f} % of {paths[0][..., 0].numel()} paths differ",
                 differ <= 0.02, {"differ": differ})  # fmt: skip


# --- 5. a run that is interrupted ----------------------------------------------------------------


def interruption(context: Context) -> Iterator[Item]:
    """Interrupted and resumed, compared with the uninterrupted run."""
    for name in ("classification", "generation by Transposed NesT"):
        yield name, partial(_compare_resumed, context, _trainings()[name])


def _compare_resumed(context: Context, run: Run) -> ItemResult:
    weights = list[Weights]()
    with computing(context.device, fp32=False):
        for stops_after in (0, 3):
            place = folder(context)
            if stops_after:
                try:
                    _execute(run, Job(context.smoke, place, stops_after))
                except Interrupted:
                    pass
                else:
                    return ItemResult("it did not stop on request", False)
            weights.append(_execute(run, Job(context.smoke, place)))
    whole, parts = weights
    if all(torch.equal(whole[name], parts[name]) for name in whole):
        return ItemResult("equal to the last bit", True)
    result = _compare_weights(run, whole, parts, within=0.05)
    return replace(result, text=f"not to the last bit: {result.text}")


# --- 6. rates ------------------------------------------------------------------------------------


def rates(context: Context) -> Iterator[Item]:
    """Images per second and share of the peak of every model of Tables 1 and 2, and timm's rate."""
    models = [(method, model, 32, 10) for _, method, model, *_ in table1.METHODS]
    for _, method, run, *_ in table2.METHODS:
        assert run.evaluation
        models.append((method, run.model, run.evaluation.image_size, 1000))
    each = 0.8 * context.left / len(models)
    runs = dict[str, Profiling]()
    for method, model, side, classes in models:
        if context.small:
            model, side, classes = demo.MODELS[model.name], 32, 10
        bf16 = devices.has_bf16(context.device) and context.device.type == "cuda"
        name = f"{method}, {side} px" if not context.small else f"{method}, small"
        runs[name] = Profiling(
            model=model, classes=classes, image_size=side,
            precision="bf16" if bf16 else "fp32",
            batch_size=2 if context.small else 192 if side == 32 else 64,
        )  # fmt: skip
        yield name, partial(_rate, context, runs[name], each)
    if not context.small:  # compiling takes a minute or more each
        for name in ("NesT-T, 32 px", "NesT-T, 224 px"):
            yield f"{name}, compiled", partial(_rate, context, runs[name], each, "compiled")


def _rate(
    context: Context, run: Profiling, seconds: float, how: Speed = speed.DEFAULT
) -> ItemResult:
    """At the largest batch that fits, up to the run's."""
    while True:
        try:
            return _rate_of(context, run, seconds, how)
        except torch.OutOfMemoryError:
            if run.batch_size < 4:
                raise
            run = replace(run, batch_size=run.batch_size // 2)
            torch.cuda.empty_cache()


def _rate_of(context: Context, run: Profiling, seconds: float, how: Speed) -> ItemResult:
    """The alternatives alternate twice; each one's faster turn counts."""
    devices.configure_fp32(context.device)
    net = classification.create(run.model, run.classes, 0.0, run.seed).to(context.device)
    net = speed.set_layout(net, how)
    batch, goals = profiling.make_inputs(net, run, context.device)
    optimizer = optim.build(
        net.named_parameters(), optimizer="adamw", weight_decay=0.05, decay_biases=True,
        no_decay=(), fused=speed.is_fused(how, context.device),
    )  # fmt: skip
    forward = speed.Forward(net, how)
    bf16 = run.precision == "bf16"
    ways = _steps(net, partial(forward, whole=True), optimizer, batch, goals, bf16)
    if timm_model := peer(run):
        timm_model = timm_model.to(context.device)
        optimizer = create_optimizer_v2(timm_model, "adamw", lr=0.0, weight_decay=0.05)
        steps = _steps(timm_model, timm_model, optimizer, batch, goals, bf16)
        ways |= {f"{way}, timm": step for way, step in steps.items()}
    budget = 0.6 * seconds / (2 * len(ways))  # the rest is for creating the models
    blocks: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(2):
        for way, step in ways.items():
            blocks[way].append(seconds_of(step, context.device, budget))
    rate = {way: run.batch_size / min(result) for way, result in blocks.items()}
    macs = profiling.count(run)["macs"]
    named = gpus.canonical_name(devices.describe(context.device))
    published = gpus.PEAKS[named][0] * 1e12 if named in gpus.PEAKS else 0.0
    peak = published or context.flops
    numbers = {**rate, "macs": float(macs), "batch": float(run.batch_size)}
    text = f"training {rate['training']:,.0f} images/s"
    if peak:
        numbers["share"] = 6 * macs * rate["training"] / peak
        text += f", {100 * numbers['share']:.1f} % of the {peak / 1e12:,.3g} TFLOP/s that are "
        text += "published" if published else "measured"
    text += f"; inference {rate['inference']:,.0f}"
    if timm_model:
        ratios = [rate[way] / rate[f"{way}, timm"] for way in ("training", "inference")]
        text += f"; {ratios[0]:.2f} times timm's rate in training, {ratios[1]:.2f} in inference"
    if forward.speed != how:
        text += f"; {how} did not work"
    return ItemResult(f"{text}; batch {run.batch_size}", None, numbers)


def _steps(
    net: nn.Module,
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    goals: Tensor,
    bf16: bool,
) -> dict[str, Callable[[], object]]:
    """Inference on a batch, and a training step without augmentation."""

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
        timm_model: nn.Module = Nest(
            img_size=ours.img_size, patch_size=ours.patch_embed.kernel_size[0],
            num_levels=len(heads), embed_dims=[each.shape[-1] for each in ours.pos_embed],
            depths=[len(each) for each in heads], num_heads=[each[0] for each in heads],
            num_classes=run.classes, drop_path_rate=0.0,
        )  # fmt: skip
        return timm_model
    if timm.models.model_entrypoint(name).__module__.startswith("timm."):
        augmented: nn.Module = timm.create_model(name, **options)
        return augmented
    return None


# --- 7. a training of the paper ------------------------------------------------------------------


def cifar(context: Context) -> Iterator[Item]:
    """NesT-T on CIFAR-10 with the paper's recipe, for as many epochs as fit."""
    yield "NesT-T on CIFAR-10", partial(_train_cifar, context)


def _train_cifar(context: Context) -> ItemResult:
    name, root = ("cifar10-smoke", context.smoke) if context.small else ("cifar10", context.data)
    run = next(cell.training for cell in table1.EXPERIMENT.cells
               if cell.row == "NesT-T" and cell.column == "C10")  # fmt: skip
    run = replace(run, dataset=name)
    if context.small:
        run = replace(_cifar(), recipe=replace(_recipe(), epochs=1, evaluate_every_epochs=0))
    began = time.monotonic()
    one = replace(run, recipe=replace(run.recipe, epochs=1, warmup_epochs=0.0))
    with computing(context.device, fp32=False):
        try:
            classification.execute(one, Job(root, folder(context), deadline=context.deadline))
        except Interrupted as stopped:
            return ItemResult(f"not enough time for an epoch: {stopped}")
        epoch = time.monotonic() - began
        epochs = max(1, int(0.9 * context.left / epoch))
        if context.small:
            epochs = min(epochs, 2)
        warmup = min(run.recipe.warmup_epochs, epochs / 10)
        recipe = replace(run.recipe, epochs=epochs, warmup_epochs=warmup)
        job = Job(root, folder(context), deadline=context.deadline + epoch)
        began = time.monotonic()
        result = classification.execute(replace(run, recipe=recipe), job)
    seconds = time.monotonic() - began
    top1 = float(result.metrics.get("top1", float("nan")))
    text = f"{top1:.2f} % after {epochs} epochs of {seconds / epochs:.1f} s"
    return ItemResult(text, result.status == "done", {"top1": top1, "epochs": float(epochs),
                                                  "seconds": seconds})  # fmt: skip


SECTIONS: dict[str, tuple[float, Callable[[Context], Iterator[Item]]]] = {
    # title: share of the time, and its items
    "The device": (0.03, device),
    "What only a device can tell": (0.07, device_specific),
    "Augmentation on the CPU and on the device": (0.05, augmentation),
    "Tasks on the CPU and on the device": (0.15, tasks),
    "An interrupted run": (0.05, interruption),
    "Rates beside timm's": (0.45, rates),
    "A training of the paper": (0.20, cifar),
}
