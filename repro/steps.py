"""What a training step needs of a GPU, measured without one by benchmarks/activation_memory.py.

Each entry of `activations.json` is a model or a GAN, by `price.key`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NotRequired, TypedDict

from repro import records


class Step(TypedDict):
    """An image of a GAN is a pair of a real and a generated one."""

    parameters: int
    bytes_an_image: int  # kept for the backward pass, in bf16 autocast
    launches: int  # operations that the host launches in the passes of a micro-batch
    timm_bytes_an_image: NotRequired[int]  # of timm's model, where it has the same


@cache
def measured() -> Mapping[str, Step]:
    """The table."""
    data = resources.files("repro").joinpath("activations.json").read_bytes()
    return records.decode(data, dict[str, Step])
