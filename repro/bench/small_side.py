"""One side of the benchmark `small`: `small_side METHOD`, with whichever `repro` is on the path.

It uses only what every commit has: a run, and a task that reports progress. Answers 'run' with the
run's id, and 'go' with the seconds per image of the next few steps.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from repro import experiments
from repro.experiments.scales import at_scale
from repro.spec import SCALES, Classification, Scale
from repro.tasks import classification

# The scale of Table 1's small models; some commits use its former name.
_SMALL: Scale = "demo" if "demo" in SCALES else "proxy"

STEPS = 4
EPOCHS = 1000  # more than will ever run

_seconds = time.perf_counter if torch.cuda.is_available() else time.process_time


def demo(method: str) -> Classification:
    """A method's run at demo scale, without an end or a test."""
    cells = experiments.get("table1").cells
    run = at_scale(next(c for c in cells if (c.row, c.column) == (method, "C10")).training, _SMALL)
    return replace(run, recipe=replace(run.recipe, epochs=EPOCHS), test_split="none")


class Channel:
    """The connection to the benchmark: a command per turn, and an answer in JSON."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # other output goes to stderr

    def wait(self) -> None:
        """Wait for a command; exit at the end of the input."""
        if not sys.stdin.readline():
            raise SystemExit

    def answer(self, value: object) -> None:
        print(json.dumps(value), file=self.out, flush=True)


class Job:
    """The launcher's interface to a task, in the forms of all commits."""

    weights = None
    decode = "cpu"
    checkpoint_seconds = 1e9
    micro_batch = None
    speed = "fast"
    halvings = 0

    def __init__(self, folder: Path, batch_size: int, channel: Channel) -> None:
        self.data = self.checkpoints = folder
        self.options = self
        self.batch_size, self.channel = batch_size, channel
        self.done, self.began = 0, _seconds()

    def should_stop(self) -> bool:
        return False

    def still_owner(self) -> bool:
        return True

    def save_preview(self, name: str, data: bytes) -> None: ...

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None: ...

    def report_progress(self, step: int, steps: int, facts: Mapping[str, Any]) -> None:
        self.channel.answer((_seconds() - self.began) / (step - self.done) / self.batch_size)
        self.channel.wait()
        self.done, self.began = step, _seconds()

    # Earlier commits call these by other names.
    stopping, ours, keep = should_stop, still_owner, save_preview
    history, progress = write_metrics, report_progress


def main(method: str) -> None:
    channel, run = Channel(), demo(method)
    channel.wait()
    channel.answer(run.id)
    channel.wait()
    classification._CHECK_STEPS = STEPS
    with TemporaryDirectory() as folder:
        job: Any = Job(Path(folder), run.recipe.batch_size, channel)
        classification.execute(run, job)


if __name__ == "__main__":
    main(sys.argv[1])
