"""The command line: `repro ITEM...` reproduces items of the paper; verbs look, prepare and mend.

Exit status: 0 well; 1 a run failed; 2 wrong usage or data; 130 interrupted, and resumable.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from repro import __version__, experiments
from repro.verbs import VERBS

USAGE = """\
repro {version}: the paper NesT, reproduced as a program

usage: repro ITEM... [--launch local|slurm] [--scale paper|proxy|smoke] [--only METHOD] [--seeds N]
       repro VERB [...]

Without --launch, ITEM is drawn from what results/ has; with it, what is missing is trained first.

items  {items}
verbs
{verbs}

`repro VERB --help` and `repro ITEM --help` tell the options.
Exit status: 0 well; 1 a run failed; 2 wrong usage or data; 130 interrupted, and resumable.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("\nrepro: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `repro status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _is_users(error):
            raise
        print(f"repro: {error}", file=sys.stderr)
        return 2


def _is_users(error: Exception) -> bool:
    """Whether the error is one that a user can cause and its one line explains."""
    from repro.launch.cluster import ClusterError
    from repro.launch.queue import QueueError
    from repro.launch.testbed import TestbedError
    from repro.options import UsageError
    from repro.results import ResultsError
    from repro.spec import SpecError

    ours = UsageError | ResultsError | SpecError | ClusterError | QueueError | TestbedError
    return isinstance(error, ours)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] in VERBS:
        return VERBS[words[0]](words[1:])
    from repro.reproduce import reproduce

    return reproduce(words)


def _usage() -> str:
    verbs = "\n".join(
        f"  {name:8} {(verb.__doc__ or '').splitlines()[0]}" for name, verb in VERBS.items()
    )
    items = ", ".join(experiments.names())
    return USAGE.format(version=__version__, items=items, verbs=verbs)
