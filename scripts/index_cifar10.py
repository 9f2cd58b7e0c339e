"""Write the index that restores the order of CIFAR-10's images in a tree: `... DATA_FOLDER`.

DATA_FOLDER holds CIFAR-10 as `repro prepare cifar10` leaves it; reading verifies it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from repro.data.cifar import CIFAR10, load
from repro.data.cifar_import import short_digests


def write(data: Path, output: Path) -> None:
    """Write 4 bytes for each of the 60,000 images, train before test, as a NumPy file."""
    parts = []
    for split in ("train", "test"):
        images = load("cifar10", split, data)
        labels = images.labels.numpy().astype(np.uint8)[:, None]
        parts.append(np.hstack([labels, images.pixels.flatten(1).numpy()]))
    digests = short_digests(np.concatenate(parts))
    if len(np.unique(digests)) != len(digests):
        raise ValueError("two images have the same digest; use longer digests")
    np.save(output, digests)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=CIFAR10.order)
    arguments = parser.parse_args()
    write(arguments.data, arguments.output)
