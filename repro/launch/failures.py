"""Why an attempt can end without a result, and how often each cause is retried."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from repro.cost import memory

Cause = Literal[
    "preempted",
    "time limit",
    "lost",  # its process or node died without reporting a cause
    "out of memory",
    "error",
    "cancelled",
    "interrupted",  # by Ctrl-C or a signal, outside SLURM
    "taken over",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)

# Retries within one submission, by the cause of the last failure. A stopped run has made at least
# one step, so repeated time limits still make progress.
MAX_RETRIES: Mapping[Cause, float] = {
    "preempted": math.inf,
    "time limit": math.inf,
    "lost": 5,
    "out of memory": 1,
}


@dataclass(frozen=True)
class Failure:
    """The cause that ended an attempt, and one line about it."""

    cause: Cause
    note: str = ""


# Errors that users can cause, whose message suffices. By name, because their modules are heavy.
_EXPECTED = {"RendezvousError", "PeerFailure", "DataError", "InterpretError", "NotFinite",
             "WeightsNotFound", "ResultsError", "SpecError", "WeightsError"}  # fmt: skip


def from_error(error: BaseException) -> Failure:
    """The failure that an exception stands for."""
    line = " ".join(str(error).split())
    names = _class_names(error)
    if memory.is_out_of_memory(error):
        return Failure("out of memory", line)
    if "RendezvousError" in names:  # ranks lost each other: perhaps a bad node
        return Failure("lost", line)
    return Failure("error", line if is_expected(error) else f"{type(error).__name__}: {line}")


def is_expected(error: BaseException) -> bool:
    """Whether the error's message suffices, without a traceback."""
    return bool(_class_names(error) & _EXPECTED)


def _class_names(error: BaseException) -> set[str]:
    """The names of the error's classes; also those of another rank's error that it reports."""
    return {kind.__name__ for kind in type(error).__mro__} | getattr(error, "kinds", set())


def should_retry(
    failure: Failure, earlier: Mapping[str, int], seconds: float, budget_seconds: float | None
) -> bool:
    """Whether the submission grants another attempt.

    `earlier` counts the earlier failed attempts of the submission by cause; `seconds` is the time
    spent in all attempts.
    """
    if budget_seconds is not None and seconds >= budget_seconds:
        return False
    return earlier.get(failure.cause, 0) < MAX_RETRIES.get(failure.cause, 0)
