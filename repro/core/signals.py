"""The signals that stop a process, for code that saves its work first."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, kill, a closed terminal, Ctrl-\\
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def unignored() -> list[signal.Signals]:
    """The STOPS that are not ignored: nohup ignores HUP, a shell's `&` INT and QUIT."""
    return [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt_once() -> dict[signal.Signals, Any]:
    """Make the first stop signal raise KeyboardInterrupt; later ones do nothing.

    A closing terminal sends HUP twice, and users press Ctrl-C twice: the second signal must not
    interrupt saving. Signals with handlers of their own are left alone. Returns the replaced
    handlers.
    """
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in STOPS}
    before = {number: handler for number, handler in before.items() if handler in defaults}

    def interrupt(*_: object) -> None:
        absorb(before)
        raise KeyboardInterrupt

    for number in before:
        signal.signal(number, interrupt)
    return before


@contextmanager
def as_interrupt() -> Iterator[None]:
    """`interrupt_once` until the end of the block."""
    before = interrupt_once()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore() -> None:
    """Ignore STOPS until the process ends. Python removes handlers at exit, but not this."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


def absorb(numbers: Iterable[signal.Signals]) -> None:
    """Give these signals a handler that does nothing; they still count as `unignored`."""
    for number in numbers:
        signal.signal(number, lambda *_: None)


@contextmanager
def block_stops() -> Iterator[None]:
    """Block STOPS; processes started in the block inherit that until they unblock them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
