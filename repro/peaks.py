"""The memory of a training step beside that of a GPU, and the micro-batch that fits."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from repro import gpus, memory, price, steps
from repro.spec import Classification, Generation, Run


@dataclass(frozen=True)
class Peak:
    """Of a step of a run: what it needs with a GPU's whole share of the batch at once."""

    name: str  # of the model, with its image side
    share: int  # images
    bytes: int
    micro_batch: int  # images at once; less than the share where that does not fit
    of_timms: float | None = None  # over what timm's model needs, where timm has the same


def trains(run: Run) -> TypeGuard[Classification | Generation]:
    """Whether it is a training, and not a test of released weights."""
    return isinstance(run, Generation) or (
        isinstance(run, Classification) and run.recipe.epochs > 0
    )


def peak(run: Run, gpu: str, count: int = 1, given: int | None = None) -> Peak | None:
    """The peak of a training on `count` GPUs of this name; None if it is not known.

    Args:
        given: the micro-batch, if it is not chosen by the memory.
    """
    gb = gpus.memory_gb(gpu)
    if gb is None or not trains(run):
        return None
    if isinstance(run, Classification) and price.images(run) is None:
        return None
    if not (found := steps.measured().get(price.key(run))):
        return None
    each = found["bytes_an_image"] * (2 if gpus.named(gpu) in gpus.FP32_ONLY else 1)
    share = -(-run.recipe.batch_size // count)
    limit = given or memory.images_that_fit(gb * 10**9, found["parameters"], each)
    return Peak(
        _name(run),
        share,
        memory.peak(share, found["parameters"], each),
        memory.micro_batch(share, limit),
        _of_timms(found, share),
    )


def _of_timms(found: steps.Step, share: int) -> float | None:
    """The memory of a step over that of timm's model, if it has the same; both in bf16."""
    if "timm_bytes_an_image" not in found:
        return None
    ours, timms = (
        memory.peak(share, found["parameters"], each)
        for each in (found["bytes_an_image"], found["timm_bytes_an_image"])
    )
    return ours / timms


def _name(run: Classification | Generation) -> str:
    if isinstance(run, Generation):
        return f"{run.generator.name} against {run.discriminator.name}"
    return f"{run.model.name} {price.profile(run).image_size} px"


def lines(peaks: Iterable[Peak | None], gpu: str) -> Iterator[str]:
    """The peaks that are known beside the GPU's memory: a line for each model that does not fit,
    and one for all that do."""
    largest = dict[tuple[str, int, int], Peak]()
    for p in sorted((p for p in peaks if p), key=lambda p: -p.bytes):
        largest.setdefault((p.name, p.share, p.micro_batch), p)
    if not largest:
        return
    gb, usable = gpus.memory_gb(gpu), f"{memory.USABLE:.0%} of it usable, our assumption"
    yield f"memory: {gb} GB of one {gpus.named(gpu)}, {usable}"
    whole = [p for p in largest.values() if p.micro_batch == p.share]
    for p in largest.values():
        if p not in whole:
            yield f"  {p.name}: {_gb(p)} for {p.share:,} images; micro-batch {p.micro_batch:,}"
    if whole:
        yield f"  {'others' if len(whole) < len(largest) else 'all'}: at most {_gb(whole[0])}"
    if beside := {p.name: p.of_timms for p in largest.values() if p.of_timms}:
        of_each = ", ".join(f"{name} {ratio:.2f}" for name, ratio in beside.items())
        text = f"as a share of what timm's model needs: {of_each}"
        yield from textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    ")


def _gb(found: Peak) -> str:
    return f"{found.bytes / 1e9:.3g} GB"
