"""The memory and launches of training steps, measured without a GPU by
benchmarks/activation_memory.py.

Each entry of `activations.json` is a model or a GAN, by the `key` of its
`TrainingSteps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NotRequired, TypedDict

from repro.core import records


class Step(TypedDict):
    """The cost of a step. An image of a GAN is a pair of a real and a generated one."""

    parameters: int
    bytes_an_image: int  # stored for the backward pass, in bf16 autocast
    launches: int  # operations that the host launches in the passes of a micro-batch
    timm_bytes_an_image: NotRequired[int]  # of timm's model, if timm has it


@cache
def table() -> Mapping[str, Step]:
    """Every measured step by its key."""
    data = resources.files("repro.cost").joinpath("activations.json").read_bytes()
    return records.decode(data, dict[str, Step])
