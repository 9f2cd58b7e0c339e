"""The command that writes the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro import paper
from repro.commands.parsing import option, repeated
from repro.commands.selection import absence_of, item_names, seeds_to_show
from repro.commands.shared import WithItems, WithResults
from repro.commands.usage import UsageError
from repro.commands.values import output_folder, output_path, scales_of
from repro.core import output, terminal
from repro.spec import Scale

_DEFAULT_FILE = Path("build", "report.html")
_DEFAULT_SCALES: tuple[Scale, ...] = ("paper", "proxy", "demo")  # numbers at smoke scale say little


@dataclass(frozen=True, kw_only=True)
class WriteReport(WithItems, WithResults):
    """one page with every number and its evidence, to open, print and send: report [ITEM...]

    Write the report of all items or of some: tables and figures beside the paper's numbers, the
    evidence of every number, claims with verdicts, training curves, decisions, what is not run and
    what it would cost. It is one file that needs no network, or a folder for a web server.
    """

    scale: tuple[str, ...] = repeated(
        f"may be repeated (default: {', '.join(_DEFAULT_SCALES)})", metavar="SCALE"
    )
    out: Path | None = option(f"the file to write (default: {_DEFAULT_FILE})", read=output_path,
                              metavar="FILE", exclusive="output")  # fmt: skip
    folder: Path | None = option("write a page with its figures and tables as files instead",
                                 read=output_folder, metavar="DIR", exclusive="output")  # fmt: skip

    def execute(self) -> int:
        if line := absence_of(self.results):
            raise UsageError(line)
        names = item_names(self.items) or paper.current().names()
        scales = scales_of(self.scale) or list(_DEFAULT_SCALES)

        from repro import results
        from repro.core.scales import runs_at_scale
        from repro.launch import budget
        from repro.report import page
        from repro.report.collect import collect

        cells = [paper.current().get(name).cells for name in names]
        if not any(runs_at_scale(each, scale) for each in cells for scale in scales):
            raise UsageError(f"{', '.join(names)}: nothing at {' and '.join(scales)} scale")
        target = self.out or _DEFAULT_FILE
        if self.folder:
            results.require_writable(self.folder, "--folder")
        elif target.is_dir():
            raise UsageError(f"{target} is a folder; name a file, or use --folder")
        else:
            results.require_writable(target.parent, "--out")
        devices = {scale: budget.gpu_of(None, scale) for scale in scales}
        seeds = seeds_to_show(None, self.results)
        with terminal.waiting("reading the runs and rendering every item"):
            report = collect(
                self.results, names, scales, seeds, devices, with_csv=self.folder is not None
            )
        for warning in report.warnings:
            output.warn(warning)
        if self.folder:
            contents = page.folder(report)
            for path in contents:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            for path, content in contents.items():
                results.write(self.folder / path, content)
            print(output.line(str(self.folder / page.INDEX)))
        else:
            results.write(target, page.html(report))
            print(output.line(str(target)))
        return 0
