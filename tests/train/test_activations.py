"""Bytes an image: a closed form, the committed table, and what a step on a GPU does with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

import repro.models  # noqa: F401
from repro import experiments
from repro.core import plan
from repro.cost import memory, steps
from repro.spec import AdversarialRecipe, Classification, Generation, Model, Run
from repro.tasks import generation
from repro.train import activations
from repro.train.accumulation import MicroBatches
from repro.train.distributed import Ranks
from tests import launches

CPU = torch.device("cpu")


def trainings(*names: str) -> list[Run]:
    """Those of some items at paper scale."""
    cells = [cell for name in names for cell in experiments.get(name).cells]
    return [run for run in plan.runs(cells, "paper", 1) if run.is_training]


@pytest.mark.parametrize("bf16", [True, False])
def test_bytes_of_two_layers(bf16: bool) -> None:
    """Kept: what enters each product, what ReLU gave, the log-probabilities; no weight."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10, bias=False), nn.ReLU(),
                        nn.Linear(10, 5, bias=False)).eval()  # fmt: skip
    size = 2 if bf16 else 4
    # 48 inputs, 10 activations; of the loss 5 log-probabilities and the 5 targets, as logits are.
    expected = size * (48 + 10) + 4 * 5 + size * 5
    assert activations.training_bytes_per_image(net, 4, bf16) == expected
    assert not net.training


@pytest.mark.parametrize("penalised", [True, False])
def test_bytes_of_a_gan_of_two_products(penalised: bool) -> None:
    """A generator and a discriminator of one product each; a penalised one is in fp32."""
    generator = nn.Sequential(nn.Linear(5, 48, bias=False), nn.Unflatten(1, (3, 4, 4)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(48, 1, bias=False))
    recipe = AdversarialRecipe(
        steps=1, batch_size=2, lr=1, discriminator_lr=1, loss="hinge", r1_weight=float(penalised)
    )
    generator.latent_dim, generator.img_size = 5, 4  # type: ignore[assignment]
    found = generation.training_bytes_per_pair(generator, discriminator, recipe)
    size = 4 if penalised else 2
    # The latent; a real and a generated image; their scores, rectified; the penalty's gradient.
    assert found == 2 * 5 + 2 * 48 * size + 2 * 4 + (48 * 4 if penalised else 0)


@pytest.mark.parametrize("name", ["nest_tiny_cifar", "cct_7_3x1", "swin_tiny_patch4_window7_224"])
def test_the_table_is_what_is_measured(name: str) -> None:
    """Blocks of attention, attention of a whole image, and attention with a bias."""
    runs = [run for run in trainings("table1") if isinstance(run, Classification)]
    run = next(run for run in runs if run.model.name == name)
    profile = run.profile
    net, entry = created(profile.model, num_classes=profile.classes), steps.table()[profile.id]
    assert entry["parameters"] == sum(p.numel() for p in net.parameters())
    assert entry["bytes_an_image"] == activations.training_bytes_per_image(net, profile.image_size)


def test_the_table_of_a_gan_is_what_is_measured() -> None:
    run = trainings("figure5_left")[0]
    assert isinstance(run, Generation)
    generator, discriminator = created(run.generator), created(run.discriminator)
    parameters = [*generator.parameters(), *discriminator.parameters()]
    entry = steps.table()[run.training_steps.key]
    assert entry["parameters"] == sum(p.numel() for p in parameters)
    assert entry["bytes_an_image"] == generation.training_bytes_per_pair(
        generator, discriminator, run.recipe
    )


def created(model: Model, **more: int) -> nn.Module:
    """The model with no values."""
    with torch.device("meta"):
        net = timm.create_model(model.name, **more, **dict(model.options))
    assert isinstance(net, nn.Module)
    return net


def test_the_launches_of_the_table_are_those_of_a_pretended_gpu() -> None:
    run = next(run for run in trainings("table1") if "cct" in run.id)
    assert isinstance(run, Classification)
    profile = run.profile
    counted = launches.of_classifier(run.model, profile.classes, profile.image_size)
    assert steps.table()[profile.id]["launches"] == counted


SMALL = Model.of("nest_tiny", img_size=64)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_step_of_nest_needs_no_more_memory_than_timms(bf16: bool) -> None:
    """Of a small one here; of those of the paper in the table, with timm's DeiT at its own."""
    ours = created(replace(SMALL, name="nest_tiny_imagenet"), num_classes=10)
    timms = created(SMALL, num_classes=10)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in timms.parameters())
    small = [activations.training_bytes_per_image(net, 64, bf16) for net in (ours, timms)]
    assert small[0] <= small[1]

    table = steps.table().items()
    found = {
        name: step["bytes_an_image"] / step["timm_bytes_an_image"]
        for name, step in table
        if "timm_bytes_an_image" in step
    }
    sizes = {name.split("-imagenet")[0] for name in found if name.startswith("nest")}
    assert sizes == {"nest-tiny", "nest-small", "nest-base"}
    assert all(ratio == 1 if "deit" in name else ratio < 0.8 for name, ratio in found.items())


def test_every_training_of_the_paper_is_in_the_table() -> None:
    names = experiments.names()
    keys = {run.training_steps.key for run in trainings(*names) if run.training_steps}
    assert keys == steps.table().keys()


def test_a_smaller_memory_holds_fewer_images() -> None:
    """What fits does fit, two more would not, and a plan is what MicroBatches does."""
    step = next(s for i, s in steps.table().items() if i.startswith("nest-base-imagenet-224"))
    entry = {"parameters": step["parameters"], "bytes_per_image": step["bytes_an_image"]}
    limits = [memory.images_that_fit(gb * 10**9, **entry) for gb in (16, 40, 80, 141)]
    assert all(few < more for few, more in pairwise(limits))
    assert memory.peak(limits[2], **entry) <= memory.USABLE * 80e9
    assert memory.peak(limits[2] + 2, **entry) > memory.USABLE * 80e9
    for limit in limits:
        for share in (2, 130, 1024):
            divided = MicroBatches([], share, Ranks(0, 1, CPU), limit, 2)
            assert divided.size == memory.micro_batch(share, limit)


def test_a_cpu_has_the_whole_share() -> None:
    assert activations.max_images([nn.Linear(1, 1)], lambda _: 1) is None


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("no words about out of memory"), False),
    ],
)
def test_which_errors_are_a_lack_of_memory(error: Exception, lacks: bool) -> None:
    """A step is divided further after these; every other error ends it at once."""
    calls: list[int] = []

    def backward(part: slice) -> torch.Tensor:
        calls.append(part.stop - part.start)
        if len(calls) == 1:
            raise error
        return torch.zeros(())

    micro_batches = MicroBatches([], 8, Ranks(0, 1, CPU), None)
    if lacks:
        micro_batches.gradient(backward, 0)
        assert calls == [8, 4, 4]
    else:
        with pytest.raises(type(error)):
            micro_batches.gradient(backward, 0)
