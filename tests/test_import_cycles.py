"""No circle of imports in repro/, inside functions or outside; types alone may refer back."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

import repro

ROOT = Path(repro.__file__).parent

# Imports that close a circle on purpose: (from, to) and the reason.
EXCEPTIONS: Mapping[tuple[str, str], str] = {}

Graph = Mapping[str, Set[str]]


def name_of(path: Path, root: Path) -> str:
    """The module of a file: 'repro.core.plan'."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST) -> Iterator[str]:
    """What is imported anywhere below a node, but for what only a type checker reads."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported(child)


def graph(root: Path) -> Graph:
    """Which modules of a package each of them imports."""
    paths = {name_of(path, root): path for path in root.rglob("*.py")}
    found = {}
    for name, path in paths.items():
        names = set(imported(ast.parse(path.read_text())))
        modules = {n if n in paths else n.rpartition(".")[0] for n in names}  # else a name in it
        found[name] = (modules & paths.keys()) - {name}
    return found


def circles(found: Graph) -> list[list[str]]:
    """Every set of modules that import each other, by way of others or not."""

    def reached(start: str) -> set[str]:
        seen, todo = set[str](), [start]
        while todo:
            new = found[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    after = {name: reached(name) for name in found}
    groups = {
        tuple(sorted(n for n in after[name] if name in after[n]))
        for name in found
        if name in after[name]
    }
    return [list(group) for group in sorted(groups)]


def test_no_module_is_imported_by_what_it_imports() -> None:
    found = {
        name: {other for other in others if (name, other) not in EXCEPTIONS}
        for name, others in graph(ROOT).items()
    }
    assert len(found) > 150
    assert circles(found) == []


def test_every_exception_is_needed() -> None:
    found = graph(ROOT)
    assert all(other in found[name] and reason for (name, other), reason in EXCEPTIONS.items())


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("from p import b", "import p.a", [["p.a", "p.b"]]),
        ("def f():\n    from p.b import g", "from p.a import f", [["p.a", "p.b"]]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import b",
         "from p import a", []),
        ("from p import b", "import os", []),
    ],
)  # fmt: skip
def test_a_circle_is_found(tmp_path: Path, a: str, b: str, expected: list[list[str]]) -> None:
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text(a)
    (package / "b.py").write_text(b)
    assert circles(graph(package)) == expected
