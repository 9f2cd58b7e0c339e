"""Run benchmarks one after another, and store each as soon as it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import torch

from repro.bench import BenchError, BenchOptions, page, record
from repro.bench.measure import device_here
from repro.train import device as devices

ON_CPU = ("loader", "localization", "startup", "submission")


def measure(name: str, options: BenchOptions) -> record.Record:
    """Run one benchmark and print each comparison. BenchError if it cannot run here."""
    if (device := _device(name)).type == "cpu":
        torch.set_num_threads(1)
    module = import_module(f"repro.bench.{name}")
    comparisons = list[record.Comparison]()
    for comparison in module.measure(options):
        comparisons.append(comparison)
        print(page.format_line(comparison), flush=True)
    return record.make(name, _describe_device(device), torch.get_num_threads(), comparisons)


def measure_all(names: Iterable[str], options: BenchOptions, folder: Path | None) -> int:
    """Run each benchmark, skipping those that cannot run here; the number skipped."""
    num_skipped = 0
    for name in names:
        print(f"--- {name}", flush=True)
        try:
            result = measure(name, options)
        except BenchError as error:
            print(f"repro: {name}: {error}", file=sys.stderr)
            num_skipped += 1
            continue
        if folder:
            print(record.write(folder, result), flush=True)
    return num_skipped


def models(name: str) -> tuple[str, ...]:
    """The models that `--only` can select; empty for most benchmarks."""
    return tuple(getattr(import_module(f"repro.bench.{name}"), "MODELS", ()))


def _device(name: str) -> torch.device:
    return torch.device("cpu") if name in ON_CPU else device_here()


def _describe_device(device: torch.device) -> str:
    """A description of the device: for a CPU its name, if known, and the instructions torch
    uses."""
    if device.type == "cuda":
        return devices.describe(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
    kind = devices.describe(device).partition(",")[0]
    return f"{kind}, {name}" if name else kind
