"""How long the commands take that only look, in wall seconds of whole processes.

The peer is what any program does that imports timm, before it has done anything.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from tempfile import TemporaryDirectory

from repro.bench import How
from repro.bench.measure import in_turns, wall_seconds
from repro.bench.record import Comparison

COMMANDS = ("--help", "list", "plan table1", "status", "table1 --out {}",
            "table1 --scale proxy --out {}")  # fmt: skip
IMPORT = [sys.executable, "-c", "import timm"]


def measure(how: How) -> Iterator[Comparison]:
    with TemporaryDirectory() as out:
        commands = {
            f"repro {words}".removesuffix(" --out {}"): words.format(out).split()
            for words in COMMANDS
        }
        ways = {
            name: partial(_seconds, [sys.executable, "-m", "repro", *words])
            for name, words in commands.items()
        }
        taken = in_turns({**ways, "peer": partial(_seconds, IMPORT)}, how.rounds)
    for name in ways:
        yield Comparison(
            name=name,
            unit="s",
            ours=taken[name],
            peer="python -c 'import timm'",
            theirs=taken["peer"],
            per_second=1,
        )


def _seconds(command: list[str]) -> float:
    return wall_seconds(lambda: subprocess.run(command, check=True, capture_output=True))
