"""Checkpoints that survive a kill at any moment and a damaged file, and do not stop training.

`step<number>-<digest>.pt`: the name carries a CRC-32 of the bytes, so that a damaged file is known
before it is used. The newest two are kept. Only what `torch.load(weights_only=True)` reads is
stored: tensors and plain data.
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

from repro import records

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_MOST_BYTES = 2**37  # of a checkpoint
_NAME = re.compile(r"step(\d+)-([0-9a-f]{8})\.pt")

State = dict[str, Any]


class Writer:
    """Writes checkpoints in a thread, one at a time, while training goes on.

    Training waits only for the copy of its state to the host, not for the disk. `ours` says whether
    the run is still this process's; it is asked before a file is written, and again before it takes
    its name. Of a full disk there is a warning: a run can go on from, or stop at, the checkpoint
    before. Leaving the context waits for the last write. Whatever else the thread raises is raised
    by the next call.
    """

    def __init__(self, folder: Path, seconds: float, ours: Callable[[], bool]) -> None:
        self._folder, self._seconds, self._ours = folder, seconds, ours
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
        """Copy the state after `step` optimiser steps, and begin to write it."""
        self.wait()
        self._since = time.monotonic()
        copied, event = self._copy(state)

        def write() -> Path | None:
            if event:
                event.synchronize()
            return save(self._folder, step, copied, self._ours) if self._ours() else None

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
        """The state on the host, and what to wait for before it is read."""
        tensors = list(_tensors(state))
        if [_form(t) for t in tensors] != [_form(t) for t in self._buffers]:
            self._buffers = [
                torch.empty_like(t, device="cpu", pin_memory=t.is_cuda) for t in tensors
            ]
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        event = None
        if any(tensor.is_cuda for tensor in tensors):
            event = torch.cuda.Event()
            event.record()
        known = {id(tensor): buffer for tensor, buffer in zip(tensors, self._buffers, strict=True)}
        return copy.deepcopy(state, known), event


def _tensors(value: object) -> Iterator[Tensor]:
    """Every tensor in lists, tuples and dicts in each other."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _form(tensor: Tensor) -> tuple[torch.Size, tuple[int, ...], torch.dtype]:
    return tensor.shape, tensor.stride(), tensor.dtype


def save(
    folder: Path, step: int, state: State, ours: Callable[[], bool] = lambda: True
) -> Path | None:
    """Write the state after `step` optimiser steps; drop all but the newest two.

    None, and nothing is changed, if the run is no longer `ours` when the bytes are on the disk.
    OSError if they cannot be written; what was there is kept.
    """
    folder.mkdir(exist_ok=True)
    temporary = folder / f"step{step:09d}.{uuid4().hex}.tmp"  # unique over machines as well
    try:
        with _Sink(temporary.open("wb", buffering=0)) as file:
            file.fill(state)
            file.flush()
            os.fsync(file.fileno())
        if not ours():
            return None
        path = folder / f"step{step:09d}-{file.crc:08x}.pt"
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # of a full disk
    for old in (*_newest_first(folder)[2:], *folder.glob("*.tmp")):  # of attempts that were killed
        old.unlink(missing_ok=True)
    return path


class _Sink(io.BufferedWriter):
    """A file that torch writes to, and the CRC-32 of what it has written."""

    crc = 0
    error: OSError | None = None

    def fill(self, state: State) -> None:
        """Raises OSError, of which torch would make a RuntimeError of its own."""
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
    """The newest state that is whole, on the CPU; None if there is none.

    `load_state_dict` moves each tensor to where it belongs. Adam's step counters belong on the CPU:
    from a GPU, torch would read every one of them back at each step. A warning names a damaged
    file.
    """
    for path in _newest_first(folder):
        try:
            data = records.content(path, _MOST_BYTES)
            whole = f"{zlib.crc32(data):08x}" == path.stem.rpartition("-")[2]
            records.require(whole, "its CRC is another")
        except records.Damaged as error:
            what = f"{path} is damaged ({error}); going back to the checkpoint before it"
            warnings.warn(what, stacklevel=2)
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
