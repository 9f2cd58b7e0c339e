"""Compute what a training step of each of the paper's runs needs of a GPU; none is required.

    PYTHONPATH=. python benchmarks/activation_memory.py repro/cost/activations.json

Updates the file that `repro.cost.steps` reads after each model: the bytes stored per image for the
backward pass, with timm's where timm has the same model, and the number of kernel launches.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from torch import nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments
from repro.core import plan, records
from repro.spec import Classification, Generation, Model, Run
from repro.tasks import generation
from repro.train import activations
from tests import launches

TIMM = {f"nest_{size}_imagenet": f"nest_{size}" for size in ("tiny", "small", "base")}


def trainings() -> dict[str, Run]:
    """One training run of the paper for each kind of step, by key."""
    cells = [cell for name in experiments.names() for cell in experiments.get(name).cells]
    runs = plan.runs(cells, "paper", 1)
    return {run.training_steps.key: run for run in runs if run.training_steps}


def measure(run: Run) -> dict[str, int]:
    """An entry of the table."""
    if run.tested_classifier:
        return measure_classifier(run.tested_classifier)
    return measure_pair(Generation.narrow(run))


def measure_pair(run: Generation) -> dict[str, int]:
    """The entry of a generator and its discriminator."""
    pair = create(run.generator), create(run.discriminator)
    return {
        "parameters": sum(p.numel() for net in pair for p in net.parameters()),
        "bytes_an_image": generation.training_bytes_per_pair(*pair, run.recipe),
        "launches": launches.of_pair(run),
    }


def measure_classifier(run: Classification) -> dict[str, int]:
    """The entry of a classifier, with timm's bytes where timm has the same model."""
    profile = run.profile
    net, classes, side = create(run.model, profile.classes), profile.classes, profile.image_size
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "bytes_an_image": activations.training_bytes_per_image(net, side),
        "launches": launches.of_classifier(run.model, classes, side),
        **timm_entry(run.model, classes, side),
    }


def create(model: Model, classes: int | None = None) -> nn.Module:
    """The model on the meta device."""
    extra = {} if classes is None else {"num_classes": classes}
    with torch.device("meta"):
        net = timm.create_model(model.name, **extra, **dict(model.options))
    assert isinstance(net, nn.Module)
    return net


def timm_entry(model: Model, classes: int, side: int) -> dict[str, int]:
    """The bytes of timm's port of the paper's NesT, and of timm's DeiT."""
    name = TIMM.get(model.name, model.name if model.name.startswith("deit_") else "")
    if not name or not dict(model.options).keys() <= {"img_size"}:
        return {}
    net = create(Model(name, model.options), classes)
    return {"timm_bytes_an_image": activations.training_bytes_per_image(net, side)}


if __name__ == "__main__":
    table: dict[str, dict[str, int]] = {}
    for name, run in trainings().items():
        table[name] = entry = measure(run)
        print(f"{entry['bytes_an_image'] / 1e6:6.1f} MB, {entry['launches']:5} launches  {name}",
              flush=True)  # fmt: skip
        Path(sys.argv[1]).write_text(records.encode(dict(sorted(table.items())), indent=1) + "\n")
