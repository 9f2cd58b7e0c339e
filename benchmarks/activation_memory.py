"""Measure what a step of every training of the paper needs of a GPU; there need not be one.

    PYTHONPATH=. python benchmarks/activation_memory.py repro/activations.json

Writes what `repro.steps` reads, after each model: the bytes that an image keeps for the backward
pass, beside timm's where timm has the same model, and the operations that the host launches.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from torch import nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments, peaks, plan, price, records
from repro.spec import Classification, Generation, Model
from repro.tasks import generation
from repro.train import activations
from tests import launches

TIMM = {f"nest_{size}_imagenet": f"nest_{size}" for size in ("tiny", "small", "base")}


def trainings() -> dict[str, Classification | Generation]:
    """One of each of those that the paper's items have and that differ in their steps, by key."""
    cells = [cell for name in experiments.names() for cell in experiments.get(name).cells]
    return {price.key(run): run for run in plan.runs(cells, "paper", 1) if peaks.trains(run)}


def measure(run: Classification | Generation) -> dict[str, int]:
    """An entry of the table."""
    if isinstance(run, Generation):
        pair = created(run.generator), created(run.discriminator)
        parameters = sum(p.numel() for net in pair for p in net.parameters())
        each = generation.bytes_a_pair(*pair, run.recipe)
        return {"parameters": parameters, "bytes_an_image": each, "launches": launches.of_pair(run)}
    profile = price.profile(run)
    net, classes, side = created(run.model, profile.classes), profile.classes, profile.image_size
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "bytes_an_image": activations.bytes_an_image(net, side),
        "launches": launches.of_classifier(run.model, classes, side),
        **timms(run.model, classes, side),
    }


def created(model: Model, classes: int | None = None) -> nn.Module:
    """The model with no values."""
    more = {} if classes is None else {"num_classes": classes}
    with torch.device("meta"):
        net = timm.create_model(model.name, **more, **dict(model.options))
    assert isinstance(net, nn.Module)
    return net


def timms(model: Model, classes: int, side: int) -> dict[str, int]:
    """The bytes of timm's port of a NesT as it is in the paper, and of timm's DeiT itself."""
    name = TIMM.get(model.name, model.name if model.name.startswith("deit_") else "")
    if not name or not dict(model.options).keys() <= {"img_size"}:
        return {}
    net = created(Model(name, model.options), classes)
    return {"timm_bytes_an_image": activations.bytes_an_image(net, side)}


if __name__ == "__main__":
    table: dict[str, dict[str, int]] = {}
    for name, run in trainings().items():
        table[name] = found = measure(run)
        print(f"{found['bytes_an_image'] / 1e6:6.1f} MB, {found['launches']:5} launches  {name}",
              flush=True)  # fmt: skip
        Path(sys.argv[1]).write_text(records.encode(dict(sorted(table.items())), indent=1) + "\n")
