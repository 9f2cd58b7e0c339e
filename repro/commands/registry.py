"""All commands by name, and `repro completion`, which needs them all."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from repro import paper
from repro.commands import (
    bench,
    claims,
    comparing,
    curves,
    evidence,
    items,
    machine,
    models,
    parsing,
    report,
    reproduce,
    runs,
    sharing,
)
from repro.commands.launching import purpose_of
from repro.commands.names import NAMES
from repro.commands.parsing import Command, argument
from repro.commands.selection import item_names
from repro.commands.usage import UsageError
from repro.paper import PaperError

Shell = Literal["bash", "zsh", "tcsh"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """a script that completes commands, items and options: eval "$(repro completion bash)"

    The completion script of a shell. Print it into the shell's folder of completions, or evaluate
    it in the shell's start-up file: eval "$(repro completion bash)".
    """

    shell: Shell = argument("which shell", choices=("bash", "zsh", "tcsh"))

    def execute(self) -> int:
        if not find_spec("shtab"):
            raise UsageError("completion needs the package shtab: pip install shtab")
        shorts = dict.fromkeys(paper.current().names(), reproduce.Reproduce)
        parser = parsing.build({**COMMANDS, **shorts}, paper.current().names())
        print(parser.get_completion_script(f"shtab-{self.shell}"))
        return 0


_CLASSES: tuple[type[Command], ...] = (
    reproduce.Reproduce, items.List, items.Plan, evidence.Why, claims.Claims, evidence.Verify,
    report.WriteReport, curves.Curves,
    comparing.Compare, comparing.Rerun, evidence.Outdated, evidence.Accept,
    runs.Status, runs.Logs, runs.Failures, runs.Cancel, runs.Retry, sharing.Export, sharing.Import,
    models.Sample, models.Explain, machine.Prepare, machine.Doctor, machine.Testbed, machine.Clean,
    bench.Bench, Completion,
)  # fmt: skip

COMMANDS: dict[str, type[Command]] = dict(zip(NAMES, _CLASSES, strict=True))
SWITCHES = parsing.switches(COMMANDS.values())
_PAIRS = parsing.pairs(COMMANDS.values())


def parse(argv: list[str]) -> Command:
    """The command of a command line; one that begins with an item means `reproduce`.

    Raises UsageError, in one line, if the command line is invalid.
    """
    if clashes := [name for name in paper.current().names() if name in COMMANDS]:
        raise PaperError(f"the item {clashes[0]!r} has the name of a command; rename it")
    words = parsing.split(argv, SWITCHES, _PAIRS)
    first, *others = words.others or ("",)
    if first in COMMANDS:
        rest = parsing.Words(tuple(others), words.options, words.tail)
        return parsing.parse(first, COMMANDS[first], rest, elsewhere=purpose_of)
    item_names(words.others)  # a mistyped command is more likely than a mistyped option
    title = first or "ITEM..."
    return parsing.parse("reproduce", reproduce.Reproduce, words, title, purpose_of)
