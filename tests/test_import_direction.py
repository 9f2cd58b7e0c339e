"""The direction of imports (design: fixed), and that planning and drawing need no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import repro

ROOT = Path(repro.__file__).parent
PAPER = {"cli", "commands", "core", "cost", "experiments", "paper", "render", "report", "results"}
TORCH = {"tasks", "models", "data", "interpret", "train", "fidelity"}
ALONE = {"models", "data", "interpret", "fidelity"}  # usable with SHARED alone of the rest
# Both halves import these; they import nothing.
SHARED = {"core.iou", "core.records", "cost.memory", "data.catalogue"}
CORE = {"core.datasets", "core.identity", "core.recipe", "core.run", "core.work"}
SPEC = {"spec", "kinds", *CORE}  # where both halves meet
HIGHER = {  # package -> packages of a higher layer, which it never imports
    "core": {"render", "report", "commands", "launch"},
    "cost": {"render", "report", "commands", "launch"},
    "render": {"report", "commands", "launch"},
    "report": {"commands", "launch"},
}

# What makes objects of bytes, beside `records`, which validates them.
READERS = re.compile(
    r"(json|pickle|marshal|shelve|yaml|tomllib|csv|plistlib)\..*|ast\.literal_eval|eval|exec"
    r"|numpy\.(load|loadtxt|genfromtxt|fromfile|memmap|lib\.format\..*)|torch\.load|pandas\.read_.*"
)
WRITERS = {"json.dumps", "yaml.safe_dump", "pickle.dumps"}
ELSEWHERE = {
    "repro/bench/loader.py": "makes the file that it measures",
    "repro/data/cifar.py": "CIFAR's own form; its Unpickler takes containers and bytes alone",
    "repro/data/imagenet/resized.py": "makes the file; `records.map_array` reads it",
    "repro/fidelity/features.py": "torch-fidelity's weights, weights_only, after their sha256",
    "repro/launch/slurm/cluster.py": "a YAML from `records.read_bytes`, of bounded depth",
    "repro/train/checkpoint.py": "from `records.read_bytes`, weights_only, after their CRC",
}


def package(parts: Sequence[str]) -> str:
    """The package that a module is in; of SHARED and SPEC, the module."""
    module = ".".join(parts[:2])
    return module if module in SHARED | SPEC else parts[0]


def imports(path: Path) -> Iterator[str]:
    """The packages of repro that a module imports, anywhere in it; of SHARED, SPEC the modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (package(name.split(".")[1:]) for name in names if name.startswith("repro."))


def modules() -> list[tuple[str, Path]]:
    """Every module with the package it is in; of SHARED and SPEC, the module."""
    return [(package(path.relative_to(ROOT).with_suffix("").parts), path)
            for path in ROOT.rglob("*.py")]  # fmt: skip


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda value: str(value)[-40:])
def test_the_two_halves_meet_in_spec_only(package: str, path: Path) -> None:
    found = set(imports(path))
    if package in PAPER:
        assert not found & TORCH
    if package in TORCH:
        assert not found & (PAPER | {"launch"})
    if package in ALONE:
        assert found <= ALONE | SHARED
    if package in SHARED:
        assert not found
    if package in SPEC:
        assert found <= SPEC | SHARED
    assert not found & HIGHER.get(package, set())


def test_the_engine_reaches_the_paper_through_its_seam() -> None:
    """`bench` compares this paper's own models, and is no part of the engine."""
    found = {path for name, path in modules() if "experiments" in set(imports(path))}
    inside = {ROOT / "experiments", ROOT / "bench"}
    assert {path for path in found if not inside & set(path.parents)} == set()


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
    paths = [path for path in ROOT.rglob("*.py") if path != ROOT / "core/records.py"]
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
        "curves figure5_left --scale demo --out {out}",
        "bench --write {out}/performance.md",
        "report table_a6 --out {out}/report.html",
        "table1 --out {out}",
        "table1 --scale demo --launch local --dry-run --out {out}",
    ],
)
def test_looking_planning_and_drawing_need_neither_torch_nor_scipy(
    command: str, tmp_path: Path
) -> None:
    words = command.format(out=tmp_path).split()
    code = (
        "import sys; from repro.cli import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'timm', 'torchvision', 'scipy'} & sys.modules.keys(); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_spec_imports_nothing_heavy() -> None:
    code = "import sys, repro.spec; assert not {'torch', 'pandas', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
