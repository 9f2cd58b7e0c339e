"""How the attempts of a run were executed: device, precision, ranks, micro-batch, speed.

A run may start on one device and resume on another. Its checkpoints carry the executions of all
attempts that contributed, and the result lists them.
"""

from __future__ import annotations

from collections.abc import Sequence

from repro.train import device as devices
from repro.train.distributed import Ranks

Execution = dict[str, object]  # plain data: device, precision, ranks, micro-batch, speed


def describe(ranks: Ranks, precision: str) -> dict[str, object]:
    """The execution details that every task records."""
    device = devices.describe(ranks.device)
    return {"device": device, "precision": precision, "ranks": ranks.count}


def append(previous: Sequence[Execution], current: Execution) -> list[Execution]:
    """The executions for a checkpoint: each once, in order."""
    return [*previous, current] if current not in previous else list(previous)


def provenance(previous: Sequence[Execution], current: Execution) -> dict[str, object]:
    """The current execution, and the others as `earlier`."""
    earlier = [execution for execution in previous if execution != current]
    return {**current, **({"earlier": earlier} if earlier else {})}
