"""Count a model's parameters and multiply-adds and, on a device, measure its speed and memory.

Counts are exact and the same on every machine. They are made on torch's meta device, where tensors
have shapes but no values, nothing is computed, and attention consists of matrix products. (torch's
counter would miss a CPU's fused attention.)
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from repro.data import randomness
from repro.models.attention import kernel
from repro.spec import Profiling, SpecError
from repro.tasks import Interrupted, Job, Result, generation
from repro.tasks.classification import create
from repro.train import device as devices
from repro.train import optim

_INPUTS = 4  # the purpose of a derived seed
_SECONDS = 2.0  # per rate, forward or training; more if single calls are slow
_MIN_BLOCKS, _BLOCKS = 3, 8  # timed blocks of calls; a rate is their median

Step = Callable[[], object]


class WrongDevice(SpecError):
    """The run's device, or its precision, is not available here."""


def execute(run: Profiling, job: Job) -> Result:
    """Count the model and, if the run names a device, measure it there.

    Raises WrongDevice, and Interrupted between two timed blocks, without state to save.
    """
    counts = count(run)
    if not run.device or not job.still_owner():  # only one rank measures
        return Result("done", counts)
    device = find_device(run.device, run.precision)
    devices.configure_fp32(device)
    with _one_thread() if device.type == "cpu" else nullcontext():
        metrics, facts = measure(run, job, device)
        facts |= {"device": devices.describe(device), "threads": torch.get_num_threads()}
    return Result("done", counts | metrics, provenance=facts)


def count(run: Profiling) -> dict[str, int]:
    """`parameters`, and `macs`: the multiply-adds of matrix products and convolutions in an image's
    forward pass (half of torch's floating-point operations)."""
    classes = {"num_classes": run.classes} if run.classes else {}
    with torch.device("meta"):  # unlike `create`, without initial weights
        net = timm.create_model(run.model.name, **classes, **dict(run.model.options)).eval()
        inputs = torch.empty(1, *_shape(net, run))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(inputs)
    parameters = sum(p.numel() for p in net.parameters())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2}


def _shape(net: nn.Module, run: Profiling) -> tuple[int, ...]:
    """The shape of one input: an image, or a generator's latent."""
    if not run.classes:
        return (generation.latent_dim(net),)
    return 3, run.image_size, run.image_size


def find_device(name: str, precision: str) -> torch.device:
    """This machine's device, if it matches name and precision; otherwise WrongDevice."""
    present = "no GPU"
    if name != "cpu" and torch.cuda.is_available():
        present = torch.cuda.get_device_name()
    # Match a whole word: 'A10' is not an A100.
    if name != "cpu" and not re.search(rf"\b{re.escape(name)}\b", present, re.IGNORECASE):
        raise WrongDevice(f"requires {name}; found {present}; launch it on {name}")
    device = torch.device("cpu") if name == "cpu" else torch.device("cuda", 0)
    if precision == "bf16" and not devices.has_bf16(device):
        raise WrongDevice(f"requires bf16, which this {name} does not support; use fp32")
    return device


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- speed and memory ----------------------------------------------------------------------------


def measure(
    run: Profiling, job: Job, device: torch.device
) -> tuple[dict[str, float | int], dict[str, Any]]:
    """The metrics on a device, and their provenance.

    A CPU's peak memory is not measured: its allocator retains freed memory, so the growth of the
    process depends on its history.
    """
    net = _model(run).to(device)
    metrics: dict[str, float | int] = {}
    facts: dict[str, Any] = {}
    for number, (name, make) in enumerate((("forward", forward_step), ("train", train_step))):
        job.report_progress(number, 2, {})
        step = make(net, run, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        kernels = attention_kernels(step)
        rates = block_rates(step, run.batch_size, device, job)
        metrics[f"{name}_images_per_second"] = statistics.median(rates)
        facts[name] = {"slowest": min(rates), "fastest": max(rates), "blocks": len(rates),
                       "attention": kernels}  # fmt: skip
        if device.type == "cuda":
            metrics[f"{name}_peak_bytes"] = torch.cuda.max_memory_allocated()
    return metrics, facts


def _model(run: Profiling) -> nn.Module:
    if run.classes:
        return create(run.model, run.classes, 0.0, run.seed)
    return generation.create(run.model, run.seed)


def forward_step(net: nn.Module, run: Profiling, device: torch.device) -> Step:
    """A forward pass on a batch, as in evaluation."""
    batch, _ = make_inputs(net, run, device)

    @torch.no_grad()
    def step() -> None:
        net.eval()
        with _precision(run, device), kernel(run.attention):
            net(batch)

    return step


def train_step(net: nn.Module, run: Profiling, device: torch.device) -> Step:
    """Forward, backward with soft cross entropy, and AdamW with a learning rate of 0.

    AdamW allocates its two moments at the first step. A generator has no classes: its loss is a
    random weighted sum of pixels, whose gradient costs as much as a discriminator's.
    """
    batch, targets = make_inputs(net, run, device)
    optimizer = optim.build(net.named_parameters(), optimizer="adamw", weight_decay=0.05,
                            decay_biases=True, no_decay=())  # fmt: skip

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        net.train()
        with _precision(run, device), kernel(run.attention):
            out = net(batch)
        if run.classes:
            optim.soft_cross_entropy(out, targets).mean().backward()
        else:
            (out.float() * targets).mean().backward()
        optimizer.step()

    return step


def make_inputs(net: nn.Module, run: Profiling, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normal images (B, 3, H, W) and targets (B, K) that sum to 1, a function of the seed.

    For a generator, latents (B, latent_dim) and weights of its pixels (B, 3, H, W).
    """
    generator = torch.Generator().manual_seed(randomness.derive_seed(run.seed, _INPUTS))
    batch = torch.randn(run.batch_size, *_shape(net, run), generator=generator)
    if run.classes:
        targets = torch.rand(run.batch_size, run.classes, generator=generator).softmax(dim=-1)
    else:
        side = run.image_size
        targets = torch.randn(run.batch_size, 3, side, side, generator=generator)
    return batch.to(device), targets.to(device)


def _precision(run: Profiling, device: torch.device) -> Any:
    if run.precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def block_rates(step: Step, images: int, device: torch.device, job: Job) -> list[float]:
    """Images per second of each timed block of calls, after a warm-up of a tenth of the time."""
    start = time.perf_counter()
    seconds = _time_calls(step, 1, device)
    while time.perf_counter() - start < _SECONDS / 10:
        seconds = _time_calls(step, 1, device)
    calls = max(1, round(_SECONDS / _BLOCKS / seconds))
    rates: list[float] = []
    while len(rates) < _MIN_BLOCKS or time.perf_counter() - start < _SECONDS:
        if job.should_stop():
            raise Interrupted("stopped while measuring; the measurement will start over")
        rates.append(calls * images / _time_calls(step, calls, device))
    return rates


def _time_calls(step: Step, calls: int, device: torch.device) -> float:
    """The seconds of `calls` calls, until the device has finished."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def attention_kernels(step: Step) -> list[str]:
    """The fused attention operations of one call; [] if attention is matrix products."""
    with _Recorder() as recorder:
        step()
    return sorted(name for name in recorder.names if "dot_product" in name)


class _Recorder(TorchDispatchMode):
    """Records the names of dispatched operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
