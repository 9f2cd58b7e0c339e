"""`repro ITEM...`: train missing runs, with --launch, then render the items."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from repro.commands import launching
from repro.commands.launching import LaunchOptions, Where
from repro.commands.parsing import option
from repro.commands.selection import (
    item_names,
    seeds_to_show,
    seeds_to_train,
    selected_experiments,
)
from repro.commands.shared import WithRows
from repro.commands.usage import UsageError
from repro.commands.values import output_folder
from repro.core import output, terminal
from repro.spec import Experiment


@dataclass(frozen=True, kw_only=True)
class Reproduce(WithRows, LaunchOptions):
    """the same as `repro ITEM...`

    Render items of the paper; with --launch, train missing runs first.
    """

    launch: Where = option("where to train missing runs; none: only render (the default)",
                           default="none", choices=("none", "local", "slurm"))  # fmt: skip
    out: Path | None = option("where tables/ and figures/ are written (default: here)",
                              read=output_folder, metavar="DIR")  # fmt: skip

    def execute(self) -> int:
        from repro.core import plan

        items = item_names(self.items, "reproduce")
        settings = self.resolve(self.launch)
        experiments = selected_experiments(items, self.scale, self.only, self.images)
        status = 0
        if settings.where != "none":
            request = plan.request(experiments, [self.scale], seeds_to_train(self.seeds), self.only)
            outcome = launching.launch(request, self.results, settings)
            if not outcome.is_over:
                return outcome.status
            status = outcome.status
        if not _may_render(self):
            return status
        seeds = seeds_to_show(self.seeds, self.results)
        for experiment in experiments:
            _render(experiment, self, seeds(experiment, self.scale))
        return status


# --- rendering -----------------------------------------------------------------------------------


def _may_render(args: Reproduce) -> bool:
    """Whether to render: a folder without any result must not overwrite the tables here."""
    if args.out or any(args.results.glob("*/result.json")):
        return True
    why = f"there is no result in {args.results}, so the tables would be empty"
    if args.launch == "none":
        raise UsageError(
            f"{why}; train with --launch local, choose --results DIR, or render into --out DIR"
        )
    print(f"{why}; nothing is drawn")
    return False


def _render(experiment: Experiment, args: Reproduce, seeds: int) -> None:
    """Render one item into tables/ and figures/, and print its table."""
    from repro.render import tables
    from repro.render.item import render

    rendering = render(experiment, args.scale, args.results, seeds)
    for warning in rendering.warnings:
        output.warn(warning)
    files = {(args.out or Path()) / path: content for path, content in rendering.files.items()}
    for path, content in files.items() if not args.dry_run else ():
        _write(path, content)
    if terminal.is_terminal(sys.stdout):
        terminal.show(*tables.parts(experiment, rendering.frame, args.scale), "")
    else:
        print(rendering.table)
    if args.dry_run:
        print("would write " + " ".join(map(str, files)))
    else:
        print(*files, sep="\n")


def _write(path: Path, content: str | bytes) -> None:
    from repro.results import write

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot write to {path.parent}: {error.strerror}"
        raise UsageError(f"{problem}; choose --out DIR") from error
    write(path, content)
