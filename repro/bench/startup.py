"""Wall time of the read-only commands, as whole processes.

The peer is the time that any program needs to import timm.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory

from repro.bench import BenchOptions
from repro.bench.measure import command_seconds, interleave
from repro.bench.record import Comparison

COMMANDS = ("--help", "list", "plan table1", "status", "table1 --out {}",
            "table1 --scale demo --out {}")  # fmt: skip
IMPORT = [sys.executable, "-c", "import timm"]


def measure(options: BenchOptions) -> Iterator[Comparison]:
    with TemporaryDirectory() as out:
        commands = {
            f"repro {words}".removesuffix(" --out {}"): words.format(out).split()
            for words in COMMANDS
        }
        timers = {
            name: partial(command_seconds, [sys.executable, "-m", "repro", *words])
            for name, words in commands.items()
        }
        times = interleave({**timers, "peer": partial(command_seconds, IMPORT)}, options.rounds)
    for name in timers:
        yield Comparison(
            name=name,
            unit="s",
            ours=times[name],
            peer="python -c 'import timm'",
            theirs=times["peer"],
            per_second=1,
        )
