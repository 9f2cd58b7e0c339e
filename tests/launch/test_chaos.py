"""Fault injection on a real cluster: whatever happens, every run has exactly one result."""

from __future__ import annotations

import importlib
from pathlib import Path

chaos = importlib.import_module("benchmarks.chaos")  # not a package: a benchmark is a script

FAULTS, SEED = 20, 1


def test_every_run_has_its_one_result(tmp_path: Path) -> None:
    report = chaos.run_chaos(FAULTS, SEED, tmp_path / "work")  # raises InvariantError
    assert len(report.recovered) == FAULTS
    assert len(report.attempts) == len(report.rounds) * len(chaos.RUNS)
    assert sum(report.attempts) > len(report.attempts)  # the faults had an effect
    assert report.launches > len(report.rounds)
    assert str(report).startswith(f"{FAULTS} faults from seed {SEED}, in ")


def test_the_faults_depend_on_the_seed_alone() -> None:
    faults = chaos.draw_faults(200, SEED)
    assert faults == chaos.draw_faults(200, SEED)
    assert faults != chaos.draw_faults(200, SEED + 1)
    assert faults[:FAULTS] == chaos.draw_faults(FAULTS, SEED)
    assert {name for _, name in faults[:FAULTS]} == set(chaos.FAULTS)  # in CI, every kind
