"""The guess at the remaining time, and the lines of runs under way."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.launch import lease, local, progress
from repro.launch.progress import _Pace, progress_line
from repro.spec import Run, with_seeds
from tests import pseudo_terminal
from tests.launch import RUN

RUNS: list[Run] = [*with_seeds(RUN, 4)]
ONE, TWO = RUNS[:2]


def test_the_time_to_start_is_no_part_of_the_pace() -> None:
    """Runs of 100 s each, two at a time, that take 30 s to start."""
    pace = _Pace()
    running = {ONE, TWO}
    assert pace.eta_seconds({}, running, 0, 4, now=29.0) is None
    assert pace.eta_seconds({ONE: 0.05}, running, 0, 4, now=35.0) is None
    assert pace.eta_seconds({ONE: 0.05, TWO: 0.06}, running, 0, 4, now=36.0) is None
    result = pace.eta_seconds({ONE: 0.15, TWO: 0.15}, running, 0, 4, now=45.0)
    assert result == pytest.approx(3.7 / 0.19 * 10)
    # It counts down between two reports.
    later = pace.eta_seconds({ONE: 0.15, TWO: 0.15}, running, 0, 4, now=47.0)
    assert later == pytest.approx(3.7 / 0.19 * 10 - 2)
    # Those that start later count as a whole, with their start.
    result = pace.eta_seconds({RUNS[2]: 0.5, RUNS[3]: 0.5}, {*RUNS[2:]}, 2, 4, now=215.0)
    assert result == pytest.approx(1.0 / 2.89 * 180)


def test_runs_that_end_before_they_report() -> None:
    pace = _Pace()
    assert pace.eta_seconds({}, {TWO}, 1, 3, now=10.0) is None
    assert pace.eta_seconds({}, {RUNS[2]}, 2, 3, now=15.0) == 5.0


def test_a_run_that_fails_is_no_work_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four runs, one at a time; a tenth of a run takes 10 s."""
    clock = SimpleNamespace(now=0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    progress_lines = progress.Progress(4, 1)
    for clock.now, event in [
        (10, local.Event("running", ONE, facts={"step": 1, "steps": 10})),
        (20, local.Event("failed", ONE, "killed")),
        (30, local.Event("running", TWO, facts={"step": 1, "steps": 10})),
        (40, local.Event("running", TWO, facts={"step": 2, "steps": 10})),
    ]:
        progress_lines.show(event)
    assert progress_lines._summary() == "0:40 spent, about 4:40 to go"  # for 2.8 runs


@pytest.mark.parametrize(("loss", "shown"), [(2.25, "2.250"), (-1e308, "-1.0e+308")])
def test_a_loss_of_any_size_is_short(loss: float, shown: str) -> None:
    result = progress_line("run", {"step": 5, "steps": 10, "epoch": 0.5, "loss": loss})
    assert result.split() == ["50%", "epoch", "0.5", "loss", shown, "run"]


@pytest.mark.parametrize("number", ["rate", "epoch", "step", "beat", "seconds_left"])
def test_a_lease_with_a_number_that_cannot_be_is_damaged(tmp_path: Path, number: str) -> None:
    lease.acquire(tmp_path).release()
    (path,) = tmp_path.glob("lease-*.json")
    content = json.loads(path.read_text())
    for wrong in (1e308, 10**400):
        path.write_text(json.dumps(content | {number: wrong}))
        assert f"{path} is damaged (" in lease.read_or_explain(tmp_path)[1]


# --- on a terminal -------------------------------------------------------------------------------


def launch(steps: str, runs: int, **options: object) -> pseudo_terminal.Terminal:
    """A program that shows events of a launch in its lines `steps`, with `progress` and `runs`."""
    body = "".join(f"    {line}\n" for line in steps.splitlines())
    code = f"{EVENTS}with Progress(len(runs), 2) as progress:\n{body}"
    command = [sys.executable, "-c", code, str(runs)]
    return pseudo_terminal.Terminal(command, **options)  # type: ignore[arg-type]


EVENTS = """
import os, sys, time
from repro.core import signals
from repro.launch.local import Event
from repro.launch.progress import Progress

class Run:
    def __init__(self, id):
        self.id = id

signals.interrupt_once()
runs = [Run(f"run-{number}") for number in range(int(sys.argv[1]))]
runs[0].id = "[red]run[/red]\\x1b[2J\\n"
"""
RUNNING = """
for run in runs:
    progress.show(Event("started", run))
for step in (1, 2):
    for run in runs:
        facts = {"step": step, "steps": 4, "epoch": step / 2, "loss": 1 / step}
        progress.show(Event("running", run, facts=facts))
"""
ENDING = """
progress.show(Event("failed", runs[0], "[bold]no\\x1b[31m " + 30 * "long "))
print("a line of others", flush=True)
for run in runs[1:]:
    progress.show(Event("done", run))
"""
WAITING = """
print("ready", flush=True)
os.write(2, b"\\x1b[1m\\x1b[0m")
time.sleep(300)
"""


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (20, 24), (160, 4), (1, 1)])
def test_bars_disappear_and_lines_stay(columns: int, lines: int) -> None:
    """Ids and notes from files act on nothing; lines longer than the terminal are whole."""
    terminal = launch(RUNNING + ENDING, 8, columns=columns, lines=lines)
    output = terminal.finish()
    assert terminal.process.returncode == 0, output
    assert pseudo_terminal.is_usable(output)
    note = "[bold]no\\x1b[31m " + (30 * "long ").strip()
    permanent = [
        "training 8 runs, 2 at a time",
        f"[1/8] [red]run[/red]\\x1b[2J failed: {note}",
        "a line of others",
        *(f"[{number + 1}/8] run-{number} done" for number in range(1, 8)),
    ]
    shown = "".join(pseudo_terminal.screen(output, columns))
    assert shown.replace(" ", "") == "".join(permanent).replace(" ", "")


def test_a_bar_for_each_run_and_a_line_for_all() -> None:
    output = launch(RUNNING, 3).finish()
    last = output.rpartition("run-1")[0].rpartition("\x1b[2K")[2] + output.rpartition("run-1")[2]
    assert "━" in last
    for text in (" 50%", "epoch 1.0", "loss 0.500", "run-2", " spent, about "):
        assert text in last
    assert "[red]run[/red]\\x1b[2J" in output


def test_more_runs_than_lines() -> None:
    output = launch(RUNNING, 30, lines=10).finish()
    assert "and 23 more" in output
    assert "run-6" in output
    assert "run-8" not in output
    assert pseudo_terminal.screen(output) == ["training 30 runs, 2 at a time"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_usable_terminal(number: signal.Signals) -> None:
    terminal = launch(RUNNING + WAITING, 3)
    terminal.read_until(lambda seen: "\x1b[1m\x1b[0m" in seen)
    terminal.resize(40, 10)
    terminal.process.send_signal(number)
    output = terminal.finish()
    assert pseudo_terminal.is_usable(output)
    assert output.endswith("KeyboardInterrupt\r\n")
    kept = pseudo_terminal.screen(output.partition("Traceback")[0])
    assert kept == ["training 3 runs, 2 at a time", "ready"]


def test_a_killed_process_leaves_the_cursor() -> None:
    terminal = launch(RUNNING + WAITING, 3)
    terminal.read_until(lambda seen: "\x1b[1m\x1b[0m" in seen)
    terminal.process.kill()
    assert pseudo_terminal.is_usable(terminal.finish())


def test_without_colour_none_is_drawn() -> None:
    output = launch(RUNNING + ENDING, 3, NO_COLOR="1").finish()
    assert "━" in output
    assert not re.search(r"\x1b\[[\d;]*m", output)


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_without_a_cursor_gets_lines(term: str) -> None:
    output = launch(RUNNING + ENDING, 3, TERM=term).finish()
    assert "\x1b" not in output
    assert [line.split()[0] for line in output.splitlines()] == [
        "training", "[1/3]", "a", "[2/3]", "[3/3]",
    ]  # fmt: skip


def test_output_in_a_file_stays_there(tmp_path: Path) -> None:
    """Standard output is no terminal while the bars are drawn on standard error."""
    with (tmp_path / "out").open("w") as file:
        terminal = launch(RUNNING + ENDING, 3, stdout=file.fileno())
        output = terminal.finish()
    assert (tmp_path / "out").read_text() == "a line of others\n"
    assert "a line of others" not in output
