"""The sizes of datasets, for plans and prices, from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from repro.data import catalogue


class DatasetSize(NamedTuple):
    """Images per split and classes of a dataset; a smoke set has few images but all classes."""

    train: int
    test: int
    classes: int


DATASETS: Mapping[str, DatasetSize] = {
    name: DatasetSize(size.train_images, size.test_images, size.classes)
    for name, size in catalogue.DATASETS.items()
}
SMOKE_IMAGES = 20
CROPS_256PX = "256px"  # a photograph's centre, the shorter side resized to 256 px
STORED_SIDE = 32  # px, where neither recipe nor evaluation says
STORED_SIDES = {"fashion-singles": catalogue.DATASETS["fashion-singles"].side or STORED_SIDE}
PART = {"fit": 5 / 6, "validation": 1 / 6}  # of 'train'


def size_of(dataset: str) -> DatasetSize | None:
    """The size of a dataset in any of its forms; None if it is unknown."""
    dataset = dataset.removesuffix("-256px").removesuffix("-64px")
    size = DATASETS.get(dataset.removesuffix("-smoke"))
    if size and dataset.endswith("-smoke"):
        return DatasetSize(SMOKE_IMAGES, SMOKE_IMAGES, size.classes)
    return size


def train_images(dataset: str, split: str) -> float | None:
    """The number of images of 'train', 'fit' or 'validation'; None if it is unknown."""
    size = size_of(dataset)
    return size.train * PART.get(split, 1) if size else None
