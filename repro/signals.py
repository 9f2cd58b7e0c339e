"""The signals that ask a process to end, for all who save their work first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Ctrl-C, a polite kill, a terminal that closes, Ctrl-\\
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def heeded() -> list[signal.Signals]:
    """Those that are not ignored: nohup ignores HUP, a shell's `&` INT and QUIT."""
    return [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def as_interrupt() -> Iterator[None]:
    """What would kill this process raises KeyboardInterrupt, as Ctrl-C does, and then no more.

    A terminal that closes sends HUP twice: the second must not interrupt the saving.
    """
    deadly = [number for number in STOPS if signal.getsignal(number) is signal.SIG_DFL]

    def interrupt(*_: object) -> None:
        for number in deadly:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    for number in deadly:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started meanwhile hold back TERM, HUP and QUIT until they unblock them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(STOPS) - {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
