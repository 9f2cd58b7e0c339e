"""What fits into a GPU's memory, and which errors mean that it was too little. Needs no torch."""

from __future__ import annotations

# Weights, their gradient and Adam's two moments in fp32, and autocast's copy in bf16.
BYTES_A_PARAMETER = 18
USABLE = 0.85  # our assumption: the rest is for workspaces, short-lived tensors and fragmentation
LEAST = 2  # images: mixing pairs them

# torch has a class of error for its own allocator alone. The libraries' errors are RuntimeErrors
# with these words. CUDNN_STATUS_NOT_SUPPORTED is none of them: it has other causes.
_LACK = (
    "out of memory",
    "allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)


def is_lack(error: BaseException) -> bool:
    """Whether the error means that a device, or this machine, has too little memory.

    An error that stands for another rank's has the names of that one's classes as `kinds`.
    """
    names = {kind.__name__ for kind in type(error).__mro__} | getattr(error, "kinds", set())
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    return "RuntimeError" in names and any(words in str(error) for words in _LACK)


def peak(images: int, parameters: int, bytes_an_image: int) -> int:
    """Bytes of a training step of so many images at once."""
    return BYTES_A_PARAMETER * parameters + images * bytes_an_image


def images_that_fit(memory_bytes: int, parameters: int, bytes_an_image: int) -> int:
    """How many images a device of this memory can train on at once: an even number, at least 2."""
    free = int(USABLE * memory_bytes) - BYTES_A_PARAMETER * parameters
    return max(LEAST, free // max(1, bytes_an_image) // 2 * 2)


def micro_batch(share: int, limit: int) -> int:
    """The largest micro-batch of a share that is divided evenly, in pairs, by this limit.

    >>> micro_batch(1024, 520), micro_batch(1024, 500), micro_batch(128, 500)
    (512, 342, 128)
    """
    count = -(-share // max(LEAST, limit // 2 * 2))
    return min(share, -(-share // (2 * count)) * 2)
