"""The peak of memory beside the GPU's: in bytes, divided by GPUs, and in the words of `plan`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repro import gpus, memory, peaks, price, steps
from repro.cli import main
from repro.peaks import Peak
from repro.spec import Classification, Evaluation, Model, Recipe

NEST = Classification(
    model=Model("nest_base_imagenet"),
    dataset="imagenet",
    recipe=Recipe(epochs=300, batch_size=1024, lr=1e-3, image_size=224),
    evaluation=Evaluation(image_size=224),
)


def of(gpu: str, count: int = 1, given: int | None = None) -> Peak:
    found = peaks.peak(NEST, gpu, count, given)
    assert found
    return found


def test_nest_base_does_not_fit_whole() -> None:
    entry = steps.measured()[price.profile(NEST).id]
    assert of("H100").bytes == 1024 * entry["bytes_an_image"] + 18 * entry["parameters"]
    assert 125e9 < of("H100").bytes < 140e9
    assert [of(gpu).micro_batch for gpu in ("H100", "nvidia_a100_40gb", "a40")] == [512, 206, 256]


def test_gpus_divide_the_batch_and_a_given_size_holds() -> None:
    assert (of("H100", 8).share, of("H100", 8).micro_batch) == (128, 128)
    assert of("H100", 2).micro_batch == 512
    assert of("H100", given=64).micro_batch == 64


def test_without_bf16_images_take_twice_as_much() -> None:
    assert of("V100").bytes > 1.9 * of("A100").bytes


def test_beside_timms() -> None:
    step = steps.measured()[price.profile(NEST).id]
    weights = 18 * step["parameters"]
    expected = (weights + 128 * step["bytes_an_image"]) / (
        weights + 128 * step["timm_bytes_an_image"]
    )
    assert of("H100", 8).of_timms == pytest.approx(expected)
    assert of("V100", 8).of_timms == of("H100", 8).of_timms
    assert 0.4 < expected < 0.7
    said = " ".join(peaks.lines([of("H100", 8)], "H100"))
    assert said.endswith(f"of what timm's model needs: nest_base_imagenet 224 px {expected:.2f}")


def test_what_is_not_known_has_no_peak() -> None:
    tested = replace(NEST, recipe=replace(NEST.recipe, epochs=0))
    other = replace(NEST, model=Model("nest_base_imagenet", (("dim", 7),)))
    assert [peaks.peak(run, "H100") for run in (tested, other)] == [None, None]
    assert peaks.peak(NEST, "cpu") is None
    assert [*peaks.lines([None], "H100")] == []


def test_memories_are_those_of_known_gpus() -> None:
    assert gpus.MEMORIES.keys() == gpus.PEAKS.keys()
    assert gpus.memory_gb("NVIDIA A100-SXM4-80GB") == 80
    assert memory.USABLE < 1


def test_plan_says_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table2"]) == 0
    out = capsys.readouterr().out.splitlines()
    start = next(n for n, line in enumerate(out) if line.startswith("memory: "))
    said = out[start:]
    assert said[0] == "memory: 80 GB of one H100, 85% of it usable, our assumption"
    line, *_ = (line for line in said if "nest_base" in line)
    assert line.endswith(" GB for 1,024 images; micro-batch 512")
    assert "of what timm's model needs:" in " ".join(said)
    assert all(len(line) <= 80 for line in said)
