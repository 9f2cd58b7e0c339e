"""The command that plots and exports training curves."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from repro.commands.launching import ONLY
from repro.commands.parsing import arguments, option, pair, repeated, switch
from repro.commands.runs import items_and_runs
from repro.commands.selection import (
    absence_of,
    seeds_to_show,
    selected_experiments,
    stored_run,
)
from repro.commands.shared import WithResults, WithSeeds
from repro.commands.usage import UsageError, hint
from repro.commands.values import output_folder
from repro.core import output, terminal
from repro.spec import SCALES, Experiment, Run, Scale

if TYPE_CHECKING:
    from repro.core.curves import Curve

FORMATS = ("csv", "tensorboard", "wandb")
_MAX_ROWS, _LEAST_ROWS = 10, 4  # of a plot in the terminal


@dataclass(frozen=True)
class _Figure:
    """The curves of one figure."""

    name: str  # of its files
    title: str
    curves: Sequence[Curve]
    metrics: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Curves(WithSeeds, WithResults):
    """loss, learning rate and accuracy over epochs: curves ITEM --scale proxy, curves RUN -f

    Plot training curves of runs or of an item's trainings, finished or not, in the terminal or
    into files. Runs that differ by seed alone are one line with a band from minimum to maximum.
    """

    names: tuple[str, ...] = arguments("items, or runs by id or its prefix",
                                       metavar="ITEM|RUN")  # fmt: skip
    scale: Scale | None = option("of items (default: paper)", choices=SCALES)
    only: tuple[str, ...] = repeated(ONLY, metavar="METHOD")
    metric: tuple[str, ...] = repeated(
        "another metric of the runs, such as top5; may be repeated", metavar="NAME"
    )
    out: Path | None = option("write SVG, PDF and PNG files there", read=output_folder,
                              metavar="DIR", exclusive="output")  # fmt: skip
    follow: bool = switch("refresh until the runs end", short="-f", exclusive="output")
    export: tuple[str, str] | None = pair(
        f"write the numbers of every step into a folder, as {', '.join(FORMATS)}",
        metavar=("FORMAT", "DIR"), exclusive="output",
    )  # fmt: skip

    def execute(self) -> int:
        from repro import results

        if self.export:
            form, folder = self.export[0], output_folder(self.export[1])
            _check_format(form)
        figures = self._figures()
        if self.export:
            results.require_writable(folder, "--export")
            self._export(figures, form, folder)
        elif self.out:
            results.require_writable(self.out, "--out")
            for figure in figures:
                _write_files(figure, self.out)
        elif self.follow:
            self._follow(figures)
        else:
            print(*_lines(figures), sep="\n")
        return 0

    def _figures(self) -> list[_Figure]:
        """A figure for each item, and one for the runs. Raises UsageError if one would be empty."""
        if not self.names:
            raise UsageError("curves of what? Name an item, or a run as `repro status` does")
        if line := absence_of(self.results):
            raise UsageError(line)
        items, ids = items_and_runs(self.names, self.results)
        if not items and (self.scale or self.only or self.seeds):
            raise UsageError("--scale, --only and --seeds choose runs of an item; take them out")
        scale: Scale = self.scale or "paper"
        experiments = selected_experiments(items, scale, self.only, "original") if items else []
        figures = [self._figure_of_item(experiment, scale) for experiment in experiments]
        if ids:
            figures.append(self._figure_of_runs([stored_run(name, self.results) for name in ids]))
        self._check_metrics(figures)
        return figures

    def _figure_of_item(self, experiment: Experiment, scale: Scale) -> _Figure:
        from repro.core import curves

        seeds = seeds_to_show(self.seeds, self.results)(experiment, scale)
        item_curves = curves.of_item(self.results, experiment, scale, seeds, self.only)
        if not item_curves:
            raise UsageError(f"{experiment.name} has no training at {scale} scale, so no curve; "
                             "name another item")  # fmt: skip
        if not curves.metrics(item_curves) and not self.follow:
            number = sum(len(curve.trainings) for curve in item_curves)
            raise UsageError(
                f"{experiment.name}: none of {number:,} trainings at {scale} scale has metrics "
                f"yet; see `repro status {experiment.name}`, or name another --scale"
            )
        at_scale = "" if scale == "paper" else f", {scale} scale"
        return _Figure(
            f"curves_{experiment.name}_{scale}", f"Training curves. {experiment.place}{at_scale}",
            item_curves, self.metric or curves.main_metrics(item_curves),
        )  # fmt: skip

    def _figure_of_runs(self, runs: Sequence[Run]) -> _Figure:
        from repro.core import curves

        run_curves = curves.of_runs(self.results, sorted(runs, key=lambda run: run.id))
        for curve in run_curves:
            for training in curve.trainings:
                if not (training.lines or (self.follow and training.run.is_training)):
                    raise UsageError(_absence_of_curve(training.run))
        title = f"Training curves of {curves.common_name(runs)}"
        name = f"curves_{runs[0].id}" if len(runs) == 1 else "curves"
        return _Figure(name, title, run_curves, self.metric or curves.main_metrics(run_curves))

    def _check_metrics(self, figures: Sequence[_Figure]) -> None:
        """Raise UsageError for a metric that a figure has no value of."""
        from repro.core import curves

        for figure in figures:
            metrics = curves.metrics(figure.curves)
            for name in self.metric if metrics else ():
                if name not in metrics:
                    raise UsageError(f"no metric {name!r} in these runs; {hint(name, metrics)}")

    def _export(self, figures: Sequence[_Figure], form: str, folder: Path) -> None:
        from repro.core import curve_export, curves

        every = {t.run: c for figure in figures for c in figure.curves for t in c.trainings}
        unique = list({id(curve): curve for curve in every.values()}.values())
        metrics = self.metric or curves.metrics(unique)
        number = curve_export.export(unique, metrics, form, folder)
        print(output.line(f"exported {number:,} run{'s' * (number != 1)} to {folder}"))

    def _follow(self, figures: Sequence[_Figure]) -> None:
        """Print the plots whenever they have changed, until no run is running or queued."""
        from repro.launch import state
        from repro.launch.slurm import watch

        with ExitStack() as stack:
            block = None
            if terminal.is_terminal(sys.stdout):
                block = stack.enter_context(terminal.Block(sys.stdout, keep=True))
            last = list[str]()
            while True:
                runs = [t.run for f in figures for c in f.curves for t in c.trainings]
                states = state.query(self.results, runs)
                figures = self._figures()  # what was written before they ended
                if (lines := _lines(figures, is_screen=block is not None)) != last:
                    (block.draw if block else terminal.show)(*lines)
                    last = lines
                if not any(run_state.is_under_way for run_state in states):
                    return
                time.sleep(watch.REFRESH_SECONDS)


def _check_format(form: str) -> None:
    from repro.core.curve_export import PACKAGES

    if form not in FORMATS:
        raise UsageError(f"--export: {', '.join(FORMATS)}, not {form!a:.80}")
    if not find_spec(PACKAGES[form]):
        package = PACKAGES[form]
        raise UsageError(f"--export {form} needs the package {package}: pip install {package}")


def _absence_of_curve(run: Run) -> str:
    """Why a run has no curve, and the next step."""
    from repro.core.curves import training_of

    if run.is_training:
        return f"{run.id} has no metrics yet; see `repro status`, or wait with --follow"
    training = training_of(run)
    step = f"name its training, {training.id}" if training else "name a training"
    return f"{run.id} is not a training, so it has no curve; {step}"


def _write_files(figure: _Figure, folder: Path) -> None:
    """Write the figure as SVG, PDF and PNG, and print the paths."""
    from repro import results
    from repro.render import curves, page

    plot = curves.draw(figure.curves, figure.metrics, figure.title)
    contents: dict[str, str | bytes] = {
        "svg": page.svg(plot, figure.title),
        "pdf": page.pdf(plot, figure.title),
        "png": page.png(plot, figure.title),
    }
    for ending, content in contents.items():
        path = folder / f"{figure.name}.{ending}"
        results.write(path, content)
        print(output.line(str(path)))


def _lines(figures: Sequence[_Figure], *, is_screen: bool = False) -> list[str]:
    """The figures as text, as wide as the terminal, and of its height if they are a screen."""
    from repro.render import curves_text

    size = shutil.get_terminal_size()
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    lines = list[str]()
    for figure in figures:
        keys = sum(any(t.lines for t in curve.trainings) for curve in figure.curves)
        rows = size.lines // max(1, len(figure.metrics)) - keys - 4 if is_screen else _MAX_ROWS
        lines += [*([""] if lines else []), *curves_text.draw(
            figure.curves, figure.metrics, figure.title, width=size.columns,
            height=max(_LEAST_ROWS, min(_MAX_ROWS, rows)), unicode=unicode,
        )]  # fmt: skip
    return lines
