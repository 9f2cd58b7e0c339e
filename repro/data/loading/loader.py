"""Batches for training and evaluation: uint8 pixels on the model's device.

Datasets of one image size stay on the device, unless they are too large. Compressed images are
read, decoded and cropped ahead of time by worker processes, a chunk of a batch at a time; the
result does not depend on the number of workers.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from repro.data.augment.crops import CentreCrop, RandomCrop
from repro.data.imagenet.photos import Photos
from repro.data.images import DataError, Images
from repro.data.loading.chunks import (
    CHUNK_SIZE,
    Chunk,
    Decode,
    DecodedChunk,
    LoaderWorker,
    Samples,
    SharedBuffers,
    UndecodedChunk,
    split_into_chunks,
)
from repro.data.loading.transfer import to_device

_PREFETCH_BATCHES = 2  # batches in flight in the workers
_MAX_DEVICE_BYTES = 4 << 30  # larger datasets stay memory-mapped
# Those of repro.core.signals, and USR2. Copied, since this package does not import it.
_BLOCKED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)


class Batch(NamedTuple):
    """A batch. A sample that is not `readable` has black pixels and counts as an error."""

    pixels: Tensor  # uint8 (B, 3, S, S), on the device
    labels: Tensor  # int64 (B,), on the device
    readable: Tensor  # bool (B,), on the CPU
    keys: Tensor  # int64 (B,), on the CPU


def batches(
    images: Images | Photos,
    samples: Samples,
    crop: RandomCrop | CentreCrop | None,
    device: torch.device,
    workers: int,
    max_unreadable: float = 0.001,
    decode: Decode = "cpu",
) -> Generator[Batch, None, None]:
    """A batch for each pair of indices (B,) and keys (B,), int64 on the CPU, in their order.

    With `workers` 0, this process does the work. Workers exit when the iterator is closed or
    garbage-collected, and when this process exits for any reason. They ignore TERM, INT and USR2,
    so that a batch system's warning signal acts on the training process only. `samples` is consumed
    ahead of time.

    An image that cannot be decoded gives one warning. A RandomCrop uses the next readable image
    instead, with that image's label and the original sample's key; with a CentreCrop, the sample is
    not `readable`. Raises DataError, naming the first, if more than the share `max_unreadable` of
    the dataset is unreadable, and whenever a file is missing or truncated.

    With `decode` 'nvjpeg', workers only read; decoding and cropping run on the device. The pixels
    differ from the CPU's by some grey levels, so results are not bitwise equal.
    """
    if isinstance(images, Images) and crop is None:
        return _in_memory_batches(images, samples, device)
    if crop is None:
        raise ValueError("images of different sizes need a crop")
    limit = int(max_unreadable * len(images.labels))
    return _worker_batches(images, crop, limit, decode, samples, device, workers)


def default_workers() -> int:
    """One fewer than the cores of this process, which also launches the kernels; at least one.

    The LOCAL_WORLD_SIZE processes that torchrun starts share the cores.
    """
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores - 1)


def _in_memory_batches(
    images: Images, samples: Samples, device: torch.device
) -> Generator[Batch, None, None]:
    pixels, labels = images.pixels, images.labels
    if pixels.nbytes <= _MAX_DEVICE_BYTES:
        pixels, labels = pixels.to(device), labels.to(device)
    for indices, keys in samples:
        readable = torch.ones(len(indices), dtype=torch.bool)
        (device_indices,) = to_device(pixels.device, indices)
        batch_pixels, batch_labels = (
            pixels.index_select(0, device_indices),
            labels.index_select(0, device_indices),
        )
        if pixels.device != device:
            batch_pixels, batch_labels = to_device(device, batch_pixels, batch_labels)
        yield Batch(batch_pixels, batch_labels, readable, keys)


def _worker_batches(
    images: Images | Photos,
    crop: RandomCrop | CentreCrop,
    limit: int,
    decode: Decode,
    samples: Samples,
    device: torch.device,
    workers: int,
) -> Generator[Batch, None, None]:
    samples = iter(samples)
    first = list(islice(samples, 1))
    each = (
        math.ceil(_PREFETCH_BATCHES * len(first[0][0]) / CHUNK_SIZE / workers)
        if first and workers
        else 0
    )
    ahead = max(2, each)  # chunks per worker, including the current one
    # The loader keeps `workers` x `ahead` chunks in flight, while one is copied from its slot.
    slots = SharedBuffers(workers * ahead + 1, crop.size)
    worker = LoaderWorker(images, crop, limit, decode, slots)
    reported = dict[int, str]()
    # Only the loop refers to the iterator, so that its workers exit with it, even on an error.
    for part in _from_workers(
        worker, split_into_chunks(chain(first, samples), slots), workers, ahead
    ):
        if isinstance(part, DataError):
            raise part
        chunk = part.chunk
        if chunk.start == 0:
            pixels = _empty_batch((chunk.batch, 3, crop.size, crop.size), device, decode)
            indices, keys, readable = list[int](), list[int](), list[bool]()
        out = pixels[chunk.start : chunk.start + len(chunk.indices)]
        if isinstance(part, UndecodedChunk):
            part = worker.decode_and_crop(part, out)
        else:
            out.copy_(slots.pixels[chunk.slot, : len(out)])
        slots.free.append(chunk.slot)
        _warn_unreadable(part.unreadable, reported, worker)
        indices += part.indices
        keys += chunk.keys
        readable += part.readable
        if len(indices) == chunk.batch:
            (labels,) = to_device(device, images.labels[indices])
            yield Batch(
                pixels.to(device, non_blocking=True),
                labels,
                torch.tensor(readable, dtype=torch.bool),
                torch.tensor(keys, dtype=torch.int64),
            )


def _empty_batch(shape: tuple[int, ...], device: torch.device, decode: Decode) -> Tensor:
    """On the device if images are decoded there, else pinned, for an asynchronous copy."""
    if decode == "nvjpeg":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _warn_unreadable(
    unreadable: dict[int, str], reported: dict[int, str], worker: LoaderWorker
) -> None:
    """Warn of each newly unreadable image; DataError if there are too many."""
    for index in [index for index in unreadable if index not in reported]:
        reported[index] = unreadable[index]
        if len(reported) > worker.limit:
            raise DataError(
                f"{next(iter(reported.values()))}; the first of {len(reported)} unreadable images; "
                f"{worker.limit} of {len(worker.images.labels):,} are tolerated: restore them"
            )
        instead = (
            "using the next image" if isinstance(worker.crop, RandomCrop) else "counted as wrong"
        )
        count = f"unreadable image {len(reported)}, {worker.limit} are tolerated"
        warnings.warn(f"{unreadable[index]}; {instead} ({count})", stacklevel=2)


def _from_workers(
    worker: LoaderWorker, split_into_chunks: Iterable[Chunk], workers: int, ahead: int
) -> Iterator[DecodedChunk | UndecodedChunk | DataError]:
    """The chunks in order. The workers exit when this iterator is garbage-collected."""
    with _worker_start_context():
        loader = DataLoader(
            worker,
            batch_size=None,
            sampler=split_into_chunks,
            num_workers=workers,
            # Forked workers start quickly and share images and buffers; they never use CUDA.
            multiprocessing_context="fork" if workers else None,
            prefetch_factor=ahead if workers else None,
            collate_fn=_identity,
            worker_init_fn=partial(_exit_with_parent, os.getpid()),
            generator=torch.Generator(),  # leaves the global generator unchanged
        )
        return iter(loader)


def _identity(part: Any) -> Any:
    return part


@contextmanager
def _worker_start_context() -> Iterator[None]:
    """Block signals, which workers inherit, and silence warnings about intended settings."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED_SIGNALS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork")  # from Python 3.12
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_with_parent(parent: int, worker: int) -> None:
    """In a worker, exit when `parent` sends TERM or has exited; ignore other senders.

    A thread receives the blocked signals. DataLoader itself checks its parent only between chunks,
    and could then block forever on sending the last one.
    """

    def listen() -> None:
        while os.getppid() == parent:
            info = signal.sigtimedwait(_BLOCKED_SIGNALS, 1.0)
            if info and info.si_signo == signal.SIGTERM and info.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
