"""The source that a task depends on, as digests that are blind to comments and format.

A module's digest is over its syntax tree without docstrings. A task depends on every module of the
package that it imports, directly or not, also inside functions; imports for type checking do not
count.
"""

from __future__ import annotations

import ast
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import repro

PACKAGE = Path(repro.__file__).resolve().parent
NAME = "repro"

_WITH_STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)  # nodes that imports may be in

Tree = Mapping[str, bytes]  # the source of each module of a package, by its dotted name


class SourceError(Exception):
    """A source that cannot be had or parsed: one line."""


def installed() -> Tree:
    """The package that this process runs."""
    return in_folder(PACKAGE)


def in_folder(package: Path) -> Tree:
    """The package in a folder. SourceError if it cannot be read."""
    try:
        files = {path.relative_to(package): path.read_bytes() for path in package.rglob("*.py")}
    except OSError as error:
        raise SourceError(f"cannot read {package}: {error.strerror}") from error
    return {_module(path): content for path, content in files.items()}


@cache
def at_commit(commit: str, package: Path = PACKAGE) -> Tree:
    """The package at a commit of its checkout. SourceError if git does not have it."""
    if not commit or not all(digit in "0123456789abcdef" for digit in commit):
        raise SourceError(f"{commit or 'nothing'!r} is no commit")
    if (data := _archive(commit, package)) is None:
        raise SourceError(f"git has no commit {commit} here")
    tree = dict[str, bytes]()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = Path(member.name)
            if path.suffix == ".py" and (file := archive.extractfile(member)):
                tree[_module(path.relative_to(package.name))] = file.read()
    return tree


@cache
def _archive(commit: str, package: Path) -> bytes | None:
    """The package at a commit as a tar file; None if git does not have the commit."""
    command = ["git", "-C", str(package.parent), "archive", "--format=tar", commit, package.name]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def _module(path: Path) -> str:
    """'repro.core.source' for core/source.py; 'repro.core' for core/__init__.py."""
    parts = [NAME, *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def task_digests(tree: Tree, task: str) -> dict[str, str]:
    """The digest of each module that a task depends on. SourceError if one is missing or broken."""
    if task not in tree:
        raise SourceError(f"there is no module {task}")
    digests, pending = dict[str, str](), [task]
    while pending:
        name = pending.pop()
        if name not in digests:
            digests[name], imported = _parsed(name, tree[name])
            pending += (module for module in imported if module in tree)
    return dict(sorted(digests.items()))


def total(digests: Mapping[str, str]) -> str:
    """16 hex digits over the digests of modules."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@cache
def _parsed(name: str, source: bytes) -> tuple[str, frozenset[str]]:
    """The digest of a module, and what it imports, with the packages of that."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise SourceError(f"{name} cannot be parsed: {error}") from error
    parts = list[str]()
    _dump(tree, parts.append)
    digest = hashlib.sha256("".join(parts).encode(errors="surrogatepass")).hexdigest()
    imported = dict.fromkeys(_imports(tree))
    parents = (".".join(each.split(".")[:end]) for each in imported
               for end in range(1, each.count(".") + 1))  # fmt: skip
    return digest, frozenset([*imported, *parents])


def _dump(value: object, write: Callable[[str], object]) -> None:
    """A syntax tree as text, the same in every version of Python: without what is empty.

    Calls `write` with each part, since nested generators would be slow.
    """
    if isinstance(value, ast.AST):
        write(f"{type(value).__name__}(")
        for field in value._fields:
            inner = getattr(value, field, [])
            if field == "body" and _has_docstring(value):
                inner = inner[1:]
            if inner is not None and inner != [] and field not in ("kind", "type_comment"):
                write(f"{field}=")
                _dump(inner, write)
        write(")")
    elif isinstance(value, list):
        write("[")
        for inner in value:
            _dump(inner, write)
            write(",")
        write("]")
    else:
        write(repr(value))


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ) and ast.get_docstring(node, clean=False) is not None  # fmt: skip


def _imports(node: ast.AST) -> Iterator[str]:
    """The absolute names that a module imports, without those for type checking."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and _is_type_checking(node.test):
        for statement in node.orelse:
            yield from _imports(statement)
    else:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, _WITH_STATEMENTS):
                yield from _imports(child)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
