"""GPUs by the names that sites and drivers use, their peak speed and their memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

# TFLOP/s of dense bf16 matrix products, and where NVIDIA publishes them.
PEAKS: Mapping[str, tuple[float, str]] = {
    "V100": (125.0, "V100 data sheet, SXM2; fp16: it has no bf16, and training here is fp32"),
    "A100": (312.0, "A100 data sheet"),
    "A40": (149.7, "A40 data sheet"),
    "L40S": (362.0, "L40S data sheet, without sparsity"),
    "RTX 3090": (71.0, "GA102 white paper, fp32 accumulation"),
    "RTX 4090": (165.0, "Ada white paper, fp32 accumulation"),
    "H100": (989.0, "H100 data sheet, SXM, without sparsity"),
    "H200": (989.0, "H200 data sheet, SXM, without sparsity"),
    "B200": (2250.0, "Blackwell data sheet, without sparsity"),
}

# GB of memory, for the smaller variant if there are two; from the same documents.
MEMORIES: Mapping[str, int] = {
    "V100": 16,
    "A100": 40,
    "A40": 48,
    "L40S": 48,
    "RTX 3090": 24,
    "RTX 4090": 24,
    "H100": 80,
    "H200": 141,
    "B200": 180,  # DGX B200 data sheet: 1,440 GB in eight
}
FP32_ONLY = {"V100"}  # no bf16


def memory_gb(text: str) -> int | None:
    """GB of memory of a GPU, if its name says it or `MEMORIES` has it.

    >>> memory_gb("nvidia_a100_80gb_pcie"), memory_gb("h100"), memory_gb("A4000")
    (80, 80, None)
    """
    match = re.search(r"(\d+) ?gb", text.lower())
    return int(match[1]) if match else MEMORIES.get(canonical_name(text))


def unknown(gpu: str) -> str:
    """A message if the GPU's speed is unknown; '' if it is known, for a CPU and for ''."""
    if gpu in ("", "cpu") or canonical_name(gpu) in PEAKS:
        return ""
    return f"gpu: the speed of {gpu} is not known; known are {', '.join(PEAKS)}"


@cache
def canonical_name(text: str) -> str:
    """The GPU of `PEAKS` that a site or a driver calls `text`; otherwise `text` itself.

    >>> canonical_name("nvidia_a100_80gb_pcie"), canonical_name("rtx3090")
    ('A100', 'RTX 3090')
    >>> canonical_name("A4000"), canonical_name("a100_3g.20gb")
    ('A4000', 'a100_3g.20gb')
    """
    return next((name for name in PEAKS if _names(name, text)), text)


def is_device(gpu: str, device: str) -> bool:
    """Whether a device, by its driver's name, is this GPU. 'cpu': a CPU; '': any GPU."""
    if gpu == "cpu" or device.lower().startswith("cpu"):
        return gpu == "cpu" and device.lower().startswith("cpu")
    return _names(canonical_name(gpu), device) if gpu else True


def _names(name: str, text: str) -> bool:
    """Whether the text contains the name as whole words. A MIG slice is another GPU."""
    words = "[^a-z0-9]*".join(re.findall("[a-z0-9]+", name.lower()))
    match = re.search(rf"(?<![a-z0-9]){words}(?![a-z0-9])", text.lower())
    return bool(match) and _is_slice(name) == _is_slice(text)


def _is_slice(text: str) -> bool:
    """Whether the text contains the profile of a MIG instance, such as 3g.20gb."""
    return bool(re.search(r"\dg\.\d+gb", text.lower()))
