"""timm's flavour: every operation, box and mixture against timm's own code, one image at a time."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment as theirs
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from repro.data.augment import timm_augment, timm_ops
from repro.data.augment.augment import Augmentation, AugmentStream, augment, erase, mix, normalize
from repro.data.randomness import derive_seed, sample_keys, uniform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)  # 255 times the mean, rounded
SPEC = Augmentation(augmentation="timm", smooth_unmixed=True, crop_padding=0)
NAMES = {  # ours to timm's
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}
GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
EXACT = ("equalize", "invert", "posterize", "solarize")
COUNT = 24


def keys(count: int, seed: int = 0) -> Tensor:
    return sample_keys(seed, 0, torch.arange(count))


def batch_key(seed: int = 0) -> Tensor:
    return torch.tensor(derive_seed(seed, 99))


def noise(height: int, width: int, count: int = COUNT) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = (count, 3, height, width)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def smooth(height: int, width: int) -> Tensor:
    coarse = noise(6, 7).to(torch.float32)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    images[::2] = 90 + images[::2] / 4
    return images.clamp(0, 255).to(torch.uint8)


PICTURES = {
    "noise": noise(32, 32),
    "smooth": smooth(32, 32),
    "narrow": noise(20, 28),
    "224": smooth(224, 224),
    "384": smooth(384, 384),
}


# Operations.


def timms(
    name: str, image: Tensor, level: float, sign: float, monkeypatch: pytest.MonkeyPatch
) -> Tensor:
    """What timm's own operation makes of an image (3, H, W), its sign not left to chance."""
    monkeypatch.setattr(theirs, "_randomly_negate", lambda value: sign * value)
    pillow = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    of_level = theirs.LEVEL_TO_ARG[name]
    kwargs = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
    arguments = of_level(10 * level, {"translate_pct": 0.45}) if of_level else ()
    if name == "PosterizeIncreasing" and arguments == (0,):  # Pillow 13 raises; 12 masked with 0
        return torch.zeros_like(image)
    result = np.array(theirs.NAME_TO_OP[name](pillow, *arguments, **kwargs))
    return torch.from_numpy(result).permute(2, 0, 1)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_timms(name: str, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = PICTURES[picture]
    levels = torch.cat([torch.linspace(0, 1, 12), torch.linspace(0.853, 0.963, 12)])
    signs = torch.tensor([-1.0, 1.0]).repeat(COUNT // 2)
    operation = torch.full((COUNT,), timm_ops.OPERATIONS.index(name))
    before = pixels.clone()
    ours = timm_ops.apply(pixels, operation, levels, signs, FILL)
    each = zip(pixels, levels.tolist(), signs.tolist(), strict=True)
    results = [timms(NAMES[name], image, lv, s, monkeypatch) for image, lv, s in each]
    difference = (ours.to(torch.int16) - torch.stack(results).to(torch.int16)).abs()
    # float32 against Pillow's float64, before both cut off; TensorFlow's quotient in AutoContrast.
    assert difference.max() <= (0 if name in EXACT else 1)
    assert (difference > 0).float().mean() < (0.06 if name in GEOMETRIC else 0.08)
    assert torch.equal(pixels, before)


def test_there_are_timms_operations_and_no_others() -> None:
    assert timm_ops.OPERATIONS[0] == "identity"
    assert sorted(timm_ops.OPERATIONS[1:]) == sorted(NAMES)
    assert sorted(NAMES.values()) == sorted(theirs._RAND_INCREASING_TRANSFORMS)


def test_the_strongest_posterize_is_black_and_solarize_inverts_all() -> None:
    pixels, signs = noise(8, 8, 2), torch.ones(2)
    for name, expected in (("posterize", torch.zeros_like(pixels)), ("solarize", 255 - pixels)):
        operation = torch.full((2,), timm_ops.OPERATIONS.index(name))
        assert torch.equal(timm_ops.apply(pixels, operation, signs, signs, FILL), expected)


def drawn_layers(spec: Augmentation, count: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Operation, level, sign and fill of each layer."""
    drawn: list[Any] = []

    def note(pixels: Tensor, *values: Tensor, fill: tuple[int, ...]) -> Tensor:
        drawn.append((*values, fill))
        return pixels

    monkeypatch.setattr(timm_ops, "apply", note)
    augment(noise(1, 1, count), keys(count), spec, MEAN, STD)
    return drawn


def test_operations_and_magnitudes_are_drawn_as_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 30_000
    layers = drawn_layers(SPEC, count, monkeypatch)
    assert len(layers) == 2
    for operation, level, sign, fill in layers:
        counts = torch.bincount(operation, minlength=16).float()
        assert len(counts) == 16
        expected = torch.full((16,), count / 30)
        expected[0] = count / 2  # skipped
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - 15) < 4 * math.sqrt(2 * 15)
        # N(9, 0.5), of which 2.3 % are cut at 10: mean 8.9958
        assert abs(10 * level.mean() - 8.9958) < 4 * 0.5 / math.sqrt(count)
        assert abs((level == 1).float().mean() - 0.02275) < 4 * 0.149 / math.sqrt(count)
        assert abs(sign.mean()) < 4 / math.sqrt(count)
        assert fill == FILL
    both = torch.stack([operation for operation, *_ in layers]).float()
    assert abs(torch.corrcoef(both)[0, 1]) < 4 / math.sqrt(count)  # with replacement


def test_the_layers_are_timms_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(24, 24, 60)
    spec = replace(SPEC, flip=False, erase_prob=0.0)
    images = augment(pixels, keys(60), spec, MEAN, STD)
    with monkeypatch.context() as patch:
        layers = drawn_layers(spec, 60, patch)
    expected = list(pixels)
    for operation, level, sign, _ in layers:
        for place, which in enumerate(operation.tolist()):
            if which:
                drawn = float(level[place]), float(sign[place])
                name = NAMES[timm_ops.OPERATIONS[which]]
                expected[place] = timms(name, expected[place], *drawn, monkeypatch)
    difference = (images - normalize(torch.stack(expected), MEAN, STD)).abs()
    # A grey level is 1 / 255 / 0.225; two layers can double it, and 1.9 times of it is Contrast.
    assert (difference > 4.1 / 255 / 0.225).float().mean() < 1e-3
    assert (difference > 1e-5).float().mean() < 0.02


# Random erasing.


def slow_box(numbers: list[float], height: int, width: int) -> tuple[int, int, int, int] | None:
    """timm's loop over attempts: top, left, height, width."""
    count = timm_augment.ERASE_ATTEMPTS
    for area, aspect in zip(numbers[:count], numbers[count : 2 * count], strict=True):
        target = (0.02 + (1 / 3 - 0.02) * area) * height * width
        ratio = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
        tall, wide = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if wide < width and tall < height:
            top = int(numbers[2 * count] * (height - tall + 1))
            left = int(numbers[2 * count + 1] * (width - wide + 1))
            return top, left, tall, wide
    return None


@pytest.mark.parametrize("size", [(224, 224), (32, 32), (9, 14), (3, 40)])
def test_erased_boxes_are_those_of_timms_loop(size: tuple[int, int]) -> None:
    draws = uniform(keys(2000), AugmentStream.ERASE, timm_augment.ERASE_DRAWS)
    rows, columns = timm_augment.erase_box(draws, *size)
    missed = 0
    for row, column, numbers in zip(rows, columns, draws.tolist(), strict=True):
        box, expected = slow_box(numbers, *size), torch.zeros(size, dtype=torch.bool)
        if box:
            top, left, tall, wide = box
            expected[top : top + tall, left : left + wide] = True
        missed += box is None
        assert torch.equal(row[:, None] & column, expected)
    assert (missed > 0) == (size == (3, 40))  # where half of the boxes are too tall


def test_erased_boxes_have_timms_distribution() -> None:
    count = 8000
    ours = erase(torch.full((count, 3, 32, 32), torch.inf), keys(count), SPEC).isfinite()
    random.seed(0)
    eraser = RandomErasing(probability=0.25, mode="pixel", device="cpu")
    timms = eraser(torch.full((count, 3, 32, 32), torch.inf)).isfinite()
    assert torch.equal(ours[:, 0], ours[:, 2])
    shares = [erased[:, 0].float().mean((1, 2)) for erased in (ours, timms)]
    chosen = [share[share > 0] for share in shares]
    assert abs(len(chosen[0]) - len(chosen[1])) < 4 * math.sqrt(2 * count * 0.25 * 0.75)
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert chosen[0].quantile(quantile).item() == pytest.approx(
            chosen[1].quantile(quantile).item(), rel=0.1
        )
    for line in (2, 3):  # where on the image
        profiles = [erased[:, 0].float().mean((0, line - 1)) for erased in (ours, timms)]
        assert (profiles[0] - profiles[1]).abs().max() < 0.015


def test_erased_pixels_are_standard_normal() -> None:
    images = erase(torch.full((4000, 3, 8, 8), torch.inf), keys(4000), replace(SPEC, erase_prob=1))
    values = images[images.isfinite()]
    assert abs(values.mean()) < 4 / math.sqrt(len(values))
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / len(values))


# Mixing.

CDF: dict[float, Callable[[Tensor], Tensor]] = {
    0.5: lambda x: 2 / math.pi * x.sqrt().arcsin(),
    1.0: lambda x: x,
    2.0: lambda x: 3 * x**2 - 2 * x**3,
}


def symmetric_beta(alpha: float, count: int) -> Tensor:
    radius, angle = uniform(keys(count), AugmentStream.MIX_BATCH, 2).unbind(1)
    return timm_augment.symmetric_beta(radius, angle, alpha).sort().values


@pytest.mark.parametrize("alpha", CDF)
def test_symmetric_beta_has_its_closed_forms(alpha: float) -> None:
    count = 40_000
    distance = CDF[alpha](symmetric_beta(alpha, count)) - torch.linspace(0, 1, count)
    assert distance.abs().max() < 1.95 / math.sqrt(count)  # Kolmogorov and Smirnov, 0.1 %


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 4.0])
def test_symmetric_beta_is_numpys(alpha: float) -> None:
    count = 40_000
    ours = symmetric_beta(alpha, count).numpy()
    numpys = np.sort(np.random.default_rng(0).beta(alpha, alpha, count))
    together = np.concatenate([ours, numpys])
    ranks = [np.searchsorted(sample, together, side="right") for sample in (ours, numpys)]
    assert np.abs(ranks[0] - ranks[1]).max() / count < 1.95 * math.sqrt(2 / count)
    assert np.isfinite(ours).all()
    assert ours.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.0, 0.25), (1 - 2.0**-24, 0.25)])
def test_symmetric_beta_is_finite_at_the_ends(ends: tuple[float, float]) -> None:
    for alpha in (0.01, 0.8, 20.0):
        weight = timm_augment.symmetric_beta(torch.tensor(ends[0]), torch.tensor(ends[1]), alpha)
        assert 0 <= weight <= 1


def timms_mixture(
    images: Tensor, labels: Tensor, spec: Augmentation, seed: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """timm's Mixup of a pair, whose partner is the neighbour, fed with our draws."""
    numbers = uniform(batch_key(seed).view(1), AugmentStream.MIX_BATCH, timm_augment.MIX_DRAWS)[0]
    whether, which, weight, _, middle_y, middle_x = numbers.tolist()
    # timm asks whether to mix and, if there is a choice, whether by CutMix.
    coins, centres = iter([whether, 1 - which]), iter([middle_y, middle_x])
    monkeypatch.setattr(np.random, "rand", lambda: next(coins))
    monkeypatch.setattr(
        np.random, "randint", lambda low, high, size: low + int(next(centres) * (high - low))
    )
    mixup = float(timm_augment.symmetric_beta(numbers[2], numbers[3], spec.mixup_alpha or 1))
    monkeypatch.setattr(np.random, "beta", lambda a, b: mixup if a == spec.mixup_alpha else weight)
    mixer = Mixup(
        mixup_alpha=spec.mixup_alpha,
        cutmix_alpha=float(spec.cutmix),
        prob=spec.mix_prob,
        label_smoothing=spec.label_smoothing,
        num_classes=7,
    )
    mixed, targets = mixer(images.clone(), labels)
    return mixed, targets


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, cutmix=False),
        replace(SPEC, mixup_alpha=0.0),
        replace(SPEC, mix_prob=0.5, label_smoothing=0.0),
        replace(SPEC, mix_prob=0.5),
    ],
    ids=["both", "Mixup", "CutMix", "half, sharp", "half"],
)
def test_a_pair_is_mixed_as_timm_mixes_it(
    spec: Augmentation, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = noise(*size, 2).float() / 255, torch.tensor([3, 5])
    for seed in range(60):
        ours, targets = mix(images, labels, keys(2), 7, spec, batch_key=batch_key(seed))
        with monkeypatch.context() as patch:
            timms, expected = timms_mixture(images, labels, spec, seed, patch)
        assert (ours - timms).abs().max() < 1e-6
        assert (targets - expected).abs().max() < 1e-6


def test_batches_choose_between_mixup_and_cutmix() -> None:
    count, images = 2000, torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    values = [
        mix(images, torch.arange(2), keys(2), 2, SPEC, batch_key=batch_key(seed))[0][1, 0]
        for seed in range(count)
    ]
    cutmix = torch.stack([((own == 0) | (own == 1)).all() for own in values])
    assert abs(cutmix.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(count)


@given(
    st.integers(0, 2**40),
    st.sampled_from([2, 4, 6, 12]),
    st.sampled_from([(32, 32), (9, 7)]),
    st.sampled_from([0.0, 0.8]),
    st.floats(0, 1),
)
def test_even_slices_of_a_batch_mix_the_same(
    seed: int, length: int, size: tuple[int, int], alpha: float, mix_prob: float
) -> None:
    spec = replace(SPEC, mixup_alpha=alpha, mix_prob=mix_prob)
    images, labels = noise(*size, 12).float(), torch.arange(12) % 7
    of_batch = batch_key(seed)
    whole = mix(images, labels, keys(12), 7, spec, batch_key=of_batch)
    for start in range(0, 12, length):
        part = slice(start, start + length)
        parts = mix(images[part], labels[part], keys(12)[part], 7, spec, batch_key=of_batch)
        assert torch.equal(parts[0], whole[0][part])
        assert torch.equal(parts[1], whole[1][part])
    assert torch.allclose(whole[1].sum(1), torch.ones(12))
    assert torch.equal(images, noise(*size, 12).float())  # not written to


def test_one_draw_holds_for_the_batch() -> None:
    labels = torch.arange(12)
    for seed in range(8):
        _, targets = mix(
            noise(8, 8, 12).float(), labels, keys(12), 12, SPEC, batch_key=batch_key(seed)
        )
        own = targets[labels, labels]
        assert torch.equal(own, own[:1].expand(12))


def test_the_key_of_the_batch_is_needed_where_timm_mixes() -> None:
    images, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="the key of the global batch; pass batch_key"):
        mix(images, labels, keys(2), 10, SPEC)
    mix(images, labels, keys(2), 10, replace(SPEC, mix_prob=0.0))
    mix(images, labels, keys(2), 10, replace(SPEC, augmentation="authors"))
