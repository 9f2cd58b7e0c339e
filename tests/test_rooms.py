"""The direction of imports (design: fixed), and that planning and drawing need no torch."""

from __future__ import annotations

import ast
import re
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
ALONE = {"models", "data", "interpret", "fidelity"}  # usable with `records` alone of the rest

# What makes objects of bytes, beside `records`, which validates them.
READERS = re.compile(
    r"(json|pickle|marshal|shelve|yaml|tomllib|csv|plistlib)\..*|ast\.literal_eval|eval|exec"
    r"|numpy\.(load|loadtxt|genfromtxt|fromfile|memmap|lib\.format\..*)|torch\.load|pandas\.read_.*"
)
WRITERS = {"json.dumps", "yaml.safe_dump", "pickle.dumps"}
ELSEWHERE = {
    "repro/bench/loader.py": "makes the file that it measures",
    "repro/data/cifar.py": "CIFAR's own form; its Unpickler takes containers and bytes alone",
    "repro/data/resized.py": "makes the file; `records.mapped` reads it",
    "repro/fidelity/features.py": "torch-fidelity's weights, weights_only, after their sha256",
    "repro/launch/cluster.py": "a site's YAML, out of `records.content`, texts of a bounded depth",
    "repro/train/checkpoint.py": "out of `records.content`, weights_only, after their CRC",
}


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
        assert found <= ALONE | {"records"}
    if room == "records":
        assert not found
    if room == "spec":
        assert not found - {"spec", "records"}


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module uses, in full: 'numpy.load' where it says np.load."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            parts = [(alias, alias.name if alias.asname else "") for alias in node.names]
            known |= {a.asname or a.name.split(".")[0]: f or a.name.split(".")[0] for a, f in parts}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}"
                      for alias in node.names}  # fmt: skip
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in known or not rest:
                yield ".".join([known.get(first, first), *rest])


def readers(source: str) -> set[str]:
    """What a module uses that makes objects of bytes."""
    return {name for name in names(ast.parse(source)) if READERS.fullmatch(name)} - WRITERS


def test_files_are_read_by_records() -> None:
    """Here, in the scripts and in the benchmarks; each exception has its reason."""
    paths = [path for path in ROOT.rglob("*.py") if path != ROOT / "records.py"]
    paths += [p for room in ("scripts", "benchmarks") for p in (ROOT.parent / room).rglob("*.py")]
    found = {path: readers(path.read_text()) for path in paths}
    elsewhere = {path for path, used in found.items() if used}
    assert elsewhere == {ROOT.parent / name for name in ELSEWHERE}, found


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads('1')",
        "import json as j\nj.load(f)",
        "from json import loads as read",
        "import numpy as np\ndef f():\n    np.load('a')",
        "import numpy\nnumpy.lib.format.open_memmap('a')",
        "def f():\n    import torch\n    return torch.load('a')",
        "from torch import load",
        "import pickle\nclass A(pickle.Unpickler): ...",
        "eval('1')",
    ],
)
def test_a_reader_of_its_own_is_found(source: str) -> None:
    assert readers(source)
    assert not readers("import json, numpy as np\njson.dumps(1)\nnp.savez(f)\nrecords.load(f)")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "--help",
        "list",
        "plan table1",
        "status",
        "bench --list",
        "bench --write {out}/performance.md",
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
