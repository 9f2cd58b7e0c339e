"""What the next step needs, computed while the device is busy with this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")
Tensors = tuple[Tensor, ...]


class _Begun(NamedTuple, Generic[Key]):
    key: Key
    values: Tensors
    end: torch.cuda.Event


class Ahead(Generic[Key]):
    """Computes the tensors of a key, and on CUDA begins those of the next one on its own stream.

    The host waits for neither. On a CPU tensors are computed when they are asked for. A key is
    computed again if another one was begun; the tensors are the same.
    """

    def __init__(self, compute: Callable[[Key], Tensors], device: torch.device) -> None:
        self._compute, self._device = compute, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._begun: _Begun[Key] | None = None

    def __call__(self, key: Key, following: Key | None) -> Tensors:
        """The tensors of `key`, for the current stream; `following` is begun, if there is one."""
        if self._stream is None:
            return self._compute(key)
        begun, self._begun = self._begun, None
        if begun is None or begun.key != key:
            begun = self._begin(key, self._stream)
        if following is not None:
            self._begun = self._begin(following, self._stream)
        here = torch.cuda.current_stream(self._device)
        here.wait_event(begun.end)
        for value in begun.values:
            value.record_stream(here)  # its memory is its own stream's, to be used again
        return begun.values

    def _begin(self, key: Key, stream: torch.cuda.Stream) -> _Begun[Key]:
        stream.wait_stream(torch.cuda.current_stream(self._device))  # its operands come from there
        with torch.cuda.stream(stream):
            values = self._compute(key)
            end = torch.cuda.Event()
            end.record(stream)
        return _Begun(key, values, end)
