"""Tables: pure functions from a tidy frame to Markdown and CSV; the same bytes everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from repro import output
from repro.measures import ACCURACIES, measure
from repro.render.notes import MARK, notes
from repro.render.text import (
    LOST,
    UNKNOWN,
    Key,
    Row,
    column,
    digits,
    exact,
    headers,
    heading,
    known,
    measured,
    number,
    printed,
    rounded,
)
from repro.spec import Experiment, Scale

NO_CELL = "–"  # the row has no such column
DIFFERENCE = "Δ"

Text = Callable[[str], str]
Show = Callable[[Row], str]  # a cell as the text of a column


def csv(frame: pd.DataFrame) -> str:
    """The tidy frame, numbers to four decimals, a hole as an empty field.

    But for `computed`, and for the damaged and stale runs where there are none.
    """
    values = [" ".join(map(_four_decimals, seeds)) for seeds in frame["values"]]
    references = frame["references"].map(" ".join)
    unsaid = ["computed", *(state for state in LOST[1:] if not frame[state].any())]
    written = frame.assign(values=values, references=references).drop(columns=unsaid)
    return str(written.to_csv(index=False, float_format=_four_decimals, lineterminator="\n"))


def markdown(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """Markdown that is legible unrendered too: padded cells; the best of a column in bold."""
    shown = Style(output.markdown, output.markdown, "**{}**".format)
    columns, body = grid(experiment, frame, scale, shown)
    titles = [*headings(experiment), *(c.title for c in columns)]
    header = [output.markdown(title) for title in titles]
    widths = [max(map(len, texts)) for texts in zip(header, *body, strict=True)]
    named = len(headings(experiment))

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i < named else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rules = ["-" * (w + 2) if i < named else "-" * (w + 1) + ":" for i, w in enumerate(widths)]
    table = [line(header), f"|{'|'.join(rules)}|", *map(line, body)]
    blocks = [f"# {output.markdown(heading(experiment, scale))}", "\n".join(table)]
    for text, items in notes(experiment, frame, scale):
        listed = "\n".join(f"- {output.markdown(item)}" for item in items)
        blocks += [output.markdown(text), *([listed] if items else [])]
    return "\n\n".join(blocks) + "\n"


# --- the grid ------------------------------------------------------------------------------------


class Style(NamedTuple):
    """How the name of a row, a cell, and a cell that is the best of its column become text."""

    name: Text
    cell: Text
    best: Text


@dataclass(frozen=True)
class Column:
    """A column of numbers: the name of what is measured, whose numbers these are, and each one."""

    name: str
    source: str  # 'paper', 'here', 'Δ' or who published them
    show: Show

    @property
    def title(self) -> str:
        """'C10, here'; of a difference, which stands behind its terms, 'Δ'."""
        return self.source if self.source == DIFFERENCE else f"{self.name}, {self.source}"


def headings(experiment: Experiment) -> tuple[str, ...]:
    """Of the columns that say what a row is: its group, where there are groups, and its name."""
    return experiment.headings[0 if experiment.headings[0] else 1 :]


def grid(
    experiment: Experiment, frame: pd.DataFrame, scale: Scale, style: Style
) -> tuple[list[Column], list[list[str]]]:
    """One to four columns a measured one, and the rows as text: what names them, then the numbers.

    A group is named in its first row.
    """
    named = len(headings(experiment))
    columns = [
        (key, shown)
        for key, names in headers(experiment, frame, scale).items()
        for shown in _columns(column(frame, key), names, scale, style)
    ]
    rows = []
    group_before = ""
    for (group, row), cells in frame.groupby(["group", "row"], sort=False):
        at: dict[Key, Row] = {(c["panel"], c["column"]): c for c in cells.to_dict("records")}
        mark = MARK if scale == "paper" and (cells["choices"] != "").any() else ""
        names = ["" if group == group_before else str(group), f"{row}{mark}"][-named:]
        numbers = [c.show(at[key]) if key in at else style.cell(NO_CELL) for key, c in columns]
        rows.append([*map(style.name, names), *numbers])
        group_before = str(group)
    return [shown for _, shown in columns], rows


def _columns(
    cells: pd.DataFrame, names: tuple[str, str], scale: Scale, style: Style
) -> list[Column]:
    """The columns of a measured one: the paper's number, ours, Δ, those of others."""
    kind, escape = cells["metric"].iloc[0], style.cell
    best = _best(cells, kind)
    has_paper, accurate = cells["paper"].notna().any(), kind in ACCURACIES
    typed = digits(cells["paper"].dropna())

    def paper(cell: Row) -> str:
        value = known(cell, "paper")
        if value is None:
            return escape(UNKNOWN)
        text = printed(value, kind, typed)
        return escape(f"{text}{'*' if cell['paper_starred'] else ''}")

    def here(cell: Row) -> str:
        text = escape(measured(cell))  # what prints alike is a tie
        rival = cell["n"] and cell["metric"] == kind
        return style.best(text) if rival and number(cell["mean"], kind) == best else text

    columns = [Column(names[0], "paper", paper)] if has_paper else []
    columns.append(Column(names[1], "here", here))
    if scale == "paper" and has_paper and accurate:
        columns.append(Column(names[1], DIFFERENCE, lambda cell: escape(_difference(cell))))
    if scale == "paper":  # what others measured is of the models at paper scale
        for place in cells["published_place"].unique():
            published = _published(cells, place, escape)
            columns += [Column(names[0], place, published)] * bool(place)
    return columns


def _best(cells: pd.DataFrame, kind: str) -> str:
    """The best finite number of a column, as it is written; '' where there is nothing to choose."""
    rivals = cells["mean"][cells["metric"] == kind]  # beside them there may be what chance gives
    finite = [float(mean) for mean in rivals.dropna() if math.isfinite(mean)]
    order = measure(kind).best
    if not order or rivals.notna().sum() < 2 or not finite:
        return ""
    return number(min(finite) if order == "least" else max(finite), kind)


def _difference(cell: Row) -> str:
    """Of the numbers as they are known; of floats, it would be off by what these are off."""
    if known(cell, "difference") is None:
        return ""
    return rounded(exact(cell["mean"]) - exact(cell["paper"]), 2, "+z")


def _published(cells: pd.DataFrame, place: str, escape: Text) -> Show:
    """The text of a cell in the column of what was measured at that place."""
    typed = digits(cells["published"].dropna())

    def show(cell: Row) -> str:
        if cell["published_place"] != place:
            return ""
        return escape(printed(cell["published"], cell["metric"], typed))

    return show


def _four_decimals(value: Any) -> str:
    return rounded(value, 4, "z")
