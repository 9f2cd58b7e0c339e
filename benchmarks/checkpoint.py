"""How long training stops for its checkpoints: written in the loop, and in a thread.

    python benchmarks/checkpoint.py [--gb 1.5] [--disk 150] [--interval 60] [--out FILE]

A state of so many GB, on a disk of so many MB/s: `fsync` returns when such a disk would be done.
After each checkpoint training goes on for `beside` seconds, and until its write has ended: steps of
300 small operations, whose time is Python's, as it is where a GPU computes. The share of the
time is that of a checkpoint every `interval` seconds, counted as training did: in the loop from the
end of a write, now from its beginning.
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

State = dict[str, object]
Write = Callable[[int, State], object]
TENSORS = 600  # as many as a NesT-B has, three times


def state_of(gigabytes: float) -> State:
    """fp32 tensors of equal size."""
    numbers = round(gigabytes * 1e9 / 4 / TENSORS)
    return {f"tensor{number}": torch.randn(numbers) for number in range(TENSORS)}


def step(values: Tensor) -> None:
    for _ in range(300):
        values.mul_(0.999).add_(1e-3)


def slow_disk(bytes_a_second: float) -> Any:
    """An `fsync` that takes as long as the file would take; returns when the bytes are there."""
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        began = time.perf_counter()
        fsync(descriptor)
        seconds = os.fstat(descriptor).st_size / bytes_a_second
        time.sleep(max(0.0, seconds - (time.perf_counter() - began)))

    return slow


def train(
    state: State, write: Write, busy: Callable[[], bool], seconds: float, count: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds that each checkpoint stops the loop, of steps beside a write, and of the others."""
    values, stops, beside, alone = torch.randn(1000), list[float](), list[float](), list[float]()
    for number in range(count):
        began = time.perf_counter()
        write(number, state)
        stops.append(time.perf_counter() - began)
        began = time.perf_counter()
        while (writes := busy()) or time.perf_counter() < began + seconds:
            start = time.perf_counter()
            step(values)
            (beside if writes else alone).append(time.perf_counter() - start)
    return stops, beside, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.5, help="of the state")
    parser.add_argument("--disk", type=float, default=150.0, help="MB/s")
    parser.add_argument("--interval", type=float, default=60.0, help="seconds")
    parser.add_argument("--beside", type=float, default=5.0, help="seconds")
    parser.add_argument("--checkpoints", type=int, default=3, help="each way")
    parser.add_argument("--folder", type=Path, help="where to write")
    parser.add_argument("--out", type=Path, help="a file for what is printed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.fsync = slow_disk(given.disk * 1e6)
    state = state_of(given.gb)
    lines = [
        f"A state of {given.gb:g} GB, a disk of {given.disk:g} MB/s, a checkpoint every "
        f"{given.interval:g} s; {given.checkpoints} of them each way.",
        "",
    ]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        with checkpoint.Writer(folder, 0.0, lambda: True) as writer:
            ways: dict[str, tuple[Write, Callable[[], bool]]] = {
                "in the loop": (
                    lambda number, state: checkpoint.save(folder, number, state),
                    lambda: False,
                ),
                "in a thread": (writer.write, lambda: not writer.due()),
            }
            for way, (write, busy) in ways.items():
                stops, beside, alone = train(state, write, busy, given.beside, given.checkpoints)
                each = ", ".join(f"{seconds:.3f}" for seconds in stops)
                later = median(stops[1:])  # the first one allocates the host's copy
                whole = given.interval + later * (way == "in the loop")
                lines.append(
                    f"{way}: stops training for {each} s, {100 * later / whole:.2f} % of the time; "
                    f"a step takes {1e3 * median(alone or beside):.2f} ms"
                    + (f", beside a write {1e3 * median(beside):.2f} ms" if beside else "")
                )
    text = "\n".join(lines)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
