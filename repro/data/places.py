"""Where each dataset lies under the data folder. Needs no torch, so that planning can look."""

from __future__ import annotations

from pathlib import Path

# Those that are not here are embedded, or made from embedded images when they are needed.
FOLDERS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "fashion-mnist": "FashionMNIST/raw",
    "imagenet": "imagenet",
    "imagenetv2": "imagenetv2",
    "imagenet22k": "imagenet22k",
    "imagenet-256px": "imagenet-256px",
    "imagenet-64px": "imagenet-64px",
    "inception": "inception",
}


def is_there(name: str, root: Path) -> bool:
    """Whether there is anything in a dataset's folder; whether it is right, reading it tells."""
    if name not in FOLDERS:
        return True
    try:
        return any((root / FOLDERS[name]).iterdir())
    except OSError:
        return False
