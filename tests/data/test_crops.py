"""Decoding and crops: against Pillow, torchvision and timm, pixel by pixel and in distribution."""

import io
import itertools
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import torch
import torchvision.transforms
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from repro.data.augment.crops import (
    ATTEMPTS,
    TF_ATTEMPTS,
    CentreCrop,
    Interpolation,
    RandomCrop,
    UndecodableImage,
    decode,
    decode_all,
    resample,
)
from repro.data.randomness import sample_keys
from tests import DEVICES

TIMM = RandomCrop(32, (0.08, 1.0), "bicubic")
WIDE = RandomCrop(32, (0.05, 1.0), "bicubic")
AUTHORS = RandomCrop(32, (0.05, 1.0), "aliased", "tensorflow")
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SHAPES = [(375, 500), (500, 333), (220, 200), (100, 300), (40, 400), (400, 3), (1, 1)]


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Coarse colours and fine noise."""
    random_ = np.random.default_rng(seed)
    coarse = Image.fromarray(random_.integers(0, 256, (9, 9, 3), np.uint8))
    smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noise = random_.integers(-25, 26, (height, width, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def draws(crop: RandomCrop, count: int, seed: int = 0) -> list[list[float]]:
    return crop.draws(sample_keys(seed, 0, torch.arange(count)))


def differences(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.to(torch.float32) - theirs.to(torch.float32)).abs()


# Decoding.

PHOTO = picture(61, 83)
JPEG = encoded(PHOTO, quality=90)
SIDEWAYS = Image.Exif()
SIDEWAYS[274] = 6  # the camera was turned

FILES = {
    "4:2:0": JPEG,
    "4:4:4": encoded(PHOTO, subsampling=0),
    "grey": encoded(PHOTO.convert("L")),
    "CMYK": encoded(PHOTO.convert("CMYK")),
    "progressive": encoded(PHOTO, progressive=True),
    "turned": encoded(PHOTO, exif=SIDEWAYS),
    "PNG": encoded(PHOTO, "PNG"),
    "palette": encoded(PHOTO.convert("P"), "PNG"),
    "GIF": encoded(PHOTO.convert("P"), "GIF"),
    "transparent": encoded(PHOTO.convert("RGBA"), "PNG"),
    "with more after it": JPEG + bytes(100),
    "damaged": JPEG[:1500] + bytes(50) + JPEG[1550:],
}


@pytest.mark.parametrize("name", FILES)
def test_decoding_is_pillows(name: str) -> None:
    image = decode(FILES[name])
    assert image.dtype == torch.uint8
    with Image.open(io.BytesIO(FILES[name])) as opened:
        assert torch.equal(image, tensor(opened))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (bytes(1000), "not an image"),
        (b"<html>404</html>", "not an image"),
        (JPEG[: len(JPEG) // 2], "image file is truncated"),
        (JPEG[:300], r"^\w+"),
        (encoded(PHOTO, "PNG")[:500], r"^\w+"),
    ],
)
def test_what_is_no_image_is_said_in_one_line(data: bytes, why: str) -> None:
    with pytest.raises(UndecodableImage, match=why) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_damaged_bytes_are_an_image_or_unreadable(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["4:2:0", "PNG", "GIF", "progressive"]))
    content = bytearray(FILES[name])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of what is odd but readable
        with suppress(UndecodableImage):
            assert decode(bytes(content)).shape[0] == 3


@pytest.mark.parametrize("device", DEVICES)
def test_decode_all_names_the_refused_ones(device: str) -> None:
    names = ["4:2:0", "PNG", "grey", "GIF"]
    data = [torch.frombuffer(bytearray(FILES[name]), dtype=torch.uint8) for name in names]
    images = decode_all([*data, torch.zeros(0, dtype=torch.uint8)], torch.device(device))
    assert [image is None for image in images] == [False, True, False, True, True]
    for image, name in ((images[0], "4:2:0"), (images[2], "grey")):
        assert image is not None
        assert differences(image.cpu(), decode(FILES[name])).mean() <= 10 * (device == "cuda")


# Resizing.


def tensorflow(image: Tensor, height: int, width: int) -> npt.NDArray[np.float64]:
    """tf.image.resize: bilinear between the four nearest pixels, from half-pixel centres."""
    result = image.permute(1, 2, 0).numpy().astype(np.float64)
    for axis, length in ((0, height), (1, width)):
        size = result.shape[axis]
        place = (np.arange(length) + 0.5) * size / length - 0.5
        lower = np.floor(place)
        share = (place - lower).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first = result.take(lower.astype(int).clip(0, size - 1), axis)
        second = result.take((lower.astype(int) + 1).clip(0, size - 1), axis)
        result = first + share * (second - first)
    return result


@pytest.mark.parametrize("shape", [(375, 500), (61, 83), (30, 200)])
def test_aliased_is_tensorflows(shape: tuple[int, int]) -> None:
    image = tensor(picture(*shape))
    ours = resample(image, 64, 48, "aliased")
    exact = torch.from_numpy(tensorflow(image, 64, 48)).permute(2, 0, 1)
    assert differences(ours, exact).max() <= 1


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
def test_the_pixels_of_a_crop_are_pillows(resize: Interpolation) -> None:
    crop = RandomCrop(112, (0.08, 1.0), resize)
    for seed, shape in enumerate(SHAPES):
        photo = picture(*shape, seed)
        for drawn in draws(crop, 8, seed):
            top, left, height, width = crop.box(*shape, drawn)
            part = photo.crop((left, top, left + width, top + height))
            pillows = tensor(part.resize((112, 112), PILLOW[resize]))
            difference = differences(crop(tensor(photo), drawn), pillows)
            assert difference.mean() < 0.5
            assert (difference > 2).float().mean() < 1e-3  # Pillow cuts off between two passes


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "aliased"])
def test_resizing_in_floats_is_that_of_uint8(
    resize: Interpolation, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA has to; here the CPU takes the same way."""
    image = tensor(picture(90, 120))
    ours = [resample(image, *size, resize) for size in ((40, 40), (150, 130))]
    monkeypatch.setattr("repro.data.augment.crops.UINT8_RESIZE_DEVICES", ())
    for expected in ours:
        size = expected.shape[1:]
        exact = resample(image.to(device), size[0], size[1], resize).cpu()
        assert exact.dtype == torch.uint8
        assert differences(exact, expected).mean() < 0.5
        assert (differences(exact, expected) > 1).float().mean() < 1e-3


# The random crop.


class Replayed:
    """Stands for the module `random`, in timm: numbers that were drawn before, in its order."""

    def __init__(self, drawn: Sequence[float]) -> None:
        self.attempts = iter([drawn[i : i + 4] for i in range(0, len(drawn), 4)])
        self.rest: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        if len(self.rest) != 3:
            self.rest = list(next(self.attempts))
        return low + (high - low) * self.rest.pop(0)

    def randint(self, low: int, high: int) -> int:
        return low + int(self.rest.pop(0) * (high - low + 1))


@pytest.mark.parametrize("crop", [TIMM, WIDE], ids=["timm", "wide"])
def test_boxes_are_those_of_timm_from_the_same_numbers(
    crop: RandomCrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the smallest images, of which timm may take nothing, and torchvision a pixel."""
    for shape, drawn in itertools.product(SHAPES[:5], draws(crop, 500)):
        monkeypatch.setattr("timm.data.transforms.random", Replayed(drawn))
        image = Image.new("1", (shape[1], shape[0]))
        box = RandomResizedCropAndInterpolation.get_params(image, crop.area, (3 / 4, 4 / 3))
        assert crop.box(*shape, drawn) == box


def kolmogorov_smirnov(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """The largest distance of two samples' distributions, in units of its scale."""
    a, b = np.sort(first), np.sort(second)
    every = np.concatenate([a, b])
    gap = a.searchsorted(every, "right") / len(a) - b.searchsorted(every, "right") / len(b)
    return float(np.abs(gap).max() / math.sqrt(1 / len(a) + 1 / len(b)))


def torchvisions(shape: tuple[int, int], area: tuple[float, float], count: int) -> list[list[int]]:
    image = torch.empty(3, *shape, dtype=torch.uint8)
    get: Any = torchvision.transforms.RandomResizedCrop.get_params
    return [get(image, list(area), [3 / 4, 4 / 3]) for _ in range(count)]


def timms(shape: tuple[int, int], area: tuple[float, float], count: int) -> list[list[int]]:
    image = Image.new("1", (shape[1], shape[0]))
    get = RandomResizedCropAndInterpolation.get_params
    return [get(image, area, (3 / 4, 4 / 3)) for _ in range(count)]


def measures(
    boxes: npt.NDArray[np.float64], shape: tuple[int, int]
) -> list[npt.NDArray[np.float64]]:
    """Area, aspect, centre, and the place among those that there are."""
    top, left, height, width = boxes
    centre = [top + height / 2, left + width / 2]
    place = [top / (shape[0] - height + 1), left / (shape[1] - width + 1)]
    return [height * width, width / height, *centre, *place]


@pytest.mark.parametrize("reference", [torchvisions, timms])
@pytest.mark.parametrize("crop", [TIMM, WIDE], ids=["timm", "wide"])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (100, 300)])
def test_boxes_are_distributed_as_the_references(
    shape: tuple[int, int],
    crop: RandomCrop,
    reference: Callable[[tuple[int, int], tuple[float, float], int], list[list[int]]],
) -> None:
    torch.manual_seed(0)
    random.seed(0)
    count = 4000
    theirs = np.array(reference(shape, crop.area, count), dtype=np.float64).T
    ours = np.array([crop.box(*shape, drawn) for drawn in draws(crop, count)], dtype=np.float64).T
    for one, other in zip(measures(ours, shape), measures(theirs, shape), strict=True):
        assert kolmogorov_smirnov(one, other) < 1.95  # by chance, one time in a thousand


def test_crops_of_a_picture_have_the_colours_of_the_references() -> None:
    """Means and contrasts over many crops of one picture, within four standard errors."""
    torch.manual_seed(0)
    photo, count = picture(120, 160), 600
    random_resized_crop: Any = torchvision.transforms.RandomResizedCrop
    crop = random_resized_crop(32, (0.08, 1.0), interpolation=PILLOW["bicubic"])
    theirs = torch.stack([tensor(crop(photo)) for _ in range(count)]).float().flatten(2)
    ours = torch.stack([TIMM(tensor(photo), drawn) for drawn in draws(TIMM, count)])
    for measure in (torch.mean, torch.std):
        a, b = (measure(each, dim=2) for each in (ours.float().flatten(2), theirs))
        error = ((a.var(0) + b.var(0)) / count).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() < 4 * error).all()


DRAWN = st.lists(st.floats(0, 1 - 2**-24), min_size=40, max_size=40)


@given(st.integers(1, 5000), st.integers(1, 5000), DRAWN)
@pytest.mark.parametrize("crop", [WIDE, AUTHORS], ids=["torchvision", "tensorflow"])
def test_a_box_lies_within_the_image(
    crop: RandomCrop, height: int, width: int, drawn: list[float]
) -> None:
    top, left, h, w = crop.box(height, width, 10 * drawn)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) > 0


@given(st.integers(1, 5000), st.integers(1, 5000), DRAWN)
def test_tensorflow_s_area_and_aspect_are_those_permitted(
    height: int, width: int, drawn: list[float]
) -> None:
    """The width is the rounded height times the aspect; else it is the whole image."""
    box = AUTHORS.box(height, width, 10 * drawn)
    _, _, h, w = box
    inside = 0.05 * height * width <= h * w and round(0.75 * h) <= w <= round(1.33 * h)
    assert inside or box == (0, 0, height, width)


@pytest.mark.parametrize("shape", [(20, 1000), (1000, 20)])
def test_tensorflow_takes_the_whole_image_where_no_crop_fits(shape: tuple[int, int]) -> None:
    """The largest of a permitted aspect is 20 x 26 px, below a twentieth; torchvision takes it."""
    for drawn in draws(AUTHORS, 20):
        assert AUTHORS.box(*shape, drawn) == (0, 0, *shape)
    for drawn in draws(WIDE, 20):
        assert WIDE.box(*shape, drawn)[2:] == tuple(min(side, 27) for side in shape)


@cache
def many(crop: RandomCrop) -> list[list[float]]:
    """Of 20,000 samples what decides the first ten attempts, which are enough; made once."""
    keys = sample_keys(5, 0, torch.arange(20_000))
    return [drawn[:40] for part in keys.split(1000) for drawn in crop.draws(part)]


def test_tensorflow_s_extremes() -> None:
    """The least aspect with the least area, and the largest with the largest."""
    assert AUTHORS.box(4000, 6000, [0.0] * 4) == (0, 0, 1265, 949)
    last = 1 - 2.0**-24
    assert AUTHORS.box(4000, 6000, [last, last, 0, last]) == (0, 679, 4000, 5320)


def shares(crop: RandomCrop, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    boxes = [crop.box(*shape, drawn) for drawn in many(crop)]
    return np.array([h * w for _, _, h, w in boxes]) / math.prod(shape)


# 100,000 runs of tf.image.stateless_sample_distorted_bounding_box, TensorFlow 2.15.1, as the
# official code calls it: the mean share of the image, how often it is below 0.2, and deciles of the
# height; and of small images, how often each height and width came (7 x 6 with shares of 0.2..0.5).
BY_TENSORFLOW = {
    (375, 500): (0.3426, 0.3460, (124, 152, 179, 208, 235, 263, 291, 320, 348)),
    (500, 500): (0.3757, 0.3179, (144, 179, 214, 248, 283, 318, 353, 388, 434)),
    (500, 333): (0.2971, 0.3866, (111, 135, 158, 181, 204, 227, 250, 277, 317)),
}
SIZES_BY_TENSORFLOW = {
    (3, 4): {(1, 1): 13359, (2, 2): 11403, (2, 3): 1824, (3, 2): 1952, (3, 3): 7643, (3, 4): 3819},
    (5, 9): {(2, 2): 28150, (2, 3): 5531, (3, 2): 3596, (3, 3): 12892, (3, 4): 5678, (4, 3): 5373,
             (4, 4): 9702, (4, 5): 7013, (5, 4): 6448, (5, 5): 7671, (5, 6): 6831, (5, 7): 1115},
    (7, 6): {(3, 3): 22875, (3, 4): 14213, (4, 3): 11939, (4, 4): 24769, (4, 5): 17525,
             (5, 4): 8679},
    (8, 8): {(2, 2): 13395, (2, 3): 2797, (3, 2): 2050, (3, 3): 8674, (3, 4): 5358, (4, 3): 3036,
             (4, 4): 6376, (4, 5): 6621, (5, 4): 3659, (5, 5): 5206, (5, 6): 6090, (5, 7): 1031,
             (6, 5): 4056, (6, 6): 4206, (6, 7): 4963, (6, 8): 2792, (7, 5): 936, (7, 6): 3476,
             (7, 7): 3620, (7, 8): 4041, (8, 6): 1538, (8, 7): 3048, (8, 8): 3031},
}  # fmt: skip


@pytest.mark.parametrize("shape", BY_TENSORFLOW)
def test_tensorflow_s_crops_are_those_of_its_own_operation(shape: tuple[int, int]) -> None:
    mean, small, deciles = BY_TENSORFLOW[shape]
    boxes = [AUTHORS.box(*shape, drawn) for drawn in many(AUTHORS)]
    areas = np.array([h * w for _, _, h, w in boxes]) / math.prod(shape)
    error = 4 * math.sqrt(1 / len(boxes) + 1 / 100_000)
    assert areas.mean() == pytest.approx(mean, abs=error * areas.std())
    assert (areas < 0.2).mean() == pytest.approx(small, abs=error / 2)
    heights = np.array([h for _, _, h, _ in boxes])
    for share, decile in enumerate(deciles, 1):
        below, upto = (heights < decile).mean(), (heights <= decile).mean()
        assert below - error / 2 <= share / 10 <= upto + error / 2
    assert shares(WIDE, shape).mean() > mean + 0.04


@pytest.mark.parametrize("shape", SIZES_BY_TENSORFLOW)
def test_tensorflow_rounds_as_its_own_operation(shape: tuple[int, int]) -> None:
    """The same sizes of crops of small images, as often: Pearson's statistic of two samples."""
    theirs = SIZES_BY_TENSORFLOW[shape]
    crop = replace(AUTHORS, area=(0.2, 0.5)) if shape == (7, 6) else AUTHORS
    boxes = [crop.box(*shape, drawn) for drawn in many(crop)]
    ours = Counter((h, w) for _, _, h, w in boxes)
    assert ours.keys() == theirs.keys()
    ratio = math.sqrt(sum(theirs.values()) / len(boxes))
    terms = [(ours[k] * ratio - theirs[k] / ratio) ** 2 / (ours[k] + theirs[k]) for k in theirs]
    assert sum(terms) < scipy.stats.chi2.isf(1e-3, len(theirs) - 1)


@pytest.mark.parametrize("shape", [(3750, 5000), (5000, 5000), (5000, 3330)])
def test_tensorflow_s_height_is_uniform(shape: tuple[int, int]) -> None:
    """In closed form where a pixel is nothing: of an aspect a uniform in 0.75..1.33, the height is
    uniform between the roots of 0.05 H W / a and the least of H, W / a and the root of H W / a."""
    aspect = 0.75 + 0.58 * (np.arange(4000) + 0.5) / 4000
    area = math.prod(shape)
    low = np.sqrt(0.05 * area / aspect)
    high = np.minimum(np.sqrt(area / aspect), np.minimum(shape[0], shape[1] / aspect))
    moments = [
        (aspect**n * (high ** (2 * n + 1) - low ** (2 * n + 1)) / (2 * n + 1) / (high - low)).mean()
        / area**n
        for n in (1, 2)
    ]
    small = ((np.minimum(np.sqrt(0.2 * area / aspect), high) - low) / (high - low)).mean()
    found = shares(AUTHORS, shape)
    error = 4 / math.sqrt(20_000)
    assert found.mean() == pytest.approx(moments[0], abs=error * found.std())
    assert found.var() == pytest.approx(moments[1] - moments[0] ** 2, rel=0.03)
    assert (found < 0.2).mean() == pytest.approx(small, abs=error / 2)


def test_tensorflow_s_places_are_uniform_but_for_the_last() -> None:
    """Of 10 - h possible places beside the last one, which is never taken."""
    boxes = [AUTHORS.box(10, 1000, drawn) for drawn in draws(AUTHORS, 400)]
    assert {box for box in boxes if box[2] == 10} == {(0, 0, 10, 1000)}
    boxes = [AUTHORS.box(8, 8, drawn) for drawn in draws(AUTHORS, 4_000)]
    for height in range(3, 8):
        tops = [box[0] for box in boxes if box[2] == height]
        counts = np.bincount(tops, minlength=8 - height)
        assert len(counts) == 8 - height
        assert counts.min() > 0.7 * counts.mean()


@pytest.mark.parametrize(
    ("crop", "count"), [(TIMM, 4 * ATTEMPTS), (AUTHORS, 4 * TF_ATTEMPTS)], ids=["timm", "authors"]
)
def test_a_crop_does_not_depend_on_its_batch(crop: RandomCrop, count: int) -> None:
    keys = sample_keys(3, 1, torch.arange(20))
    together = crop.draws(keys)
    assert len(together[0]) == count
    assert [crop.draws(key[None])[0] for key in keys] == together
    assert crop.draws(sample_keys(3, 2, torch.arange(20))) != together


# The centre crop.


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [0.875, 0.89, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (81, 64), (64, 64), (63, 201)])
def test_the_centre_is_timms(
    shape: tuple[int, int], fraction: float, resize: Interpolation
) -> None:
    photo = picture(*shape)
    transform = create_transform(
        64, interpolation=resize, crop_pct=fraction, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    ours = CentreCrop(64, fraction, resize)(tensor(photo), [])
    difference = differences(ours, transform(photo).round())
    assert difference.mean() < 0.5
    assert (difference > 2).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("shape", "resized", "top", "left"),
    [((256, 343), (256, 343), 16, 59), ((300, 397), (256, 339), 16, 57),
     ((499, 300), (426, 256), 101, 16), ((256, 256), (256, 256), 16, 16)],
)  # fmt: skip
def test_the_centre_of_the_official_code(
    shape: tuple[int, int], resized: tuple[int, int], top: int, left: int
) -> None:
    """The longer side to the nearest pixel, the centre rounded down; timm's differ in these."""
    image = tensor(picture(*shape))
    expected = resample(image, *resized, "aliased")[:, top : top + 224, left : left + 224]
    assert torch.equal(CentreCrop(224, 0.875, "aliased", "tensorflow")(image, []), expected)
    timms = CentreCrop(224, 0.875, "aliased")(image, [])
    assert torch.equal(timms, expected) == (shape == (256, 256))


def test_a_fraction_of_nought_squeezes_the_whole() -> None:
    photo = picture(90, 200)
    ours = CentreCrop(48, 0, "bicubic")(tensor(photo), [])
    assert differences(ours, tensor(photo.resize((48, 48), PILLOW["bicubic"]))).mean() < 0.2


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_another_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"the fraction -?[\d.]+ is not within 0..1"):
        CentreCrop(64, fraction, "bilinear")


def test_nothing_is_drawn_for_the_centre() -> None:
    assert CentreCrop(64, 0.875, "bilinear").draws(torch.arange(3)) == [[], [], []]
