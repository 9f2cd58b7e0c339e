"""Real ranks on this machine, for tests."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from repro.launch import ranks
from repro.train.distributed import run_on_ranks


def in_ranks(
    count: int, work: Callable[..., object], *arguments: object, most: int | None = None
) -> list[object]:
    """What `work` of each rank, and of the arguments, returns; of a rank that waits, None."""
    return in_processes(count, _together, work, arguments, most)


def _together(work: Callable[..., object], arguments: tuple[object, ...], most: int) -> object:
    return run_on_ranks(lambda ours: work(ours, *arguments), most)


def in_processes(count: int, work: Callable[..., object], *arguments: object) -> list[object]:
    """What `work` returns in each of so many processes, or its error in words.

    `work` is a function of a module; its arguments and what it returns can be pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.tasks.classification"])
    port, pipes, processes = ranks.free_port(), list[Connection](), []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        place = ranks.spawn_environment(rank, count, port)
        process = context.Process(target=_process, args=(place, there, work, arguments))
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    said = [_said(pipe) for pipe in pipes]
    for process in processes:
        process.join()
    return said


def _said(pipe: Connection) -> object:
    """What comes from a rank; AssertionError if it hangs."""
    assert pipe.poll(240), "a rank hangs"
    try:
        return pipe.recv()
    except EOFError:
        return "no word"


def _process(
    place: dict[str, str],
    say: Connection,
    work: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    os.environ.update(place)
    torch.set_num_threads(1)
    try:
        say.send(work(*arguments))
    except Exception as error:
        say.send(f"{type(error).__name__}: {error}")
    os._exit(0)
