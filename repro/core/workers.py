"""Processes of their own for work that only reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

MAX_WORKERS = 4

P = ParamSpec("P")
T = TypeVar("T")


class _ThisProcess(Executor):
    """Calls at once, where another process would not pay."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = Future[T]()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def pool(tasks: int, workers: int | None = None) -> Iterator[Executor]:
    """An executor for this many tasks. They are spawned, so that no thread of ours is forked.

    Args:
        workers: processes; None: one a core, up to MAX_WORKERS; 1: this process.
    """
    count = min(workers or min(MAX_WORKERS, len(os.sched_getaffinity(0))), tasks)
    if count < 2:
        yield _ThisProcess()
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as executor:
        yield executor
