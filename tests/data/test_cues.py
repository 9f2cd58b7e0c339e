"""Synthetic pictures: masks are exact, a local cue is in every part of an object, a shape in none.

What tells a class is checked on the objects themselves, part by part; masks by what the pixels are.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from repro.data import catalogue, cues, datasets
from repro.data.composed import Fours
from repro.data.cues import CELL, Background, Cue, fours, image_keys, outline, pattern
from repro.data.imagenet import ground_truth
from repro.data.images import OfficialSplit, fingerprint

# Results name their data by these; a change here is another dataset.
GOLDEN = {  # train, test, fit, validation
    "cues-local-plain": (
        "570ae8c573bcf367",
        "e681224b11fd012c",
        "54bd737b2ed430f9",
        "42862f481e0e15f3",
    ),
    "cues-local-textured": (
        "2f02ecc9c104be36",
        "81166b141214a13d",
        "58d29ec4e83615f3",
        "7900d9765b60110f",
    ),
    "cues-shape-plain": (
        "41ae00e67676ccf0",
        "be8540d5d171ea75",
        "cd4abafb4a4b596c",
        "cb765d9d6f753785",
    ),
    "cues-shape-textured": (
        "d65ad1dd45e946d7",
        "379f7cb3a98bfb19",
        "32f018750f81f223",
        "21b444697b8361d8",
    ),
}
GOLDEN_FOURS = {
    "cues-local-plain": "2da695e3e9160249",
    "cues-local-textured": "fcbf88637b450d98",
    "cues-shape-plain": "354aea97cc8a3392",
    "cues-shape-textured": "67382e6b72071fc1",
}
OFFICIAL: tuple[OfficialSplit, ...] = get_args(OfficialSplit)
PARTS = 3 * CELL - 2  # places of 3 px in a window of 12 px


@pytest.fixture(scope="module")
def pictures() -> Fours:
    return fours("cues-local-textured", "test", 300, seed=3)


def object_of(letter: str, number: int) -> tuple[Tensor, Tensor]:
    """The pixels (3, 12, 12) and the mask (12, 12) of an object."""
    return pattern(number), outline(letter)


def parts(letter: str, number: int) -> set[bytes]:
    """Every 3 x 3 px that lie wholly on an object."""
    pixels, mask = object_of(letter, number)
    return {
        pixels[:, y : y + 3, x : x + 3].contiguous().numpy().tobytes()
        for y in range(PARTS)
        for x in range(PARTS)
        if mask[y : y + 3, x : x + 3].all()
    }


def cells(letter: str) -> Tensor:
    """The cells of an outline, bool (3, 3)."""
    return outline(letter)[::CELL, ::CELL]


# ---- the same pictures always -------------------------------------------------------------------


@pytest.mark.parametrize("name", cues.NAMES)
def test_singles_are_the_ones_that_results_name(name: str) -> None:
    made = [datasets.load(name, split) for split in get_args(datasets.Split)]
    assert tuple(images.fingerprint for images in made) == GOLDEN[name]
    train, test, fit, validation = (len(images.labels) for images in made)
    assert (train, test) == tuple(cues.COUNTS.values())
    assert fit + validation == train
    for images in made:
        assert images.pixels.shape[1:] == (3, 32, 32)
        assert images.classes == cues.CLASSES[cues.NAMES[name][0]]
        assert images.fingerprint == fingerprint(images.pixels.numpy(), images.labels.numpy())


@pytest.mark.parametrize("name", cues.NAMES)
def test_fours_are_the_ones_that_results_name(name: str) -> None:
    made = fours(name, "test", 64)
    packed = torch.cat([made.pixels.flatten(1), made.masks.flatten(1).to(torch.uint8)], dim=1)
    told = torch.cat([made.labels.flatten(), made.boxes.flatten()])
    assert fingerprint(packed.numpy(), told.numpy()) == GOLDEN_FOURS[name]


def test_the_names_are_those_that_planning_knows() -> None:
    assert tuple(cues.NAMES) == catalogue.SYNTHETIC


def test_a_picture_depends_on_its_number_alone(pictures: Fours) -> None:
    torch.manual_seed(1)
    for number in (0, 1, 299):
        one = fours("cues-local-textured", "test", 1, seed=3, first=number)
        assert all(a[0].equal(b[number]) for a, b in zip(one, pictures, strict=True))


def test_seeds_splits_and_kinds_draw_apart() -> None:
    drawn = [
        image_keys(kind, split, seed, torch.arange(500))
        for kind in get_args(cues.ImageKind)
        for split in OFFICIAL
        for seed in (0, 1)
    ]
    assert len(set(torch.cat(drawn).tolist())) == 500 * 8


def test_what_is_given_is_not_what_is_kept() -> None:
    first = cues.singles("cues-shape-plain", "test")
    first.labels.zero_()
    first.pixels.zero_()
    assert cues.singles("cues-shape-plain", "test").fingerprint == first.fingerprint


@pytest.mark.parametrize("background", get_args(Background))
def test_mean_and_std_are_those_of_the_train_split(background: Background) -> None:
    images = cues.singles(f"cues-local-{background}", "train")
    pixels = images.pixels.double() / 255
    assert images.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=5e-5)
    assert images.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=5e-5)


# ---- both tasks have the same pictures ----------------------------------------------------------


@pytest.mark.parametrize("background", get_args(Background))
def test_cues_differ_in_labels_alone(background: Background) -> None:
    local, shape = (cues.singles(f"cues-{cue}-{background}", "test") for cue in get_args(Cue))
    assert local.pixels.equal(shape.pixels)
    both = torch.stack([local.labels, shape.labels], dim=1)
    counts = torch.zeros(8, 8).index_put_(both.T.unbind(), torch.ones(len(both)), accumulate=True)
    assert counts.sum() == len(both)
    expected = len(both) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 104  # chi-squared, 63 degrees: p > .001
    a, b = (fours(f"cues-{cue}-{background}", "test", 40) for cue in get_args(Cue))
    assert a.pixels.equal(b.pixels)
    assert a.masks.equal(b.masks)
    assert not a.labels.equal(b.labels)


def test_four_objects_have_four_classes_of_either_kind() -> None:
    for cue in get_args(Cue):
        labels = fours(f"cues-{cue}-plain", "test", 100).labels
        assert all(len(set(row)) == 4 for row in labels.tolist())
        assert set(labels.flatten().tolist()) == set(range(8))


# ---- what tells a class -------------------------------------------------------------------------


def test_any_part_of_an_object_tells_its_pattern() -> None:
    found = [set[bytes]().union(*(parts(letter, n) for letter in cues.OUTLINES)) for n in range(8)]
    assert all(found)
    for n, of_class in enumerate(found):
        assert not of_class & set[bytes]().union(*found[:n], *found[n + 1 :])


def test_no_part_of_an_object_tells_its_outline() -> None:
    """What one cell holds, and what any two neighbours hold, is in the objects of other outlines;
    and every outline has five cells, so that neither colours nor their amounts tell it."""
    for letter in cues.OUTLINES:
        assert cells(letter).sum() == 5
        for n in range(8):
            others = [parts(other, n) for other in cues.OUTLINES if other != letter]
            assert parts(letter, n) <= set[bytes]().union(*others)
    assert len({cells(letter).numpy().tobytes() for letter in cues.OUTLINES}) == 8


def test_moving_the_cells_of_an_object_keeps_its_pattern_and_loses_its_outline() -> None:
    """Every object, its cells moved to those of another outline, is the other outline's object."""
    for n in range(8):
        for letter in cues.OUTLINES:
            pixels, mask = object_of(letter, n)
            for other in set(cues.OUTLINES) - {letter}:
                moved = torch.zeros_like(pixels)
                pairs = zip(cells(letter).nonzero(), cells(other).nonzero(), strict=True)
                for (y, x), (v, u) in [(CELL * a, CELL * b) for a, b in pairs]:
                    moved[:, v : v + CELL, u : u + CELL] = pixels[:, y : y + CELL, x : x + CELL]
                assert moved.equal(torch.where(outline(other), pattern(n), 0))
                assert not outline(other).equal(mask)


def test_no_colour_alone_tells_a_pattern() -> None:
    every = [colour for pair in cues.PATTERNS for colour in pair]
    assert min(map(every.count, cues.COLOURS)) >= 2
    assert len(set(map(frozenset, cues.PATTERNS))) == len(cues.PATTERNS) == 8


# ---- masks, boxes and places --------------------------------------------------------------------


@pytest.mark.parametrize("background", get_args(Background))
def test_masks_are_the_pixels_of_the_objects(background: Background) -> None:
    """An object has its pattern's colours and no others, and no background is so bright."""
    made = fours(f"cues-local-{background}", "test", 60)
    bright = made.pixels.amax(1) >= min(max(levels) for levels in cues.COLOURS.values())
    assert bright.equal(made.masks.any(1))
    assert (made.masks.sum(1) <= 1).all()
    assert (made.masks.sum((2, 3)) == 5 * CELL**2).all()
    for number in range(0, 60, 7):
        for place, label in enumerate(made.labels[number].tolist()):
            shown = made.pixels[number][:, made.masks[number, place]].T.tolist()
            colours = [list(cues.COLOURS[name]) for name in cues.PATTERNS[label]]
            assert sorted(map(list, {tuple(pixel) for pixel in shown})) == sorted(colours)


def test_a_mask_is_the_outline_of_its_class() -> None:
    made = fours("cues-shape-plain", "test", 60)
    letters = tuple(cues.OUTLINES)
    for number in range(60):
        for place, label in enumerate(made.labels[number].tolist()):
            x0, y0, _, _ = made.boxes[number, place].tolist()
            window = torch.zeros(12, 12, dtype=torch.bool)
            part = made.masks[number, place, y0 : y0 + 12, x0 : x0 + 12]
            window[: part.shape[0], : part.shape[1]] = part
            assert window.equal(outline(letters[label]))


def test_boxes_are_tight_around_masks(pictures: Fours) -> None:
    for boxes, masks in zip(pictures.boxes, pictures.masks, strict=True):
        for (x0, y0, x1, y1), mask in zip(boxes.tolist(), masks, strict=True):
            y, x = mask.nonzero().unbind(1)
            assert [x.min(), y.min(), x.max(), y.max()] == [x0, y0, x1, y1]


def test_objects_lie_anywhere_in_their_windows(pictures: Fours) -> None:
    for quadrant in range(4):
        top, left = quadrant // 2 * 16, quadrant % 2 * 16
        boxes = pictures.boxes[:, quadrant] - torch.tensor([left, top, left, top])
        assert boxes.amin(0)[:2].tolist() == [1, 1]
        assert boxes.amax(0)[2:].tolist() == [14, 14]
    alone = cues.boxes("cues-shape-plain", "test")
    assert alone.amin(0)[:2].tolist() == [1, 1]
    assert alone.amax(0)[2:].tolist() == [30, 30]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_ground_truth_is_of_the_images(split: datasets.Split) -> None:
    """A box holds all that is bright and no more, one pixel beyond, as all ground truth here."""
    images = datasets.load("cues-local-plain", split)
    truth = ground_truth.load("cues-local-plain", split, images, Path())
    assert truth.labels.tolist() == images.labels.tolist()
    for number in range(0, len(truth), 51):
        y, x = (images.pixels[number].amax(0) > 150).nonzero().unbind(1)
        expected = [int(n) for n in (x.min(), y.min(), x.max() + 1, y.max() + 1)]
        assert truth.of(number).tolist() == [expected]


def test_no_pictures_are_an_error() -> None:
    with pytest.raises(ValueError, match="0 images from number 0 on"):
        fours("cues-local-plain", "test", 0)
