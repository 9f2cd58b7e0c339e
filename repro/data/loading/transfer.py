"""Copies to the device that do not block the host.

Random numbers are generated on the CPU, where their keys are, and copied with `to_device`.
Constants are copied once and cached (`constant`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes, of each tensor in the buffer


def to_device(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """CPU tensors on `device`; unchanged if that is the CPU.

    On CUDA they are copied together from one pinned buffer, without blocking the host.
    """
    if device.type == "cpu":
        return tensors
    lengths = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
    starts = [0, *accumulate(lengths)]
    size = starts.pop()
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    parts = list(zip(starts, tensors, strict=True))
    for start, tensor in parts:
        _part(buffer, start, tensor).copy_(tensor)
    copied = buffer.to(device, non_blocking=True)
    return tuple(_part(copied, start, tensor) for start, tensor in parts)


def _part(buffer: Tensor, start: int, like: Tensor) -> Tensor:
    """The view of a tensor in the buffer, with its type and shape."""
    return buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def constant(values: Iterable[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A cached tensor (n,) of numbers. The caller must not write to it."""
    return _constant(tuple(values), dtype, device)


@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
