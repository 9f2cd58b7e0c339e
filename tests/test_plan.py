"""From experiments to runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repro.core import plan


def test_seeds_with_results_are_shown(tmp_path: Path) -> None:
    from repro.experiments import get
    from repro.experiments.scales import at_scale

    table1 = get("table1")
    ids = {replace(at_scale(table1.cells[3].run, "smoke"), seed=seed).id for seed in range(5)}
    assert plan.seeds_shown(table1, "smoke", ids) == 5
    for scale in ("demo", "paper"):
        assert plan.seeds_shown(table1, scale, ids) == plan.default_seeds(table1, scale)


def test_a_pattern_selects_rows_or_cells() -> None:
    from repro.experiments import get

    table1 = get("table1")

    def cells(*patterns: str) -> set[tuple[str, str]]:
        return {(cell.row, cell.column) for cell in plan.select(table1, patterns)}

    assert cells("NesT-T") == {("NesT-T", "C10"), ("NesT-T", "C100")}
    assert cells("nest-t/c10") == {("NesT-T", "C10")}
    assert cells("CCT-7/3x1") == {("CCT-7/3×1", "C10"), ("CCT-7/3×1", "C100")}
    assert cells("CCT-7/3x1/C100", "WRN28-10/C10") == {("CCT-7/3×1", "C100"), ("WRN28-10", "C10")}
    assert {column for _, column in cells("*/C10")} == {"C10"}
    assert {row for row, _ in cells("*/C10")} == {*table1.rows}
    assert cells("NesT-T/C1") == cells("/C10") == cells("C10") == set()
