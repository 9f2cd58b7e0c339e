"""Commands on a real pseudo-terminal, and the screen that they leave."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

CODES = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")


class Terminal:
    """A process in a session of its own whose three streams are a terminal, or some of them."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        stdout: int | None = None,
        folder: Path | None = None,
        **variables: str,
    ) -> None:
        """`stdout`: another file for standard output."""
        self._ours, theirs = pty.openpty()
        self.resize(columns, lines)
        dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        environment = {name: text for name, text in os.environ.items() if name not in dropped}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            cwd=folder,
            env=environment | {"TERM": "xterm"} | variables,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_until(self, done: Callable[[str], object]) -> str:
        """Read until the whole output satisfies `done`, or ends; the output."""
        data = self.seen.encode(errors="surrogateescape")
        while not done(self.seen):
            try:
                data += os.read(self._ours, 65536)
            except OSError:  # no process has the terminal open any more
                break
            self.seen = data.decode(errors="surrogateescape")
        return self.seen

    def finish(self) -> str:
        """The whole output, once the process has ended."""
        self.read_until(lambda _: False)
        self.process.wait(timeout=300)
        os.close(self._ours)
        return self.seen


def output_of(code: str, **options: object) -> str:
    """What a Python program writes to a terminal."""
    terminal = Terminal([sys.executable, "-c", code], **options)  # type: ignore[arg-type]
    output = terminal.finish()
    assert terminal.process.returncode == 0, output
    return output


def screen(output: str, columns: int = 80) -> list[str]:
    """The lines that a terminal shows in the end, without those that were erased.

    Raises ValueError for a control sequence that is none of colours, the cursor's visibility, its
    movement upwards, and erasing.
    """
    rows, row, column = [[" "] * columns], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\s\S]", output):
        if code := CODES.fullmatch(part):
            number, letter = code.groups()
            if letter == "A":
                row = max(0, row - int(number or 1))
            elif (number, letter) == ("2", "K"):
                rows[row] = [" "] * columns
            elif letter != "m" and number not in ("?25", "?2026"):
                raise ValueError(f"unexpected control sequence {part!r}")
        elif part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
        elif not part.isprintable():
            raise ValueError(f"unexpected control character {part!r}")
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(rows) <= row:
                rows.append([" "] * columns)
            rows[row][column] = part
            column += 1
        while len(rows) <= row:
            rows.append([" "] * columns)
    lines = ["".join(cells).rstrip() for cells in rows]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def is_usable(output: str) -> bool:
    """Whether the cursor is shown in the end, and the colours are the usual ones."""
    hidden, shown = output.rfind("\x1b[?25l"), output.rfind("\x1b[?25h")
    colours = re.findall(r"\x1b\[([\d;]*)m", output)
    return shown >= hidden and (not colours or colours[-1] in ("", "0"))
