"""Where to compute and in which precision: no part of a run's name, but all of it is recorded."""

from __future__ import annotations

import contextlib
import platform
from contextlib import AbstractContextManager
from typing import Any

import torch

_RELATIVE_ERROR_OF_BF16 = 1e-3  # fp32 products of the self-test err by 1e-6, bf16 ones by 4e-3


def choose() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the device has bf16, else nothing."""
    if has_bf16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def precision(device: torch.device) -> str:
    return "bf16 autocast" if has_bf16(device) else "fp32"


def speed_up_fp32_matmul() -> None:
    """Send fp32 matrix products on a CPU to oneDNN, up to twice as fast as MKL on AMD.

    The switch allows bf16 inside, which a CPU without AMX does not use for fp32 operands; a
    self-test measures the error and turns the switch off again where it does.
    """
    backend: Any = torch.backends.mkldnn  # torch adds its `matmul` unseen by a type checker
    if not backend.is_available():
        return
    before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "bf16"
    a = torch.linspace(-1, 1, 256 * 256).view(256, 256).sin()
    exact = a.double() @ a.double()
    if ((a @ a) - exact).norm() / exact.norm() > _RELATIVE_ERROR_OF_BF16:
        backend.matmul.fp32_precision = before


def describe(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU {platform.machine()} {capability}, {torch.get_num_threads()} threads"
