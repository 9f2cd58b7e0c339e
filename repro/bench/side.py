"""One side of a comparison in its own process, so that its settings affect no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self, TypeVar

from repro.bench import BenchError
from repro.core import records

T = TypeVar("T")


class Side:
    """A process that answers commands, one per line, in JSON.

    `next_step`: what to do if it dies, where its code is not ours. Its standard error is then
    captured, and the last line of that is the reason.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str] | None = None,
        next_step: str = "",
    ) -> None:
        self._next_step = next_step
        self._stderr = TemporaryFile() if next_step else None  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            process_group=0,  # Ctrl-C goes to us; a side exits at the end of its input
        )

    def ask(self, word: str, schema: type[T]) -> T:
        """The answer to a command. BenchError if the process has died; its traceback is on
        stderr."""
        assert self._process.stdin
        assert self._process.stdout
        with suppress(BrokenPipeError):
            print(word, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"a side of the benchmark ended at {word!r} {self._reason()}")
        return records.decode(answer.encode(), schema)

    def _reason(self) -> str:
        """How the process ended, and the next step."""
        status = self._process.wait()
        if status < 0:
            name = signal.strsignal(-status) or "unknown"
            return f"(signal {-status}: {name}); if memory ran out, close other programs"
        if not self._stderr:
            return f"(exit status {status}); see the lines above"
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"({records.one_line(last) or f'exit status {status}'}); {self._next_step}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if error:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()  # closes its input, so that it exits
        if self._stderr:
            self._stderr.close()


def serve(answers: Mapping[str, Callable[[], object]]) -> None:
    """Answer every command on standard input. Other output goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(records.encode(answers[line.strip()]()), file=out, flush=True)
