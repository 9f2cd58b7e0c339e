"""From experiments to runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repro.core import plan


def test_seeds_that_were_asked_for_are_found(tmp_path: Path) -> None:
    from repro.experiments import get
    from repro.experiments.scales import at_scale

    table1 = get("table1")
    ids = {replace(at_scale(table1.cells[3].run, "smoke"), seed=seed).id for seed in range(5)}
    assert plan.seeds_shown(table1, "smoke", ids) == 5
    for scale in ("demo", "paper"):
        assert plan.seeds_shown(table1, scale, ids) == plan.default_seeds(table1, scale)
