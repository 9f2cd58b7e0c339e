"""What `repro prepare` does to trust a set of photos: count it, and read a fixed sample of it.

A thousand images of each split are read, decoded and hashed. The hashes are kept, so that the next
`repro prepare` names what has changed since. To read all 150 GB takes long, and is not done.
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

from repro import records
from repro.data import imagenet, layouts
from repro.data.images import DataError, Official, reason, record, write_whole
from repro.data.own_picture import FORMATS
from repro.data.photos import Photos
from repro.data.randomness import bits, seed_of

IMAGES = 1000  # of each split, or all
BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class _Seen(TypedDict):
    """An image of the sample."""

    index: int
    name: str
    sha256: str


class _Manifest(TypedDict):
    """What is kept of a split."""

    images: int
    fingerprint: str
    sample: list[_Seen]


def prepare(name: str, root: Path) -> list[str]:
    """Index a set, check its numbers and its sample; the lines to print.

    Raises DataError for what is missing, not official, unreadable, or changed since the last time.
    """
    lines, known = [], _read_manifest(name, root)
    manifest: dict[str, _Manifest] = {}
    for split in imagenet.splits(name):
        found = layouts.describe(imagenet.found(name, split, root))
        photos = imagenet.load(name, split, root)
        manifest[split] = _examined(name, split, root, photos, known.get(split))
        lines.append(
            f"{name} {split}: {len(photos):,} images of {len(photos.classes):,} classes, "
            f"{found}; {len(manifest[split]['sample']):,} of them read and decoded"
        )
        lines += _release(name, photos)
    lines += _archives(name, root)
    _write_manifest(name, root, manifest)
    return lines


def _release(name: str, photos: Photos) -> list[str]:
    if name != "imagenet22k":
        return []
    release = imagenet.RELEASES.get((len(photos), len(photos.classes)))
    if release is None:
        known = ", ".join(f"{r} ({n:,} of {c:,})" for (n, c), r in imagenet.RELEASES.items())
        return [f"warning: {name} is no release that is known here: {known}"]
    return [f"{name}: the release {release}"]


def _archives(name: str, root: Path) -> list[str]:
    """The big archives' md5, which prepare does not compute: it would read 145 GB."""
    return [
        f"{root / name / file}: not compared with its md5, which is {md5}; to do so, run md5sum"
        for file, md5 in imagenet.ARCHIVES.items()
        if name == "imagenet" and file.endswith(".tar") and (root / name / file).exists()
    ]


def chosen(count: int) -> list[int]:
    """The positions of the sample: those that a hash puts first, in order."""
    key = torch.tensor(seed_of(IMAGES))
    order = bits(key, 0, torch.arange(count)).argsort(stable=True)
    return sorted(order[:IMAGES].tolist())


def _examined(
    name: str, split: Official, root: Path, photos: Photos, known: _Manifest | None
) -> _Manifest:
    """The manifest of a split; DataError where it differs from the known one."""
    positions = chosen(len(photos))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # PIL decodes without the GIL
        hashes = list(pool.map(lambda index: decoded_hash(photos, index), positions))
    sample: list[_Seen] = [
        {"index": index, "name": photos.name(index), "sha256": digest}
        for index, digest in zip(positions, hashes, strict=True)
    ]
    if known is not None:
        before = {entry["index"]: entry["sha256"] for entry in known["sample"]}
        changed = [e["name"] for e in sample if before.get(e["index"]) != e["sha256"]]
        _refuse_changes(name, root, split, changed, known["fingerprint"] != photos.fingerprint)
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
    except BROKEN as error:
        place = photos.files[int(photos.file[index])]
        raise DataError(
            f"{photos.name(index)}: no image ({reason(error)}); put a whole one in {place}"
        ) from error
    return hashlib.sha256(data).hexdigest()


def _refuse_changes(
    name: str, root: Path, split: Official, changed: Sequence[str], renamed: bool
) -> None:
    if not changed and not renamed:
        return
    more = f" and {len(changed) - 3} more of the sample" if len(changed) > 3 else ""
    what = ", ".join(changed[:3]) + more or "names, lengths or labels outside the sample"
    raise DataError(
        f"{root / name}: {split} is not what was prepared before: {what} changed; put it back, or "
        f"remove {imagenet.manifest(name, root)} to accept it"
    )


def _read_manifest(name: str, root: Path) -> dict[str, _Manifest]:
    path = imagenet.manifest(name, root)
    if not path.exists():
        return {}
    step = f"remove it and run `repro prepare {name} --data {root}`"
    return record(path, dict[str, _Manifest], step)


def _write_manifest(name: str, root: Path, manifest: dict[str, _Manifest]) -> None:
    text = records.encode(manifest, indent=1) + "\n"
    write_whole(imagenet.manifest(name, root), text.encode())
