"""Asynchronous checkpoints that survive a kill at any moment and a damaged file.

`step<number>-<digest>.pt`: the name contains a CRC-32 of the bytes, which detects a damaged file.
The newest two files stay. They contain only what `torch.load(weights_only=True)` reads: tensors and
plain data.
"""

from __future__ import annotations

import copy
import io
import os
import re
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor

from repro.core import records

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MAX_BYTES = 2**37  # of a checkpoint
_NAME = re.compile(r"step(\d+)-([0-9a-f]{8})\.pt")

State = dict[str, Any]


class Writer:
    """Writes checkpoints in a thread, one at a time, while training continues.

    Training waits only for the copy of its state to the host, not for the disk. `still_owner`: does
    this process still own the run? It is called before a file is written and before it gets its
    final name. A full disk is a warning, since the previous checkpoint remains. Leaving the context
    waits for the last write. Other exceptions of the thread are raised by the next call.
    """

    def __init__(self, folder: Path, seconds: float, still_owner: Callable[[], bool]) -> None:
        self._folder, self._seconds, self._still_owner = folder, seconds, still_owner
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path | None] | None = None
        self._buffers: list[Tensor] = []  # on the host, for one state
        self._since = time.monotonic()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def due(self) -> bool:
        """Whether `seconds` have passed since the last write began, and it has ended."""
        if self._writing and self._writing.done():
            self.wait()
        return not self._writing and time.monotonic() - self._since >= self._seconds

    def write(self, step: int, state: State) -> None:
        """Copy the state after `step` optimiser steps, and start writing it."""
        self.wait()
        self._since = time.monotonic()
        copied, event = self._copy(state)

        def write() -> Path | None:
            if event:
                event.synchronize()
            if not self._still_owner():
                return None
            return save(self._folder, step, copied, self._still_owner)

        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        writing, self._writing = self._writing, None
        try:
            if writing:
                writing.result()
        except OSError as error:
            warnings.warn(f"cannot save to {self._folder}: {error.strerror}", stacklevel=3)

    def _copy(self, state: State) -> tuple[State, torch.cuda.Event | None]:
        """The state on the host, and the event of the end of the copy."""
        tensors = list(_tensors(state))
        if [_shape_and_dtype(t) for t in tensors] != [_shape_and_dtype(t) for t in self._buffers]:
            self._buffers = [
                torch.empty_like(t, device="cpu", pin_memory=t.is_cuda) for t in tensors
            ]
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        event = None
        if any(tensor.is_cuda for tensor in tensors):
            event = torch.cuda.Event()
            event.record()
        memo = {id(tensor): buffer for tensor, buffer in zip(tensors, self._buffers, strict=True)}
        return copy.deepcopy(state, memo), event


def _tensors(value: object) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _shape_and_dtype(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    return tensor.shape, tensor.stride(), tensor.dtype


def save(
    folder: Path, step: int, state: State, still_owner: Callable[[], bool] = lambda: True
) -> Path | None:
    """Write the state after `step` optimiser steps; remove all but the newest two.

    None, without a change, if not `still_owner()` when the bytes are on the disk. OSError if they
    cannot be written; existing checkpoints stay.
    """
    folder.mkdir(exist_ok=True)
    temporary = folder / f"step{step:09d}.{uuid4().hex}.tmp"  # unique over machines as well
    try:
        with _ChecksumFile(temporary.open("wb", buffering=0)) as file:
            file.dump(state)
            file.flush()
            os.fsync(file.fileno())
        if not still_owner():
            return None
        path = folder / f"step{step:09d}-{file.crc:08x}.pt"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # after an error, such as a full disk
    for old in (*_newest_first(folder)[2:], *folder.glob("*.tmp")):  # .tmp: of killed attempts
        old.unlink(missing_ok=True)
    return path


class _ChecksumFile(io.BufferedWriter):
    """A file that computes the CRC-32 of the bytes written to it."""

    crc = 0
    error: OSError | None = None

    def dump(self, state: State) -> None:
        """Write the state. Raises OSError, which torch would replace by a RuntimeError."""
        try:
            torch.save(state, self)
        except RuntimeError:
            if self.error:
                raise self.error from None
            raise

    def write(self, data: ReadableBuffer) -> int:
        self.crc = zlib.crc32(data, self.crc)
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def load(folder: Path) -> dict[str, Any] | None:
    """The newest undamaged state, on the CPU; None if there is none.

    `load_state_dict` moves tensors to their devices. Adam's step counters belong on the CPU: from a
    GPU, torch would copy each of them back at every step. Warns of damaged files.
    """
    for path in _newest_first(folder):
        try:
            data = records.read_bytes(path, _MAX_BYTES)
            intact = f"{zlib.crc32(data):08x}" == path.stem.rpartition("-")[2]
            records.require(intact, "CRC mismatch")
        except records.Damaged as error:
            warnings.warn(f"{path} is damaged ({error}); using the one before it", stacklevel=2)
            continue
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        assert isinstance(state, dict)
        return state
    return None


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint, by its name; None if there is none."""
    for path in _newest_first(folder):
        return int(path.stem[4:13])
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step*.pt") if _NAME.fullmatch(p.name)), reverse=True)
