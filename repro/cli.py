"""The command line: `repro ITEM...` reproduces items of the paper; verbs look, prepare and mend.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from repro import __version__, experiments, output
from repro.options import split_words
from repro.verbs import VERBS

STATUSES = {
    0: "success",
    1: "a run failed",
    2: "wrong usage, missing data, or a folder that cannot be used",
    70: "a fault in repro itself",
    130: "interrupted; a launch goes on when repeated",
    141: "the reader of the output went away",
}
# What the machine refuses, whoever asks: permission, space, length of names, open files.
_OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO,
                   errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE,
                   errno.ENOTDIR, errno.EISDIR, errno.EBADF}  # fmt: skip

USAGE = """\
repro {version}: the paper NesT, reproduced as a program

usage: repro ITEM... [--launch local|slurm] [--scale paper|proxy|smoke] [--only METHOD] [--seeds N]
       repro VERB [...]

Without --launch, ITEM is drawn from what results/ has; with it, what is missing is trained first.

items  {items}
verbs
{verbs}

`repro VERB --help` and `repro ITEM --help` tell the options, which may stand anywhere.

exit status
{statuses}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    output.begin()
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _end(130, "; ".join(["interrupted", *map(str, interrupt.args)]), before="\n")
    except BrokenPipeError:  # `repro status | head`
        _discard(sys.stdout)
        _discard(sys.stderr)
        return 141
    except Exception as error:
        if line := line_for_user(error):
            return _end(2, line)
        _print(sys.stderr, traceback.format_exc())
        command = shlex.join(["repro", *words]).encode(errors="backslashreplace").decode()
        return _end(
            70,
            f"this is a fault in repro {__version__}; please report it with the command, {command},"
            " and the traceback above",
        )
    return status


def _end(status: int, line: str, before: str = "") -> int:
    """Say why a command ended; the status."""
    _print(sys.stdout)
    _print(sys.stderr, f"{before}repro: {output.line(line)}\n")
    return status


def _print(stream: TextIO, text: str = "") -> None:
    """Print a text, and whatever has been kept back; drop both where they cannot be printed."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Drop what is not yet printed, so that Python does not try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def line_for_user(error: Exception) -> str:
    """What a user is told of an error that they or their machine caused; '' for our own faults."""
    from repro.bench import BenchError
    from repro.launch.cluster import ClusterError
    from repro.launch.queue import QueueError
    from repro.launch.testbed import TestbedError
    from repro.options import UsageError
    from repro.results import ResultsError
    from repro.spec import SpecError

    ours = (
        UsageError
        | ResultsError
        | SpecError
        | ClusterError
        | QueueError
        | TestbedError
        | BenchError
    )
    if isinstance(error, ours):
        return str(error)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"{error.filename or 'cannot print the output'}: {error.strerror}"
    return ""


def _dispatch(words: list[str]) -> int:
    others, _ = split_words(words)
    if words in ([], ["help"], ["-h"], ["--help"]):
        print(_usage(), end="")
        return 0
    if words == ["--version"]:
        print(__version__)
        return 0
    _require_working_directory()
    if others and others[0] in VERBS:
        place = words.index(others[0])
        return VERBS[others[0]](words[:place] + words[place + 1 :])
    from repro.reproduce import reproduce

    return reproduce(words)


def _require_working_directory() -> None:
    from repro.options import UsageError

    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working directory was deleted; cd into another") from None


def _usage() -> str:
    verbs = "\n".join(
        f"  {name:8} {(verb.__doc__ or '').partition(chr(10))[0]}" for name, verb in VERBS.items()
    )
    items = textwrap.fill(
        ", ".join(experiments.names()), 100, subsequent_indent=" " * 7, initial_indent=" " * 7
    ).lstrip()
    statuses = "\n".join(f"  {status:<8} {meaning}" for status, meaning in STATUSES.items())
    return USAGE.format(version=__version__, items=items, verbs=verbs, statuses=statuses)
