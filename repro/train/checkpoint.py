"""Checkpoints that survive a kill at any moment and a damaged file.

`step<number>-<digest>.pt`: the name carries a CRC-32 of the bytes, so that a damaged file is known
before it is used. The newest two are kept. Only what `torch.load(weights_only=True)` reads is
stored: tensors and plain data.
"""

from __future__ import annotations

import io
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch

from repro import records

_MOST_BYTES = 2**37  # of a checkpoint
_NAME = re.compile(r"step(\d+)-([0-9a-f]{8})\.pt")


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` optimiser steps; drop all but the newest two.

    OSError if it cannot be written; what was there is kept.
    """
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    path = folder / f"step{step:09d}-{zlib.crc32(data):08x}.pt"
    temporary = folder / f"{path.name}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # of a full disk
    for old in _newest_first(folder)[2:]:
        old.unlink(missing_ok=True)
    return path


def save_or_warn(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Save; of a full disk a warning, since a run can go on from, or stop at, the one before."""
    try:
        save(folder, step, state)
    except OSError as error:
        warnings.warn(f"cannot save to {folder}: {error.strerror}", stacklevel=2)


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
