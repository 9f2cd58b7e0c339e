"""Tables, lines and live blocks: drawn by rich on a terminal, plain text elsewhere.

rich is imported on a terminal alone, as its import takes as long as a short command. Text comes
from files that anybody may have written: it is escaped here, and never read as markup.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TextIO

from repro.core import output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

_DUMB = ("dumb", "unknown")  # values of TERM: no cursor movements
_INTERVAL = re.compile(r" (?=\[)")  # before it a number may be broken
_GAP = 2  # characters between columns
_PROSE_COLUMNS = 100  # longer lines are hard to read


def is_terminal(stream: TextIO) -> bool:
    """Whether rich draws on the stream: a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in _DUMB


@dataclass(frozen=True)
class Table:
    """Rows of text below headings, without line breaks; '' for a cell without text."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int] = ()  # the columns that are aligned to the right
    bold: Collection[tuple[int, int]] = ()  # cells by row and column; on a terminal alone
    indent: int = 0

    def lines(self) -> list[str]:
        """Aligned plain text, a line for each row, of any width."""
        cells = [[output.line(cell) for cell in row] for row in self._all_rows()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [self._line(row, widths) for row in cells]

    def _all_rows(self) -> list[Sequence[str]]:
        return [self.headings, *self.rows] if any(self.headings) else [*self.rows]

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        aligned = (
            cell.rjust(width) if place in self.numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return (" " * self.indent + "  ".join(aligned)).rstrip()

    def drawn(self, width: int) -> RenderableType | None:
        """What rich draws: a wide table in parts that fit, below each other, and nothing cut off.

        Each part has all names and some of the numbers. None if one number does not fit beside the
        names.
        """
        from rich.console import Group

        drawn: list[RenderableType] = []
        for part in self._parts(width):
            if (widths := part._widths(width)) is None:
                return None
            drawn += [*([text("")] if drawn else []), part._drawn(widths)]
        return Group(*drawn)

    def _parts(self, width: int) -> Iterator[Table]:
        """Tables with fewer numbers, as far as the width requires it."""
        numbers = sorted(self.numbers)
        if len(numbers) < 2 or self._widths(width):
            yield self
            return
        middle = len(numbers) // 2
        for dropped in (numbers[middle:], numbers[:middle]):
            kept = [place for place in range(len(self.headings)) if place not in dropped]
            part = replace(
                self,
                headings=[self.headings[place] for place in kept],
                rows=[[row[place] for place in kept] for row in self.rows],
                numbers=[new for new, place in enumerate(kept) if place in self.numbers],
                bold={(row, kept.index(place)) for row, place in self.bold if place in kept},
            )
            yield from part._parts(width)

    def _drawn(self, widths: Sequence[int]) -> RenderableType:
        """The whole table, in columns of these widths."""
        from rich import box, padding, table

        has_headings = any(self.headings)  # a line of the box is a part of the gap
        drawn = table.Table(
            box=box.SIMPLE_HEAD if has_headings else None, show_header=has_headings,
            show_edge=False, pad_edge=False, padding=(0, _GAP - has_headings, 0, 0),
        )  # fmt: skip
        for place, (heading, fitting) in enumerate(zip(self.headings, widths, strict=True)):
            justify: Literal["right", "left"] = "right" if place in self.numbers else "left"
            drawn.add_column(text(heading), justify=justify, overflow="fold", width=fitting)
        for number, row in enumerate(self.rows):
            drawn.add_row(*(
                self._cell(cell, place, widths[place], is_bold=(number, place) in self.bold)
                for place, cell in enumerate(row)
            ))  # fmt: skip
        return padding.Padding(drawn, (0, 0, 0, self.indent), expand=False)

    def _cell(self, content: str, place: int, width: int, *, is_bold: bool) -> Text:
        """A cell; a number whose interval does not fit beside it has it on the next line."""
        from rich.text import Text

        style = "bold" if is_bold else ""
        if place in self.numbers and text(content).cell_len > width:
            return Text("\n").join(text(part, style) for part in _INTERVAL.split(content))
        return text(content, style)

    def _widths(self, width: int) -> list[int] | None:
        """The columns' widths, without breaks in words and numbers; None if impossible.

        Names have what they need before numbers; columns of one kind that are too narrow lack the
        same number of characters.
        """
        natural, widths = list[int](), list[int]()
        for place, heading in enumerate(self.headings):
            cells = [row[place] for row in self.rows]
            split = _INTERVAL.split if place in self.numbers else str.split
            parts = [*heading.split(), *(part for cell in cells for part in split(cell))]
            natural.append(max(text(cell).cell_len for cell in (heading, *cells)))
            widths.append(max((text(part).cell_len for part in parts), default=0))
        spare = width - self.indent - _GAP * (len(widths) - 1) - sum(widths)
        if spare < 0:
            return None
        names = [place for place in range(len(widths)) if place not in self.numbers]
        for places in (names, [*self.numbers]):
            while spare and (lacking := {natural[i] - widths[i]: i for i in places}):
                if not (most := max(lacking)):
                    break
                widths[lacking[most]] += 1
                spare -= 1
        return widths


@dataclass(frozen=True)
class Prose:
    """A paragraph, wrapped between words; its lines after the first are indented by two more."""

    content: str
    indent: int = 0

    def lines(self, width: int = _PROSE_COLUMNS) -> list[str]:
        """Its lines, of `width` characters at most unless a word is longer."""
        margin = " " * self.indent
        return textwrap.wrap(
            output.line(self.content), min(width, _PROSE_COLUMNS), initial_indent=margin,
            subsequent_indent=margin + "  ", break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip


Part = Table | Prose | str  # a string is a line of text


def lines(parts: Sequence[Part]) -> Iterator[str]:
    """The parts as plain text."""
    for part in parts:
        yield from [output.line(part)] if isinstance(part, str) else part.lines()


def show(*parts: Part) -> None:
    """Print to standard output: drawn on a terminal, else plain."""
    if not parts:
        return
    if not is_terminal(sys.stdout):
        print(*lines(parts), sep="\n", flush=True)
        return
    console = _console(sys.stdout)
    for part in parts:
        _print(console, part)


def _print(console: Console, part: Part) -> None:
    drawn = part.drawn(console.width) if isinstance(part, Table) else None
    if drawn:
        console.print(drawn)
        return
    for line in _lines(part, console.width):
        console.print(text(line), soft_wrap=True)  # a long line stays one line when it is copied


def text(content: str, style: str = "") -> Text:
    """A line of text for rich, with escaped control characters and no markup."""
    from rich.text import Text

    return Text(output.line(content), style=style)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(
        file=stream, force_terminal=True, force_jupyter=False, force_interactive=True,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip


class Block:
    """The lower end of a terminal, drawn anew at every change; printed lines stay above it.

    A context manager. At its end the block is erased, or with `keep` printed in full. Output of
    others to the same terminal stands above the block as well.
    """

    def __init__(self, stream: TextIO, *, keep: bool = False) -> None:
        self._console = _console(stream)
        self._keep = keep
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    @property
    def size(self) -> tuple[int, int]:
        """The columns and lines of the terminal, which may change."""
        return self._console.size

    def print(self, line: str) -> None:
        """Print a line above the block."""
        _print(self._console, line)

    def draw(self, *parts: Part | RenderableType) -> None:
        """Draw the block. What has no place on the terminal is left out."""
        from rich.console import Group

        group = Group(*(_drawn(part, self._console.width) for part in parts))
        if self._live:
            self._live.update(group, refresh=True)
        else:
            self._start(group)

    def _start(self, group: RenderableType) -> None:
        from rich.live import Live

        self._live = Live(
            group, console=self._console, auto_refresh=False, transient=not self._keep,
            redirect_stdout=is_terminal(sys.stdout), redirect_stderr=is_terminal(sys.stderr),
        )  # fmt: skip
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # rich hides it: a killed process would leave it hidden


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a line on the terminal's standard error while the body runs; nothing elsewhere."""
    if not is_terminal(sys.stderr):
        yield
        return
    with Block(sys.stderr) as block:
        block.draw(text)
        yield


def _drawn(part: Part | RenderableType, width: int) -> RenderableType:
    from rich.text import Text

    if isinstance(part, Table):
        return part.drawn(width) or Text("\n").join(map(text, part.lines()))
    if isinstance(part, Prose | str):
        return Text("\n").join(map(text, _lines(part, width)))
    return part


def _lines(part: Part, width: int) -> list[str]:
    """The part as lines of text, paragraphs in this width."""
    if isinstance(part, str):
        return [part]
    return part.lines(width) if isinstance(part, Prose) else part.lines()
