"""Run benchmarks one after another, and store each as soon as it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import torch

from repro.bench import (
    AGAINST_COMMITS,
    OF_MODELS,
    RECORDS,
    ROUNDS,
    UNTIMED,
    BenchError,
    BenchOptions,
    page,
    record,
)
from repro.bench.measure import WARM_UP, device_here
from repro.core import terminal
from repro.train import device as devices

ON_CPU = ("loader", "localization", "startup", "submission")


def measure(name: str, options: BenchOptions) -> record.Record:
    """Run one benchmark and print each comparison. BenchError if it cannot run here or ends."""
    if (device := _device(name)).type == "cpu":
        torch.set_num_threads(1)
    module = import_module(f"repro.bench.{name}")
    comparisons = list[record.Comparison]()
    try:
        for comparison in module.measure(options):
            comparisons.append(comparison)
            print(page.format_line(comparison), flush=True)
    except BenchError as error:
        lost = f"; the {len(comparisons)} above are not recorded" if comparisons else ""
        raise BenchError(f"{error}{lost}") from error
    return record.make(name, _describe_device(device), torch.get_num_threads(), comparisons)


def measure_all(names: Iterable[str], options: BenchOptions, folder: Path | None) -> int:
    """Run each benchmark, skipping those that cannot run here; the number skipped.

    Records go to the folder; without one, complete measurements go to RECORDS.
    """
    num_skipped = 0
    for name in names:
        print(f"--- {name}{_describe_rounds(name, options)}", flush=True)
        try:
            with terminal.waiting(f"measuring {name}"):
                result = measure(name, options)
        except BenchError as error:
            print(f"repro: {name}: {error}", file=sys.stderr)
            num_skipped += 1
            continue
        if folder or not (lack := _lack(name, options)):
            print(record.write(folder or RECORDS, result), flush=True)
        else:
            print(f"not recorded: {lack}; --records DIR records it")
    return num_skipped


def _lack(name: str, options: BenchOptions) -> str:
    """Why a measurement must not replace a committed record; '' if it may."""
    if options.only and name in OF_MODELS:
        return f"of {', '.join(options.only)} only"
    if options.rounds < ROUNDS and name not in UNTIMED:
        return f"fewer than {ROUNDS} rounds"
    return "without --against" if name in AGAINST_COMMITS and not options.against else ""


def _describe_rounds(name: str, options: BenchOptions) -> str:
    """Format ', 5 rounds after 2 of warm-up'."""
    if name in UNTIMED:
        return ""
    return f", {options.rounds} round{'s' * (options.rounds > 1)} after {WARM_UP} of warm-up"


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
