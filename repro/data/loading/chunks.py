"""The work of a loader worker: read, decode and crop a chunk of a batch."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from repro.data.augment.crops import CentreCrop, RandomCrop, UndecodableImage, decode, decode_all
from repro.data.imagenet.photos import Photos
from repro.data.images import DataError, Images

Decode = Literal["cpu", "nvjpeg"]
Samples = Iterable[tuple[Tensor, Tensor]]

CHUNK_SIZE = 32  # images; about 45 ms of work


class Chunk(NamedTuple):
    """Some samples of a batch, as plain numbers, which are cheaper to send than tensors."""

    indices: list[int]
    keys: list[int]
    start: int  # in its batch
    batch: int  # its size
    slot: int  # of the shared buffers, for the pixels


class DecodedChunk(NamedTuple):
    """A chunk whose pixels are in its slot."""

    chunk: Chunk
    indices: list[int]  # of the samples used
    readable: list[bool]
    unreadable: dict[int, str]  # index -> name and reason, in order of occurrence


class UndecodedChunk(NamedTuple):
    """A chunk to be decoded on the device."""

    chunk: Chunk
    data: Tensor  # uint8, one file after the other
    lengths: list[int]


class SharedBuffers:
    """Memory shared with the workers, which fork later: they write, the training process reads.

    Sending a new tensor for each chunk would cost a fifth of the worker's time in page faults.
    """

    def __init__(self, count: int, size: int) -> None:
        shape = (count, CHUNK_SIZE, 3, size, size)
        memory = mmap.mmap(-1, count * CHUNK_SIZE * 3 * size * size)  # shared, anonymous
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8).view(shape)
        self.free = deque(range(count))


def split_into_chunks(samples: Samples, slots: SharedBuffers) -> Iterator[Chunk]:
    """The chunks of the batches, in order; each holds a slot until that is freed."""
    for indices, keys in samples:
        size = len(indices)
        for start in range(0, max(1, size), CHUNK_SIZE):  # an empty batch gives one empty chunk
            part = slice(start, start + CHUNK_SIZE)
            slot = slots.free.popleft()
            yield Chunk(indices[part].tolist(), keys[part].tolist(), start, size, slot)


class LoaderWorker(Dataset[DecodedChunk | UndecodedChunk | DataError]):
    """Maps a chunk to its pixels. A DataError is returned, not raised."""

    def __init__(
        self,
        images: Images | Photos,
        crop: RandomCrop | CentreCrop,
        limit: int,  # of unreadable images
        decode: Decode,
        slots: SharedBuffers,
    ) -> None:
        self.images, self.crop, self.limit = images, crop, limit
        self.decode, self.slots = decode, slots

    def __getitem__(self, chunk: Chunk) -> DecodedChunk | UndecodedChunk | DataError:
        try:
            if self.decode == "nvjpeg" and isinstance(self.images, Photos) and chunk.indices:
                data = [self.images.read(index) for index in chunk.indices]
                data_bytes = torch.frombuffer(bytearray(b"".join(data)), dtype=torch.uint8)
                return UndecodedChunk(chunk, data_bytes, [len(file) for file in data])
            undecoded = [None] * len(chunk.indices)
            return self.crop_into(chunk, undecoded, self.slots.pixels[chunk.slot])
        except DataError as error:
            return error

    def decode_and_crop(self, undecoded: UndecodedChunk, out: Tensor) -> DecodedChunk:
        """Decode with nvJPEG, or on the CPU if nvJPEG fails, and crop into `out`."""
        images = decode_all(undecoded.data.split(undecoded.lengths), out.device)
        return self.crop_into(undecoded.chunk, images, out)

    def crop_into(self, chunk: Chunk, images: Sequence[Tensor | None], out: Tensor) -> DecodedChunk:
        """Crop the images into `out`; those that are None are decoded first."""
        result = DecodedChunk(chunk, [], [], {})
        draws = self.crop.draws(torch.tensor(chunk.keys, dtype=torch.int64))
        for row, (index, image) in enumerate(zip(chunk.indices, images, strict=True)):
            if image is None:
                index, image = self._find_readable(index, result.unreadable)
            out[row] = 0 if image is None else self.crop(image, draws[row])
            result.indices.append(index)
            result.readable.append(image is not None)
        return result

    def _find_readable(self, index: int, unreadable: dict[int, str]) -> tuple[int, Tensor | None]:
        """The sample or, in training, the next readable one; unreadable ones are recorded.

        It tries at most `limit` + 1 images, since more than `limit` unreadable ones are an error.
        """
        if isinstance(self.images, Images):
            return index, self.images.pixels[index]
        size = len(self.images)
        max_tries = min(self.limit + 1, size) if isinstance(self.crop, RandomCrop) else 1
        for number in (position % size for position in range(index, index + max_tries)):
            try:
                return number, decode(self.images.read(number))
            except UndecodableImage as error:
                unreadable[number] = f"{self.images.name(number)}: {error}"
        return index, None
