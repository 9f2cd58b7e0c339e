"""What a worker of the loader does: a piece of a batch is read, decoded and cropped."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from repro.data.crops import CentreCrop, RandomCrop, Unreadable, decode, decode_all
from repro.data.images import DataError, Images
from repro.data.photos import Photos

Decode = Literal["cpu", "nvjpeg"]
Samples = Iterable[tuple[Tensor, Tensor]]

LENGTH = 32  # images: 45 ms of work


class Piece(NamedTuple):
    """Some samples of a batch, as plain numbers, which travel faster than tensors."""

    indices: list[int]
    keys: list[int]
    start: int  # in its batch
    batch: int  # size of that
    slot: int  # where the pixels go


class Cropped(NamedTuple):
    """A piece whose pixels are in its slot."""

    piece: Piece
    indices: list[int]  # of the samples taken
    readable: list[bool]
    unreadable: dict[int, str]  # their names and why, in the order they were found


class Read(NamedTuple):
    """A piece that is to be decoded on the device."""

    piece: Piece
    data: Tensor  # uint8, one file after the other
    lengths: list[int]


class Slots:
    """Memory that the workers, forked later, write to and that the training process reads.

    Passing on a new tensor instead costs a fifth of the worker's time, in page faults.
    """

    def __init__(self, count: int, size: int) -> None:
        shape = (count, LENGTH, 3, size, size)
        memory = mmap.mmap(-1, count * LENGTH * 3 * size * size)  # shared, in no file system
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8).view(shape)
        self.free = deque(range(count))


def pieces(samples: Samples, slots: Slots) -> Iterator[Piece]:
    """The pieces of the batches, in order, each with a slot of its own until it is free again."""
    for indices, keys in samples:
        size = len(indices)
        for start in range(0, max(1, size), LENGTH):  # an empty batch is one as well
            part = slice(start, start + LENGTH)
            slot = slots.free.popleft()
            yield Piece(indices[part].tolist(), keys[part].tolist(), start, size, slot)


class Work(Dataset[Cropped | Read | DataError]):
    """From a piece to its pixels. A DataError is handed over as it is, in one line."""

    def __init__(
        self,
        images: Images | Photos,
        crop: RandomCrop | CentreCrop,
        limit: int,  # of unreadable images
        decode: Decode,
        slots: Slots,
    ) -> None:
        self.images, self.crop, self.limit = images, crop, limit
        self.decode, self.slots = decode, slots

    def __getitem__(self, piece: Piece) -> Cropped | Read | DataError:
        try:
            if self.decode == "nvjpeg" and isinstance(self.images, Photos) and piece.indices:
                data = [self.images.read(index) for index in piece.indices]
                joined = torch.frombuffer(bytearray(b"".join(data)), dtype=torch.uint8)
                return Read(piece, joined, [len(one) for one in data])
            nothing = [None] * len(piece.indices)
            return self.cropped(piece, nothing, self.slots.pixels[piece.slot])
        except DataError as error:
            return error

    def decoded(self, read: Read, out: Tensor) -> Cropped:
        """What nvJPEG makes of a piece, and the CPU of what that refuses, cropped into `out`."""
        images = decode_all(read.data.split(read.lengths), out.device)
        return self.cropped(read.piece, images, out)

    def cropped(self, piece: Piece, images: Sequence[Tensor | None], out: Tensor) -> Cropped:
        """Crop the images into `out`; those that are None are decoded first."""
        result = Cropped(piece, [], [], {})
        draws = self.crop.draws(torch.tensor(piece.keys, dtype=torch.int64))
        for place, (index, image) in enumerate(zip(piece.indices, images, strict=True)):
            if image is None:
                index, image = self._readable(index, result.unreadable)
            out[place] = 0 if image is None else self.crop(image, draws[place])
            result.indices.append(index)
            result.readable.append(image is not None)
        return result

    def _readable(self, index: int, unreadable: dict[int, str]) -> tuple[int, Tensor | None]:
        """The sample, or in training the next one that can be read; notes those that cannot.

        More than `limit` of them are an error anyway, so it looks no further.
        """
        if isinstance(self.images, Images):
            return index, self.images.pixels[index]
        size = len(self.images)
        tries = min(self.limit + 1, size) if isinstance(self.crop, RandomCrop) else 1
        for number in (place % size for place in range(index, index + tries)):
            try:
                return number, decode(self.images.read(number))
            except Unreadable as error:
                unreadable[number] = f"{self.images.name(number)}: {error}"
        return index, None
