"""Datasets of compressed images of different sizes, read one at a time from their files: ImageNet.

`Photos` holds only arrays, about 70 bytes per image, so that 14 million images load quickly and are
shared with loader workers at no cost. The files are scanned once, by `scan`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from repro.data.images import RGB, DataError, reason

MEAN: RGB = (0.485, 0.456, 0.406)  # of ImageNet, as in torchvision, timm and the official code
STD: RGB = (0.229, 0.224, 0.225)


def _no_bytes() -> Tensor:
    return torch.zeros(0, dtype=torch.uint8)


def _no_spans() -> Tensor:
    return torch.zeros(0, 2, dtype=torch.int64)


@dataclass(frozen=True)
class Photos:
    """One split of a dataset of compressed images: the file, offset and length of each."""

    files: tuple[Path, ...]  # folders of image files, or the tar files that hold them
    file: Tensor  # (N,) int32, index into files
    offset: Tensor  # (N,) int64, bytes; -1: a file of its own in the folder
    length: Tensor  # (N,) int64, bytes
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    mean: RGB  # ImageNet's, of pixels / 255
    std: RGB
    # Over the images' names without endings, their lengths and labels, in order: the same on any
    # machine and in any format. That of a part of a split is over the split's and the part's name.
    fingerprint: str
    names: Tensor = field(default_factory=_no_bytes)  # uint8: names in UTF-8, one after another
    spans: Tensor = field(default_factory=_no_spans)  # (N, 2) int64: start and end of each name

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """'n01440764/n01440764_10026.JPEG' or 'archive.tar:member', for messages."""
        path = self.files[int(self.file[index])]
        if int(self.offset[index]) < 0:
            return f"{path.name}/{self._own_name(index)}"
        return f"{path.name}:{self._own_name(index)}"

    def read(self, index: int) -> bytes:
        """The compressed image; thread-safe and fork-safe, and leaves no file open.

        Raises DataError, naming the image, if it is missing or its length has changed since the
        scan.
        """
        path = self.files[int(self.file[index])]
        offset, length = int(self.offset[index]), int(self.length[index])
        next_step = "put it back, or run `repro prepare` for this dataset again"
        try:
            if offset < 0:  # one byte more, to detect growth
                data = _read(path / self._own_name(index), 0, length + 1)
            else:
                data = _read(path, offset, length)
        except OSError as error:
            raise DataError(
                f"{self.name(index)}: {reason(error)} in {path}; {next_step}"
            ) from error
        if len(data) != length:
            prefix = "more than " if len(data) > length else f"{len(data):,} of "
            raise DataError(f"{self.name(index)}: {prefix}{length:,} bytes in {path}; {next_step}")
        return data

    def take(self, chosen: Tensor, part: str) -> Photos:
        """The subset at the positions `chosen`, named `part`."""
        from hashlib import sha256

        mark = sha256(f"{self.fingerprint} {part}".encode()).hexdigest()[:16]
        columns = {
            name: getattr(self, name)[chosen]
            for name in ("file", "offset", "length", "labels", "spans")
        }
        return replace(self, **columns, fingerprint=mark)

    def _own_name(self, index: int) -> str:
        begin, end = self.spans[index].tolist()
        return os.fsdecode(self.names[begin:end].numpy().tobytes())


def _read(path: Path, offset: int, length: int) -> bytes:
    """Up to `length` bytes of a file from `offset` on; fewer only at its end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for a writer
    try:
        data = os.pread(descriptor, length, offset)
        while len(data) < length:  # a network file system may return less than requested
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data
    finally:
        os.close(descriptor)
