"""Measure the activations that every training of the paper keeps an image; needs no GPU.

    python benchmarks/activation_memory.py repro/activations.json

Writes what `repro.peaks` reads, after each model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from torch import nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments, peaks, plan, records
from repro.spec import Classification, Generation, Model
from repro.tasks import generation
from repro.train import activations


def trainings() -> dict[str, Classification | Generation]:
    """One of each of those that the paper's items have and `peaks` tells apart, by key."""
    cells = [cell for name in experiments.names() for cell in experiments.get(name).cells]
    return {peaks.key(run): run for run in plan.runs(cells, "paper", 1) if peaks.trains(run)}


def measure(run: Classification | Generation) -> dict[str, int]:
    """An entry of the table."""
    if isinstance(run, Generation):
        generator, discriminator = created(run.generator), created(run.discriminator)
        nets = [generator, discriminator]
        each = generation.bytes_a_pair(generator, discriminator, run.recipe)
    else:
        profile = peaks.profile(run)
        net = created(profile.model, num_classes=profile.classes)
        nets, each = [net], activations.bytes_an_image(net, profile.image_size)
    parameters = sum(p.numel() for net in nets for p in net.parameters())
    return {"parameters": parameters, "bytes_an_image": each}


def created(model: Model, **more: int) -> nn.Module:
    """The model with no values."""
    with torch.device("meta"):
        net = timm.create_model(model.name, **more, **dict(model.options))
    assert isinstance(net, nn.Module)
    return net


if __name__ == "__main__":
    table: dict[str, dict[str, int]] = {}
    for name, run in trainings().items():
        table[name] = measure(run)
        print(f"{table[name]['bytes_an_image'] / 1e6:6.1f} MB  {name}", flush=True)
        Path(sys.argv[1]).write_text(records.encode(dict(sorted(table.items())), indent=1) + "\n")
