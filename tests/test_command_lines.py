"""Any command line whatever: no traceback, a documented status, one line where it is refused."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro import cli
from repro.commands import parsing
from repro.commands.items import List
from repro.commands.registry import COMMANDS, SWITCHES
from tests.launch import full_disk

ITEMS = ("table1", "table2", "figure3_left", "figure_a5", "table_a6", "table")
NAMES = (*COMMANDS, "table1")
VALUES = ("", "0", "1", "-1", "2", "101", "1e9", "nan", "inf", "null", "[1]", "{", "~nobodyhere",
          "a" * 300, "a-file/x", "a-file", "here", "\udcff", "--", "-", "paper", "demo", "smoke",
          "256px", "NesT", "showcase", "*", "none", "local", "slurm", "H100", "500gpuh", "../..",
          "results", "table1")  # fmt: skip
STAYING = {"--watch", "--follow", "-f", "--wait"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file and an empty folder, and no SLURM."""
    (tmp_path / "a-file").write_text("kept")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


def options_of(verb: str) -> list[str]:
    """The options that a verb's help names, and some that there are not."""
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    found = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", out.getvalue().partition("options:")[2])
    return sorted({*found, "--no-such", "-x", "--scale.x"} - STAYING)


OPTIONS = {name: options_of(name) for name in NAMES}


@st.composite
def lines(draw: st.DrawFn, of: Sequence[str]) -> list[str]:
    """A verb, its options and others in any order, with values good and bad."""
    verb = draw(st.sampled_from(of))
    words = [[verb]]
    some_text = st.sampled_from(VALUES) | st.text(max_size=8).filter(lambda text: "\0" not in text)
    for option in draw(st.lists(st.sampled_from(OPTIONS[verb]), max_size=4)):
        words.append([option] if option in SWITCHES else [option, draw(some_text)])
    words += [[word] for word in draw(st.lists(st.sampled_from(ITEMS) | some_text, max_size=2))]
    line = [word for part in draw(st.permutations(words)) for word in part]
    if verb == "testbed":  # without a command, it starts nothing
        line = [word for word in line if word != "--"]
    if verb == "bench":
        return [*line, "--list"]
    return [*line, "--dry-run"] if "--launch" in line or verb in ("cancel", "retry") else line


def outcome(line: list[str]) -> tuple[int, str]:
    """Status and errors of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(line)
        except SystemExit as left:  # help
            status = int(left.code or 0)
    return status, err.getvalue()


TOLERANT = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(TOLERANT, max_examples=300)
@given(line=lines([name for name in NAMES if name != "doctor"]))
def test_every_line_ends_well_or_in_one_line(here: Path, line: list[str]) -> None:
    check(line, here)


@settings(TOLERANT, max_examples=4)  # it looks at this machine every time
@given(line=lines(["doctor"]))
def test_every_line_of_doctor(here: Path, line: list[str]) -> None:
    check(line, here)


def check(line: list[str], here: Path) -> None:
    """Its status is documented, its error is one line, nothing is written but renders."""
    drawn = {here / name for name in ("tables", "figures", "results", "build")}

    def others() -> list[Path]:
        return [p for p in sorted(here.rglob("*")) if not drawn & {p, *p.parents}]

    before = others()
    status, err = outcome(line)
    assert status in (0, 2), (line, err)
    if status == 2 and (err or "doctor" not in line):  # which prints what is amiss
        assert re.fullmatch(r"repro: .+\n", err), line
    assert others() == before or any(word.startswith(("--out", "--folder")) for word in line)


def test_an_option_has_a_value_in_every_command_or_in_none() -> None:
    """So that a word is a value or not before the command is known."""
    valued = {
        flag
        for command in COMMANDS.values()
        for name, found in parsing.fields(command).items()
        if not (found.is_switch or found.is_positional)
        for flag in parsing.flags(name, found)
    }
    assert {"--seeds", "--run"} <= valued
    assert {"--json", "-f", "--help"} <= SWITCHES
    assert not SWITCHES & valued


# --- streams and places, of a process of its own -------------------------------------------------


def shell(command: str, here: Path) -> tuple[int, str, str]:
    """Status, output and errors of a command in which $R is repro."""
    done = subprocess.run(
        ["bash", "-c", f"R='{sys.executable} -m repro'; {command}"],
        cwd=here, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


ROOT = str(Path(cli.__file__).parent.parent)


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("$R list > /dev/full", 2, "cannot print the output: No space left on device"),
        ("$R > /dev/full", 2, "cannot print the output: No space left on device"),
        ("$R tabel1 2> /dev/full", 2, ""),
        ("$R list >&-", 0, ""),
        ("$R list <&- >&- 2>&-", 0, ""),
        ("$R tabel1 2>&-", 2, ""),
        ("$R list --json | head -0; exit ${PIPESTATUS[0]}", 141, ""),
        ("mkdir gone; cd gone; rmdir ../gone; $R status", 2, "the working directory was deleted"),
        ("REPRO_RESULTS='~nobodyhere' $R status", 2, "no home folder of ~nobodyhere"),
        ("$R status --results $'\\xff'", 2, "'\\udcff' is not UTF-8; rename it"),
        ("mkdir -p results/$'x\\xff'; $R logs y", 2, r"there are x\udcff"),
    ],
)
def test_streams_and_places(tmp_path: Path, command: str, status: int, message: str) -> None:
    found, _, err = shell(command, tmp_path)
    assert found == status, err
    assert message in err
    assert err.count("\n") == bool(message), err


def test_help_on_a_full_device(tmp_path: Path) -> None:
    """Every command's, which a parser prints."""
    for name in NAMES:
        status, out, err = shell(f"$R {name} --help > /dev/full", tmp_path)
        assert (status, out) == (2, ""), name
        assert err == "repro: cannot print the output: No space left on device\n", name


def test_tables_on_a_full_disk(tmp_path: Path) -> None:
    with full_disk(tmp_path / "small", 16) as disk:
        status, _, err = shell(f"$R table2 --out {disk}", tmp_path)
        assert (status, err.count("\n")) == (2, 1)
        assert "No space left on device; what was there is kept" in err
        assert [path for path in disk.rglob("*") if ".tmp" in path.name] == []


def test_a_fault_of_ours_has_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(command: object) -> int:
        raise ValueError("our fault")

    monkeypatch.setattr(List, "execute", broken)
    assert cli.main(["list", "--json"]) == 70
    err = capsys.readouterr().err
    assert "ValueError: our fault" in err
    assert err.endswith(
        "please report it with the command, repro list --json, and the traceback above\n"
    )


OUTPUTS = (
    "report table_a1 --out {}",
    "report table_a1 --folder {}",
    "export table_a1 {}",
    "table_a1 --out {}",
    "curves table_a1 --out {}",
    "curves table_a1 --export csv {}",
    "rerun nest --into {}",
    "sample nest --out {}",
    "explain a-file --run nest --out {}",
)


@pytest.mark.parametrize("line", OUTPUTS)
def test_no_output_replaces_a_file_of_a_run_or_a_device(
    line: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "results" / "nest"
    run.mkdir(parents=True)
    (run / "spec.json").write_text("{}")
    (run / "result.json").write_text("kept")
    os.mkfifo(here / "pipe")
    for target in ("results/nest", "results/nest/result.json", "results/nest/new", "pipe"):
        assert cli.main(line.format(target).split()) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "name another path" in error, (target, error)
    assert sorted(path.name for path in run.iterdir()) == ["result.json", "spec.json"]
    assert (run / "result.json").read_text() == "kept"
    assert (here / "pipe").is_fifo()


@pytest.mark.parametrize("command", ["why", "compare a", "rerun", "verify", "curves", "doctor"])
def test_a_long_argument_is_not_echoed_whole(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "results").mkdir()
    assert cli.main([*command.split(), "x" * 100_000]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 2100
