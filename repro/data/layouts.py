"""The forms in which ImageNet lies in a folder: trees, tar files, WebDataset shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.data.images import DataError, Official, reason
from repro.data.scan import WNID, Container, Kind

WHOLE = ("ILSVRC2012_img_train.tar", "fall11_whole.tar", "winter21_whole.tar")
FOLDERS: dict[Official, tuple[str, ...]] = {"train": ("train",), "test": ("val", "validation")}
SHARD: dict[Official, re.Pattern[str]] = {
    "train": re.compile(r"(.*[-_.])?train[-_.]\d+\.tar"),
    "test": re.compile(r"(.*[-_.])?val(idation)?[-_.]\d+\.tar"),
}

NUMBER = re.compile(r"\d{1,3}")  # of a class of ImageNetV2


def find(folder: Path, split: Official, one_split: bool, numbered: bool = False) -> list[Container]:
    """The folders or tars of a split, in the first form that there is; none where there is none.

    A set of one split may also have its classes in `folder` itself. `numbered` is a set whose
    folders have the number of their class for a wnid. DataError: not readable.
    """
    for found in _forms(folder, split, one_split, NUMBER if numbered else WNID):
        if found:
            return [Container(str(Path(c.path).relative_to(folder)), c.kind, c.wnid) for c in found]
    return []


def _forms(
    folder: Path, split: Official, one_split: bool, of_class: re.Pattern[str]
) -> Iterator[list[Container]]:
    places = [folder / place for place in FOLDERS[split]] + [folder] * one_split
    yield from (_class_folders(place, of_class) for place in places)
    if split == "test":
        yield from map(_flat, places)
    yield _archive(folder, split)
    yield from map(_class_tars, places)
    yield from (_shards(place, split) for place in (folder, *places))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: {reason(error)}; make it readable and try again") from error


def _class_folders(place: Path, of_class: re.Pattern[str]) -> list[Container]:
    entries = (entry for entry in _entries(place) if of_class.fullmatch(entry.name))
    return [Container(e.path, "folder", e.name) for e in entries if e.is_dir()]


def _class_tars(place: Path) -> list[Container]:
    entries = [entry for entry in _entries(place) if entry.name.endswith(".tar")]
    wnids = [(entry, entry.name.removesuffix(".tar")) for entry in entries]
    return [Container(e.path, "tar", wnid) for e, wnid in wnids if WNID.fullmatch(wnid)]


def _flat(place: Path) -> list[Container]:
    """The folder that ILSVRC2012_img_val.tar was unpacked in, without a folder a class."""
    unpacked = any(e.name.startswith("ILSVRC2012_val_") for e in _entries(place))
    return [Container(str(place), "folder")] if unpacked else []


def _archive(folder: Path, split: Official) -> list[Container]:
    names = WHOLE if split == "train" else ("ILSVRC2012_img_val.tar",)
    kind: Kind = "tar of tars" if split == "train" else "tar"
    return [Container(str(folder / n), kind) for n in names if (folder / n).is_file()][:1]


def _shards(place: Path, split: Official) -> list[Container]:
    entries = _entries(place)
    return [Container(e.path, "shard") for e in entries if SHARD[split].fullmatch(e.name)]


def describe(containers: Sequence[Container]) -> str:
    """What was found, in words."""
    words = {
        "folder": "a folder a class",
        "tar": "one tar a class",
        "tar of tars": "a tar of one tar a class",
        "shard": "WebDataset shards",
    }
    kind = words[containers[0].kind] if containers[0].wnid or len(containers) > 1 else "one"
    return f"{kind} ({containers[0].path})" if len(containers) == 1 else kind
