"""Clocks and turns: how things are timed beside each other on a machine that does more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Way = Callable[[], float]  # does the work once; what it took


def in_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """What each way took in each round, after a round to warm up.

    Whatever else the machine does falls on all ways alike, and every other round is in reverse.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            value = ways[name]()
            if number:
                taken[name].append(value)
    return taken


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU time of this process where the work is a CPU's; of a GPU the wall's, until it is done."""
    if device.type == "cpu":
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def wall_seconds(work: Callable[[], object]) -> float:
    """Of the wall clock: for work of several processes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def device_here() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
