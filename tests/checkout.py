"""What a wheel is built from, copied: a build leaves files in the folder that it builds."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")


def copy(folder: Path) -> Path:
    """A copy in `folder` of the package and of what its build needs."""
    target = folder / "checkout"
    target.mkdir()
    for name in PARTS:
        shutil.copy(ROOT / name, target)
    shutil.copytree(ROOT / "repro", target / "repro", ignore=shutil.ignore_patterns("__pycache__"))
    return target
