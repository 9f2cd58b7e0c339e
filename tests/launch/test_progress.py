"""The guess at the remaining time, and the lines of runs under way."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.launch import lease, local, progress
from repro.launch.progress import _Pace, progress_line
from repro.spec import Run, with_seeds
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
    assert progress_lines._eta_line() == "0:40 spent, about 4:40 to go"  # for 2.8 runs


@pytest.mark.parametrize(("loss", "shown"), [(2.25, "  2.250"), (-1e308, "-1.0e+308")])
def test_a_loss_of_any_size_is_short(loss: float, shown: str) -> None:
    result = progress_line("run", {"step": 5, "steps": 10, "epoch": 0.5, "loss": loss})
    assert f" 50% epoch   0.5 loss {shown} " in result


@pytest.mark.parametrize("number", ["rate", "epoch", "step", "beat"])
def test_a_lease_with_a_number_that_cannot_be_is_damaged(tmp_path: Path, number: str) -> None:
    lease.acquire(tmp_path).release()
    (path,) = tmp_path.glob("lease-*.json")
    content = json.loads(path.read_text())
    for wrong in (1e308, 10**400):
        path.write_text(json.dumps(content | {number: wrong}))
        assert f"{path} is damaged (" in lease.read_or_explain(tmp_path)[1]
