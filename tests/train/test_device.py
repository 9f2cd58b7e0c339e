"""Precision: fp32 is fp32 everywhere, and only a GPU computes in bf16. Kernels follow from it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repro.experiments import proxy
from repro.tasks import classification
from repro.train import device as devices

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _switches() -> Iterator[None]:
    """Torch's switches before and after."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_fp32_is_no_tf32_and_every_switch_can_be_read(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, amx: bool
) -> None:
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == GPU)
    assert devices.choose() == device
    assert torch.backends.cudnn.allow_tf32 is False
    permits_bf16 = torch.get_float32_matmul_precision() == "medium"  # the newer switches raise here
    assert not permits_bf16 or (device == CPU and not amx)
    if device == GPU:
        assert torch.backends.cuda.matmul.allow_tf32 is False


class _Operations(TorchDispatchMode):
    """The names of the operations within the context."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = set[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("name", sorted(proxy.MODELS))
def test_the_fused_attention_kernel_is_used_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, name: str, amx: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    devices.configure_fp32(CPU)
    net = classification.create(proxy.MODELS[name], 10, 0.0, 0)
    with _Operations() as operations:
        net(torch.randn(2, 3, 32, 32)).sum().backward()
    is_fused = any("scaled_dot_product" in operation for operation in operations.names)
    has_fused = not name.startswith(("swin", "wrn", "pyramid"))  # timm's Swin opts in to it
    assert is_fused == (has_fused and amx)


def test_denormals_are_flushed_on_a_cpu_and_only_within() -> None:
    def is_flushed() -> bool:
        return float(torch.full((), 1e-38) / 1e3) == 0

    assert not is_flushed()
    for device in (CPU, GPU):
        with suppress(KeyError), devices.flush_denormals(device):
            assert is_flushed() == (device == CPU)
            raise KeyError
        assert not is_flushed()


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "matmul": lambda a, b: a[0] @ b[0],
    "bmm": torch.bmm,
    "linear": lambda a, b: torch.nn.functional.linear(a, b[0].T, b[0, 0]),
    "conv": lambda a, b: torch.nn.functional.conv2d(a[:, None], b[:1, None, :3, :3]),
}


@pytest.mark.parametrize("size", [8, 48, 256])
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_cpu_multiplies_fp32_in_fp32(name: str, size: int) -> None:
    """bf16 errs by 4e-3, TF32 by 5e-4."""
    devices.configure_fp32(CPU)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, size, size, generator=generator)
    exact = PRODUCTS[name](a.double(), b.double())
    error = (PRODUCTS[name](a, b) - exact).norm() / exact.norm()
    assert error < 1e-5


def test_a_cpu_computes_in_fp32_whatever_it_could_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the same run would end elsewhere on another CPU."""
    monkeypatch.setattr(devices, "has_bf16", lambda _: True)
    linear, x = torch.nn.Linear(4, 4), torch.ones(1, 4)
    with devices.autocast(CPU):
        assert linear(x).dtype == torch.float32
    assert devices.precision(CPU) == "fp32"
    assert devices.precision(GPU) == "bf16 autocast"
    monkeypatch.setattr(devices, "has_bf16", lambda _: False)
    assert devices.precision(GPU) == "fp32"
