"""From the command to the drawn tables and figures at smoke scale, for a row of every kind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROWS = ("NesT-T", "NesT3-T, S=2", "AvgPool3x3", "Centre box")
ITEMS = ("table2", "figure_a1", "figure7", "figure3_right")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a user does: one command, in an empty folder; and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    only = [word for row in ROWS for word in ("--only", row)]
    command = [sys.executable, "-m", "repro", *ITEMS, "--scale", "smoke", "--launch", "local"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *only], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done.stdout


def row(folder: Path, item: str, name: str) -> list[str]:
    text = (folder / "tables" / "smoke" / f"{item}.md").read_text()
    (found,) = (line for line in text.splitlines() if f"| {name}" in line)
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_trained_tested_counted_and_drawn(out: tuple[Path, str]) -> None:
    folder, printed = out
    trained = row(folder, "table2", "NesT-T")
    assert trained[3] == "17.1M"
    assert "not run" not in trained
    assert "not run" in row(folder, "table2", "NesT-S")
    assert re.fullmatch(r"\*{0,2}[\d.]+ \(1\)\*{0,2}", trained[6])
    assert "not run" not in row(folder, "figure7", "AvgPool3x3")
    assert "not run" not in row(folder, "figure3_right", "Centre box")
    assert "Smoke scale" in printed


def test_speed_is_measured(out: tuple[Path, str]) -> None:
    folder, _ = out
    speed = row(folder, "figure_a1", "NesT3-T, S=2")[-1]
    assert float(speed.replace(",", "").split()[0]) > 0
    for item in ("figure7", "figure_a1"):
        assert (folder / "figures" / "smoke" / f"{item}.svg").read_text().startswith("<?xml")


def test_a_second_launch_has_nothing_to_do(out: tuple[Path, str]) -> None:
    folder, _ = out
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/*/result.json")}
    only = [word for name in ROWS for word in ("--only", name)]
    command = [sys.executable, "-m", "repro", *ITEMS, "--scale", "smoke", "--launch", "local"]
    done = subprocess.run([*command, *only], cwd=folder, capture_output=True, text=True, check=True)
    assert "training" not in done.stdout + done.stderr
    assert before == {
        path: path.stat().st_mtime_ns for path in folder.glob("results/*/result.json")
    }
    assert len(before) >= 8
