"""The direction of imports (design: fixed), and that planning and drawing need no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import repro

ROOT = Path(repro.__file__).parent
PAPER = {"experiments", "plan", "results", "verdict", "render"}
PAPER |= {
    "artifacts",
    "cli",
    "gpus",
    "measures",
    "options",
    "output",
    "peaks",
    "price",
    "reproduce",
    "verbs",
}
TORCH = {"tasks", "models", "data", "interpret", "train", "fidelity"}
ALONE = {"models", "data", "interpret", "fidelity"}  # usable without the rest of the project


def imports(path: Path) -> Iterator[str]:
    """The rooms of repro that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("repro."))


def modules() -> list[tuple[str, Path]]:
    """Every module with the room it is in."""
    return [(p.relative_to(ROOT).parts[0].removesuffix(".py"), p) for p in ROOT.rglob("*.py")]


@pytest.mark.parametrize(("room", "path"), modules(), ids=lambda value: str(value)[-40:])
def test_the_two_halves_meet_in_spec_only(room: str, path: Path) -> None:
    found = set(imports(path))
    if room in PAPER:
        assert not found & TORCH
    if room in TORCH:
        assert not found & (PAPER | {"launch"})
    if room in ALONE:
        assert found <= ALONE
    if room == "spec":
        assert not found - {"spec", "records"}


@pytest.mark.parametrize(
    "command",
    [
        "",
        "--help",
        "list",
        "plan table1",
        "status",
        "table1 --out {out}",
        "table1 --scale proxy --launch local --dry-run --out {out}",
    ],
)
def test_looking_planning_and_drawing_need_no_torch(command: str, tmp_path: Path) -> None:
    words = command.format(out=tmp_path).split()
    code = (
        "import sys; from repro.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'timm', 'torchvision'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_spec_imports_nothing_heavy() -> None:
    code = "import sys, repro.spec; assert not {'torch', 'pandas', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
