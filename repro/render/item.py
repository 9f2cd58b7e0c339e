"""Rendering an item: its table in every format, and its figure if it has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repro.render import latex, tables
from repro.render.frame import tidy
from repro.render.paths import file_of
from repro.spec import Experiment, Scale

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rendered:
    """A rendered item."""

    table: str  # Markdown
    frame: pd.DataFrame  # what it shows
    files: Mapping[Path, str | bytes]  # contents by path, relative to the output folder
    warnings: tuple[str, ...]  # about unusable results


def render(
    experiment: Experiment, scale: Scale, root: Path, seeds: int, *, pdf: bool = True
) -> Rendered:
    """Render an item from the results under `root`; writes nothing.

    Args:
        seeds: the number of seeds of each run, from 0 on.
        pdf: whether a figure is rendered as PDF as well.
    """
    frame, warnings = tidy(experiment, scale, root, seeds)
    table = tables.markdown(experiment, frame, scale)
    contents: dict[tuple[str, str], str | bytes] = {
        ("tables", "md"): table,
        ("tables", "tex"): latex.latex(experiment, frame, scale),
        ("tables", "csv"): tables.csv(frame),
    }
    for ending in ("svg", "pdf") if pdf else ("svg",):
        if figure := render_figure(experiment, frame, scale, root, ending):
            contents["figures", ending] = figure
    files = {
        file_of(folder, experiment.name, scale, ending): content
        for (folder, ending), content in contents.items()
    }
    return Rendered(table, frame, files, tuple(warnings))


def render_figure(
    experiment: Experiment,
    frame: pd.DataFrame,
    scale: Scale,
    root: Path,
    ending: Literal["svg", "pdf"] = "svg",
) -> str | bytes:
    """The figure of an item as SVG or PDF; '' if it has none."""
    if experiment.plot in ("trees", "maps"):
        from repro.render import pictures

        return (pictures.svg if ending == "svg" else pictures.pdf)(experiment, scale, root)
    if experiment.plot:
        from repro.render import figures  # imports matplotlib, which is slow

        return (figures.svg if ending == "svg" else figures.pdf)(experiment, frame, scale)
    return ""
