"""The weights of the Inception of 2015: where they lie, whether they are whole, how to get them.

Google's graph as torch-fidelity converted it, the network of every published FID. Torchvision's and
Keras' Inception are other networks, and give other numbers.
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

from repro import records
from repro.data.images import MOST_BYTES, DataError, reason

SHA256 = "6726825d"  # the first digits, as the file's name has them
FILE = f"weights-inception-2015-12-05-{SHA256}.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
TIMEOUT_S = 20.0

_STEP = "run `repro prepare inception`"


def find_inception(folder: Path | None) -> Path:
    """The file of weights, verified; DataError where it is missing or another."""
    return read_inception(folder)[0]


def read_inception(folder: Path | None, sha256: str = SHA256) -> tuple[Path, bytes]:
    """The file of weights and its content, whose hash begins with `sha256`.

    It is looked for in `folder`, if one is named, and in torch.hub's cache, where torch-fidelity
    puts it. Nothing is fetched. Raises DataError.
    """
    path = next((place for place in places(folder) if place.exists()), None)
    if path is None:
        wanted = " nor ".join(map(str, places(folder)))
        raise DataError(f"neither {wanted} is there: {_STEP}, or put {URL} there (95.5 MB)")
    try:
        data = records.content(path, MOST_BYTES)
    except (OSError, records.Damaged) as error:
        raise DataError(f"{path}: {reason(error)}; {_STEP}") from error
    found = digest_of(data)
    if not found.startswith(sha256):
        wrong = f"truncated or altered ({len(data):,} bytes, sha256 {found[:16]}, not {sha256})"
        raise DataError(f"{path}: {wrong}; remove it and {_STEP}")
    return path, data


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def places(folder: Path | None) -> list[Path]:
    """Where the file may lie, the first first."""
    folders = [folder] if folder else []
    return [place / FILE for place in (*folders, Path(torch.hub.get_dir(), "checkpoints"))]


def prepare_inception(folder: Path | None, sha256: str = SHA256) -> list[str]:
    """Verify the weights, fetching them to `folder` if they are nowhere; the lines to print.

    Without a folder they go to torch.hub's cache. Raises DataError with the next step.
    """
    done = []
    if not any(place.exists() for place in places(folder)):
        _fetch(places(folder)[0], sha256, " or ".join(map(str, places(folder))))
        done.append(f"inception: fetched {URL}")
    path, data = read_inception(folder, sha256)
    return [*done, f"inception: {path}, verified (sha256 {digest_of(data)})"]


def _fetch(path: Path, sha256: str, wanted: str) -> None:
    """Fetch the file, whole and with the right hash or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(TIMEOUT_S):
            torch.hub.download_url_to_file(URL, str(path), sha256, sys.stderr.isatty())
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        file = f"{URL} (95.5 MB, sha256 {sha256}...)"
        step = f"put {file} to {wanted}, then {_STEP}"
        raise DataError(f"inception: cannot fetch ({reason(error)}); {step}") from error


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
