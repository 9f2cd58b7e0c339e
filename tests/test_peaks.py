"""The peak of memory beside the GPU's: in bytes, divided by GPUs, and in the words of `plan`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro.cli import main
from repro.cost import gpus, memory, peaks, steps
from repro.cost.peaks import Peak
from repro.spec import Classification, Evaluation, Model, Recipe

NEST = Classification(
    model=Model("nest_base_imagenet"),
    dataset="imagenet",
    recipe=Recipe(epochs=300, batch_size=1024, lr=1e-3, image_size=224),
    evaluation=Evaluation(image_size=224),
)


def peak_on(gpu: str, count: int = 1, micro_batch: int | None = None) -> Peak:
    peak = peaks.peak(NEST, gpu, count, micro_batch)
    assert peak
    return peak


def test_nest_base_needs_a_micro_batch() -> None:
    entry = steps.table()[NEST.profile.id]
    assert peak_on("H100").bytes == 1024 * entry["bytes_an_image"] + 18 * entry["parameters"]
    assert 125e9 < peak_on("H100").bytes < 140e9
    assert [peak_on(gpu).micro_batch for gpu in ("H100", "nvidia_a100_40gb", "a40")] == [
        512,
        206,
        256,
    ]


def test_gpus_divide_the_batch_and_a_given_size_holds() -> None:
    assert (peak_on("H100", 8).share, peak_on("H100", 8).micro_batch) == (128, 128)
    assert peak_on("H100", 2).micro_batch == 512
    assert peak_on("H100", micro_batch=64).micro_batch == 64


def test_without_bf16_images_take_twice_as_much() -> None:
    assert peak_on("V100").bytes > 1.9 * peak_on("A100").bytes


def test_memory_relative_to_timm() -> None:
    step = steps.table()[NEST.profile.id]
    weights = 18 * step["parameters"]
    expected = (weights + 128 * step["bytes_an_image"]) / (
        weights + 128 * step["timm_bytes_an_image"]
    )
    assert peak_on("H100", 8).ratio_to_timm == pytest.approx(expected)
    assert peak_on("V100", 8).ratio_to_timm == peak_on("H100", 8).ratio_to_timm
    assert 0.4 < expected < 0.7
    text = " ".join(peaks.lines([peak_on("H100", 8)], "H100"))
    assert text.endswith(f"relative to timm's model: nest_base_imagenet 224 px {expected:.2f}")


def test_unknown_peaks() -> None:
    tested = replace(NEST, recipe=replace(NEST.recipe, epochs=0))
    other = replace(NEST, model=Model("nest_base_imagenet", (("dim", 7),)))
    assert [peaks.peak(run, "H100") for run in (tested, other)] == [None, None]
    assert peaks.peak(NEST, "cpu") is None
    assert [*peaks.lines([None], "H100")] == []


def test_memories_are_those_of_known_gpus() -> None:
    assert gpus.MEMORIES.keys() == gpus.PEAKS.keys()
    assert gpus.memory_gb("NVIDIA A100-SXM4-80GB") == 80
    assert memory.USABLE < 1


def test_plan_lists_models_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table2"]) == 0
    out = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(out) if line.startswith("memory: "))
    text = out[start:]
    assert text[0] == "memory: 80 GB of one H100, 85% of it usable, our assumption"
    line, *_ = (line for line in text if "nest_base" in line)
    assert line.endswith(" GB for 1,024 images; micro-batch 512")
    assert "relative to timm's model:" in " ".join(text)
    assert all(len(line) <= 80 for line in text)
