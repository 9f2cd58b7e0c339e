"""A small table, with names and numbers that break lines, and text that must not act."""

from __future__ import annotations

from repro.core.terminal import Table

SCALES = Table(
    ("method", "first", "second"),
    [
        ("NesT-T, image plane", "73.7 ± 2.2 (5) [71.1, 76.3]", "1"),
        ("[red]x[/red]\x1b[2J", "0.1 ± 0.0 (5) [0.0, 0.2]", "10,000"),
    ],
    numbers=(1, 2),
    bold={(0, 1)},
)
