"""Tables, lines and live blocks: drawn by rich on a terminal, plain text elsewhere.

rich is imported on a terminal alone, as its import takes as long as a short command. Text comes
from files that anybody may have written: it is escaped here, and never read as markup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from repro.core import output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

_DUMB = ("dumb", "unknown")  # values of TERM: no cursor movements


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

    def drawn(self) -> RenderableType:
        """The table of rich. A cell that is too wide is wrapped, never cut off."""
        from rich import box, padding, table

        drawn = table.Table(
            box=box.SIMPLE_HEAD if any(self.headings) else None,
            show_header=any(self.headings), show_edge=False, pad_edge=False,
        )  # fmt: skip
        for place, heading in enumerate(self.headings):
            right = place in self.numbers
            drawn.add_column(text(heading), justify="right" if right else "left", overflow="fold")
        for number, row in enumerate(self.rows):
            drawn.add_row(*(
                text(cell, "bold" if (number, place) in self.bold else "")
                for place, cell in enumerate(row)
            ))  # fmt: skip
        return padding.Padding(drawn, (0, 0, 0, self.indent), expand=False)


Part = Table | str  # a string is a line of text


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
    if isinstance(part, str):
        console.print(text(part), soft_wrap=True)  # a long line stays one line when it is copied
    else:
        console.print(part.drawn())


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

        group = Group(*map(_drawn, parts))
        if self._live:
            self._live.update(group, refresh=True)
        else:
            self._live = self._start(group)

    def _start(self, group: RenderableType) -> Live:
        from rich.live import Live

        live = Live(
            group, console=self._console, auto_refresh=False, transient=not self._keep,
            redirect_stdout=is_terminal(sys.stdout), redirect_stderr=is_terminal(sys.stderr),
        )  # fmt: skip
        live.start(refresh=True)
        self._console.show_cursor(True)  # rich hides it: a killed process would leave it hidden
        return live


def _drawn(part: Part | RenderableType) -> RenderableType:
    if isinstance(part, str):
        return text(part)
    return part.drawn() if isinstance(part, Table) else part
