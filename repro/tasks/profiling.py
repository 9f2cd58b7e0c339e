"""Count a model's parameters and multiply-adds and, on a device, measure its speed and memory.

Counting is exact and the same on every machine. It is done on torch's meta device, where tensors
have shapes and no values: nothing is computed, and attention is made of matrix products. (A CPU's
fused attention is an operation that torch's counter does not know, and would be left out.)
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

_INPUTS = 4  # what a seed is for
_SECONDS = 2.0  # for one rate, forward or training; more where the blocks of one call take longer
_LEAST_BLOCKS, _BLOCKS = 3, 8  # of calls, each of them timed: a rate is their median

Step = Callable[[], object]


class WrongDevice(SpecError):
    """The run asks for a device, or a precision of it, that is not here."""


def execute(run: Profiling, job: Job) -> Result:
    """Count the model and, if the run names a device, measure it there.

    Raises WrongDevice, and Interrupted between two timed blocks: there is no state to save.
    """
    counted = count(run)
    if not run.device or not job.ours():  # one rank measures, undisturbed by the others
        return Result("done", counted)
    device = at_hand(run.device, run.precision)
    devices.configure_fp32(device)
    with _one_thread() if device.type == "cpu" else nullcontext():
        metrics, facts = measure(run, job, device)
        facts |= {"device": devices.describe(device), "threads": torch.get_num_threads()}
    return Result("done", counted | metrics, provenance=facts)


def count(run: Profiling) -> dict[str, int]:
    """`parameters`, all of them, and `macs`: multiply-adds of an image's forward pass, those of
    matrix products and convolutions (half of torch's floating-point operations)."""
    classes = {"num_classes": run.classes} if run.classes else {}
    with torch.device("meta"):  # `create` would draw initial weights as well
        net = timm.create_model(run.model.name, **classes, **dict(run.model.options)).eval()
        one = torch.empty(1, *_shape(net, run))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(one)
    parameters = sum(p.numel() for p in net.parameters())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2}


def _shape(net: nn.Module, run: Profiling) -> tuple[int, ...]:
    """What the model takes: an image, or of a generator a latent."""
    if not run.classes:
        return (generation.latent_dim(net),)
    return 3, run.image_size, run.image_size


def at_hand(name: str, precision: str) -> torch.device:
    """The device here, if it has this name; WrongDevice if not, or if it has no such precision."""
    there = "no GPU"
    if name != "cpu" and torch.cuda.is_available():
        there = torch.cuda.get_device_name()
    # A whole word, since 'A10' is not an A100.
    if name != "cpu" and not re.search(rf"\b{re.escape(name)}\b", there, re.IGNORECASE):
        raise WrongDevice(f"to be measured on {name}, but here is {there}; launch it on {name}")
    device = torch.device("cpu") if name == "cpu" else torch.device("cuda", 0)
    if precision == "bf16" and not devices.has_bf16(device):
        raise WrongDevice(f"to be measured in bf16, which this {name} has not; ask for fp32")
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
    """The metrics of a device, and how they came about.

    A CPU has no peak of memory here: its allocator keeps what was freed, so that the growth of the
    process tells what was used before rather than what the model needs.
    """
    net = _model(run).to(device)
    metrics: dict[str, float | int] = {}
    facts: dict[str, Any] = {}
    for number, (name, make) in enumerate((("forward", forward_step), ("train", train_step))):
        job.progress(number, 2, {})
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
    """A call of the model on a batch, as an evaluation does it."""
    batch, _ = inputs(net, run, device)

    @torch.no_grad()
    def step() -> None:
        net.eval()
        with _precision(run, device), kernel(run.attention):
            net(batch)

    return step


def train_step(net: nn.Module, run: Profiling, device: torch.device) -> Step:
    """Forward, backward with the soft cross entropy, and AdamW at a rate of 0: every step is alike.

    Its state of two numbers a parameter comes with the first step. A generator has no classes: its
    loss is a random sum of its pixels, as costly to differentiate as what a discriminator says.
    """
    batch, targets = inputs(net, run, device)
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


def inputs(net: nn.Module, run: Profiling, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W), normal, and targets (B, K) that sum to 1: a function of the seed.

    Of a generator, latents (B, latent_dim), and weights of its pixels (B, 3, H, W).
    """
    generator = torch.Generator().manual_seed(randomness.seed_of(run.seed, _INPUTS))
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
    """Images a second of each timed block of calls, after a warm-up of a tenth of the time."""
    began = time.perf_counter()
    seconds = _time(step, 1, device)
    while time.perf_counter() - began < _SECONDS / 10:
        seconds = _time(step, 1, device)
    calls = max(1, round(_SECONDS / _BLOCKS / seconds))
    rates: list[float] = []
    while len(rates) < _LEAST_BLOCKS or time.perf_counter() - began < _SECONDS:
        if job.stopping():
            raise Interrupted("stopped while measuring; the measurement begins anew")
        rates.append(calls * images / _time(step, calls, device))
    return rates


def _time(step: Step, calls: int, device: torch.device) -> float:
    """The seconds of so many calls, until the device has done them."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(calls):
        step()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def attention_kernels(step: Step) -> list[str]:
    """The fused attention operations of one call; none where attention is matrix products."""
    with _Recorder() as recorder:
        step()
    return sorted(name for name in recorder.names if "dot_product" in name)


class _Recorder(TorchDispatchMode):
    """Keeps the names of the operations that are dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
