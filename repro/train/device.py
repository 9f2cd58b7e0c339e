"""Device and precision: not part of a run's id, but recorded with its result.

A GPU trains and tests in bf16 autocast, a CPU in fp32. Both compute fp32 without reduced precision,
so different CPUs differ only by rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of mallopt, from glibc's malloc.h


def choose() -> torch.device:
    """Choose the GPU if there is one, else the CPU; configure fp32, and a CPU's allocator."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    configure_fp32(device)
    if device.type == "cpu":
        retain_freed_memory()
    return device


@contextlib.contextmanager
def flush_denormals(device: torch.device) -> Iterator[None]:
    """Flush denormal numbers to 0 within the context, on a CPU, where they are slow.

    Softmax produces them from Swin's masks of -100. It applies to the calling thread, and is reset
    at the end, since other code, such as hypothesis and msgspec's bounds, relies on denormals.
    """
    torch.set_flush_denormal(device.type == "cpu")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def retain_freed_memory() -> None:
    """Make glibc retain freed memory for later allocations; without glibc, do nothing.

    By default it returns large blocks to the system at once, which costs page faults every step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def configure_fp32(device: torch.device) -> None:
    """Compute fp32 in fp32: torch's default for cuDNN's convolutions is TF32, of 10 bits.

    On x86 without AMX, use oneDNN for matrix products, up to twice as fast as MKL on AMD. torch's
    only switch for it is 'medium', which permits bf16; oneDNN uses bf16 for fp32 operands only on
    AMX (`bf32_dt` in its brgemm_matmul_utils.cpp), so without AMX the products remain fp32.

    timm's attention uses torch's fused kernel except with oneDNN, where that is slow; so do ours
    (`repro.models.attention`).

    Only torch's older switches are set: after the newer `fp32_precision` is set, reading the older
    ones is an error.
    """
    from timm.layers import set_fused_attn  # slow to import

    torch.backends.cudnn.allow_tf32 = False
    onednn_is_fp32 = platform.machine() == "x86_64" and not torch.cpu._is_amx_tile_supported()
    medium = device.type == "cpu" and onednn_is_fp32
    torch.set_float32_matmul_precision("medium" if medium else "highest")
    set_fused_attn(not medium)


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _autocasts(device: torch.device) -> bool:
    return device.type == "cuda" and has_bf16(device)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast on a GPU that has bf16, else nothing."""
    if _autocasts(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def precision(device: torch.device) -> str:
    """The precision under `autocast`."""
    return "bf16 autocast" if _autocasts(device) else "fp32"


def describe(device: torch.device) -> str:
    """The device in words, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU {platform.machine()} {capability}, {torch.get_num_threads()} threads"
