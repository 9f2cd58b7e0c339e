"""What a step hands to the device, so that the host waits for nothing.

Random choices are made on the CPU, where their keys are, and sent by `sent`; numbers that never
change lie on the device from the first step on, by `constant`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes, of each tensor within the message


def sent(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The CPU's tensors on `device`; on the CPU they are themselves.

    On CUDA they go as one message from pinned memory, which the host does not wait for.
    """
    if device.type == "cpu":
        return tensors
    lengths = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in tensors]
    starts = [0, *accumulate(lengths)]
    size = starts.pop()
    message = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    parts = list(zip(starts, tensors, strict=True))
    for start, tensor in parts:
        _part(message, start, tensor).copy_(tensor)
    there = message.to(device, non_blocking=True)
    return tuple(_part(there, start, tensor) for start, tensor in parts)


def _part(message: Tensor, start: int, like: Tensor) -> Tensor:
    """The place of a tensor in the message, in its type and shape."""
    return message[start : start + like.nbytes].view(like.dtype).view(like.shape)


def constant(values: Iterable[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor (n,) of numbers, made once. It is not to be written to."""
    return _constant(tuple(values), dtype, device)


@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)
