"""From experiments to runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repro import plan


def test_seeds_that_were_asked_for_are_found(tmp_path: Path) -> None:
    from repro.experiments import get
    from repro.experiments.scales import at_scale

    cells = get("table1").cells
    known = {replace(at_scale(cells[3].run, "smoke"), seed=seed).id for seed in range(5)}
    assert plan.seeds_known(cells, "smoke", known, 1) == 5
    assert plan.seeds_known(cells, "proxy", known, 3) == 3
