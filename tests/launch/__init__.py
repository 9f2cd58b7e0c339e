"""Helpers of the launch tests: small runs, a small disk, and waiting."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from repro import results
from repro.spec import Classification, Model, Recipe

# Thirty steps on 1,000 images: seconds of work on one core, most of which is starting Python.
RUN = Classification(
    model=Model.of(
        "nest_tiny_cifar", patch_size=4, embed_dims=(24, 24), depths=(1, 1), num_heads=(1, 1)
    ),
    dataset="fashion-mnist-6k",
    recipe=Recipe(epochs=3, batch_size=100, lr=1e-3, drop_path=0.1, crop_padding=2, mixup_alpha=1),
    train_split="validation",
    test_split="validation",
)
BROKEN = replace(RUN, model=RUN.model.updated(colour="red"))  # no architecture has this option
LONG = replace(RUN, recipe=replace(RUN.recipe, epochs=15))  # 150 steps


def outputs(root: Path, run: Classification) -> tuple[object, ...]:
    """The results of a run, for comparison byte for byte."""
    folder = results.folder(root, run)
    result = json.loads((folder / results.RESULT).read_text())
    names = (results.METRICS, results.PREDICTIONS, results.WEIGHTS)
    return result["metrics"], *((folder / name).read_bytes() for name in names)


def wait_until(condition: Callable[[], object], poll_seconds: float = 0.1) -> None:
    """Poll a condition. A longer interval leaves the CPU to the runs if it starts a process."""
    deadline = time.monotonic() + 480  # generous: only a hang fails
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(poll_seconds)


def status(pid: int, field: str) -> str:
    """A field of a process's kernel status, such as State; '' if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (ProcessLookupError, FileNotFoundError):
        return ""
    return dict(line.split(":\t", 1) for line in lines)[field]


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal is pending for a stopped process."""
    waiting = status(pid, "ShdPnd") or "0"
    return bool(int(waiting, 16) >> (number - 1) & 1)


def wrap_clients(folder: Path, **scripts: str) -> dict[str, str]:
    """A PATH on which some of SLURM's clients are these scripts; `$REAL` is the client itself."""
    folder.mkdir()
    for name, script in scripts.items():
        real, path = shutil.which(name), folder / name
        path.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@contextmanager
def full_disk(folder: Path, kib: int = 64) -> Iterator[Path]:
    """A file system of this size at `folder`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk; returns the file that takes the space."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler
