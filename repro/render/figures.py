"""Figures: pure functions from a tidy frame to SVG, byte for byte reproducible."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.core.cells import HOLE, LOST, reason
from repro.core.columns import scaled_columns
from repro.core.measures import measure
from repro.render import page, plots, scatter
from repro.render.notes import data_note, scale_note
from repro.render.page import NOTE_CHARACTERS, TITLE_CHARACTERS, TITLE_FONT, WIDTH, wrap
from repro.render.text import axis_label, heading, panels
from repro.spec import Experiment, Scale

_LABEL_WIDTH = 36  # characters of a y-axis label


def svg(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """The experiment's figure."""
    with page.style_context():
        return page.svg(_draw(experiment, frame, scale), heading(experiment, scale))


def pdf(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> bytes:
    """The same for LaTeX."""
    with page.style_context():
        return page.pdf(_draw(experiment, frame, scale), heading(experiment, scale))


def png(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> bytes:
    """The same as PNG, for viewers without SVG."""
    with page.style_context():
        return page.png(_draw(experiment, frame, scale), heading(experiment, scale))


def _draw(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> Figure:
    """One plot per panel, stacked, with a common title, legend and note."""
    if scale != "paper":  # other data: the paper's numbers are not comparable
        own = scaled_columns(experiment, scale)
        columns = frame["column"].map(lambda name: own.get(name, name))
        frame = frame.assign(paper=None, column=columns)
    names = panels(frame, scale)
    title = wrap(heading(experiment, scale), TITLE_CHARACTERS)
    figure = Figure(figsize=(WIDTH, 1.3 + 2.6 * len(names)), layout="constrained")
    draw = {"lines": plots.lines, "bars": plots.bars, "scatter": scatter.scatter}[experiment.plot]
    handles: dict[str, Any] = {}
    for axes, (panel, name) in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0],
                                   names.items(), strict=True):  # fmt: skip
        cells = frame[frame["panel"] == panel]
        axes.set_title(name)
        label = experiment.y_label or _capital(measure(cells["metric"].iloc[0]).name)
        axes.set_ylabel(wrap(label, _LABEL_WIDTH))
        axes.set_xlabel(axis_label(experiment, scale) if name == list(names.values())[-1] else "")
        handles |= draw(axes, cells)
    handles |= _marks(frame, experiment.plot)
    if handles:  # the title belongs to the legend, otherwise they overlap
        legend = figure.legend(
            list(handles.values()), list(handles), loc="outside upper left", title=title,
            ncols=4 if len(handles) < 9 else 3, alignment="left", borderaxespad=0.2,
            title_fontproperties=TITLE_FONT,
        )  # fmt: skip
        legend.get_title().set_multialignment("left")
    else:
        figure.suptitle(title, x=0.01, ha="left", fontproperties=TITLE_FONT)
    note = wrap(_note(experiment, frame, scale), NOTE_CHARACTERS)
    figure.supxlabel(note, x=0.01, ha="left", fontsize=plots.SMALL, color=plots.DARK)
    if experiment.plot == "scatter":
        figure.draw_without_rendering()  # computes the layout
        for axes in figure.axes:
            scatter.place_labels(axes)
    return figure


def _marks(frame: pd.DataFrame, plot: str) -> dict[str, Line2D]:
    """Legend entries of hollow points and crosses, if there are any."""
    handles = {}
    if frame["paper"].notna().any():
        handles["the paper"] = Line2D(
            [],
            [],
            color=plots.DARK,
            linestyle="--" if plot == "lines" else "",
            marker="o",
            **plots.HOLLOW,
        )
    if plot == "lines":
        missing = frame[frame["n"] == 0].to_dict("records")
        for why in dict.fromkeys(map(reason, missing)):
            handles[why] = Line2D([], [], color=plots.DARK, linestyle="", **plots.CROSSES[why])
    return handles


def _note(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """How to read the figure, and its missing runs."""
    texts = [_seeds(frame)]
    counts = {state: int(frame[state].sum()) for state in ("n", *LOST)}
    texts += [
        f"{_capital(state)} and left out: {counts[state]} of {sum(counts.values())} runs."
        for state in LOST
        if counts[state]
    ]
    if experiment.plot == "scatter":
        for why, rows in scatter.missing_rows(frame).items():
            names = "; ".join(rows).replace(", ", ",\N{NO-BREAK SPACE}")
            texts.append(f"{_capital(why)}: {names}.")
    if scale != "paper":
        shown = " ".join(panels(frame, scale).values())
        texts += [data_note(experiment, scale, shown), scale_note(experiment, frame, scale)]
    return " ".join(text for text in texts if text)


def _seeds(frame: pd.DataFrame) -> str:
    """'Mean and standard deviation over 3 seeds.'"""
    counts = sorted(set(frame["n"][frame["is_stochastic"] & (frame["n"] > 0)]))
    if not counts:
        return "" if frame[["n", *LOST]].any(axis=None) else f"{_capital(HOLE)} yet."
    if counts == [1]:
        return "One seed each."
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"Mean and standard deviation over {number} seeds."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
