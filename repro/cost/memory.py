"""The memory of a training step, the batch that fits, and out-of-memory errors. Needs no torch."""

from __future__ import annotations

# Weights, gradients and Adam's two moments in fp32, and autocast's copy in bf16.
BYTES_PER_PARAMETER = 18
USABLE = 0.85  # our assumption: the rest is for workspaces, short-lived tensors and fragmentation
MIN_IMAGES = 2  # mixing pairs them

# torch has an error class for its own allocator only. Errors of libraries are RuntimeErrors with
# these messages. CUDNN_STATUS_NOT_SUPPORTED is not among them: it has other causes.
_MESSAGES = (
    "out of memory",
    "allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that a device, or this machine, has too little memory.

    An error that reports another rank's has the names of that error's classes as `kinds`.
    """
    names = {kind.__name__ for kind in type(error).__mro__} | getattr(error, "kinds", set())
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    return "RuntimeError" in names and any(message in str(error) for message in _MESSAGES)


def peak(images: int, parameters: int, bytes_per_image: int) -> int:
    """Bytes of a training step on this many images at once."""
    return BYTES_PER_PARAMETER * parameters + images * bytes_per_image


def images_that_fit(memory_bytes: int, parameters: int, bytes_per_image: int) -> int:
    """How many images a device of this memory can train on at once: an even number, at least 2."""
    free = int(USABLE * memory_bytes) - BYTES_PER_PARAMETER * parameters
    return max(MIN_IMAGES, free // max(1, bytes_per_image) // 2 * 2)


def micro_batch(share: int, limit: int) -> int:
    """The micro-batch of at most `limit` images that splits a share most evenly; even.

    >>> micro_batch(1024, 520), micro_batch(1024, 500), micro_batch(128, 500)
    (512, 342, 128)
    """
    count = -(-share // max(MIN_IMAGES, limit // 2 * 2))
    return min(share, -(-share // (2 * count)) * 2)
