"""Tables and lines on real pseudo-terminals, and plain where there is none."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from repro.core import terminal
from repro.core.terminal import Prose
from tests import finished
from tests.command_line import Capture, stdout_of
from tests.launch import RUN
from tests.pseudo_terminal import CODES, Terminal, is_usable, output_of, screen
from tests.sample_table import SCALES

ROOT = Path(__file__).parents[1]
PARTS = "from tests.sample_table import SCALES; from repro.core import terminal; "


def drawn(columns: int, **variables: str) -> str:
    """What a terminal gets for the table and two paragraphs."""
    code = PARTS + (
        "terminal.show(SCALES, terminal.Prose('words ' * 20, 2), 'a line ' * 20 + '[b]\\x1b[1m')"
    )
    return output_of(code, columns=columns, folder=ROOT, **variables)


def test_a_table_on_a_terminal() -> None:
    output = drawn(80)
    assert screen(output, 80)[:4] == [
        "method                                     first  second",
        "─" * 56,
        "NesT-T, image plane  73.7 ± 2.2 (5) [71.1, 76.3]       1",
        "[red]x[/red]\\x1b[2J     0.1 ± 0.0 (5) [0.0, 0.2]  10,000",
    ]
    assert "\x1b[1m73.7" in output  # the best in bold
    assert is_usable(output)


@pytest.mark.parametrize("columns", [1, 20, 33])
def test_where_a_table_does_not_fit_its_lines_are_whole(columns: int) -> None:
    shown = "".join(screen(drawn(columns), columns)).replace(" ", "")
    plain = "".join(SCALES.lines()).replace(" ", "")
    assert shown.startswith(plain)
    assert shown.endswith("[b]\\x1b[1m")


def test_an_interval_goes_to_the_next_line() -> None:
    assert screen(drawn(46), 46)[2:4] == [
        "NesT-T, image plane     73.7 ± 2.2 (5)       1",
        "                          [71.1, 76.3]",
    ]


def test_a_wide_table_is_drawn_in_parts() -> None:
    assert screen(drawn(36), 36)[:11] == [
        "method                         first",
        "─" * 36,
        "NesT-T, image plane   73.7 ± 2.2 (5)",
        "                        [71.1, 76.3]",
        "[red]x[/red]\\x1b[2J    0.1 ± 0.0 (5)",
        "                          [0.0, 0.2]",
        "",
        "method               second",
        "─" * 27,
        "NesT-T, image plane       1",
        "[red]x[/red]\\x1b[2J  10,000",
    ]


@pytest.mark.parametrize(
    "variables", [{"TERM": "dumb"}, {"TERM": "dumb", "FORCE_COLOR": "1"}, {"TERM": "unknown"}]
)
def test_a_terminal_that_cannot_draw_gets_plain_text(variables: dict[str, str]) -> None:
    assert drawn(20, **variables).replace("\r\n", "\n").startswith("\n".join(SCALES.lines()))


@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_a_line_while_work_lasts_is_erased(kind: str) -> None:
    code = PARTS + "\nwith terminal.waiting('reading [b]'): print('a warning')\nprint('the end')"
    output = output_of(code, columns=40, folder=ROOT, TERM=kind)
    assert ("reading [b]" in output) == (kind == "xterm")
    assert screen(output, 40) == ["a warning", "the end"]
    assert is_usable(output)


def test_no_colour_but_bold() -> None:
    assert set(re.findall(r"\x1b\[([\d;]*)m", drawn(80, NO_COLOR="1"))) == {"1", "0"}


def test_plain_text_is_aligned_and_of_any_width(capsys: Capture) -> None:
    terminal.show(SCALES, Prose("word " * 30), "line " * 30)
    first, second, third, *prose, line = capsys.readouterr().out.splitlines()
    assert first == "method                                     first  second"
    assert second == "NesT-T, image plane  73.7 ± 2.2 (5) [71.1, 76.3]       1"
    assert third == "[red]x[/red]\\x1b[2J     0.1 ± 0.0 (5) [0.0, 0.2]  10,000"
    assert [len(each) for each in prose] == [99, 51]
    assert line == "line " * 30


def test_a_forced_colour_is_for_terminals_alone(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal.show(SCALES)
    assert "\x1b" not in capsys.readouterr().out


# --- commands ------------------------------------------------------------------------------------


def repro(words: str, columns: int = 80, **options: object) -> Terminal:
    """A command on a terminal."""
    command = [sys.executable, "-m", "repro", *words.split()]
    return Terminal(command, columns=columns, **options)  # type: ignore[arg-type]


def words_of(lines: Sequence[str]) -> list[str]:
    """The words, without lines that are drawn."""
    return [word for line in lines for word in line.split() if set(word) != {"─"}]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the committed results, in which this process works as well."""
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", ["status table1 table2", "list", "plan table2 --scale smoke"])
def test_a_table_of_a_command_is_the_plain_one(line: str, here: Path, capsys: Capture) -> None:
    """The same words; a name stands in every row."""
    shown = repro(line, 200, folder=here)
    lines = screen(shown.finish(), 200)
    plain = stdout_of(capsys, line).splitlines()
    assert words_of(lines) == words_of(plain)
    assert any(set(each.strip()) == {"─"} for each in lines)
    assert not any(each.startswith(" ") for each in plain[: len(plain) * (line[0] == "s")])


def test_an_item_is_drawn_on_a_terminal_and_markdown_elsewhere(here: Path, capsys: Capture) -> None:
    line = "table1 --scale demo --dry-run"
    output = repro(line, 100, folder=here).finish()
    lines, plain = screen(output, 100), stdout_of(capsys, line)
    assert plain.startswith("# Table 1, demo scale. ")
    assert "| WRN28-10" in plain
    assert lines[0].startswith("Table 1, demo scale. ")
    assert not any("|" in each or "**" in each for each in lines)
    numbers = re.findall(r"\d+\.\d\d \(1\)", plain)
    assert re.findall(r"\d+\.\d\d \(1\)", "\n".join(lines)) == numbers
    best = re.findall(r"\*\*(.*?)\*\*", plain)[0]
    assert re.search(rf"\x1b\[1m *{re.escape(best)}", output)
    notes = plain.split("\n\n")[2]
    assert "".join(notes.split()) in "".join("".join(lines).split())


def test_a_watched_status_is_drawn_in_place(tmp_path: Path) -> None:
    """A note of a run, from its file, cannot act on the terminal; Ctrl-C leaves it usable."""
    finished.finish(tmp_path, RUN, {"top1": 50.0})
    watched = repro(f"status table1 --watch --results {tmp_path}", lines=10)
    watched.read_until(lambda seen: "smoke" in seen and seen.endswith("\x1b[?25h"))
    watched.process.send_signal(signal.SIGINT)
    output = watched.finish()
    assert watched.process.returncode == 130
    assert is_usable(output)
    lines = screen(output)
    assert [line.split()[:2] for line in lines if line.startswith("table1")] == [
        ["table1", scale] for scale in ("paper", "proxy", "demo", "smoke")
    ]
    assert lines[-1] == "repro: interrupted"


def test_rich_is_imported_on_a_terminal_alone(here: Path) -> None:
    code = (
        "import sys; from repro.cli import main; main(sys.argv[1:]); "
        "print('rich' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "status", "table1"]
    with (here / "out").open("w") as out:
        piped = Terminal(command, folder=here, stdout=out.fileno()).finish()
    assert CODES.sub("", piped).split() == ["False"]
    assert Terminal(command, folder=here).finish().split()[-1] == "True"
