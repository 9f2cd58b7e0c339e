"""How an attempt at a run can end without a result, and whether it is worth another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from repro import memory

Cause = Literal[
    "preempted",
    "time limit",
    "lost",  # its process or its node is gone without a word
    "out of memory",
    "error",
    "cancelled",
    "interrupted",  # by Ctrl-C or a signal, outside SLURM
    "taken over",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

# Further attempts that one submission grants, by what ended the one before. A run that was stopped
# has made at least a step, so a time limit cannot repeat for ever without progress.
FURTHER: Mapping[Cause, float] = {
    "preempted": math.inf,
    "time limit": math.inf,
    "lost": 5,
    "out of memory": 1,
}


@dataclass(frozen=True)
class Ending:
    """How an attempt ended that left no result: the cause, and one line about it."""

    cause: Cause
    note: str = ""


# Errors that a user can cause and whose one line says enough. By name: their modules are heavy.
_EXPECTED = {"Apart", "Elsewhere", "DataError", "InterpretError", "NotFinite", "NoWeights",
             "ResultsError", "SpecError", "WeightsError"}  # fmt: skip


def of_error(error: BaseException) -> Ending:
    """The ending that an exception means, as far as it can tell."""
    line = " ".join(str(error).split())
    names = _names(error)
    if memory.is_lack(error):
        return Ending("out of memory", line)
    if "Apart" in names:  # the ranks did not find, or have lost, each other: a node may be ill
        return Ending("lost", line)
    return Ending("error", line if is_expected(error) else f"{type(error).__name__}: {line}")


def is_expected(error: BaseException) -> bool:
    """Whether its one line says enough, without a traceback."""
    return bool(_names(error) & _EXPECTED)


def _names(error: BaseException) -> set[str]:
    """Its classes; with those of another rank's error, if it stands for one."""
    return {kind.__name__ for kind in type(error).__mro__} | getattr(error, "kinds", set())


def goes_on(
    end: Ending, before: Mapping[str, int], seconds: float, budget_seconds: float | None
) -> bool:
    """Whether the submission grants another attempt.

    `before` counts how its earlier attempts ended, by cause; `seconds` is what all attempts took.
    """
    if budget_seconds is not None and seconds >= budget_seconds:
        return False
    return before.get(end.cause, 0) < FURTHER.get(end.cause, 0)
