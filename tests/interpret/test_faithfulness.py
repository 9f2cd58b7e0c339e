"""Taking pixels away: on models whose answer to it is known, and against loops."""

from __future__ import annotations

import copy
import math
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.interpret.cam import cam
from repro.interpret.faithfulness import (
    Curve,
    block_ablation,
    blur,
    cascade,
    deletion,
    insertion,
    rank_correlation,
)
from repro.interpret.gradcat import gradcat
from repro.interpret.taps import InterpretError
from tests.interpret import small_models as small

GREY: dict[str, Any] = {"baseline": "grey"}
LOSS: dict[str, Any] = {"of": "loss"}


class Sum(nn.Module):
    """Logits that are weighted sums of pixels: (B, 1, H, W) -> (B, 2)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images: Tensor) -> Tensor:
        total = (images[:, 0] * self.weights).sum((1, 2))
        return torch.stack([total, -total], dim=1)


def test_deletion_and_insertion_are_the_loop_over_steps() -> None:
    model, images = small.our_nest(), small.pictures(2)
    maps, labels = torch.randn(2, 32, 32), torch.tensor([3, 1])
    for method, plain in ((deletion, torch.zeros_like(images)), (insertion, blur(images))):
        curve = method(model, images, labels, maps, steps=10)
        assert curve.scores.shape == (2, 11)
        for image in range(2):
            order = maps[image].flatten().argsort(descending=True)
            for step in range(11):
                done = order[: 1024 * step // 10]
                start, end = (plain, images) if method is insertion else (images, plain)
                mixed = start[image].flatten(1).clone()
                mixed[:, done] = end[image].flatten(1)[:, done]
                with torch.no_grad():
                    expected = model(mixed.view(1, 3, 32, 32)).softmax(1)[0, labels[image]]
                torch.testing.assert_close(curve.scores[image, step], expected)


def test_the_best_order_has_the_least_area_under_deletion() -> None:
    """On a model that is a weighted sum, the weighted pixels are the true map."""
    torch.manual_seed(0)
    model, images = Sum(torch.randn(8, 8)).eval(), torch.rand(4, 1, 8, 8)
    truth = images[:, 0] * model.weights.detach()
    best = deletion(model, images, 0, truth, steps=64).auc
    worst = deletion(model, images, 0, -truth, steps=64).auc
    for seed in range(5):
        noise = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(seed))
        other = deletion(model, images, 0, noise, steps=64).auc
        assert (best < other).all()
        assert (other < worst).all()
    reverse = insertion(model, images, 0, -truth, steps=64, baseline="zero").scores.flip(1)
    torch.testing.assert_close(deletion(model, images, 0, truth, steps=64).scores, reverse)


def test_the_area_is_that_of_trapezoids() -> None:
    scores = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.2, 0.2]])
    assert Curve(scores).auc.tolist() == pytest.approx([0.5, 0.2])
    torch.testing.assert_close(Curve(scores).auc, torch.trapezoid(scores, dx=0.5, dim=1))


def test_the_blur_is_a_gaussian_that_keeps_a_plain_image() -> None:
    torch.testing.assert_close(
        blur(torch.full((1, 3, 16, 16), 2.0)), torch.full((1, 3, 16, 16), 2.0)
    )
    point = torch.zeros(1, 1, 31, 31)
    point[..., 15, 15] = 1
    seen = blur(point)[0, 0]
    assert seen.sum().item() == pytest.approx(1)
    assert (seen[15, 15] / seen[15, 20]).item() == pytest.approx(math.exp(25 / 50), rel=1e-5)
    assert seen[15, 20].item() > 0
    assert seen[15, 21].item() == 0


def test_block_ablation_is_exact() -> None:
    model, images = small.our_nest(), small.pictures(3)
    labels = torch.tensor([4, 0, 2])
    falls = {of: block_ablation(model, images, labels, of=of) for of in ("logit", "probability")}
    with torch.no_grad():
        whole = model(images)
        for image in range(3):
            for block in range(16):
                row, column = divmod(block, 4)
                holed = images[image : image + 1].clone()
                holed[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
                logits = model(holed)
                for of, values in (("logit", logits), ("probability", logits.softmax(1))):
                    before = whole if of == "logit" else whole.softmax(1)
                    expected = before[image, labels[image]] - values[0, labels[image]]
                    found = falls[of][image, block]
                    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_ablation_of_a_sum_is_the_blocks_own_part_and_pairs_with_leaf_nodes() -> None:
    weights = torch.randn(32, 32)
    images = torch.rand(2, 1, 32, 32)
    falls = block_ablation(Sum(weights).eval(), images, 0)
    parts = (images[:, 0] * weights).reshape(2, 4, 8, 4, 8).sum((2, 4)).flatten(1)
    torch.testing.assert_close(falls, parts, rtol=1e-4, atol=1e-4)
    model, pictures = small.our_nest(), small.pictures(3)
    tree = gradcat(model, pictures, 1)
    correlation = rank_correlation(tree.nodes[-1].flatten(1), block_ablation(model, pictures, 1))
    assert correlation.shape == (3,)
    assert correlation.abs().max() <= 1


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_spearmans(ties: bool) -> None:
    a, b = torch.randn(2, 6, 4, 5).unbind(0)
    if ties:
        a, b = a.round(), b.round()
    found = rank_correlation(a, b)
    for image in range(6):
        ranks = [pd.Series(each[image].flatten().numpy()).rank() for each in (a, b)]
        expected = ranks[0].corr(ranks[1])
        assert found[image].item() == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(torch.ones(1, 4), torch.rand(1, 4)).isnan().all()


def test_the_cascade_loses_a_method_that_sees_the_model_and_not_one_that_does_not() -> None:
    model, images = copy.deepcopy(small.our_nest()), small.pictures(8)
    before = copy.deepcopy(model.state_dict())
    with torch.random.fork_rng():
        found = cascade(model, lambda m: cam(m, images, 1), seed=3)
        torch.manual_seed(99)  # the global generator has no say
        again = cascade(model, lambda m: cam(m, images, 1), seed=3)
    assert list(found) == [
        "head",
        "norm",
        "aggregations",
        "transformers",
        "pos_embed",
        "patch_embed",
    ]
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert found["patch_embed"].abs().mean() < 0.35
    edges = cascade(model, lambda _: images[:, 0].diff(dim=1).abs(), stages=["head", "norm"])
    assert all((each == 1).all() for each in edges.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_cascade_goes_on_from_what_is_lost_and_keeps_the_values() -> None:
    model, seen = small.our_nest(), []

    def explain(m: nn.Module) -> Tensor:
        seen.append({name: value.detach().clone() for name, value in m.named_parameters()})
        return torch.rand(1, 2, 2)

    cascade(model, explain, stages=["norm", "head"])
    whole, first, second = seen
    changed = [{n for n in whole if not torch.equal(whole[n], one[n])} for one in (first, second)]
    assert changed[0] == {"norm.weight", "norm.bias"}
    assert changed[1] == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    for name in changed[1]:
        assert torch.equal(
            second[name].flatten().sort().values, whole[name].flatten().sort().values
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: deletion(m, x, 0, torch.rand(1, 4, 4)), r"maps must be finite \(1, 32, 32\)"),
        (lambda m, x: deletion(m, x, 0, x[:, 0] * torch.nan), "maps must be finite"),
        (lambda m, x: insertion(m, x, 0, x[:, 0], steps=0), r"from 1 to 1024 \(pixels\), not 0"),
        (lambda m, x: insertion(m, x, 0, x[:, 0], **GREY), "'zero' or 'blur', not 'grey'"),
        (
            lambda m, x: block_ablation(m, x, 0, rows=5),
            "32×32 px are not divisible into 5×5 blocks",
        ),
        (lambda m, x: block_ablation(m, x, 0, **LOSS), "'logit' or 'probability', not 'loss'"),
        (lambda m, x: rank_correlation(x, x[:, 0]), "must be equal"),
        (lambda m, x: rank_correlation(x, x * torch.inf), "the map of image 0 is not finite"),
        (lambda m, x: block_ablation(m, x * torch.nan, 0), "the output of image 0 is not finite"),
        (lambda m, x: insertion(m, x * torch.nan, 0, x[:, 0]), "output of image 0 is not finite"),
        (lambda m, x: cascade(m, lambda m: x[:, 0], stages=["tail"]), "no parameters in 'tail'"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(InterpretError, match=message):
        call(small.our_nest(), small.pictures(1))


def test_scores_are_probabilities_of_the_class() -> None:
    model, images = small.our_nest(), small.pictures(2)
    curve = deletion(model, images, [1, 2], images[:, 0], steps=1)
    with torch.no_grad():
        whole = F.softmax(model(images), dim=1)
    torch.testing.assert_close(curve.scores[:, 0], whole[[0, 1], [1, 2]])
