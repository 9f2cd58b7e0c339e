"""The embedded sets: per split one grey PNG atlas, sorted by class; and a JSON manifest."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta
from PIL import Image

from repro.core import records
from repro.data.images import (
    MAX_BYTES,
    SIDE,
    Bytes,
    DataError,
    Images,
    Labels,
    OfficialSplit,
    fingerprint,
    make_images,
    read_json,
    reason,
    to_rgb,
)

EMBEDDED = Path(__file__).parent / "embedded"
ATLASES = ("fashion-mnist-6k", "glyphs")
COLUMNS = 100  # images in a row of an atlas

_Positive = Annotated[int, Meta(ge=1)]


class _SplitInfo(TypedDict):
    """The manifest of a split."""

    images: _Positive
    per_class: _Positive
    fingerprint: str


class _Manifest(TypedDict):
    side: Annotated[int, Meta(ge=1, le=SIDE)]
    columns: _Positive
    mean: float
    std: records.Positive
    classes: list[str]
    splits: dict[OfficialSplit, _SplitInfo]


def write_atlas(
    folder: Path, name: str, splits: Mapping[str, tuple[Bytes, Labels]], about: Mapping[str, Any]
) -> None:
    """Write grey images (N, side, side) of every split, and the manifest, which includes `about`.

    The labels must be sorted and balanced, since an atlas encodes labels only by position.
    """
    train = to_rgb(splits["train"][0])[:, 0] / 255.0
    manifest = {
        "name": name,
        **about,
        "side": splits["train"][0].shape[-1],
        "columns": COLUMNS,
        "mean": round(float(train.mean()), 4),
        "std": round(float(train.std()), 4),
        "splits": {},
    }
    for split, (grey, labels) in splits.items():
        count, side = len(grey), grey.shape[-1]
        per_class = count // len(manifest["classes"])
        if not np.array_equal(labels, np.arange(count) // per_class) or count % COLUMNS:
            raise ValueError(f"{name} {split}: labels must be sorted and balanced")
        sheet = grey.reshape(-1, COLUMNS, side, side).swapaxes(1, 2).reshape(-1, COLUMNS * side)
        Image.fromarray(sheet).save(folder / f"{name}-{split}.png", optimize=True)
        manifest["splits"][split] = {
            "images": count,
            "per_class": per_class,
            "fingerprint": fingerprint(to_rgb(grey), labels),
        }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def load(name: str, split: OfficialSplit, folder: Path = EMBEDDED) -> Images:
    """One split of an embedded set; DataError if it is damaged."""
    path, manifest_path = folder / f"{name}-{split}.png", folder / f"{name}.json"
    step = "the installation is damaged; check out or install the project again"
    manifest = read_json(manifest_path, _Manifest, step)
    side, columns, about = manifest["side"], manifest["columns"], manifest["splits"].get(split)
    if not about or about["per_class"] * len(manifest["classes"]) != about["images"]:
        raise DataError(f"{manifest_path}: no valid {split} split; {step}")
    try:
        with Image.open(io.BytesIO(records.read_bytes(path, MAX_BYTES))) as image:
            sheet = np.asarray(image.convert("L")).reshape(-1, side, columns, side)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {reason(error)}; {step}") from error
    grey = sheet.swapaxes(1, 2).reshape(-1, side, side)
    labels = np.arange(len(grey)) // about["per_class"]
    mean, std = manifest["mean"], manifest["std"]
    images = make_images(to_rgb(grey), labels, manifest["classes"], (mean,) * 3, (std,) * 3)
    if images.fingerprint != about["fingerprint"]:
        raise DataError(f"{path}: its pixels do not match its manifest; {step}")
    return images
