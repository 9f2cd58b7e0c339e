"""Find ImageNet's containers in a folder: class folders, tar files or WebDataset shards."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from repro.data.imagenet.scan import WNID, Container, ContainerKind
from repro.data.images import DataError, OfficialSplit, reason

TRAIN_ARCHIVES = ("ILSVRC2012_img_train.tar", "fall11_whole.tar", "winter21_whole.tar")
FOLDERS: dict[OfficialSplit, tuple[str, ...]] = {"train": ("train",), "test": ("val", "validation")}
SHARD_PATTERNS: dict[OfficialSplit, re.Pattern[str]] = {
    "train": re.compile(r"(.*[-_.])?train[-_.]\d+\.tar"),
    "test": re.compile(r"(.*[-_.])?val(idation)?[-_.]\d+\.tar"),
}

NUMBER = re.compile(r"\d{1,3}")  # of a class of ImageNetV2


def find(
    folder: Path, split: OfficialSplit, one_split: bool, numbered: bool = False
) -> list[Container]:
    """The folders or tars of a split, in the first layout that matches; [] if none does.

    A dataset with one split may have its classes in `folder` itself. `numbered`: folders are named
    by class number, not by wnid. Raises DataError if a folder cannot be read.
    """
    for layout in _candidates(folder, split, one_split, NUMBER if numbered else WNID):
        if layout:
            return [
                Container(str(Path(c.path).relative_to(folder)), c.kind, c.wnid) for c in layout
            ]
    return []


def _candidates(
    folder: Path, split: OfficialSplit, one_split: bool, class_name: re.Pattern[str]
) -> Iterator[list[Container]]:
    folders = [folder / name for name in FOLDERS[split]] + [folder] * one_split
    yield from (_class_folders(path, class_name) for path in folders)
    if split == "test":
        yield from map(_flat_folder, folders)
    yield _archive(folder, split)
    yield from map(_class_tars, folders)
    yield from (_shards(path, split) for path in (folder, *folders))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: {reason(error)}; make it readable and try again") from error


def _class_folders(folder: Path, class_name: re.Pattern[str]) -> list[Container]:
    entries = (entry for entry in _entries(folder) if class_name.fullmatch(entry.name))
    return [Container(e.path, "folder", e.name) for e in entries if e.is_dir()]


def _class_tars(folder: Path) -> list[Container]:
    entries = [entry for entry in _entries(folder) if entry.name.endswith(".tar")]
    wnids = [(entry, entry.name.removesuffix(".tar")) for entry in entries]
    return [Container(e.path, "tar", wnid) for e, wnid in wnids if WNID.fullmatch(wnid)]


def _flat_folder(folder: Path) -> list[Container]:
    """The folder into which ILSVRC2012_img_val.tar was unpacked, without class folders."""
    unpacked = any(e.name.startswith("ILSVRC2012_val_") for e in _entries(folder))
    return [Container(str(folder), "folder")] if unpacked else []


def _archive(folder: Path, split: OfficialSplit) -> list[Container]:
    names = TRAIN_ARCHIVES if split == "train" else ("ILSVRC2012_img_val.tar",)
    kind: ContainerKind = "tar of tars" if split == "train" else "tar"
    return [Container(str(folder / n), kind) for n in names if (folder / n).is_file()][:1]


def _shards(folder: Path, split: OfficialSplit) -> list[Container]:
    entries = _entries(folder)
    return [Container(e.path, "shard") for e in entries if SHARD_PATTERNS[split].fullmatch(e.name)]


def describe(containers: Sequence[Container]) -> str:
    """A description of the containers."""
    kinds = {
        "folder": "a folder per class",
        "tar": "a tar per class",
        "tar of tars": "a tar of one tar per class",
        "shard": "WebDataset shards",
    }
    kind = kinds[containers[0].kind] if containers[0].wnid or len(containers) > 1 else "one"
    return f"{kind} ({containers[0].path})" if len(containers) == 1 else kind
