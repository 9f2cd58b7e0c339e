"""The batched augmentation: against Pillow, operation by operation, against itself, in the mean."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from repro.data.augment import ops
from repro.data.augment.augment import (
    Augmentation,
    AugmentStream,
    augment,
    crop_and_flip,
    erase,
    mix,
    normalize,
)
from repro.data.datasets import load
from repro.data.randomness import sample_keys, uniform
from tests import DEVICES
from tests.data import reference

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
SPEC = Augmentation()
PLAIN = Augmentation(
    crop_padding=0, flip=False, randaugment_layers=0, erase_prob=0, mixup_alpha=0, cutmix=False
)
WITHIN_ONE_LEVEL = ("auto_contrast", "color", "contrast", "sharpness")  # all others are equal


def keys(count: int, seed: int = 0) -> Tensor:
    return sample_keys(seed, 0, torch.arange(count))


def noise(count: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (count, 3, height, width)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def smooth(count: int) -> Tensor:
    """Blurred colours, of little contrast in half of the images; some channels are constant."""
    coarse = noise(count, 5, 5).to(torch.float32)
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    images[::2] = 90 + images[::2] / 4
    images[::5, 1] = 77
    return images.to(torch.uint8)


PICTURES = {
    "noise": noise(24),
    "smooth": smooth(24),
    "real": load("fashion-mnist-6k", "train").pixels[:24],
    "narrow": noise(24, 20, 28),
    "224": noise(24, 224, 224),
    "384": noise(24, 384, 384),
}


LARGE = ("224", "384")


def applied(name: str, pixels: Tensor, levels: Tensor) -> Tensor:
    operation = torch.full((len(pixels),), ops.OPERATIONS.index(name))
    return ops.apply(pixels, operation, levels, torch.ones(len(pixels)))


def pillow_like(name: str, pixels: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    images = pixels.permute(0, 2, 3, 1).numpy()
    each = zip(images, levels.tolist(), signs.tolist(), strict=True)
    results = [reference.PILLOW[name](np.ascontiguousarray(i), lv, s) for i, lv, s in each]
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", ops.OPERATIONS)
def test_every_operation_is_pillows(name: str, picture: str) -> None:
    pixels = PICTURES[picture]
    levels = torch.cat([torch.linspace(0.0, 1.0, 12), torch.linspace(0.853, 0.963, 12)])
    signs = torch.tensor([-1.0, 1.0]).repeat(12)
    operation = torch.full((24,), ops.OPERATIONS.index(name))
    ours = ops.apply(pixels, operation, levels, signs)
    pillows = pillow_like(name, pixels, levels, signs)
    difference = (ours.to(torch.int16) - pillows.to(torch.int16)).abs()
    if name in WITHIN_ONE_LEVEL:
        assert difference.max() <= 1
    elif name == "rotate" or (name.startswith("shear") and picture in LARGE):
        # Pillow steps by multiples of 2^-16, so that its ties fall elsewhere.
        assert (difference > 0).float().mean() < pixels.shape[3] * 2**-16
    else:
        assert difference.max() == 0


def test_auto_contrast_is_the_official_float_but_for_its_errors() -> None:
    """The official code cuts float32 im * scale - lo * scale off; ours is the exact quotient."""
    pixels = torch.cat([PICTURES["noise"][:, :, ::8, ::8], PICTURES["smooth"][:, :, ::8, ::8]])
    low = pixels.amin((2, 3), keepdim=True).float()
    high = pixels.amax((2, 3), keepdim=True).float()
    scale = 255.0 / (high - low)
    official = (pixels.float() * scale + -low * scale).clamp(0, 255).nan_to_num(0)
    official = torch.where(high > low, official, pixels.float()).to(torch.uint8)
    ours = applied("auto_contrast", pixels, torch.ones(len(pixels)))
    difference = ours.to(torch.int16) - official.to(torch.int16)
    assert difference.min() >= 0
    assert difference.max() <= 1


@pytest.mark.parametrize("side", [32, 224, 384])
def test_the_mean_grey_is_rounded_exactly_at_any_size(side: int) -> None:
    """Above 256 x 256, sums of grey levels are no longer exact in float32."""
    half = torch.tensor([200.0, 201.0]).repeat(side * side // 2).view(1, 1, side, side)
    below = half.clone()
    below[0, 0, 0, 1] = 200
    assert ops.rounded_mean(half).item() == 201
    assert ops.rounded_mean(below).item() == 200


def test_posterize_to_no_bits_is_black() -> None:
    """Pillow 13 raises there; the official ranges ask for it below magnitude 2.5 only."""
    black = applied("posterize", noise(2), torch.tensor([0.0, 0.24]))
    assert black.max() == 0


def test_the_operations_draw_as_the_official_code_lists_them() -> None:
    assert len(ops.OPERATIONS) == len(set(ops.OPERATIONS)) == 16
    assert set(ops.OPERATIONS) == set(reference.PILLOW)


@pytest.mark.parametrize("picture", ["noise", "smooth", "real"])
@pytest.mark.parametrize(
    "spec",
    [SPEC, Augmentation(randaugment_layers=0), Augmentation(erase_prob=0, flip=False), PLAIN],
    ids=["full", "no RandAugment", "no erasing or flip", "nothing"],
)
def test_the_whole_way_is_the_reference(spec: Augmentation, picture: str) -> None:
    pixels = PICTURES[picture]
    every = torch.cat([augment(pixels, keys(24, seed), spec, MEAN, STD) for seed in range(5)])
    samples = [
        reference.augment(image.numpy(), key, spec, MEAN, STD)
        for seed in range(5)
        for image, key in zip(pixels.permute(0, 2, 3, 1), keys(24, seed).tolist(), strict=True)
    ]
    expected = torch.from_numpy(np.stack(samples)).permute(0, 3, 1, 2)
    differs = (every - expected).abs() > 1e-4
    assert differs.float().mean() < 1e-4  # ties of the geometric operations in Pillow
    assert every.dtype == torch.float32


@settings(deadline=None, max_examples=25)
@given(
    st.permutations(range(12)),
    st.integers(0, 2**40),
    st.sampled_from([(32, 32), (20, 28), (9, 7)]),
    st.builds(
        Augmentation,
        crop_padding=st.integers(0, 4),
        flip=st.booleans(),
        randaugment_layers=st.integers(0, 3),
        randaugment_magnitude=st.floats(0, 10),
        randaugment_prob=st.floats(0, 1),
        erase_prob=st.floats(0, 1),
        augmentation=st.sampled_from(["authors", "timm"]),
        color_jitter=st.sampled_from([0.0, 0.3]),
    ),
)
def test_an_image_does_not_depend_on_its_batch(
    order: list[int], seed: int, size: tuple[int, int], spec: Augmentation
) -> None:
    pixels, index = noise(12, *size), torch.tensor(order)
    before = pixels.clone()
    together = augment(pixels, keys(12, seed), spec, MEAN, STD)
    permuted = augment(pixels[index], keys(12, seed)[index], spec, MEAN, STD)
    assert torch.equal(permuted, together[index])
    alone = augment(pixels[5:6], keys(12, seed)[5:6], spec, MEAN, STD)
    assert torch.equal(alone[0], together[5])
    assert torch.equal(pixels, before)
    assert together.isfinite().all()


@pytest.mark.parametrize("augmentation", ["authors", "timm"])
def test_a_batch_in_parts_is_the_whole(
    augmentation: Literal["authors", "timm"], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SPEC, crop_padding=0, augmentation=augmentation, color_jitter=0.3)
    pixels = noise(16, 64, 64)
    whole = augment(pixels, keys(16), spec, MEAN, STD)
    monkeypatch.setattr("repro.data.augment.augment._CPU_PIXELS", 5 * 64 * 64)
    assert torch.equal(augment(pixels, keys(16), spec, MEAN, STD), whole)


def test_without_padding_a_crop_only_mirrors() -> None:
    pixels, spec = noise(64), replace(SPEC, crop_padding=0)
    mirrored = uniform(keys(64), AugmentStream.CROP, 3)[:, 2] < 0.5
    expected = [
        image.flip(2) if side else image for image, side in zip(pixels, mirrored, strict=True)
    ]
    assert torch.equal(crop_and_flip(pixels, keys(64), spec), torch.stack(expected))
    assert torch.equal(crop_and_flip(pixels, keys(64), replace(spec, flip=False)), pixels)


def test_nothing_to_do_is_normalisation() -> None:
    pixels, labels = noise(6), torch.arange(6)
    images = augment(pixels, keys(6), PLAIN, MEAN, STD)
    assert torch.equal(images, normalize(pixels, MEAN, STD))
    mixed, targets = mix(images, labels, keys(6), 6, PLAIN)
    assert mixed is images
    assert torch.equal(targets, torch.eye(6))


def test_normalize() -> None:
    white = normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), MEAN, STD)
    expected = [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert white[0, :, 0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "pixels", [noise(2).float(), noise(2)[0], noise(2)[:, :1]], ids=["float", "single", "grey"]
)
def test_other_pixels_are_refused(pixels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"pixels must be torch.uint8 \(B, 3, H, W\), not torch"):
        augment(pixels, keys(2), SPEC, MEAN, STD)


# Mixing.


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**40),
    st.sampled_from([2, 4, 6, 12]),
    st.sampled_from([(32, 32), (9, 7)]),
    st.builds(
        Augmentation,
        mixup_alpha=st.sampled_from([0.0, 0.4, 0.8]),
        cutmix=st.booleans(),
        mix_prob=st.floats(0, 1),
        label_smoothing=st.sampled_from([0.0, 0.1]),
    ),
)
def test_even_slices_of_a_batch_mix_the_same(
    seed: int, slice_size: int, size: tuple[int, int], spec: Augmentation
) -> None:
    images, labels = normalize(noise(12, *size), MEAN, STD), torch.arange(12) % 7
    whole_images, whole_targets = mix(images, labels, keys(12, seed), 7, spec)
    for start in range(0, 12, slice_size):
        part = slice(start, start + slice_size)
        part_images, part_targets = mix(images[part], labels[part], keys(12, seed)[part], 7, spec)
        assert torch.equal(part_images, whole_images[part])
        assert torch.equal(part_targets, whole_targets[part])
    assert torch.allclose(whole_targets.sum(1), torch.ones(12))
    assert whole_targets.min() >= 0
    assert torch.equal(images, normalize(noise(12, *size), MEAN, STD))  # not written to


def test_odd_batches_are_refused_only_where_they_are_mixed() -> None:
    images, labels = torch.zeros(3, 3, 4, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="in pairs, and this batch has 3"):
        mix(images, labels, keys(3), 10, SPEC)
    mix(images, labels, keys(3), 10, replace(SPEC, mix_prob=0.0))


PAIRS = 4000


def mixed_constants(spec: Augmentation) -> tuple[Tensor, Tensor]:
    """Pairs of a black and a white image, labels 0 and 1, mixed: each one's own share.

    Returns the share in the pixels (2 * PAIRS, 32, 32) and in the target (2 * PAIRS,).
    """
    position = torch.arange(2 * PAIRS) % 2
    images = position.to(torch.float32)[:, None, None, None].expand(-1, 3, 32, 32)
    mixed, targets = mix(images, position, keys(2 * PAIRS), 2, spec)
    own = torch.where(position[:, None, None] == 1, mixed[:, 0], 1 - mixed[:, 0])
    return own, targets[torch.arange(2 * PAIRS), position]


def test_mixup_keeps_the_larger_part() -> None:
    own, target = mixed_constants(replace(SPEC, cutmix=False, label_smoothing=0.0))
    assert torch.allclose(own, target[:, None, None].expand_as(own), atol=1e-6)
    minor = 1 - target
    assert minor.max() <= 0.5
    # U^(1/0.8) / 2: mean 0.8 / (0.8 + 1) / 2 = 0.2222, distribution function (2 x)^0.8
    assert abs(minor.mean() - 0.2222) < 4 * 0.15 / math.sqrt(2 * PAIRS)
    distribution = ((2 * minor.sort().values) ** 0.8).clamp(0, 1)
    assert (distribution - torch.linspace(0, 1, 2 * PAIRS)).abs().max() < 1.95 / math.sqrt(
        2 * PAIRS
    )


def test_cutmix_keeps_a_box_of_its_own() -> None:
    own, target = mixed_constants(replace(SPEC, mixup_alpha=0.0, label_smoothing=0.0))
    assert ((own == 0) | (own == 1)).all()
    assert target.max() < 0.5
    assert abs(target.mean() - 0.25) < 4 * 0.1443 / math.sqrt(2 * PAIRS)
    side = (target.sqrt() * 32).floor()
    assert torch.equal(own.sum((1, 2)), side**2)  # nominal, floored, never clipped
    rows, columns = own.amax(2), own.amax(1)
    assert torch.equal(own, rows[:, :, None] * columns[:, None, :])
    for line in (rows, columns):
        assert ((line[:, 1:] - line[:, :-1]) > 0).sum(1).max() <= 1  # one run
        # The official modulo never lets a box reach the last row or column.
        assert line[:, :-1].mean(0).min() > 0
        assert line[:, -1].max() == 0


def test_pairs_choose_between_mixup_and_cutmix() -> None:
    own, target = mixed_constants(SPEC)
    flat = own.flatten(1)
    cutmix = ((flat == 0) | (flat == 1)).all(1)
    assert torch.equal(cutmix[::2], cutmix[1::2])
    assert abs(cutmix.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(PAIRS)
    assert not torch.equal(target[::2], target[1::2])  # weights are each sample's own
    smoothed = mixed_constants(replace(SPEC, label_smoothing=0.0))[1] * 0.9 + 0.05
    assert torch.allclose(target, smoothed, atol=1e-6)


def test_mix_prob_is_of_pairs_and_the_unmixed_stay_sharp() -> None:
    own, target = mixed_constants(replace(SPEC, mix_prob=0.3))
    untouched = (own == 1).flatten(1).all(1)
    assert torch.equal(untouched[::2], untouched[1::2])
    assert abs(untouched.float().mean() - 0.7) < 4 * 0.46 / math.sqrt(PAIRS)
    assert torch.equal(target[untouched], torch.ones(int(untouched.sum())))
    assert target[~untouched].max() < 1


def test_smoothing_reaches_the_unmixed_where_the_recipe_says_so() -> None:
    smooth_too = replace(SPEC, mix_prob=0.3, smooth_unmixed=True)
    own, target = mixed_constants(smooth_too)
    untouched = (own == 1).flatten(1).all(1)
    assert 0.6 < untouched.float().mean() < 0.8
    assert torch.allclose(target[untouched], torch.tensor(0.95))  # 0.9 + 0.1 / 2
    assert torch.equal(
        target[~untouched], mixed_constants(replace(SPEC, mix_prob=0.3))[1][~untouched]
    )
    _, targets = mix(
        noise(3).float(), torch.arange(3), keys(3), 4, replace(PLAIN, smooth_unmixed=True)
    )
    assert torch.allclose(targets, torch.eye(3, 4) * 0.9 + 0.025)


# Frequencies.


def test_crops_and_flips_are_uniform() -> None:
    count = 20_000
    ramp = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).expand(count, 3, 5, 5)
    cropped = crop_and_flip(ramp, keys(count), SPEC)[:, 0].to(torch.int64)
    _, counts = np.unique(cropped.flatten(1).numpy(), axis=0, return_counts=True)
    assert len(counts) == 50  # 5 x 5 windows, mirrored or not
    chi_square = ((counts - count / 50) ** 2 / (count / 50)).sum()
    assert abs(chi_square - 49) < 4 * math.sqrt(2 * 49)
    assert (cropped == 0).any()  # the padding is black


def test_operations_and_magnitudes_are_drawn_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    count, drawn = 30_000, []

    def note(pixels: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
        drawn.append((operation, level, sign))
        return pixels

    monkeypatch.setattr("repro.data.augment.augment.apply", note)
    augment(noise(count, 1, 1), keys(count), SPEC, MEAN, STD)
    for operation, level, sign in drawn:
        counts = torch.bincount(operation, minlength=16).float()
        expected = torch.full((16,), count / 32)
        expected[0] += count / 2  # not applied, or the identity
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - 15) < 4 * math.sqrt(2 * 15)
        assert set(sign.tolist()) == {-1.0, 1.0}
        assert abs(sign.mean()) < 4 / math.sqrt(count)
        # N(9, 0.5), of which 2.3 % are cut at 10: mean 8.9958, standard deviation 0.4916
        assert level.max() == 1
        assert abs(10 * level.mean() - 8.9958) < 4 * 0.5 / math.sqrt(count)
        assert abs((level == 1).float().mean() - 0.02275) < 4 * 0.149 / math.sqrt(count)
    assert len(drawn) == 2
    both = torch.stack([layer[1] for layer in drawn])
    assert abs(torch.corrcoef(both)[0, 1]) < 4 / math.sqrt(count)  # one magnitude per layer


def test_erased_boxes_follow_the_official_distribution() -> None:
    count = 20_000
    erased = erase(torch.full((count, 3, 32, 32), torch.inf), keys(count), SPEC).isfinite()
    assert torch.equal(erased[:, 0], erased[:, 2])
    share = erased[:, 0].float().mean((1, 2))
    # The official formulas, simulated in NumPy from its own generator.
    random = np.random.default_rng(0)
    area, centre = random.uniform(0.02, 1 / 3, count), random.uniform(0, 32, (2, count, 1))
    aspect = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3), count))
    half = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)])[..., None] * 16
    official = (np.abs(np.arange(32) - centre) < half).mean(2).prod(0)
    chosen = share[share > 0]
    assert abs(len(chosen) / count - 0.25 * (official > 0).mean()) < 4 * 0.433 / math.sqrt(count)
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        theirs = np.quantile(official[official > 0], quantile)
        assert chosen.quantile(quantile).item() == pytest.approx(theirs, rel=0.06)


def test_erased_pixels_are_standard_normal() -> None:
    images = erase(torch.full((4000, 3, 8, 8), torch.inf), keys(4000), replace(SPEC, erase_prob=1))
    values = images[images.isfinite()]
    assert abs(values.mean()) < 4 / math.sqrt(len(values))
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / len(values))
    assert len(set(values.tolist())) > 0.97 * len(values)


@pytest.mark.parametrize("device", DEVICES)
def test_every_device_here_augments_the_same(device: str) -> None:
    results = []
    for place in ("cpu", device):
        pixels, labels = noise(256).to(place), (torch.arange(256) % 10).to(place)
        images = augment(pixels, keys(256), SPEC, MEAN, STD)
        results.append(mix(images, labels, keys(256), 10, SPEC))
    for here, there in zip(*results, strict=True):
        assert torch.allclose(here, there.cpu(), atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "spec", [replace(SPEC, color_jitter=0.3), replace(SPEC, augmentation="timm")], ids=str
)
def test_every_device_here_rounds_almost_the_same(spec: Augmentation, device: str) -> None:
    """Where float32 is cut off to a grey level, some pixels may differ by that level."""
    here, there = (
        augment(noise(256).to(place), keys(256), spec, MEAN, STD).cpu() for place in ("cpu", device)
    )
    differs = (here - there).abs() > 1e-5
    assert differs.float().mean() < 1e-4
