"""Faults drawn from a seed, on a real cluster: whatever happens, every run has its one result."""

from __future__ import annotations

import importlib
from pathlib import Path

chaos = importlib.import_module("benchmarks.chaos")  # not a package: a benchmark is a script

FAULTS, SEED = 20, 1


def test_every_run_has_its_one_result(tmp_path: Path) -> None:
    report = chaos.disturb(FAULTS, SEED, tmp_path / "work")  # raises what it finds wrong
    assert len(report.recovered) == FAULTS
    assert len(report.attempts) == len(report.rounds) * len(chaos.RUNS)
    assert sum(report.attempts) > len(report.attempts)  # the faults did harm
    assert report.launches > len(report.rounds)
    assert str(report).startswith(f"{FAULTS} faults from seed {SEED}, in ")


def test_the_faults_are_the_seeds() -> None:
    drawn = chaos.deck(200, SEED)
    assert drawn == chaos.deck(200, SEED)
    assert drawn != chaos.deck(200, SEED + 1)
    assert drawn[:FAULTS] == chaos.deck(FAULTS, SEED)
    assert {name for _, name in drawn[:FAULTS]} == set(chaos.FAULTS)  # in CI, every kind
