"""The peak memory of a training step compared with a GPU's, and the micro-batch that fits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from repro.cost import gpus, memory, steps
from repro.spec import Run


@dataclass(frozen=True)
class Peak:
    """The memory of a training step if a GPU processes its share of the batch at once."""

    name: str  # of the model, with its image side
    share: int  # images per GPU
    bytes: int
    micro_batch: int  # images at once; less than the share if that does not fit
    ratio_to_timm: float | None = None  # to the memory of timm's model, if timm has it


def peak(run: Run, gpu: str, count: int = 1, micro_batch: int | None = None) -> Peak | None:
    """The peak of a training on `count` GPUs of this name; None if it is unknown.

    Args:
        micro_batch: if it is not chosen by the memory.
    """
    gb, training = gpus.memory_gb(gpu), run.training_steps
    step = steps.table().get(training.key) if training else None
    if gb is None or training is None or step is None:
        return None
    each = step["bytes_an_image"] * (2 if gpus.canonical_name(gpu) in gpus.FP32_ONLY else 1)
    share = -(-training.batch_size // count)
    limit = micro_batch or memory.images_that_fit(gb * 10**9, step["parameters"], each)
    return Peak(
        training.model,
        share,
        memory.peak(share, step["parameters"], each),
        memory.micro_batch(share, limit),
        _ratio_to_timm(step, share),
    )


def _ratio_to_timm(step: steps.Step, share: int) -> float | None:
    """The memory of a step over that of timm's model, both in bf16; None if timm has no such."""
    if "timm_bytes_an_image" not in step:
        return None
    ours, timms = (
        memory.peak(share, step["parameters"], each)
        for each in (step["bytes_an_image"], step["timm_bytes_an_image"])
    )
    return ours / timms


def lines(peaks: Iterable[Peak | None], gpu: str) -> Iterator[str]:
    """The known peaks and the GPU's memory: a line for each model that does not fit, and one for
    all that do."""
    largest = dict[tuple[str, int, int], Peak]()
    for p in sorted((p for p in peaks if p), key=lambda p: -p.bytes):
        largest.setdefault((p.name, p.share, p.micro_batch), p)
    if not largest:
        return
    gb, usable = gpus.memory_gb(gpu), f"{memory.USABLE:.0%} of it usable, our assumption"
    yield f"memory: {gb} GB of one {gpus.canonical_name(gpu)}, {usable}"
    fitting = [p for p in largest.values() if p.micro_batch == p.share]
    for p in largest.values():
        if p not in fitting:
            yield f"  {p.name}: {_gb(p)} for {p.share:,} images; micro-batch {p.micro_batch:,}"
    if fitting:
        yield f"  {'others' if len(fitting) < len(largest) else 'all'}: at most {_gb(fitting[0])}"
    if ratios := {p.name: p.ratio_to_timm for p in largest.values() if p.ratio_to_timm}:
        of_each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        text = f"relative to timm's model: {of_each}"
        yield from textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    ")


def _gb(peak: Peak) -> str:
    return f"{peak.bytes / 1e9:.3g} GB"
