"""Activations that a training step stores for its backward pass, per image, vs timm's port.

Counted on tensors with shapes but no values, as on a GPU with fused attention
(`repro.train.activations`), so the count is exact and needs no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from repro.bench import BenchOptions, nest_side
from repro.bench.nest_side import timm_model
from repro.bench.record import Comparison
from repro.models.nest import NesT
from repro.models.nest_flax import read_timm
from repro.train import activations


def measure(options: BenchOptions) -> Iterator[Comparison]:
    for model, size in nest_side.SIZES.items():
        theirs = timm_model(size)
        config, _ = read_timm(theirs.state_dict(), size.embed_dims[0] // size.num_heads[0])
        with torch.device("meta"):
            ours = NesT(**{**config, "depths": size.depths, "drop_path_rate": size.drop_path_rate})
        for precision in ("fp32", "bf16"):
            our_megabytes, their_megabytes = (
                activations.training_bytes_per_image(net, size.img_size, precision == "bf16") / 1e6
                for net in (ours, theirs)
            )
            yield Comparison(
                name=f"NesT {model}, {precision}",
                unit="MB an image",
                ours=[our_megabytes],
                peer="timm",
                theirs=[their_megabytes],
                precision="bf16" if precision == "bf16" else "fp32",
            )
