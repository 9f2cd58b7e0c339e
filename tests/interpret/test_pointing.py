"""Scores of maps and paths against masks of the object."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.interpret.gradcat import GradCat, gradcat
from repro.interpret.heatmap import normalize, resize
from repro.interpret.pointing import (
    box_masks,
    energy_pointing,
    leaf_hit,
    pointing_game,
    quadrant_hit,
)
from repro.interpret.taps import InterpretError
from tests.interpret import small_models as small


def mask_of(rows: slice, columns: slice, side: int = 32) -> Tensor:
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, rows, columns] = True
    return mask


def peak(*places: tuple[int, int], side: int = 32) -> Tensor:
    maps = torch.zeros(1, side, side)
    for row, column in places:
        maps[0, row, column] = 1.0
    return maps


@settings(max_examples=60)
@given(
    row=st.integers(0, 19),
    column=st.integers(0, 27),
    tolerance=st.sampled_from([0, 1, 2.5, 5, 15, 40]),
    seed=st.integers(0, 2**31),
)
def test_the_pointing_game_measures_the_distance_to_the_object(
    row: int, column: int, tolerance: float, seed: int
) -> None:
    """On an image that is not square; the object has holes."""
    mask = torch.rand(1, 20, 28, generator=torch.Generator().manual_seed(seed)) < 0.02
    mask[0, 0, 0] = True
    maps = torch.zeros(1, 20, 28)
    maps[0, row, column] = 1
    distance = min(math.dist((row, column), place) for place in mask[0].nonzero().tolist())
    score = pointing_game(maps, mask, tolerance)
    assert score.hit.item() == (distance <= tolerance)
    assert not score.tied.item()


def test_of_several_largest_values_the_share_that_hits_counts() -> None:
    mask = mask_of(slice(0, 4), slice(0, 4))
    score = pointing_game(peak((0, 0), (1, 1), (30, 30)), mask, tolerance=0)
    assert score.hit.item() == pytest.approx(2 / 3)
    assert score.tied.item()
    constant = pointing_game(torch.ones(1, 32, 32), mask[:, None], tolerance=0)
    assert constant.hit.item() == pytest.approx(16 / 1024)


def test_energy_is_the_positive_share_on_the_object() -> None:
    maps = peak((0, 0), (1, 1), (30, 2))
    maps[0, 20] = -5
    mask = mask_of(slice(0, 4), slice(0, 4))
    assert energy_pointing(maps, mask).item() == pytest.approx(2 / 3)
    assert math.isnan(energy_pointing(-maps.abs(), mask).item())
    upright = mask_of(slice(28, 32), slice(0, 4))  # rows and columns are not exchanged
    assert energy_pointing(maps, upright).item() == pytest.approx(1 / 3)


def test_masks_of_boxes_hold_both_corners() -> None:
    masks = box_masks(
        [torch.tensor([[1, 2, 3, 2]]), torch.tensor([[0, 0, 0, 0], [5, 1, 5, 3]])], 4, 6
    )
    assert masks.nonzero().tolist() == [
        [0, 2, 1], [0, 2, 2], [0, 2, 3], [1, 0, 0], [1, 1, 5], [1, 2, 5], [1, 3, 5],
    ]  # fmt: skip


def tree_of(path: list[list[int]]) -> GradCat:
    """A tree with these paths and nothing else."""
    steps = torch.tensor(path)
    empty = torch.zeros(*steps.shape, 4)
    tree = GradCat(steps, torch.zeros(len(steps), 2), (), empty, empty[..., 0], "ascent")
    leaf = tree.block(steps.shape[1])
    return GradCat(steps, leaf, (), empty, empty[..., 0], "ascent")


def test_a_path_hits_the_blocks_that_hold_the_object() -> None:
    """An object over rows 6 to 11 and columns 20 to 31: mostly in leaf row 1; the grid is 4 x 4."""
    mask = mask_of(slice(6, 12), slice(20, 32))
    tree = tree_of([[1, 3], [1, 1], [1, 2], [0, 3], [3, 0], [1, -1], [-1, -1]])
    masks = mask.expand(7, -1, -1)
    assert quadrant_hit(tree, masks).hit.tolist() == [True, True, True, False, False, True, False]
    assert quadrant_hit(tree, masks).chance.tolist() == [0.25] * 7
    any_leaf, most = leaf_hit(tree, masks), leaf_hit(tree, masks, "most")
    assert any_leaf.hit.tolist() == [True, True, True] + [False] * 4
    assert any_leaf.chance.tolist() == [4 / 16] * 7
    assert most.hit.tolist() == [True] + [False] * 6
    assert most.chance.tolist() == [1 / 16] * 7


def test_an_undecided_path_hits_nothing_not_even_the_first_block() -> None:
    masks = mask_of(slice(0, 32), slice(0, 32))
    assert not leaf_hit(tree_of([[0, -1]]), masks).hit.any()
    assert quadrant_hit(tree_of([[0, -1]]), masks).hit.all()
    assert not quadrant_hit(tree_of([[-1, -1]]), masks).hit.any()


def test_chance_is_what_random_paths_hit() -> None:
    generator = torch.Generator().manual_seed(0)
    path = torch.randint(0, 4, (4000, 2), generator=generator).tolist()
    masks = mask_of(slice(5, 14), slice(3, 20)).expand(4000, -1, -1)
    score = leaf_hit(tree_of(path), masks)
    assert score.hit.float().mean().item() == pytest.approx(score.chance[0].item(), abs=0.03)


def test_hits_are_of_the_trees_that_gradcat_makes() -> None:
    tree = gradcat(small.our_nest(), small.pictures(5), 1)
    masks = torch.zeros(5, 1, 32, 32, dtype=torch.bool)
    for mask, (row, column) in zip(masks, tree.leaf.tolist(), strict=True):
        mask[0, 8 * row + 7, 8 * column + 7] = True
    assert leaf_hit(tree, masks, "most").hit.all()
    assert quadrant_hit(tree, masks, "most").hit.all()
    assert not leaf_hit(tree, masks.roll(1, dims=3)).hit.any()


def test_normalised_maps_reach_from_0_to_1_and_empty_ones_are_said() -> None:
    maps = torch.randn(5, 4, 6)
    maps[1], maps[2, 0, 0], maps[3, 1, 1] = -3.0, torch.nan, torch.inf
    scaled, empty = normalize(maps)
    assert empty.tolist() == [False, True, True, True, False]
    assert not scaled[empty].any()
    assert scaled[0].min() == 0
    assert scaled[0].max() == 1
    expected = (maps[4] - maps[4].min()) / (maps[4].max() - maps[4].min())
    torch.testing.assert_close(scaled[4], expected)


def test_resized_maps_are_opencvs() -> None:
    """As `localization` brings maps to size, on a CPU."""
    maps = torch.rand(2, 7, 7)
    for mode, flag in (("bicubic", cv2.INTER_CUBIC), ("bilinear", cv2.INTER_LINEAR)):
        theirs = np.stack([cv2.resize(one, (224, 224), interpolation=flag) for one in maps.numpy()])
        ours = resize(maps, 224, mode)  # type: ignore[arg-type]
        torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=2e-5, rtol=0)
    assert torch.equal(resize(maps, 14, "nearest")[:, ::2, 1::2], maps)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (peak((0, 0)), torch.zeros(1, 32, 32, dtype=torch.bool), "mask of image 0 is empty"),
        (peak((0, 0)), torch.ones(1, 32, 32), "masks must be bool"),
        (peak((0, 0)), torch.ones(1, 16, 16, dtype=torch.bool), "resize"),
        (
            peak((0, 0)) * torch.nan,
            torch.ones(1, 32, 32, dtype=torch.bool),
            "image 0 is not finite",
        ),
    ],
)
def test_bad_maps_and_masks_are_named(maps: Tensor, masks: Tensor, message: str) -> None:
    for score in (pointing_game, energy_pointing):
        with pytest.raises(InterpretError, match=message):
            score(maps, masks)


def test_bad_hits_are_named() -> None:
    tree = tree_of([[0, 1]])
    with pytest.raises(InterpretError, match="rule is 'any' or 'most', not 'all'"):
        leaf_hit(tree, mask_of(slice(0, 1), slice(0, 1)), "all")  # type: ignore[arg-type]
    with pytest.raises(InterpretError, match=r"masks \(1, 30, 30\), 1 trees of 4² blocks"):
        leaf_hit(tree, mask_of(slice(0, 1), slice(0, 1), 30))
    with pytest.raises(InterpretError, match="mask of image 0 is empty"):
        quadrant_hit(tree, torch.zeros(1, 32, 32, dtype=torch.bool))
