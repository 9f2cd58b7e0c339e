"""Cut the embedded subset out of Fashion-MNIST: `python scripts/cut_fashion_mnist.py FOLDER`.

FOLDER holds the four idx files, gzipped or not: Debian's /usr/share/datasets/fashion-mnist, or
torchvision's FashionMNIST/raw. The selection depends on the seed alone.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np

from repro.data.atlas import EMBEDDED, write_atlas
from repro.data.datasets import FASHION_CLASSES, hash_order, idx_bytes, parse_idx
from repro.data.images import Bytes, Labels

SEED = 0
PER_CLASS = {"train": 600, "test": 200}
PREFIX = {"train": "train", "test": "t10k"}


def cut(
    folder: Path, output: Path, per_class: dict[str, int] = PER_CLASS, seed: int = SEED
) -> None:
    """Write the atlases and the manifest of `fashion-mnist-6k` to `output`."""
    splits, digests = {}, {}
    for split, count in per_class.items():
        images, labels = read(folder, PREFIX[split])
        indices = select(labels, count, f"fashion-mnist-6k {seed} {split}")
        splits[split] = images[indices], labels[indices]
        digests[split] = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    manifest = {
        "source": "Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist",
        "licence": "MIT, see fashion-mnist-6k.LICENSE",
        "script": "scripts/cut_fashion_mnist.py",
        "seed": seed,
        "indices_sha256": digests,  # of the positions in the full split, int64 little-endian
        "classes": FASHION_CLASSES,
    }
    write_atlas(output, "fashion-mnist-6k", splits, manifest)


def read(folder: Path, prefix: str) -> tuple[Bytes, Labels]:
    """Images (N, 28, 28) and labels (N,) of one official split."""
    arrays = []
    for file in (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"):
        path, data = idx_bytes(folder, file, "apt-get install dataset-fashion-mnist")
        arrays.append(parse_idx(path, data, "apt-get install dataset-fashion-mnist"))
    return arrays[0], arrays[1].astype(np.int64)


def select(labels: Labels, per_class: int, key: str) -> Labels:
    """The positions of `per_class` images of each class: by class, then in the order of the full
    split."""
    indices: list[int] = []
    for label in range(len(FASHION_CLASSES)):
        members = np.flatnonzero(labels == label).tolist()
        if len(members) < per_class:
            raise ValueError(f"{len(members)} images of class {label}, but {per_class} are needed")
        indices += sorted(hash_order(members, key)[:per_class])
    return np.array(indices, dtype=np.int64)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    cut(arguments.folder, arguments.output)
