"""Find, verify and fetch the weights of the Inception of 2015.

torch-fidelity's conversion of Google's graph, the network of every published FID. The Inceptions of
torchvision and Keras are other networks and give other numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from repro.core import records
from repro.data.images import MAX_BYTES, DataError, reason

SHA256 = "6726825d"  # the first digits, as in the file's name
FILE = f"weights-inception-2015-12-05-{SHA256}.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
TIMEOUT_S = 20.0

_STEP = "run `repro prepare inception`"


def find_inception(folder: Path | None) -> Path:
    """The path of the verified weights; DataError if they are missing or wrong."""
    return read_inception(folder)[0]


def read_inception(folder: Path | None, sha256: str = SHA256) -> tuple[Path, bytes]:
    """The path and the content of the weights, whose hash begins with `sha256`.

    Looks in `folder`, if given, and in torch.hub's cache, where torch-fidelity puts them. Fetches
    nothing. Raises DataError.
    """
    paths = candidate_paths(folder)
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        names = " or ".join(map(str, paths))
        raise DataError(f"missing {names}: {_STEP}, or put {URL} there (95.5 MB)")
    try:
        data = records.read_bytes(path, MAX_BYTES)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {_STEP}") from error
    digest = sha256_of(data)
    if not digest.startswith(sha256):
        problem = f"truncated or altered ({len(data):,} bytes, sha256 {digest[:16]}, not {sha256})"
        raise DataError(f"{path}: {problem}; remove it and {_STEP}")
    return path, data


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def candidate_paths(folder: Path | None) -> list[Path]:
    """The paths to search, in order."""
    folders = [folder] if folder else []
    return [parent / FILE for parent in (*folders, Path(torch.hub.get_dir(), "checkpoints"))]


def prepare_inception(folder: Path | None, sha256: str = SHA256) -> list[str]:
    """Verify the weights, after fetching them if they are missing; returns lines to print.

    Fetches to `folder`, or to torch.hub's cache. Raises DataError with the next step.
    """
    lines = []
    paths = candidate_paths(folder)
    if not any(path.exists() for path in paths):
        _fetch(paths[0], sha256, " or ".join(map(str, paths)))
        lines.append(f"inception: fetched {URL}")
    path, data = read_inception(folder, sha256)
    return [*lines, f"inception: {path}, verified (sha256 {sha256_of(data)})"]


def _fetch(path: Path, sha256: str, targets: str) -> None:
    """Fetch and verify the file; it appears complete or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(TIMEOUT_S):
            torch.hub.download_url_to_file(URL, str(path), sha256, sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        file = f"{URL} (95.5 MB, sha256 {sha256}...)"
        step = f"put {file} to {targets}, then {_STEP}"
        raise DataError(f"inception: cannot fetch ({reason(error)}); {step}") from error


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
