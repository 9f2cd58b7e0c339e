"""Timers, and alternating rounds, for comparisons on a machine that is not idle."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from repro.bench import BenchError
from repro.core import records

WARM_UP = 2  # rounds: allocators and caches settle in the second

K = TypeVar("K")
Timer = Callable[[], float]  # does the work once and returns its time


def interleave(timers: Mapping[K, Timer], rounds: int) -> dict[K, list[float]]:
    """The result of each timer in each round, after two warm-up rounds.

    The timers alternate, in reverse order every other round, so that other load affects all alike.
    """
    times: dict[K, list[float]] = {name: [] for name in timers}
    for number in range(WARM_UP + rounds):
        for name in list(timers)[:: -1 if number % 2 else 1]:
            value = timers[name]()
            if number >= WARM_UP:
                times[name].append(value)
    return times


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU time of this process for work on the CPU; for a GPU, wall time until it has finished."""
    if device.type == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def command_seconds(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Wall time of a program. BenchError with its last output if it fails."""
    began = time.perf_counter()
    process = subprocess.run(command, capture_output=True, env=environment)
    elapsed = time.perf_counter() - began
    if process.returncode:
        error_text = records.one_line(process.stderr.decode(errors="replace")[-300:], 300)
        raise BenchError(f"{' '.join(command)[:80]} failed ({process.returncode}): {error_text}")
    return elapsed


def device_here() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
