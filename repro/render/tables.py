"""Tables: pure functions from a tidy frame to Markdown and CSV, byte for byte reproducible."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from repro.core import output
from repro.core.cells import HOLE, Row, value_of
from repro.core.measures import ACCURACIES, measure
from repro.core.numbers import exact, number, rounded
from repro.core.terminal import Part, Prose, Table
from repro.render.frame import MeasuredRun
from repro.render.notes import MARK, notes
from repro.render.text import (
    UNKNOWN,
    Key,
    column,
    digits,
    format_measured,
    format_printed,
    headers,
    heading,
)
from repro.spec import Experiment, Scale

NO_CELL = "–"  # the row has no such column
DIFFERENCE = "Δ"

Text = Callable[[str], str]
Show = Callable[[Row], str]  # a cell as the text of a column


def csv(frame: pd.DataFrame) -> str:
    """One row for each cell and seed, with the run that measured it.

    Numbers have four decimals; a missing one is an empty field. A cell without a result has one
    row, with the run that would measure it. `sha256`: see `results.evidence_digest`.
    """
    rows = [row for cell in frame.to_dict("records") for row in _seeds_of(cell)]
    written = pd.DataFrame(rows, columns=[*_OF_CELL, *_OF_SEED])
    return str(written.to_csv(index=False, float_format=_four_decimals, lineterminator="\n"))


_OF_CELL = ("group", "row", "panel", "column", "dataset", "metric", "paper", "paper_starred",
            "published", "published_place", "choices")  # fmt: skip
# The notes say which sites there are.
_OF_SEED = tuple(f.name for f in dataclasses.fields(MeasuredRun) if f.name != "site")


def _seeds_of(cell: Row) -> Iterator[dict[str, Any]]:
    """The rows of a cell, by column."""
    about = {name: cell[name] for name in _OF_CELL}
    for run in cell["runs"]:
        yield about | dataclasses.asdict(run)
    if not cell["runs"]:
        expected = cell["evidence"]
        yield about | ({"run": expected.run.id, "status": HOLE} if expected else {})


def markdown(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> str:
    """Markdown, with cells padded to be legible as source; the best of a column in bold, except
    at smoke scale, where numbers say only that it runs."""
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


_BEST = "\0"  # before the best cell of a column; no text on a terminal has it


def parts(experiment: Experiment, frame: pd.DataFrame, scale: Scale) -> Iterator[Part]:
    """The same for a terminal: the heading, the table with the best in bold, and the notes."""
    columns, body = grid(experiment, frame, scale, Style(str, str, _BEST.__add__))
    names = headings(experiment)
    yield Prose(heading(experiment, scale))
    yield ""
    yield Table(
        headings=[*names, *(c.title for c in columns)],
        rows=[[cell.removeprefix(_BEST) for cell in row] for row in body],
        numbers=range(len(names), len(names) + len(columns)),
        bold={
            (row, place)
            for row, cells in enumerate(body)
            for place, cell in enumerate(cells)
            if cell.startswith(_BEST)
        },
    )
    for text, items in notes(experiment, frame, scale):
        yield ""
        yield Prose(text)
        yield from (Prose(f"- {item}", 2) for item in items)


# --- the grid ------------------------------------------------------------------------------------


class Style(NamedTuple):
    """Formatting of row names, of cells, and of the best cell of a column."""

    name: Text
    cell: Text
    best: Text


@dataclass(frozen=True)
class Column:
    """A column of numbers: the measured quantity, the source of the numbers, and their format."""

    name: str
    source: str  # 'paper', 'here', 'Δ' or the publication
    show: Show

    @property
    def title(self) -> str:
        """'C10, here'; 'Δ' for a difference, which follows its terms."""
        return self.source if self.source == DIFFERENCE else f"{self.name}, {self.source}"


def headings(experiment: Experiment) -> tuple[str, ...]:
    """Headings of the columns that identify a row: its group, if there are groups, and its name."""
    return experiment.headings[0 if experiment.headings[0] else 1 :]


@dataclass(frozen=True)
class TableRow:
    """A row: its group, its name with its mark, and the cell under each column, if it has one."""

    group: str
    name: str
    cells: Sequence[Row | None]


def grid(
    experiment: Experiment, frame: pd.DataFrame, scale: Scale, style: Style
) -> tuple[list[Column], list[list[str]]]:
    """One to four columns per measured one, and the rows as text: names, then numbers.

    A group is named in its first row only.
    """
    named = len(headings(experiment))
    columns, body = layout(experiment, frame, scale, style)
    rows = []
    group_before = ""
    for row in body:
        names = ["" if row.group == group_before else row.group, row.name][-named:]
        shown = zip(columns, row.cells, strict=True)
        numbers = [c.show(cell) if cell else style.cell(NO_CELL) for c, cell in shown]
        rows.append([*map(style.name, names), *numbers])
        group_before = row.group
    return columns, rows


def layout(
    experiment: Experiment, frame: pd.DataFrame, scale: Scale, style: Style
) -> tuple[list[Column], list[TableRow]]:
    """The columns and rows of a table, with the cells of the frame that they show."""
    absent = UNKNOWN if experiment.has_gaps else NO_CELL  # in place of a number of the paper's
    best = _best_of(frame, ["panel", "column"] if experiment.best == "column" else ["group", "row"])
    columns = [
        (key, shown)
        for key, names in headers(experiment, frame, scale).items()
        for shown in _columns(column(frame, key), names, scale, style, best, absent)
    ]
    rows = []
    for (group, row), at in _by_row(frame).items():
        mark = MARK if scale == "paper" and any(cell["choices"] for cell in at.values()) else ""
        cells = [at.get(key) for key, _ in columns]
        rows.append(TableRow(str(group), f"{row}{mark}", cells))
    return [shown for _, shown in columns], rows


def _by_row(frame: pd.DataFrame) -> dict[tuple[str, str], dict[Key, Row]]:
    """The cells by their group and row, then by their column."""
    rows = dict[tuple[str, str], dict[Key, Row]]()
    for cell in frame.to_dict("records"):
        rows.setdefault((cell["group"], cell["row"]), {})[cell["panel"], cell["column"]] = cell
    return rows


def _columns(
    cells: pd.DataFrame,
    names: tuple[str, str],
    scale: Scale,
    style: Style,
    best: Callable[[Row], str],
    absent: str,
) -> list[Column]:
    """The columns of one measured column: the paper's number or `absent`, ours, Δ, published."""
    kind, escape = cells["metric"].iloc[0], style.cell
    has_paper, accurate = cells["paper"].notna().any(), kind in ACCURACIES
    typed = digits(cells["paper"].dropna())

    def paper(cell: Row) -> str:
        value = value_of(cell, "paper")
        if value is None:
            return escape(NO_CELL if cell["control"] else absent)
        text = format_printed(value, kind, typed)
        return escape(f"{text}{'*' if cell['paper_starred'] else ''}")

    def here(cell: Row) -> str:
        text = escape(format_measured(cell))  # equal text is a tie
        rival = scale != "smoke" and cell["n"] and cell["metric"] == kind
        return style.best(text) if rival and number(cell["mean"], kind) == best(cell) else text

    columns = [Column(names[0], "paper", paper)] if has_paper else []
    columns.append(Column(names[1], "here", here))
    if scale == "paper" and has_paper and accurate:
        columns.append(Column(names[1], DIFFERENCE, lambda cell: escape(_difference(cell))))
    if scale == "paper":  # published numbers belong to models at paper scale
        for place in cells["published_place"].unique():
            published = _published(cells, place, escape)
            columns += [Column(names[0], place, published)] * bool(place)
    return columns


def _best_of(frame: pd.DataFrame, by: list[str]) -> Callable[[Row], str]:
    """Cell -> the best number, as text, among the cells it is compared with."""
    best = {
        key: _best(cells, cells["metric"].iloc[0]) for key, cells in frame.groupby(by, sort=False)
    }
    return lambda cell: best[tuple(cell[name] for name in by)]


def _best(cells: pd.DataFrame, kind: str) -> str:
    """The best finite number of a column, as text; '' if there is no choice."""
    rivals = cells["mean"][cells["metric"] == kind]  # without other metrics, such as chance
    finite = [float(mean) for mean in rivals.dropna() if math.isfinite(mean)]
    order = measure(kind).best
    if not order or rivals.notna().sum() < 2 or not finite:
        return ""
    return number(min(finite) if order == "least" else max(finite), kind)


def _difference(cell: Row) -> str:
    """The difference of the exact decimals, free of floating-point error."""
    if value_of(cell, "difference") is None:
        return ""
    return rounded(exact(cell["mean"]) - exact(cell["paper"]), 2, "+z")


def _published(cells: pd.DataFrame, place: str, escape: Text) -> Show:
    """The text of cells in the column of numbers published at `place`."""
    typed = digits(cells["published"].dropna())

    def show(cell: Row) -> str:
        if cell["published_place"] != place:
            return ""
        return escape(format_printed(cell["published"], cell["metric"], typed))

    return show


def _four_decimals(value: Any) -> str:
    return rounded(value, 4, "z")
