"""Measure benchmarks one after another, and put each on file as soon as it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import torch

from repro.bench import BenchError, How, page, record
from repro.bench.measure import device_here
from repro.train import device as devices

ON_CPU = ("loader", "localization", "startup", "submission")


def measure(name: str, how: How) -> record.Record:
    """Measure one benchmark, printing each comparison. BenchError if it cannot be had here."""
    if (device := _device(name)).type == "cpu":
        torch.set_num_threads(1)
    module = import_module(f"repro.bench.{name}")
    found = list[record.Comparison]()
    for comparison in module.measure(how):
        found.append(comparison)
        print(page.line(comparison), flush=True)
    return record.make(name, _words(device), torch.get_num_threads(), found)


def measure_all(names: Iterable[str], how: How, folder: Path | None) -> int:
    """Measure each, and go on after one that cannot be had; how many these were."""
    missed = 0
    for name in names:
        print(f"--- {name}", flush=True)
        try:
            made = measure(name, how)
        except BenchError as error:
            print(f"repro: {name}: {error}", file=sys.stderr)
            missed += 1
            continue
        if folder:
            print(record.write(folder, made), flush=True)
    return missed


def models(name: str) -> tuple[str, ...]:
    """The models among which `--only` chooses; none of most benchmarks."""
    return tuple(getattr(import_module(f"repro.bench.{name}"), "MODELS", ()))


def _device(name: str) -> torch.device:
    return torch.device("cpu") if name in ON_CPU else device_here()


def _words(device: torch.device) -> str:
    """The device in words: of a CPU its name, if Linux knows it, and what torch uses of it."""
    if device.type == "cuda":
        return devices.describe(device)
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    kind = devices.describe(device).partition(",")[0]
    return f"{kind}, {name}" if name else kind
