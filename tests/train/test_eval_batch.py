"""Evaluation batches: as many images as fit, halved when memory runs out."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro.cost import gpus, memory
from repro.train import activations, eval_batch
from tests.pretended_gpu import GPU, pretended_gpu

IMAGES = torch.arange(10.0)


class Small:
    """Room for so many images."""

    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error, self.seen = room, error, list[int]()

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.room:
            raise self.error
        return 2 * images


def test_half_as_many_once_memory_has_run_out() -> None:
    """For good; and what was tested is all of it, in its order."""
    at_once, forward = (
        eval_batch.EvalBatcher(1000),
        Small(3, torch.OutOfMemoryError("out of memory")),
    )
    for _ in range(2):
        assert torch.equal(at_once(forward, IMAGES), 2 * IMAGES)
    assert forward.seen == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1]


@pytest.mark.parametrize(
    ("room", "error", "seen"),
    [(0, RuntimeError("CUDA out of memory"), [10, 5, 3, 2, 1]), (3, RuntimeError("no"), [10])],
)
def test_what_halving_does_not_mend(room: int, error: RuntimeError, seen: list[int]) -> None:
    forward = Small(room, error)
    with pytest.raises(RuntimeError, match=str(error)):
        eval_batch.EvalBatcher(1000)(forward, IMAGES)
    assert forward.seen == seen


def test_so_many_fit() -> None:
    """On a GPU by the bytes of an image, in the memory that a training leaves."""
    net = timm.create_model("cct_7_3x1", num_classes=10)
    assert eval_batch.make_batcher(net, 32).size == eval_batch.ON_CPU
    assert eval_batch.make_batcher(net, 32, halvings=3).size == eval_batch.ON_CPU // 8
    large = nn.Sequential(nn.Conv2d(3, 256, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pretended_gpu():
        assert eval_batch.make_batcher(net.to(GPU), 32).size == eval_batch.MAX_ON_GPU
        assert eval_batch.make_batcher(net, 32, halvings=2).size == eval_batch.MAX_ON_GPU // 4
        few, fewer = (
            eval_batch.make_batcher(large.to(GPU), 512, exact=e).size for e in (False, True)
        )
    each = activations.eval_bytes_per_image(large, 512)
    parameters = sum(p.numel() for p in large.parameters())
    memory_bytes = 10**9 * gpus.MEMORIES["H100"]
    assert few == memory.images_that_fit(memory_bytes, parameters, each) < eval_batch.MAX_ON_GPU
    assert few > 1.3 * fewer


@pytest.mark.parametrize("bf16", [True, False])
def test_bytes_of_a_test_of_three_layers(bf16: bool) -> None:
    """The widest of what is there at a time: the input, what enters a layer and what leaves it."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(48, 60), nn.ReLU(), nn.Linear(60, 30), nn.Linear(30, 5)
    )
    size = 2 if bf16 else 4
    assert activations.eval_bytes_per_image(net, 4, bf16) == 4 * 48 + size * (60 + 60)
    assert net.training


def test_a_test_takes_less_than_a_training() -> None:
    for name in ("cct_7_3x1", "wrn28_10"):
        with torch.device("meta"):
            net = timm.create_model(name)
        for bf16 in (True, False):
            tested = activations.eval_bytes_per_image(net, 32, bf16)
            assert 0 < tested < activations.training_bytes_per_image(net, 32, bf16)
