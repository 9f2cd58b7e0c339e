"""Measure the activations that every classifier of the paper keeps an image; needs no GPU.

    python benchmarks/activation_memory.py repro/activations.json

Writes what `repro.peaks` reads, after each model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments, peaks, plan, records
from repro.spec import Classification, Profiling
from repro.train.activations import bytes_an_image


def profiles() -> dict[str, Profiling]:
    """Every model that the paper's items train, by id."""
    cells = [cell for name in experiments.names() for cell in experiments.get(name).cells]
    runs = [run for run in plan.runs(cells, "paper", 1) if isinstance(run, Classification)]
    found = [peaks.profile(run) for run in runs if run.recipe.epochs]
    return {profile.id: profile for profile in found}


def measure(profile: Profiling) -> dict[str, int]:
    """An entry of the table."""
    with torch.device("meta"):
        net = timm.create_model(
            profile.model.name, num_classes=profile.classes, **dict(profile.model.options)
        )
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "bytes_an_image": bytes_an_image(net, profile.image_size),
    }


if __name__ == "__main__":
    table: dict[str, dict[str, int]] = {}
    for name, profile in profiles().items():
        table[name] = measure(profile)
        print(f"{table[name]['bytes_an_image'] / 1e6:6.1f} MB  {name}", flush=True)
        Path(sys.argv[1]).write_text(records.encode(dict(sorted(table.items())), indent=1) + "\n")
