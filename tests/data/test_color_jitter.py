"""The colour distortion: against colorsys pixel by pixel, and how often it does what."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from repro.data.augment import color_jitter as module
from repro.data.augment.augment import Augmentation, AugmentStream, augment
from repro.data.augment.color_jitter import ADJUSTMENTS, DRAWS, color_jitter
from repro.data.randomness import sample_keys, uniform
from tests.data import reference

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(count: int, height: int = 9, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (count, 3, height, width)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def corners(count: int) -> Tensor:
    """Black, white, greys, pure and half colours: where hues are undefined or meet."""
    levels = torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels)
    return colours.T.reshape(1, 3, 5, 25).repeat(count, 1, 1, 1)


def draws(count: int, seed: int = 0) -> Tensor:
    return uniform(sample_keys(seed, 0, torch.arange(count)), AugmentStream.JITTER, DRAWS)


@pytest.mark.parametrize("pixels", [noise(7), corners(7)], ids=["noise", "corners"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("adjust", ADJUSTMENTS, ids=lambda function: str(function.__name__))
def test_an_adjustment_is_that_of_colorsys(
    adjust: Callable[[Tensor, Tensor], Tensor], strength: float, pixels: Tensor
) -> None:
    slowly, reach = reference.ADJUSTMENTS[adjust.__name__]
    amounts = torch.linspace(-1, 1, 7) * reach * strength + (adjust is not module.hue)
    ours = adjust(pixels.float(), amounts.view(-1, 1, 1, 1)) / 255
    for image, amount, result in zip(pixels, amounts.tolist(), ours, strict=True):
        listed = [(r, g, b) for r, g, b in (image.flatten(1).T.double() / 255).tolist()]
        expected = torch.tensor(slowly(listed, amount)).T.view_as(result)
        assert (result - expected).abs().max() < 1e-5


@pytest.mark.parametrize("pixels", [noise(60), corners(60)], ids=["noise", "corners"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_a_distorted_image_is_the_reference(strength: float, pixels: Tensor) -> None:
    numbers = draws(60)
    numbers[::7, 3:7] = 0.0  # the ends of the ranges
    numbers[3::7, 3:7] = 1 - 2.0**-24
    ours = color_jitter(pixels, numbers, strength)
    images = pixels.permute(0, 2, 3, 1).numpy()
    each = zip(images, numbers.tolist(), strict=True)
    slowly = np.stack([reference.color_jitter(image, row, strength) for image, row in each])
    difference = ours.to(torch.int16) - torch.tensor(slowly).permute(0, 3, 1, 2).to(torch.int16)
    assert difference.abs().max() <= 1  # a whole number of levels, in float32
    assert (difference != 0).float().mean() < 1e-3


def test_what_is_drawn_to_stay_stays() -> None:
    every_level = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    pixels = torch.cat([every_level, noise(1, 16, 16)])
    before, stay = pixels.clone(), torch.full((2, DRAWS), 0.9)
    assert torch.equal(color_jitter(pixels, stay, 0.3), before)
    numbers = draws(2)
    numbers[:, :3] = 0.0
    assert not torch.equal(color_jitter(pixels, numbers, 0.3), before)
    assert torch.equal(pixels, before)


def test_grey_is_the_official_luminance_cut_off() -> None:
    numbers = torch.tensor([[0.9, 0.1, 0.9, *[0.5] * 8]])
    pixels = torch.tensor([[200, 255, 0], [100, 255, 0], [50, 255, 255]], dtype=torch.uint8)
    grey = color_jitter(pixels.view(1, 3, 1, 3), numbers, 0.3)
    # 0.2989 red + 0.587 green + 0.114 blue: 124.18, 254.97 and 29.07
    assert grey[0, :, 0].tolist() == [[124, 254, 29]] * 3


def test_how_often_and_in_which_order(monkeypatch: pytest.MonkeyPatch) -> None:
    count, chosen = 24_000, []

    def note(functions: object, choice: Tensor, images: Tensor) -> Tensor:
        chosen.append(choice)
        return images

    monkeypatch.setattr(module, "dispatch", note)
    ramp = torch.tensor([0, 1], dtype=torch.uint8).expand(count, 3, 1, 2)
    mirrored = color_jitter(ramp, draws(count), 0.3)[:, 0, 0, 0] == 1
    *steps, grey = chosen
    order = torch.stack(steps, 1)
    jittered = order[:, 0] > 0
    for happened, probability in ((jittered, 0.8), (grey == 1, 0.2), (mirrored, 0.5)):
        error = math.sqrt(probability * (1 - probability) / count)
        assert abs(happened.float().mean() - probability) < 4 * error
    events = torch.stack([jittered, grey == 1, mirrored]).float()
    assert (torch.corrcoef(events) - torch.eye(3)).abs().max() < 4 / math.sqrt(count)
    assert (order[~jittered] == 0).all()

    found = [tuple(row) for row in order[jittered].tolist()]
    counts = np.array([found.count(way) for way in itertools.permutations((1, 2, 3, 4))])
    expected = len(found) / 24
    assert counts.sum() == len(found)
    assert abs(((counts - expected) ** 2 / expected).sum() - 23) < 4 * math.sqrt(2 * 23)


@pytest.mark.parametrize("spec", [Augmentation(color_jitter=0.3)])
def test_the_whole_way_is_the_reference(spec: Augmentation) -> None:
    pixels, keys = noise(60), sample_keys(1, 0, torch.arange(60))
    ours = augment(pixels, keys, spec, MEAN, STD)
    each = zip(pixels.permute(0, 2, 3, 1).numpy(), keys.tolist(), strict=True)
    samples = np.stack([reference.augment(image, key, spec, MEAN, STD) for image, key in each])
    differs = (ours - torch.from_numpy(samples).permute(0, 3, 1, 2)).abs() > 1e-4
    assert differs.float().mean() < 1e-3
    plain = augment(pixels, keys, Augmentation(), MEAN, STD)
    assert (ours != plain).flatten(1).any(1).float().mean() > 0.8  # 1 - 0.2 x 0.8 x 0.5 = 0.92
