"""The verbs of the command line: look at what there is, prepare, check, and mend."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from repro.verbs import items, machine, measured, runs, trained

VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": items.list_,
    "plan": items.plan_,
    "why": items.why,
    "status": runs.status,
    "logs": runs.logs,
    "failures": runs.failures,
    "cancel": runs.cancel,
    "retry": runs.retry,
    "sample": trained.sample,
    "explain": trained.explain,
    "prepare": machine.prepare,
    "doctor": machine.doctor,
    "testbed": machine.testbed,
    "bench": measured.bench,
}
