"""The datasets: sizes, titles, folders. It imports no torch, so that planning can use it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple


class DatasetInfo(NamedTuple):
    """The size of a dataset, and its title in a table."""

    title: str
    train_images: int
    test_images: int
    classes: int
    side: int | None  # px, as it is loaded; None: images of all sizes


_CUES = {
    "cues-local-plain": "Patterns on plain grounds",
    "cues-local-textured": "Patterns on textures",
    "cues-shape-plain": "Shapes on plain grounds",
    "cues-shape-textured": "Shapes on textures",
}
SYNTHETIC = tuple(_CUES)

DATASETS: dict[str, DatasetInfo] = {
    "cifar10": DatasetInfo("CIFAR-10", 50_000, 10_000, 10, 32),
    "cifar100": DatasetInfo("CIFAR-100", 50_000, 10_000, 100, 32),
    "fashion-mnist": DatasetInfo("Fashion-MNIST", 60_000, 10_000, 10, 32),
    "fashion-mnist-6k": DatasetInfo("Fashion-MNIST-6k", 6_000, 2_000, 10, 32),
    "glyphs": DatasetInfo("Glyphs-100", 6_000, 2_000, 100, 32),
    "fashion-singles": DatasetInfo("Fashion-MNIST on textures", 6_000, 2_000, 10, 64),
    **{name: DatasetInfo(title, 3_600, 2_000, 8, 32) for name, title in _CUES.items()},
    "imagenet": DatasetInfo("ImageNet", 1_281_167, 50_000, 1000, None),
    "imagenetv2": DatasetInfo("ImageNetV2", 0, 10_000, 1000, None),
    "imagenet22k": DatasetInfo("ImageNet-22K", 14_197_122, 0, 21_841, None),
    "imagenet-256px": DatasetInfo("ImageNet, 256 px", 1_281_167, 50_000, 1000, 256),
    "imagenet-64px": DatasetInfo("ImageNet, 64 px", 1_281_167, 50_000, 1000, 64),
}

NAMES = (
    "cifar10",
    "cifar100",
    "cifar10-smoke",
    "cifar100-smoke",
    "fashion-mnist",
    "fashion-mnist-6k",
    "glyphs",
    "fashion-singles",
    *SYNTHETIC,
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

EMBEDDED = ("fashion-mnist-6k", "glyphs", "fashion-singles", *SYNTHETIC)  # shipped with the code

# The folders of a dataset under the data folder; one of them is enough. Datasets that are not
# listed are embedded, or made from embedded images when they are needed.
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


def unknown_dataset(name: str) -> str:
    """The error message for an unknown dataset; '' if the dataset is known."""
    if name in NAMES:
        return ""
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the datasets are {', '.join(NAMES)}"
    return f"unknown dataset {name}: {hint}"


def is_present(name: str, root: Path) -> bool:
    """Whether a folder of the dataset has content. Only reading it shows whether it is valid."""
    return name not in FOLDERS or any(_is_nonempty(root / folder) for folder in FOLDERS[name])


def _is_nonempty(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
