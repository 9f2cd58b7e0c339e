"""The code that runs is the code that was submitted: a copy for the jobs, and its identity.

<results>/submissions/code/<digest>/
  repro/       the package as it was, uncommitted changes included
  commit       the commit it was made from, with '+' if it differs from it
  patch        how it differs
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import repro

PACKAGE = Path(repro.__file__).resolve().parent


def identity() -> dict[str, str]:
    """`code`, the digest of the package that this process runs, and the `commit` it came from."""
    kept = PACKAGE.parent / "commit"
    commit = kept.read_text().strip() if kept.is_file() else _commit()
    return {"commit": commit, "code": digest()}


def digest(package: Path = PACKAGE) -> str:
    """16 hex digits over the names and contents of a package's files."""
    total = hashlib.sha256()
    for path in _files(package):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(package)} {content}\n".encode())
    return total.hexdigest()[:16]


def snapshot(folder: Path) -> Path:
    """A copy of the package under `folder`, to be put on the path of jobs. Made once per state.

    OSError if it cannot be written.
    """
    if (target := folder / digest()).is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder))
    try:
        for path in _files(PACKAGE):
            copy = temporary / "repro" / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        (temporary / "commit").write_text(_commit() + "\n")
        (temporary / "patch").write_bytes(_git("diff", "--binary", "HEAD", "--", str(PACKAGE)))
        temporary.chmod(0o755)
        target = folder / digest(temporary / "repro")  # an editor may have saved meanwhile
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # else another process made the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _files(package: Path) -> Iterator[Path]:
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def _commit() -> str:
    """The commit of this code, with '+' if the code differs from it; '' outside a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD").decode().strip()
    return head + ("+" if head and _git("status", "--porcelain", "--", str(PACKAGE)) else "")


def _git(*words: str) -> bytes:
    """What git says about the checkout; nothing where there is none."""
    command = ["git", "-C", str(PACKAGE.parent), *words]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""
