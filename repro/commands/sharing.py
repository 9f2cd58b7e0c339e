"""Commands that take finished runs to another results folder and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro.commands.launching import ONLY
from repro.commands.parsing import argument, arguments, option, repeated
from repro.commands.runs import selected_runs
from repro.commands.shared import Selection, WithResults
from repro.commands.usage import UsageError
from repro.commands.values import output_path, path_of
from repro.core import output, records
from repro.spec import Run

if TYPE_CHECKING:
    from repro.core.exchange import Imported


def site_name(text: str) -> str:
    """The name of a site. UsageError for one that a table could not show as it is."""
    from repro.results import Site

    try:
        return records.check(text, Site)
    except records.Damaged:
        expected = "letters, digits, spaces and .,()+-_ (at most 80)"
        raise UsageError(f"--site: {expected}, not {text!a:.100}") from None


@dataclass(frozen=True, kw_only=True)
class Export(Selection):
    """write the finished runs of an item, or some runs, into one file for another site

    Write finished runs into one file, without weights, for `repro import` at another site. The same
    runs make the same bytes.
    """

    names: tuple[str, ...] = arguments("items, or runs by id or its prefix",
                                       metavar="ITEM|RUN")  # fmt: skip
    file: Path = argument("the file to write", read=output_path, metavar="FILE")
    only: tuple[str, ...] = repeated(ONLY, metavar="METHOD")
    site: str | None = option("who computed the runs (default: a random name)",
                       read=site_name, metavar="TEXT")  # fmt: skip

    def execute(self) -> int:
        from repro.core import exchange

        outcome = exchange.export(self.results, self._runs(), self.file, self.site or "")
        states = Counter(outcome.skipped.values())
        for run, state in outcome.skipped.items():
            if state != "missing":
                print(output.line(f"skipped {run}: {state}"))
        if states["missing"]:
            print(f"skipped {states['missing']:,} runs without a result: missing")
        print(
            output.line(
                f"exported {_amount(len(outcome.runs))} to {self.file}, {outcome.size:,} bytes"
            )
        )
        print(f"manifest sha256 {outcome.digest}")
        return 0

    def _runs(self) -> list[Run]:
        if not self.names:
            raise UsageError("export what? Name items or runs, then the file to write")
        return selected_runs(self.names, self, self.only)


@dataclass(frozen=True, kw_only=True)
class Import(WithResults):
    """import the runs of an exported file: all of them or none

    Check every run of a file that `repro export` wrote, then bring those that are not here into the
    results folder, all or none.
    """

    file: Path = argument("a file of `repro export`", read=path_of, metavar="FILE")

    def execute(self) -> int:
        from repro.core import exchange

        outcome = exchange.import_bundle(self.results, self.file)
        if outcome.new:
            print(output.line(f"imported {_amount(len(outcome.new))} from {self.file}"))
        if outcome.existing:
            print(f"{_amount(len(outcome.existing))} were here already, with the same bytes")
        print(f"manifest sha256 {outcome.digest}")
        print(*map(output.line, _site_lines(outcome)), sep="\n")
        return 0


def _site_lines(outcome: Imported) -> Iterator[str]:
    """From how many sites the cells come, and a line for each cell that comes from several."""
    counts = Counter(len(sites) for sites in outcome.cells.values())
    for number, cells in sorted(counts.items()):
        yield (
            f"{cells:,} cell{'s' * (cells != 1)} with seeds from {number} site{'s' * (number != 1)}"
        )
    for run, sites in outcome.cells.items():
        if len(sites) > 1:
            yield f"  {run} and its other seeds: {_shares(sites)}"


def _shares(sites: Mapping[str, int]) -> str:
    """'3 here, 2 from ETH'."""
    from repro.core.exchange import HERE

    return ", ".join(
        f"{seeds} here" if site == HERE else f"{seeds} from {site}"
        for site, seeds in sorted(sites.items(), key=lambda item: (item[0] != HERE, item[0]))
    )


def _amount(runs: int) -> str:
    return f"{runs:,} run{'s' * (runs != 1)}"
