"""GradCAT where we know the answer: a class is a colour, and evidence stays where the colour is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from repro.interpret.gradcat import gradcat
from repro.models.nest import NesT
from tests.interpret.test_gradcat import TAPS


@torch.no_grad()
def colour_model() -> NesT:
    """Class 0 counts red, class 1 green; layers pass on what they get, pooling is a 2×2 mean.

    The top's position embedding dwarfs the signal, so that the last norm is all but linear.
    """
    model = NesT(depths=(1, 1, 1, 1), embed_dims=12, num_heads=2, aggregation="conv")
    for value in model.parameters():
        value.zero_()
    model.patch_embed.weight[0, 0] = model.patch_embed.weight[1, 1] = 1.0
    for pooling in model.aggregations:
        for channel in range(12):
            pooling.get_parameter("conv.weight")[channel, channel, :2, :2] = 0.25
    model.pos_embed[3][..., 2], model.pos_embed[3][..., 3] = 50.0, -50.0
    model.norm.weight.fill_(1.0)
    model.head.weight[0, 0] = model.head.weight[1, 1] = 1.0
    return model.eval()


def planted(spots: list[list[tuple[int, int, int]]]) -> Tensor:
    """Images whose leaf block (row, column) of 4 px is bright in a channel, for each of `spots`."""
    images = torch.zeros(len(spots), 3, 32, 32)
    for image, each in zip(images, spots, strict=True):
        for channel, row, column in each:
            image[channel, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1.0
    return images


LEAVES = [(row, column) for row in range(8) for column in range(8)]


@pytest.mark.parametrize(("top_tap", "below"), TAPS)
def test_the_path_leads_to_the_object_of_its_class(top_tap: Any, below: Any) -> None:
    """A red and a green object in two leaf blocks of the 64, and each class finds its own."""
    greens = LEAVES[5:] + LEAVES[:5]
    images = planted([[(0, *red), (1, *green)] for red, green in zip(LEAVES, greens, strict=True)])
    for label, leaves in ((0, LEAVES), (1, greens)):
        tree = gradcat(colour_model(), images, label, top_tap=top_tap, tap_below=below)
        assert tree.decided.all()
        assert tree.leaf.tolist() == [list(leaf) for leaf in leaves]
        wrong = gradcat(colour_model(), images, label, sign="literal", top_tap=top_tap)
        assert not (wrong.leaf == torch.tensor(leaves)).all(1).any()


def test_a_mirrored_image_has_the_mirrored_path() -> None:
    images = planted([[(0, *leaf)] for leaf in LEAVES])
    tree = gradcat(colour_model(), images, 0)
    mirrored = gradcat(colour_model(), images.flip(3), 0)
    assert torch.equal(mirrored.path, tree.path ^ 1)  # left 0, 2 <-> right 1, 3
    for a, b in zip(tree.nodes, mirrored.nodes, strict=True):
        torch.testing.assert_close(a.flip(2), b)


def test_what_is_not_decided_is_said() -> None:
    """Nothing there; two alike in two quadrants; two alike in one; not finite; and one plain."""
    one = [(0, 5, 2)]
    images = planted([[], [(0, 0, 0), (0, 7, 7)], [(0, 0, 0), (0, 0, 1)], one, one])
    images[3, 0, 0, 0] = torch.nan
    tree = gradcat(colour_model(), images, 0)
    assert tree.decided.tolist() == [False, False, False, False, True]
    assert tree.path.tolist() == [[-1] * 3, [-1] * 3, [0, 0, -1], [-1] * 3, [2, 1, 2]]
    assert tree.leaf.tolist() == [[-1, -1]] * 4 + [[5, 2]]
    assert torch.equal(tree.block(3), tree.leaf)
    assert tree.block(2).tolist() == [[-1, -1], [-1, -1], [0, 0], [-1, -1], [2, 1]]
    assert tree.reasons() == [
        "step 1: all four values are zero",
        "step 1: the best two of four values tie, up to rounding",
        "step 3: the best two of four values tie, up to rounding",
        "step 1: not all four values are finite",
        "",
    ]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_decides_nothing_wherever_it_is(value: float) -> None:
    images = planted([[(0, 5, 2)]] * 64)
    for image, (row, column) in zip(images, LEAVES, strict=True):
        image[0, 4 * row, 4 * column] = value
    for top_tap in ("input", "norm"):
        tree = gradcat(colour_model(), images, 0, top_tap=top_tap)
        assert not tree.decided.any()
        assert all(reason.endswith("not all four values are finite") for reason in tree.reasons())


def test_a_lead_within_rounding_decides_nothing() -> None:
    """The second object is brighter by less than float32 resolves, then by more."""
    images = planted([[(0, 0, 0), (0, 7, 7)]] * 2)
    images[0, 0, 28:, 28:] += 2e-7
    images[1, 0, 28:, 28:] += 1e-3
    tree = gradcat(colour_model(), images, 0, top_tap="norm")
    assert tree.decided.tolist() == [False, True]
    assert tree.leaf[1].tolist() == [7, 7]
    assert tree.margins[0, 0] <= tree.floors[0, 0]
    assert (tree.margins[1] > tree.floors[1]).all()
