"""The batches that a training or a test iterates over: uint8 pixels on the model's device.

Images of one size lie on the device whole, unless they are too many. Photographs are read, decoded
and cropped ahead of time by worker processes, a piece of a batch at a time; nothing depends on how
many there are.
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

from repro.data.crops import CentreCrop, RandomCrop
from repro.data.images import DataError, Images
from repro.data.photos import Photos
from repro.data.pieces import LENGTH, Cropped, Decode, Piece, Read, Samples, Slots, Work, pieces
from repro.data.transfer import sent

_AHEAD = 2  # batches under way in the workers
_ON_DEVICE = 4 << 30  # bytes: larger sets stay where they are, mapped from their file
# Of repro.signals, and USR2; this package stands alone.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR2)


class Batch(NamedTuple):
    """A sample that is not `readable` has black pixels, and counts as wrong."""

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
    tolerated: float = 0.001,
    decode: Decode = "cpu",
) -> Generator[Batch, None, None]:
    """A batch for each pair of indices (B,) and keys (B,), int64 on the CPU, in their order.

    With `workers` 0, the work is done in this process. Workers end when the iterator is closed or
    collected, and when this process ends, however it does; meant for them, TERM, INT and USR2 are
    ignored, so that a batch system's warning reaches the training alone. `samples` is read ahead.

    An image that cannot be decoded is warned of, once. A RandomCrop takes the next readable one
    instead, with its own label and the missing one's key; for a CentreCrop, the sample is not
    `readable`. Raises DataError, naming the first, once there are more than `tolerated` times the
    size of the set, and whenever a file is missing or shorter than it was.

    `decode` 'nvjpeg' leaves decoding and cropping to the device, and reading to the workers. Its
    pixels differ by some grey levels from the CPU's, so the result is not the same to the bit.
    """
    if isinstance(images, Images) and crop is None:
        return _resident(images, samples, device)
    if crop is None:
        raise ValueError("photographs differ in size: a batch of them needs a crop")
    limit = int(tolerated * len(images.labels))
    return _loaded(images, crop, limit, decode, samples, device, workers)


def default_workers() -> int:
    """One fewer than the cores of this process, which also launches the model; at least one.

    LOCAL_WORLD_SIZE processes, as torchrun says, share the cores that this one may use.
    """
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores - 1)


def _resident(
    images: Images, samples: Samples, device: torch.device
) -> Generator[Batch, None, None]:
    pixels, labels = images.pixels, images.labels
    if pixels.nbytes <= _ON_DEVICE:
        pixels, labels = pixels.to(device), labels.to(device)
    for indices, keys in samples:
        readable = torch.ones(len(indices), dtype=torch.bool)
        (where,) = sent(pixels.device, indices)
        chosen, their_labels = pixels.index_select(0, where), labels.index_select(0, where)
        if pixels.device != device:
            chosen, their_labels = sent(device, chosen, their_labels)
        yield Batch(chosen, their_labels, readable, keys)


def _loaded(
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
    each = math.ceil(_AHEAD * len(first[0][0]) / LENGTH / workers) if first and workers else 0
    ahead = max(2, each)  # pieces for each worker, one of them in its hands
    # The loader keeps `workers` x `ahead` pieces under way, while one is copied from its slot.
    slots = Slots(workers * ahead + 1, crop.size)
    work = Work(images, crop, limit, decode, slots)
    known = dict[int, str]()
    # The loop alone holds the iterator, so that its workers end with it, even by an error.
    for part in _from_workers(work, pieces(chain(first, samples), slots), workers, ahead):
        if isinstance(part, DataError):
            raise part
        piece = part.piece
        if piece.start == 0:
            pixels = _room((piece.batch, 3, crop.size, crop.size), device, decode)
            indices, keys, readable = list[int](), list[int](), list[bool]()
        out = pixels[piece.start : piece.start + len(piece.indices)]
        if isinstance(part, Read):
            part = work.decoded(part, out)
        else:
            out.copy_(slots.pixels[piece.slot, : len(out)])
        slots.free.append(piece.slot)
        _note(part.unreadable, known, work)
        indices += part.indices
        keys += piece.keys
        readable += part.readable
        if len(indices) == piece.batch:
            (labels,) = sent(device, images.labels[indices])
            yield Batch(
                pixels.to(device, non_blocking=True),
                labels,
                torch.tensor(readable, dtype=torch.bool),
                torch.tensor(keys, dtype=torch.int64),
            )


def _room(shape: tuple[int, ...], device: torch.device, decode: Decode) -> Tensor:
    """On the device, if the pixels are made there; else pinned, so that nobody waits for a copy."""
    if decode == "nvjpeg":
        return torch.empty(shape, dtype=torch.uint8, device=device)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _note(found: dict[int, str], known: dict[int, str], work: Work) -> None:
    """Warn of each image that was not yet known to be unreadable; DataError when too many are."""
    for index in [index for index in found if index not in known]:
        known[index] = found[index]
        if len(known) > work.limit:
            raise DataError(
                f"{next(iter(known.values()))}; the first of {len(known)} unreadable images, when "
                f"{work.limit} of {len(work.images.labels):,} are tolerated: restore them"
            )
        instead = "the next is taken" if isinstance(work.crop, RandomCrop) else "counted as wrong"
        count = f"unreadable image {len(known)}, {work.limit} are tolerated"
        warnings.warn(f"{found[index]}; {instead} ({count})", stacklevel=2)


def _from_workers(
    work: Work, pieces: Iterable[Piece], workers: int, ahead: int
) -> Iterator[Cropped | Read | DataError]:
    """The pieces in their order. The workers end when this iterator is collected."""
    with _as_workers_should_start():
        loader = DataLoader(
            work,
            batch_size=None,
            sampler=pieces,
            num_workers=workers,
            # Forked, they are there at once and share images and slots; they never touch CUDA.
            multiprocessing_context="fork" if workers else None,
            prefetch_factor=ahead if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=partial(_follow, os.getpid()),
            generator=torch.Generator(),  # the global one is not ours to advance
        )
        return iter(loader)


def _as_it_is(part: Any) -> Any:
    return part


@contextmanager
def _as_workers_should_start() -> Iterator[None]:
    """With signals blocked, which they inherit, and without warnings of what is meant."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more than cores
            warnings.filterwarnings("ignore", ".*multi-threaded, use of fork")  # from Python 3.12
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(parent: int, worker: int) -> None:
    """In a worker, end when `parent` says so or has ended; heed nobody else.

    A thread takes in the signals, which are blocked. DataLoader itself would look for its parent
    only between pieces, and might then wait for ever to hand over the last one.
    """

    def listen() -> None:
        while os.getppid() == parent:
            sent = signal.sigtimedwait(_STOPS, 1.0)
            if sent and sent.si_signo == signal.SIGTERM and sent.si_pid == parent:
                break
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
