"""A side of a comparison in a process of its own: what it sets for itself helps nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from repro import records
from repro.bench import BenchError

T = TypeVar("T")


class Side:
    """A process that does what it is asked for, a word a line, and answers in JSON."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for us; a side ends when its input does
        )

    def ask(self, word: str, schema: type[T]) -> T:
        """The answer to a word. BenchError if the process has died; its traceback is on stderr."""
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            print(word, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"a side of the benchmark ended at {word!r}; see the lines above")
        return records.decode(answer.encode(), schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if error:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()  # closes its input, whereupon it ends


def serve(answers: Mapping[str, Callable[[], object]]) -> None:
    """Answer every word on standard input. What others print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(records.encode(answers[line.strip()]()), file=out, flush=True)
