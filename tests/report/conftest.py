"""The report of everything that is committed, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import paper
from repro.commands.selection import seeds_to_show
from repro.report import page
from repro.report.collect import collect
from repro.report.content import Report
from repro.spec import Scale

ROOT = Path(__file__).parents[2]
DEVICES: dict[Scale, str] = {"paper": "H100", "proxy": "cpu", "demo": "cpu"}


def report_of(*names: str, workers: int | None = None, root: Path = ROOT / "results") -> Report:
    """The report of items from `root`, or of all."""
    items = list(names) or paper.current().names()
    seeds = seeds_to_show(None, root)
    return collect(root, items, list(DEVICES), seeds, DEVICES, with_csv=True, workers=workers)


@pytest.fixture(scope="session")
def whole() -> Report:
    return report_of()


@pytest.fixture(scope="session")
def whole_page(whole: Report) -> str:
    return page.html(whole)
