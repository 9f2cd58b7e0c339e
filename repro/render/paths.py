"""Where the files of an item are."""

from __future__ import annotations

from pathlib import Path

from repro.spec import Scale


def file_of(folder: str, item: str, scale: Scale, ending: str) -> Path:
    """'<folder>/proxy/<item>.md'; at paper scale '<folder>/<item>.md'."""
    return Path(folder, "" if scale == "paper" else scale, f"{item}.{ending}")
