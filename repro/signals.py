"""The signals that ask a process to end, for all who save their work first."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, a polite kill, a terminal that closes, Ctrl-\\
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def heeded() -> list[signal.Signals]:
    """Those that are not ignored: nohup ignores HUP, a shell's `&` INT and QUIT."""
    return [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt_once() -> dict[signal.Signals, Any]:
    """What would end this process raises KeyboardInterrupt once; later signals do nothing.

    A terminal that closes sends HUP twice, and a user presses Ctrl-C twice: the second must not
    interrupt the saving. Returns the handlers that were replaced.
    """
    deadly = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in before.items() if handler in deadly}

    def interrupt(*_: object) -> None:
        absorb(before)
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    return before


@contextmanager
def as_interrupt() -> Iterator[None]:
    """`interrupt_once`, until the end of a passage."""
    before = interrupt_once()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore() -> None:
    """To the end of this process. Python's own end takes away handlers, but not this."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def absorb(numbers: Iterable[signal.Signals]) -> None:
    """Let these signals do nothing. One that is ignored would not be `heeded`."""
    for number in numbers:
        signal.signal(number, lambda *_: None)


@contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started meanwhile hold back STOPS until they unblock them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
