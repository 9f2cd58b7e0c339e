"""Jobs run the code that was submitted: a snapshot of the package, and its identity.

<results>/submissions/code/<digest>/
  repro/       the package at submission, uncommitted changes included
  paper/       the Python files of another paper, if one is in use
  commit       its commit, with '+' if the package differs from it
  patch        the difference
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import repro
from repro import paper

PACKAGE = Path(repro.__file__).resolve().parent
PAPER = "paper"  # the folder of another paper in a snapshot


def identity() -> dict[str, str]:
    """`code`, the digest of the package that this process runs, and its `commit`."""
    commit_file = PACKAGE.parent / "commit"
    commit = commit_file.read_text().strip() if commit_file.is_file() else _commit()
    return {"commit": commit, "code": digest()}


def digest(package: Path = PACKAGE) -> str:
    """16 hex digits over the names and contents of a package's files; ours includes the paper's."""
    files = _of_package(package)
    return _digest([*files, *_of_paper()] if package == PACKAGE else files)


def _digest(files: Iterable[tuple[str, Path]]) -> str:
    total = hashlib.sha256()
    for name, path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()[:16]


def _of_package(package: Path) -> Iterator[tuple[str, Path]]:
    """The files of a package, with their names in it."""
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(package)), path


def _of_paper() -> Iterator[tuple[str, Path]]:
    """The files of another paper, with their names in a snapshot."""
    return ((f"{PAPER}/{name}", path) for name, path in paper.files())


def paper_for_jobs(snapshot: Path) -> str:
    """The value of REPRO_PAPER for jobs that run a snapshot; '' for the default paper."""
    if at := paper.source():
        return str(snapshot / PAPER / at.name)
    return os.environ.get(paper.VARIABLE, "")


def snapshot(folder: Path) -> Path:
    """Copy the package below `folder`, for jobs to import; one copy per digest.

    OSError if it cannot be written.
    """
    if (target := folder / digest()).is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder))
    try:
        ours = [(name, path, f"repro/{name}") for name, path in _of_package(PACKAGE)]
        theirs = [(name, path, name) for name, path in _of_paper()]
        copies = list[tuple[str, Path]]()
        for name, path, place in (*ours, *theirs):
            copies.append((name, temporary / place))
            copies[-1][1].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copies[-1][1])
        (temporary / "commit").write_text(_commit() + "\n")
        (temporary / "patch").write_bytes(_git("diff", "--binary", "HEAD", "--", str(PACKAGE)))
        temporary.chmod(0o755)
        target = folder / _digest(copies)  # a file may have changed during the copy
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # another process made the same snapshot
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _commit() -> str:
    """The commit of this code, with '+' if the code differs from it; '' outside a checkout.

    A package installed inside someone else's checkout does not belong to that checkout.
    """
    if not _git("ls-files", "--", str(PACKAGE / "__init__.py")):
        return ""
    head = _git("rev-parse", "--short=12", "HEAD").decode().strip()
    return head + ("+" if head and _git("status", "--porcelain", "--", str(PACKAGE)) else "")


def _git(*args: str) -> bytes:
    """The output of a git command in the checkout; empty outside one."""
    command = ["git", "-C", str(PACKAGE.parent), *args]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""
