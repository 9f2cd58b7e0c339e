"""Which datasets there are, and where each lies. Needs no torch, so that planning can look."""

from __future__ import annotations

import difflib
from pathlib import Path

NAMES = (
    "cifar10",
    "cifar100",
    "cifar10-smoke",
    "cifar100-smoke",
    "fashion-mnist",
    "fashion-mnist-6k",
    "glyphs",
    "fashion-singles",
    "imagenet",
    "imagenetv2",
    "imagenet22k",
    "imagenet-smoke",
    "imagenetv2-smoke",
    "imagenet22k-smoke",
    "imagenet-256px",
    "imagenet-smoke-256px",
    "imagenet-64px",
    "imagenet-smoke-64px",
)

EMBEDDED = ("fashion-mnist-6k", "glyphs", "fashion-singles")  # they come with the code

# Those that are not here are embedded, or made from embedded images when they are needed. Where
# there are several, any of them will do.
FOLDERS = {
    "cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py"),
    "cifar100": ("cifar-100-binary", "cifar-100-python"),
    "fashion-mnist": ("FashionMNIST/raw",),
    "imagenet": ("imagenet",),
    "imagenetv2": ("imagenetv2",),
    "imagenet22k": ("imagenet22k",),
    "imagenet-256px": ("imagenet-256px",),
    "imagenet-64px": ("imagenet-64px",),
    "inception": ("inception",),
}


def unknown(name: str) -> str:
    """What to say of a name that is no dataset's; '' of one that is."""
    if name in NAMES:
        return ""
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
    return f"unknown dataset {name}: {hint}"


def is_there(name: str, root: Path) -> bool:
    """Whether there is anything in a folder of a dataset; whether it is right, reading it tells."""
    return name not in FOLDERS or any(_holds(root / folder) for folder in FOLDERS[name])


def _holds(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
