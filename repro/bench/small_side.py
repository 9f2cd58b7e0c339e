"""One side of the benchmark `small`: `small_side METHOD`, with whichever `repro` is on the path.

It uses nothing but what every commit has: a run, and a task that says how far it is. Answers 'run'
by the run's id, and 'go' by the seconds an image of the next few steps.
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
from repro.spec import Classification
from repro.tasks import classification

STEPS = 4
LONG = 1000  # epochs: nobody waits for the end

_seconds = time.perf_counter if torch.cuda.is_available() else time.process_time


def proxy(method: str) -> Classification:
    """A method's run at proxy scale, which does not end and tests nothing."""
    cells = experiments.get("table1").cells
    run = at_scale(next(c for c in cells if (c.row, c.column) == (method, "C10")).training, "proxy")
    return replace(run, recipe=replace(run.recipe, epochs=LONG), test_split="none")


class Line:
    """The line to whoever asks: a word a turn, and an answer in JSON."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what others print

    def wait(self) -> None:
        """Until it is our turn; the process ends where nobody asks any more."""
        if not sys.stdin.readline():
            os._exit(0)

    def answer(self, value: object) -> None:
        print(json.dumps(value), file=self.out, flush=True)


class Job:
    """What a task needs of its launcher."""

    weights = None
    decode = "cpu"
    checkpoint_seconds = 1e9
    micro_batch = None
    speed = "fast"
    halvings = 0

    def __init__(self, folder: Path, batch_size: int, line: Line) -> None:
        self.data = self.checkpoints = folder
        self.batch_size, self.line = batch_size, line
        self.done, self.began = 0, _seconds()

    def stopping(self) -> bool:
        return False

    def ours(self) -> bool:
        return True

    def keep(self, name: str, data: bytes) -> None: ...

    def history(self, lines: Sequence[Mapping[str, Any]]) -> None: ...

    def progress(self, step: int, steps: int, facts: Mapping[str, Any]) -> None:
        self.line.answer((_seconds() - self.began) / (step - self.done) / self.batch_size)
        self.line.wait()
        self.done, self.began = step, _seconds()


def main(method: str) -> None:
    line, run = Line(), proxy(method)
    line.wait()
    line.answer(run.id)
    line.wait()
    classification._CHECK_STEPS = STEPS
    with TemporaryDirectory() as folder:
        job: Any = Job(Path(folder), run.recipe.batch_size, line)
        classification.execute(run, job)


if __name__ == "__main__":
    main(sys.argv[1])
