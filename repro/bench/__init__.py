"""Benchmarks: the project beside what a user would otherwise take, on the same work, in turns.

A benchmark is a module of this folder. Its `measure(how)` yields a `Comparison` as soon as it is
known; `record` keeps them on file, and `page` draws docs/performance.md from the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BENCHMARKS: Mapping[str, str] = {
    "machine": "what this machine does at best: matrix products and memory",
    "nest": "NesT, inference and training step, beside timm's port",
    "small": "training steps of Table 1 at proxy scale, beside those of another commit",
    "augmentation": "augmentation of whole batches, beside timm and torchvision image by image",
    "loader": "decoding and cropping of photographs, beside timm's pipeline for DeiT",
    "localization": "scoring of attribution maps by boxes, beside a sweep over all thresholds",
    "memory": "activations that a training step keeps, beside timm's port",
    "startup": "commands that only look, beside an import of timm",
    "submission": "a launch of a thousand runs on SLURM, beside submitit alone",
}


class BenchError(Exception):
    """A benchmark cannot be measured here; one line that names the thing and the next step."""


@dataclass(frozen=True)
class How:
    """How to measure."""

    rounds: int = 5
    only: tuple[str, ...] = ()  # models of `nest` and `small`; none: all
    against: str = ""  # the commit beside which `small` measures
