"""How long checkpoints stop training: written in the loop, and in a thread.

    python benchmarks/checkpoint.py [--gb 1.5] [--disk 150] [--interval 60] [--out FILE]

Simulates a state of some GB on a disk of some MB/s: `fsync` returns when such a disk would have
finished. After each checkpoint training continues for `beside` seconds, and until the write has
ended, with steps of 300 small operations dominated by Python, as on a GPU. The percentage assumes a
checkpoint every `interval` seconds, counted as training did: in the loop from the end of a write,
now from its start.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from repro.train import checkpoint

TrainingState = dict[str, object]
Write = Callable[[int, TrainingState], object]
TENSORS = 600  # three times those of a NesT-B


def state_of(gigabytes: float) -> TrainingState:
    """fp32 tensors of equal size."""
    numbers = round(gigabytes * 1e9 / 4 / TENSORS)
    return {f"tensor{number}": torch.randn(numbers) for number in range(TENSORS)}


def step(values: Tensor) -> None:
    for _ in range(300):
        values.mul_(0.999).add_(1e-3)


def slow_disk(bytes_a_second: float) -> Any:
    """An `fsync` that takes as long as a disk of this speed."""
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        began = time.perf_counter()
        fsync(descriptor)
        seconds = os.fstat(descriptor).st_size / bytes_a_second
        time.sleep(max(0.0, seconds - (time.perf_counter() - began)))

    return slow


def train(
    state: TrainingState, write: Write, is_writing: Callable[[], bool], seconds: float, count: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds that each checkpoint stops the loop, of steps during a write, and of other steps."""
    values, pauses, during_write, without_write = (
        torch.randn(1000),
        list[float](),
        list[float](),
        list[float](),
    )
    for number in range(count):
        began = time.perf_counter()
        write(number, state)
        pauses.append(time.perf_counter() - began)
        began = time.perf_counter()
        while (writes := is_writing()) or time.perf_counter() < began + seconds:
            start = time.perf_counter()
            step(values)
            (during_write if writes else without_write).append(time.perf_counter() - start)
    return pauses, during_write, without_write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.5, help="of the state")
    parser.add_argument("--disk", type=float, default=150.0, help="MB/s")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds")
    parser.add_argument("--beside", type=float, default=5.0, help="seconds")
    parser.add_argument("--checkpoints", type=int, default=3, help="each way")
    parser.add_argument("--folder", type=Path, help="where to write")
    parser.add_argument("--out", type=Path, help="a file for what is printed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.fsync = slow_disk(args.disk * 1e6)
    state = state_of(args.gb)
    lines = [
        f"A state of {args.gb:g} GB, a disk of {args.disk:g} MB/s, a checkpoint every "
        f"{args.interval:g} s; {args.checkpoints} of them each way.",
        "",
    ]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        with checkpoint.Writer(folder, 0.0, lambda: True) as writer:
            methods: dict[str, tuple[Write, Callable[[], bool]]] = {
                "in the loop": (
                    lambda number, state: checkpoint.save(folder, number, state),
                    lambda: False,
                ),
                "in a thread": (writer.write, lambda: not writer.due()),
            }
            for way, (write, is_writing) in methods.items():
                pauses, during_write, without_write = train(
                    state, write, is_writing, args.beside, args.checkpoints
                )
                each = ", ".join(f"{seconds:.3f}" for seconds in pauses)
                later = median(pauses[1:])  # the first one allocates the host buffers
                whole = args.interval + later * (way == "in the loop")
                lines.append(
                    f"{way}: stops training for {each} s, {100 * later / whole:.2f} % of the time; "
                    f"a step takes {1e3 * median(without_write or during_write):.2f} ms"
                    + (
                        f", beside a write {1e3 * median(during_write):.2f} ms"
                        if during_write
                        else ""
                    )
                )
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
