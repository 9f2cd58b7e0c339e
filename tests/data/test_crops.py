"""Decoding and crops: against Pillow, torchvision and timm, pixel by pixel and in distribution."""

import io
import itertools
import math
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor

from repro.data.crops import (
    ATTEMPTS,
    CentreCrop,
    RandomCrop,
    Resize,
    Unreadable,
    decode,
    decode_all,
    resample,
)
from repro.data.randomness import sample_keys
from tests import DEVICES

TIMM = RandomCrop(32, (0.08, 1.0), "bicubic")
AUTHORS = RandomCrop(32, (0.05, 1.0), "aliased")
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
    with pytest.raises(Unreadable, match=why) as caught:
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
        with suppress(Unreadable):
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
def test_the_pixels_of_a_crop_are_pillows(resize: Resize) -> None:
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
    resize: Resize, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA has to; here the CPU takes the same way."""
    image = tensor(picture(90, 120))
    ours = [resample(image, *size, resize) for size in ((40, 40), (150, 130))]
    monkeypatch.setattr("repro.data.crops.RESIZES_UINT8", ())
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


@pytest.mark.parametrize("crop", [TIMM, AUTHORS], ids=["timm", "authors"])
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
@pytest.mark.parametrize("crop", [TIMM, AUTHORS], ids=["timm", "authors"])
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


@given(st.integers(1, 5000), st.integers(1, 5000), st.lists(st.floats(0, 1 - 2**-24), min_size=40))
def test_a_box_lies_within_the_image(height: int, width: int, drawn: list[float]) -> None:
    top, left, h, w = AUTHORS.box(height, width, drawn)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) > 0


def test_a_crop_does_not_depend_on_its_batch() -> None:
    keys = sample_keys(3, 1, torch.arange(20))
    together = TIMM.draws(keys)
    assert len(together[0]) == 4 * ATTEMPTS
    assert [TIMM.draws(key[None])[0] for key in keys] == together
    assert TIMM.draws(sample_keys(3, 2, torch.arange(20))) != together


# The centre crop.


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [0.875, 0.89, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (81, 64), (64, 64), (63, 201)])
def test_the_centre_is_timms(shape: tuple[int, int], fraction: float, resize: Resize) -> None:
    photo = picture(*shape)
    transform = create_transform(
        64, interpolation=resize, crop_pct=fraction, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    ours = CentreCrop(64, fraction, resize)(tensor(photo), [])
    difference = differences(ours, transform(photo).round())
    assert difference.mean() < 0.5
    assert (difference > 2).float().mean() < 1e-3


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
