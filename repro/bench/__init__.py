"""Benchmarks: this project against alternatives on the same work, in alternating rounds.

A benchmark is a module of this package. Its `measure(options)` yields a `Comparison` as soon as it
is known; `record` stores them, and `page` renders docs/performance.md from the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS: Mapping[str, str] = {
    "machine": "this machine's peak rates: matrix products and memory",
    "nest": "NesT, inference and training step, vs timm's port",
    "small": "training steps of Table 1 at demo scale, vs another commit",
    "augmentation": "augmentation of whole batches, vs timm and torchvision image by image",
    "loader": "decoding and cropping of photographs, vs timm's pipeline for DeiT",
    "localization": "scoring of attribution maps by boxes, vs a sweep over all thresholds",
    "memory": "activations stored by a training step, vs timm's port",
    "startup": "read-only commands, vs an import of timm",
    "submission": "a launch of a thousand runs on SLURM, vs submitit alone",
}
OF_MODELS = ("nest", "small")  # those that `--only` selects models of
AGAINST_COMMITS = ("small",)  # those that can compare with another commit
UNTIMED = ("memory",)  # no round differs from another
RECORDS = Path("benchmarks/records")
ROUNDS = 5  # by default, and at least for a committed record


class BenchError(Exception):
    """A benchmark cannot run here; one line that names the reason and the next step."""


@dataclass(frozen=True)
class BenchOptions:
    """How to measure."""

    rounds: int = ROUNDS
    only: tuple[str, ...] = ()  # of OF_MODELS; empty: all
    against: str = ""  # the commit that AGAINST_COMMITS compare with
