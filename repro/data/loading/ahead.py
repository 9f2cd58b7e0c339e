"""Compute the next step's inputs while the device is busy with the current step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")
Tensors = tuple[Tensor, ...]


class _Pending(NamedTuple, Generic[Key]):
    key: Key
    values: Tensors
    end: torch.cuda.Event


class Prefetcher(Generic[Key]):
    """Computes the tensors of a key; on CUDA, prefetches those of the next on a side stream.

    It never blocks the host. On a CPU, tensors are computed on request. If another key was
    prefetched, the tensors are computed again; the result is the same.
    """

    def __init__(self, compute: Callable[[Key], Tensors], device: torch.device) -> None:
        self._compute, self._device = compute, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pending: _Pending[Key] | None = None

    def __call__(self, key: Key, following: Key | None) -> Tensors:
        """The tensors of `key`, for the current stream; prefetches `following`, if any."""
        if self._stream is None:
            return self._compute(key)
        pending, self._pending = self._pending, None
        if pending is None or pending.key != key:
            pending = self._start(key, self._stream)
        if following is not None:
            self._pending = self._start(following, self._stream)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(pending.end)
        for value in pending.values:
            value.record_stream(
                current
            )  # the allocator must not reuse it before this stream is done
        return pending.values

    def _start(self, key: Key, stream: torch.cuda.Stream) -> _Pending[Key]:
        stream.wait_stream(torch.cuda.current_stream(self._device))  # its inputs are computed there
        with torch.cuda.stream(stream):
            values = self._compute(key)
            end = torch.cuda.Event()
            end.record(stream)
        return _Pending(key, values, end)
