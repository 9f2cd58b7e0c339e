"""The command line: `repro ITEM...` reproduces items of the paper; other commands inspect, prepare
and repair.

Heavy packages are imported only when a command needs them.
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

from repro import __version__, paper
from repro.commands.registry import COMMANDS, parse
from repro.commands.usage import UsageError
from repro.core import output

STATUSES = {
    0: "success",
    1: "a run failed",
    2: "wrong usage, missing data, or a folder that cannot be used",
    3: "verify: something does not follow from the runs; rerun: outside the spread of its seeds",
    70: "a fault in repro itself",
    130: "interrupted; a launch goes on when repeated",
    141: "the reader of the output went away",
}
# Errors of the machine: permissions, space, length of names, open files.
_OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO,
                   errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE,
                   errno.ENOTDIR, errno.EISDIR, errno.EBADF}  # fmt: skip

USAGE = """\
repro {version}: {title}

usage: repro ITEM... [--launch local|slurm] [--scale paper|proxy|demo|smoke] [--only METHOD]
       repro COMMAND [...]

Without --launch, ITEM is rendered from results/; with it, missing runs are trained first.

items  {items}
commands
{commands}

`--paper PATH` (or REPRO_PAPER) takes another paper: a Python file or package that defines PAPER.
`repro COMMAND --help` and `repro ITEM --help` list the options, which may stand anywhere.

exit status
{statuses}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    output.begin()
    try:
        with paper.of_command(argv) as rest:
            status = _dispatch(rest)
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
        command = shlex.join(["repro", *argv]).encode(errors="backslashreplace").decode()
        return _end(
            70,
            f"this is a fault in repro {__version__}; please report it with the command, {command},"
            " and the traceback above",
        )
    return status


def _end(status: int, line: str, before: str = "") -> int:
    """Print why a command ended; returns the status."""
    _print(sys.stdout)
    _print(sys.stderr, f"{before}repro: {output.shortened(output.line(line))}\n")
    return status


def _print(stream: TextIO, text: str = "") -> None:
    """Print a text after flushing the stream's buffer; drop both if printing fails."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Drop buffered output, so that Python does not try to print it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def line_for_user(error: Exception) -> str:
    """The message of an error that the user or the machine caused; '' for a bug."""
    from repro.bench import BenchError
    from repro.launch.slurm.cluster import ClusterError
    from repro.launch.slurm.queue import QueueError
    from repro.launch.start import LaunchError
    from repro.results import ResultsError
    from repro.spec import SpecError
    from repro.testbed.cluster import TestbedError

    ours = (
        UsageError
        | LaunchError
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


def _dispatch(argv: list[str]) -> int:
    if argv in ([], ["help"], ["-h"], ["--help"]):
        print(_usage(), end="")
        return 0
    if argv[0] == "help":
        argv = [*argv[1:], "--help"]
    if argv == ["--version"]:
        print(__version__)
        return 0
    _require_working_directory()
    return parse(argv).execute()


def _require_working_directory() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the working directory was deleted; cd into another") from None


def _usage() -> str:
    commands = "\n".join(
        f"  {name:10} {(command.__doc__ or '').partition(chr(10))[0]}"
        for name, command in COMMANDS.items()
    )
    items = textwrap.fill(
        ", ".join(paper.current().names()), 100, subsequent_indent=" " * 7, initial_indent=" " * 7
    ).lstrip()
    statuses = "\n".join(f"  {status:<8} {meaning}" for status, meaning in STATUSES.items())
    return USAGE.format(
        version=__version__,
        title=paper.current().title,
        items=items,
        commands=commands,
        statuses=statuses,
    )
