"""Composed pictures: what is said of each pixel is true of it, and only the object tells its class.

Masks are checked by drawing the same objects over other backgrounds, shapes against a naive loop
and scipy's holes, independence of class by classifiers that ought to fail.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from repro.data import composed, datasets
from repro.data.composed import Fours, fours, image_keys, leaf_shares, singles, textures
from repro.data.images import OfficialSplit, Split, fingerprint

OFFICIAL: tuple[OfficialSplit, ...] = ("train", "test")
HALF = composed.SIDE // 2

# Results name their data by these; a change here is another dataset.
GOLDEN: dict[Split, str] = {
    "train": "6bd3c01371b85127",
    "test": "297a48963369fd8c",
    "fit": "a5cf816c50e9ae6e",
    "validation": "75d2db7dae8352ad",
}
GOLDEN_FOURS = {"train": "f59703fb81711092", "test": "c6039f7270d0f344"}


@pytest.fixture(scope="module")
def pictures() -> Fours:
    return fours("test", 400, seed=3)


@pytest.fixture(scope="module")
def alone() -> dict[OfficialSplit, datasets.Images]:
    return {split: datasets.load("fashion-singles", split) for split in OFFICIAL}


def keys(count: int, split: OfficialSplit = "test", kind: composed.ImageKind = "singles") -> Tensor:
    return image_keys(kind, split, 0, torch.arange(count))


def box_of(mask: Tensor) -> list[int]:
    y, x = mask.nonzero().unbind(1)
    return [int(n) for n in (x.min(), y.min(), x.max(), y.max())]


# ---- the same pictures always, and what they hold -----------------------------------------------


@pytest.mark.parametrize("split", GOLDEN)
def test_singles_are_the_ones_that_results_name(
    split: Split, alone: dict[OfficialSplit, datasets.Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composed, "singles", alone.__getitem__)  # for time: not to make them anew
    images, source = (datasets.load(name, split) for name in (composed.SINGLES, composed.SOURCE))
    assert images.fingerprint == GOLDEN[split]
    assert images.fingerprint == fingerprint(images.pixels.numpy(), images.labels.numpy())
    assert images.pixels.shape == (len(source.labels), 3, 64, 64)
    assert images.pixels.dtype == torch.uint8
    assert images.labels.equal(source.labels)
    assert images.classes == source.classes


@pytest.mark.parametrize("split", OFFICIAL)
def test_fours_are_the_ones_that_results_name(split: OfficialSplit) -> None:
    made = fours(split, 64)
    packed = torch.cat([made.pixels.flatten(1), made.masks.flatten(1).to(torch.uint8)], dim=1)
    told = torch.cat([made.labels.flatten(), made.boxes.flatten()])
    assert fingerprint(packed.numpy(), told.numpy()) == GOLDEN_FOURS[split]


@pytest.mark.parametrize("split", OFFICIAL)
def test_boxes_of_singles_are_tight(
    split: OfficialSplit, alone: dict[OfficialSplit, datasets.Images]
) -> None:
    """An object drawn over two backgrounds: what is alike in both is it, or little more."""
    boxes = composed.boxes(split)
    numbers = torch.arange(0, len(boxes), 97)
    behind = textures(keys(len(boxes), split)[numbers])
    shown = (alone[split].pixels[numbers] != behind).any(1)
    for (x0, y0, x1, y1), mask in zip(boxes[numbers].tolist(), shown, strict=True):
        found = box_of(mask)
        assert x0 <= found[0] <= found[2] <= x1
        assert y0 <= found[1] <= found[3] <= y1
        # A pixel of the object may be of the texture's very colour, but hardly a whole side.
        assert (found[2] - found[0]) - (x1 - x0) >= -1
        assert (found[3] - found[1]) - (y1 - y0) >= -1


def test_mean_and_std_are_those_of_the_train_split(
    alone: dict[OfficialSplit, datasets.Images],
) -> None:
    pixels = alone["train"].pixels.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)
    assert alone["train"].mean == alone["test"].mean == pytest.approx(mean.tolist(), abs=5e-5)
    assert alone["train"].std == alone["test"].std == pytest.approx(std.tolist(), abs=5e-5)


@pytest.mark.parametrize("side", [64, 96, 224])
def test_shapes_at_every_side(side: int) -> None:
    made = fours("train", 3, side=side)
    assert made.pixels.shape == (3, 3, side, side)
    assert made.masks.shape == (3, 4, side, side)
    assert made.labels.shape == (3, 4)
    assert made.boxes.shape == (3, 4, 4)
    kinds = [field.dtype for field in made]
    assert kinds == [torch.uint8, torch.int64, torch.int64, torch.bool]
    extent = (made.boxes[:, :, 2:] - made.boxes[:, :, :2] + 1).amax()
    assert side * 10 // 64 < extent <= side * 26 // 64


def test_a_picture_depends_on_its_number_alone(
    monkeypatch: pytest.MonkeyPatch, pictures: Fours, alone: dict[OfficialSplit, datasets.Images]
) -> None:
    for number in (0, 1, 255, 256, 399):
        one = fours("test", 1, seed=3, first=number)
        assert all(a[0].equal(b[number]) for a, b in zip(one, pictures, strict=True))
    monkeypatch.setattr(composed, "_CHUNK", 77)
    torch.manual_seed(1)
    again = fours("test", 200, seed=3, first=200)
    assert all(a.equal(b[200:]) for a, b in zip(again, pictures, strict=True))
    assert singles("test").fingerprint == alone["test"].fingerprint


def test_seeds_splits_and_kinds_draw_apart() -> None:
    drawn = [
        image_keys(kind, split, seed, torch.arange(500))
        for kind in ("singles", "fours")
        for split in OFFICIAL
        for seed in (0, 1)
    ]
    assert len(set(torch.cat(drawn).tolist())) == 500 * 8
    assert not fours("test", 4, seed=0).labels.equal(fours("test", 4, seed=1).labels)


def test_what_is_given_is_not_what_is_kept() -> None:
    """Writing to a dataset must not reach the next one."""
    first = singles("test")
    first.labels.zero_()
    first.pixels.zero_()
    assert singles("test").fingerprint == first.fingerprint


# ---- masks and boxes ----------------------------------------------------------------------------


def test_boxes_are_tight_around_masks(pictures: Fours) -> None:
    for boxes, masks in zip(pictures.boxes, pictures.masks, strict=True):
        assert [box_of(mask) for mask in masks] == boxes.tolist()


def test_each_object_lies_in_its_quadrant_and_fills_it_in_time(pictures: Fours) -> None:
    for quadrant in range(4):
        top, left = quadrant // 2 * HALF, quadrant % 2 * HALF
        boxes = pictures.boxes[:, quadrant] - torch.tensor([left, top, left, top])
        assert boxes.amin(0).tolist() == [2, 2, *boxes.amin(0)[2:].tolist()]
        assert boxes.amax(0)[2:].tolist() == [HALF - 3, HALF - 3]
    assert (pictures.masks.sum(1) <= 1).all()


def test_masks_are_the_pixels_that_the_background_does_not_reach(
    monkeypatch: pytest.MonkeyPatch, pictures: Fours
) -> None:
    """Over the inverted texture, which is another everywhere, the objects alone stay the same."""
    texture = textures(image_keys("fours", "test", 3, torch.arange(400)))
    differs = (pictures.pixels != texture).any(1)
    objects = pictures.masks.any(1)
    assert not (differs & ~objects).any()
    assert differs[objects].float().mean() > 0.999  # the others have the texture's colour by chance
    monkeypatch.setattr(composed, "textures", lambda k, side: 255 - textures(k, side))
    inverted = fours("test", 400, seed=3)
    same = (inverted.pixels == pictures.pixels).all(1)
    assert same.equal(objects)
    assert inverted.masks.equal(pictures.masks)


def test_singles_differ_from_their_textures_in_one_object(
    monkeypatch: pytest.MonkeyPatch, alone: dict[OfficialSplit, datasets.Images]
) -> None:
    texture = textures(keys(2000))
    differs = (alone["test"].pixels != texture).any(1)
    monkeypatch.setattr(composed, "textures", lambda k, side: 255 - textures(k, side))
    objects = (singles("test").pixels == alone["test"].pixels).all(1)
    assert not (differs & ~objects).any()
    boxes = torch.tensor([box_of(mask) for mask in objects])
    assert boxes.amin(0)[:2].tolist() == [2, 2]
    assert boxes.amax(0)[2:].tolist() == [61, 61]


@pytest.mark.parametrize("split", OFFICIAL)
def test_no_object_vanishes_at_any_size(split: OfficialSplit) -> None:
    every = composed.objects(split)
    for size in range(14, 27 if split == "test" else 18):
        _, solid = composed._resize_objects(every, torch.full((len(every.labels),), size), 26)
        assert solid.flatten(1).sum(1).min() >= 6
        assert solid[:, size:].sum() == solid[:, :, size:].sum() == 0


def test_objects_are_as_large_in_both_kinds(
    monkeypatch: pytest.MonkeyPatch, pictures: Fours, alone: dict[OfficialSplit, datasets.Images]
) -> None:
    monkeypatch.setattr(composed, "textures", lambda k, side: 255 - textures(k, side))
    objects = (singles("test").pixels == alone["test"].pixels).all(1)
    shares = torch.linspace(0.05, 0.95, 10)
    ours, theirs = (
        masks.flatten(1).sum(1).float().quantile(shares)
        for masks in (objects, pictures.masks.flatten(0, 1))
    )
    torch.testing.assert_close(ours, theirs, rtol=0.12, atol=0)
    assert objects.flatten(1).sum(1).max() >= pictures.masks.flatten(2).sum(2).max()


# ---- drawing, against a naive loop --------------------------------------------------------------


def naive_scaled(
    grey: list[list[int]], solid: list[list[int]], size: int
) -> list[list[tuple[int, bool]]]:
    """A pixel at a time, by exact fractions of areas."""
    step = Fraction(28, size)

    def overlap(pixel: int, source: int) -> Fraction:
        start = max(pixel * step, Fraction(source))
        return max(min((pixel + 1) * step, Fraction(source + 1)) - start, Fraction(0))

    def at(y: int, x: int) -> tuple[int, bool]:
        area = light = Fraction(0)
        for i in range(int(y * step), min(28, int((y + 1) * step) + 1)):
            for j in range(int(x * step), min(28, int((x + 1) * step) + 1)):
                part = overlap(y, i) * overlap(x, j) * solid[i][j]
                area, light = area + part, light + part * grey[i][j]
        return (int(light / area) if area else 0), area >= step**2 / 2

    return [[at(y, x) for x in range(size)] for y in range(size)]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1999), st.sampled_from([14, 17, 23, 26, 28, 31]))
def test_scaling_is_the_mean_over_the_objects_part_of_the_area(index: int, size: int) -> None:
    chosen = composed.objects("test").take(torch.tensor([index]))
    grey, solid = composed._resize_objects(chosen, torch.tensor([size]), 31)
    expected = naive_scaled(chosen.grey[0].tolist(), chosen.solid[0].tolist(), size)
    for y, row in enumerate(expected):
        for x, (light, there) in enumerate(row):
            assert (int(grey[0, y, x]), bool(solid[0, y, x])) == (light, there)


def test_objects_at_their_own_size_are_fashion_mnist() -> None:
    every = composed.objects("test")
    source = datasets.load(composed.SOURCE, "test").pixels[:, 0, 2:-2, 2:-2]
    grey, solid = composed._resize_objects(every, torch.full((2000,), 28), 28)
    assert solid.equal(every.solid.bool())
    assert grey[solid].equal(source[solid].int())
    assert solid[source > composed.INK].all()
    assert (solid & (source <= composed.INK)).any()  # holes are the object's


def test_holes_are_what_scipy_fills() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = (
        torch.rand(60, 20, 24, generator=generator) < torch.linspace(0.3, 0.8, 60)[:, None, None]
    )
    theirs = np.stack([ndimage.binary_fill_holes(mask) for mask in masks.numpy()])
    assert composed.fill_holes(masks).numpy().tolist() == theirs.tolist()
    assert (composed.fill_holes(masks) != masks).any()


def test_a_texture_is_bilinear_noise_between_two_colours() -> None:
    """Against torch's own interpolation of the same lattice, and exact to a rounding."""
    drawn = keys(6)
    cells = torch.tensor(composed.CELLS)[
        composed._randint(5, drawn, composed.ComposedStream.CELLS, 4)
    ].view(6, 2, 2)
    lattice = composed._randint(256, drawn, composed.ComposedStream.LATTICE, 2 * 33 * 33).view(
        6, 2, 33, 33
    )
    first = 16 + composed._randint(64, drawn, composed.ComposedStream.COLOURS, 6)[:, :3]
    other = first - 24 + composed._randint(49, drawn, composed.ComposedStream.COLOURS, 6)[:, 3:]
    colours = torch.stack([first, other.clamp(0, 103)], dim=1)
    for picture in range(6):
        height = torch.zeros(64, 64, dtype=torch.float64)
        for field, weight in ((0, 0.75), (1, 0.25)):
            down, across = cells[picture, field].tolist()
            part = lattice[picture, field, : 64 // down + 1, : 64 // across + 1].double()
            size = (64 + 1, 64 + 1)
            fine = torch.nn.functional.interpolate(
                part[None, None], size, mode="bilinear", align_corners=True
            )
            height += weight * fine[0, 0, :64, :64] / 256
        low, high = colours[picture].double()[:, :, None, None]
        expected = low + (high - low) * height
        made = textures(drawn[picture : picture + 1])[0]
        assert (made - expected).abs().max() <= 0.5 + 1e-9
        assert made.amax() <= composed.BRIGHTEST < composed.TINT


# ---- what tells the class, and what does not ----------------------------------------------------


def test_four_different_classes_each_as_often_in_every_quadrant() -> None:
    labels = fours("train", 3000, seed=1).labels
    assert (labels.sort(1).values.diff(dim=1) > 0).all()
    for quadrant in range(4):
        counts = labels[:, quadrant].bincount(minlength=10)
        assert (counts - 300).abs().max() < 4 * (3000 * 0.1 * 0.9) ** 0.5
    pairs = (labels[:, 0] * 10 + labels[:, 3]).bincount(minlength=100).view(10, 10)
    chi_squared = ((pairs - 3000 / 90) ** 2 / (3000 / 90)).sum() - 10 * 3000 / 90
    assert chi_squared < 89 + 4 * (2 * 89) ** 0.5


def test_each_split_shows_its_own_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn are images of the split, nearly all in time, of the classes that are said."""
    shown: list[composed.Objects] = []
    scaled = composed._resize_objects

    def spy(chosen: composed.Objects, sizes: Tensor, largest: int) -> tuple[Tensor, Tensor]:
        shown.append(chosen)
        return scaled(chosen, sizes, largest)

    monkeypatch.setattr(composed, "_resize_objects", spy)
    for split in OFFICIAL:
        source = datasets.load(composed.SOURCE, split)
        label_of = {
            image.numpy().tobytes(): int(label)
            for image, label in zip(source.pixels[:, 0, 2:-2, 2:-2], source.labels, strict=True)
        }
        shown.clear()
        made, total = fours(split, 1000), len(source.labels)
        parts = [shown[start : start + 4] for start in range(0, len(shown), 4)]
        grey = torch.cat([torch.stack([each.grey for each in part], 1) for part in parts])
        found = [image.numpy().tobytes() for image in grey.flatten(0, 1)]
        assert [label_of[image] for image in found] == made.labels.flatten().tolist()
        assert len(set(found)) == pytest.approx(total * (1 - (1 - 1 / total) ** 4000), rel=0.03)


def features(pixels: Tensor) -> Tensor:
    """Coarse pixels, and means, spreads and slopes of each channel, standardised: (B, 60)."""
    parts = []
    for part in pixels.split(500):
        x = part.float() / 255
        coarse = torch.nn.functional.avg_pool2d(x, 16).flatten(1)
        slopes = [x.diff(dim=axis).abs().mean((2, 3)) for axis in (2, 3)]
        parts.append(torch.cat([coarse, x.mean((2, 3)), x.std((2, 3)), *slopes], dim=1))
    found = torch.cat(parts).double()
    return (found - found.mean(0)) / found.std(0)


def linear_accuracy(train: Tensor, test: Tensor, classes: Tensor, truth: Tensor) -> float:
    """A ridge classifier's."""
    ones = [torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1) for x in (train, test)]
    target = torch.nn.functional.one_hot(classes).double()
    gram = ones[0].T @ ones[0] + torch.eye(ones[0].shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, ones[0].T @ target)
    return float(((ones[1] @ weights).argmax(1) == truth).double().mean())


def nearest_mean_accuracy(train: Tensor, test: Tensor, classes: Tensor, truth: Tensor) -> float:
    means = torch.stack([train[classes == label].mean(0) for label in range(10)])
    return float((torch.cdist(test, means).argmin(1) == truth).double().mean())


def test_the_texture_tells_nothing_of_the_class(
    alone: dict[OfficialSplit, datasets.Images],
) -> None:
    """Two classifiers see the backgrounds alone, of the very singles: chance is .1, sigma .0067.

    Both see something where there is something: the objects, by the same features.
    """
    train, test = (textures(keys(len(alone[split].labels), split)) for split in OFFICIAL)
    labels = alone["train"].labels, alone["test"].labels
    backgrounds = features(train), features(test)
    objects = (
        features(torch.where(alone["train"].pixels == train, 0, alone["train"].pixels)),
        features(torch.where(alone["test"].pixels == test, 0, alone["test"].pixels)),
    )
    for accuracy in (linear_accuracy, nearest_mean_accuracy):
        assert abs(accuracy(*backgrounds, *labels) - 0.1) < 0.025
        assert accuracy(*objects, *labels) > 0.2


def test_sizes_and_tints_tell_nothing_of_the_class() -> None:
    own = composed._object_keys(keys(6000, "train"), 0)
    labels = composed.objects("train").labels
    for stream, count in ((composed.ComposedStream.SIZE, 1), (composed.ComposedStream.TINT, 3)):
        draws = composed._randint(1000, own, stream, count).double()
        means = torch.stack([draws[labels == label].mean(0) for label in range(10)])
        assert (means - 499.5).abs().max() < 4 * 1000 / 12**0.5 / 600**0.5


# ---- shares of leaves, and errors ---------------------------------------------------------------


def test_shares_of_leaves(pictures: Fours) -> None:
    shares = leaf_shares(pictures.masks)
    assert shares.shape == (400, 4, 4, 4)
    torch.testing.assert_close(shares.sum((2, 3)), torch.ones(400, 4))
    for quadrant in range(4):
        row, column = quadrant // 2 * 2, quadrant % 2 * 2
        own = shares[:, quadrant, row : row + 2, column : column + 2].sum((1, 2))
        torch.testing.assert_close(own, torch.ones(400))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[3, 1:5] = True  # one row of the upper blocks: three px to the left, one to the right
    assert leaf_shares(mask, rows=2).tolist() == [[0.75, 0.25], [0, 0]]


def test_objects_lie_in_two_leaves_or_four(pictures: Fours) -> None:
    """What the docstring of `leaf_shares` says."""
    touched = (leaf_shares(pictures.masks) > 0).sum((2, 3)).flatten().bincount(minlength=5)
    shares = touched / touched.sum()
    assert shares[2:].tolist() == pytest.approx([0.31, 0.10, 0.58], abs=0.04)


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (torch.zeros(2, 8, 8, dtype=torch.bool), "a mask is empty"),
        (torch.ones(2, 8, 8), "must be bool"),
        (torch.ones(2, 8, 10, dtype=torch.bool), r"not torch.bool \(2, 8, 10\)"),
    ],
)
def test_masks_that_cannot_be_shared_out_are_refused(masks: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        leaf_shares(masks)


def test_what_cannot_be_made_is_refused_in_one_line() -> None:
    for side in (32, 65, 0, -64):
        with pytest.raises(ValueError, match=f"a multiple of 32, at least 64, not {side}"):
            fours("test", 1, side=side)
        with pytest.raises(ValueError, match="a multiple of 32"):
            singles("test", side=side)
    with pytest.raises(ValueError, match="train or test, not fit"):
        fours("fit", 1)  # type: ignore[arg-type]
    for count, first in ((0, 0), (-1, 0), (1, -1)):
        with pytest.raises(ValueError, match=f"{count} images from number {first} on"):
            fours("test", count, first=first)
