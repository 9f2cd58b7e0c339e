"""Verify an image dataset in `repro prepare`: count it, and read a fixed sample.

A thousand images of each split are read, decoded and hashed. The hashes are stored, so that the
next `repro prepare` names changed images. Reading all 150 GB would take too long.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import torch
from PIL import Image

from repro.core import records
from repro.data.imagenet import containers, reader
from repro.data.imagenet.photos import Photos
from repro.data.images import DataError, OfficialSplit, read_json, reason, write_atomically
from repro.data.randomness import bits, derive_seed
from repro.data.user_image import FORMATS

SAMPLE_SIZE = 1000  # of each split, or all
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class _ImageDigest(TypedDict):
    """An image of the sample and its hash."""

    index: int
    name: str
    sha256: str


class _Manifest(TypedDict):
    """The stored manifest of a split."""

    images: int
    fingerprint: str
    sample: list[_ImageDigest]


def prepare(name: str, root: Path) -> list[str]:
    """Index a set, check its numbers and its sample; returns the lines to print.

    Raises DataError for missing, unofficial or unreadable images, or changes since the last time.
    """
    lines, previous = [], _read_manifest(name, root)
    manifest: dict[str, _Manifest] = {}
    for split in reader.splits(name):
        layout = containers.describe(reader.find_containers(name, split, root))
        photos = reader.load(name, split, root)
        manifest[split] = _check_split(name, split, root, photos, previous.get(split))
        lines.append(
            f"{name} {split}: {len(photos):,} images of {len(photos.classes):,} classes, "
            f"{layout}; {len(manifest[split]['sample']):,} of them read and decoded"
        )
        lines += _release(name, photos)
    lines += _archives(name, root)
    _write_manifest(name, root, manifest)
    return lines


def _release(name: str, photos: Photos) -> list[str]:
    if name != "imagenet22k":
        return []
    release = reader.RELEASES.get((len(photos), len(photos.classes)))
    if release is None:
        releases = ", ".join(f"{r} ({n:,} of {c:,})" for (n, c), r in reader.RELEASES.items())
        return [f"warning: {name} is not a known release: {releases}"]
    return [f"{name}: the release {release}"]


def _archives(name: str, root: Path) -> list[str]:
    """The big archives' md5, which prepare does not compute: it would read 145 GB."""
    return [
        f"{root / name / file}: md5 not checked (official: {md5}); run md5sum to check it"
        for file, md5 in reader.ARCHIVES.items()
        if name == "imagenet" and file.endswith(".tar") and (root / name / file).exists()
    ]


def sample_indices(count: int) -> list[int]:
    """The indices of the sample, chosen by a hash, in ascending order."""
    key = torch.tensor(derive_seed(SAMPLE_SIZE))
    order = bits(key, 0, torch.arange(count)).argsort(stable=True)
    return sorted(order[:SAMPLE_SIZE].tolist())


def _check_split(
    name: str, split: OfficialSplit, root: Path, photos: Photos, previous: _Manifest | None
) -> _Manifest:
    """The manifest of a split; DataError if it differs from the previous one."""
    positions = sample_indices(len(photos))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # PIL decodes without the GIL
        hashes = list(pool.map(lambda index: decoded_hash(photos, index), positions))
    sample: list[_ImageDigest] = [
        {"index": index, "name": photos.name(index), "sha256": digest}
        for index, digest in zip(positions, hashes, strict=True)
    ]
    if previous is not None:
        before = {entry["index"]: entry["sha256"] for entry in previous["sample"]}
        changed = [e["name"] for e in sample if before.get(e["index"]) != e["sha256"]]
        _refuse_changes(name, root, split, changed, previous["fingerprint"] != photos.fingerprint)
    return {"images": len(photos), "fingerprint": photos.fingerprint, "sample": sample}


def decoded_hash(photos: Photos, index: int) -> str:
    """sha256 of a compressed image; DataError where it cannot be decoded."""
    data = photos.read(index)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.verify()
        with Image.open(
            io.BytesIO(data), formats=FORMATS
        ) as image:  # verify leaves an image that cannot be loaded
            image.load()
    except DECODE_ERRORS as error:
        path = photos.files[int(photos.file[index])]
        raise DataError(
            f"{photos.name(index)}: unreadable image ({reason(error)}); replace it in {path}"
        ) from error
    return hashlib.sha256(data).hexdigest()


def _refuse_changes(
    name: str, root: Path, split: OfficialSplit, changed: Sequence[str], renamed: bool
) -> None:
    if not changed and not renamed:
        return
    more = f" and {len(changed) - 3} more of the sample" if len(changed) > 3 else ""
    what = ", ".join(changed[:3]) + more or "names, lengths or labels outside the sample"
    raise DataError(
        f"{root / name}: {split} differs from what was prepared before: {what} changed; restore "
        f"it, or remove {reader.manifest(name, root)} to accept it"
    )


def _read_manifest(name: str, root: Path) -> dict[str, _Manifest]:
    path = reader.manifest(name, root)
    if not path.exists():
        return {}
    step = f"remove it and run `repro prepare {name} --data {root}`"
    return read_json(path, dict[str, _Manifest], step)


def _write_manifest(name: str, root: Path, manifest: dict[str, _Manifest]) -> None:
    text = records.encode(manifest, indent=1) + "\n"
    write_atomically(reader.manifest(name, root), text.encode())
