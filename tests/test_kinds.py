"""A kind of run is known to its own file and its task; nobody else asks for kinds."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import repro
from repro.spec import RUN_KINDS, Explanation, Run

ROOT = Path(repro.__file__).parent
KINDS = {*RUN_KINDS, Explanation.__name__}
MAY_ASK = ("kinds", "tasks")
MAPPED = "experiments/scales.py"  # the paper's small versions, one function a kind


def questions(source: str) -> Iterator[int]:
    """The lines that ask a run for its kind: isinstance, issubclass, a class pattern, type()."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kinds]):
                found = names(kinds)
            case ast.MatchClass(cls=kind):
                found = names(kind)
            case ast.Compare(left=ast.Call(func=ast.Name(id="type")), comparators=[kind]):
                found = names(kind)
            case _:
                continue
        if found & KINDS:
            yield node.lineno


def names(node: ast.AST) -> set[str]:
    """The last part of each name in an expression."""
    inner = list(ast.walk(node))
    attributes = {part.attr for part in inner if isinstance(part, ast.Attribute)}
    return attributes | {part.id for part in inner if isinstance(part, ast.Name)}


def test_only_kinds_and_tasks_ask_for_kinds() -> None:
    paths = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in MAY_ASK]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        if path != ROOT / MAPPED
        for line in questions(path.read_text())
    ]
    assert not found, "add a property to repro.core.run.Run, which the kinds override"


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(run, Generation)",
        "isinstance(cell.run, spec.Classification | Localization)",
        "isinstance(run, (Run, Explanation))",
        "type(run) is Profiling",
        "match run:\n    case Traversal(): ...",
    ],
)
def test_a_question_is_found(source: str) -> None:
    assert list(questions(source))


def test_what_is_no_question() -> None:
    assert not list(questions("isinstance(run, Run)\ntype(a) is type(b)\nGeneration(seed=1)"))


@pytest.mark.parametrize(
    "kind", [k for k in RUN_KINDS.values() if k.__module__.startswith("repro.")]
)
def test_a_kind_has_its_own_file_and_a_task(kind: type[Run]) -> None:
    assert kind.__module__ == f"repro.kinds.{kind.kind}"
    assert callable(importlib.import_module(kind.task).execute)
