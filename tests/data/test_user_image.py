"""A person's picture is read as a viewer shows it: closed forms, Pillow and cv2."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from repro.data.user_image import ImageError, read

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (6, 9, 4), np.uint8)
GREY16 = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
UNIT = RNG.random((4, 5)).astype(np.float32)
SMOOTH = np.add.outer(np.arange(48), 2 * np.arange(64)).astype(np.uint8)[..., None].repeat(3, 2)

Array = npt.NDArray[Any]


def encoded(pixels: Array | Image.Image, form: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def on_white(rgba: Array) -> Array:
    opacity = rgba[..., 3:] / 255
    blended: Array = np.round(rgba[..., :3] * opacity + 255 * (1 - opacity))
    return blended


def same(found: Array, expected: Array, bound: float = 0) -> None:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= bound


ORIENTATIONS: dict[int, Callable[[Array], Array]] = {  # EXIF 2.3, section 4.6.4, tag 274
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_it_is_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"lossless": True} if form == "WEBP" else {}
    data = encoded(SMOOTH, form, exif=exif, **lossless)
    same(read(data), ORIENTATIONS[orientation](SMOOTH), 6 if form == "JPEG" else 0)
    if form == "JPEG":
        theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert theirs is not None
        same(read(data), theirs[..., ::-1].astype(int), 2)


def test_16_bit_grey_with_an_orientation_is_upright() -> None:
    exif = Image.Exif()
    exif[274] = 6
    same(read(encoded(GREY16, "PNG", exif=exif))[..., 0], ORIENTATIONS[6](GREY16 / 257).round())


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled(form: str) -> None:
    same(read(encoded(GREY16, form)), (GREY16[..., None] / 257).round().repeat(3, 2))


def test_a_tiff_whose_white_is_zero_is_inverted() -> None:
    data = encoded(GREY16, "TIFF", tiffinfo={262: 0})
    same(read(data)[..., 0], (255 - GREY16 / 257).round())


@pytest.mark.parametrize("depth", ["16-bit colour", "16-bit colour and alpha"])
def test_16_bit_colour_is_scaled(depth: str) -> None:
    values = RNG.integers(0, 65536, (5, 7, 4 if "alpha" in depth else 3)).astype(np.uint16)
    for form in (".png", ".tiff"):
        data = cv2.imencode(form, values)[1].tobytes()
        rgb = values[..., 2::-1] / 257
        opacity = values[..., 3:] / 65535 if "alpha" in depth else 1.0
        same(read(data), rgb * opacity + 255 * (1 - opacity), 2)


def test_floats_are_taken_from_0_to_1() -> None:
    same(read(encoded(UNIT, "TIFF"))[..., 2], (UNIT * 255).round())


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG2000", "ICO", "TGA"])
def test_transparency_is_laid_on_white(form: str) -> None:
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    same(read(encoded(RGBA, form, **options)), on_white(RGBA), 1)


def test_grey_with_alpha_is_laid_on_white() -> None:
    grey, alpha = RGBA[..., :1], RGBA[..., 3:]
    data = encoded(Image.fromarray(np.concatenate([grey, alpha], 2)), "PNG")
    same(read(data), on_white(np.concatenate([grey, grey, grey, alpha], 2)), 1)


@pytest.mark.parametrize("pixels", [RGBA[..., 0], GREY16, RGBA[..., 0] > 100], ids=str)
def test_a_transparent_value_is_white(pixels: Array) -> None:
    clear = int(pixels[0, 0])
    found = read(encoded(pixels, "PNG", transparency=clear))
    scale = {"uint8": 1, "uint16": 1 / 257, "bool": 255}[str(pixels.dtype)]
    expected = np.where(pixels == clear, 255, np.round(pixels * scale))
    same(found, expected[..., None].repeat(3, 2))


def test_a_palette_is_looked_up() -> None:
    picture = Image.fromarray(RGBA[..., :3]).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    colours, number = np.array(picture.convert("RGB")), np.array(picture)
    same(read(encoded(picture, "PNG")), colours)
    clear = (number == 3)[..., None]
    same(read(encoded(picture, "PNG", transparency=3)), np.where(clear, 255, colours))


Image.init()
UNWRITTEN = {"BUFR", "GRIB", "HDF5", "WMF"}  # without a program of others
UNWRITTEN |= {"PDF", "PALM", "IM"}  # never read; IM is about to leave Pillow


@pytest.mark.parametrize("form", sorted({*Image.SAVE} - UNWRITTEN))
def test_what_pillow_decodes_is_read_and_what_it_does_not_is_named(form: str) -> None:
    square = Image.fromarray(SMOOTH[:, :48])
    data = b""
    for mode in ("RGB", "P", "1"):
        with contextlib.suppress(OSError, ValueError):
            data = data or encoded(square.convert(mode), form)
    if form in ("EPS", "SPIDER"):
        with pytest.raises(ImageError, match=r"is not supported; convert it to PNG or JPEG"):
            read(data)
        return
    with Image.open(io.BytesIO(data)) as picture:
        same(read(data), np.array(picture.convert("RGBA").convert("RGB")), 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_it_is_the_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    same(read(data), np.tile(np.array([255, 0, 0]), (4, 5, 1)))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_is_ink(form: str) -> None:
    found = read(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), form))
    same(found, np.tile(np.array([255, 0, 0]), (16, 16, 1)), 2)


def test_a_profile_is_converted_to_srgb() -> None:
    """A profile whose red and green primaries are exchanged exchanges these channels."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same(read(encoded(SMOOTH, "PNG", icc_profile=srgb)), SMOOTH, 1)
    same(read(encoded(SMOOTH, "PNG", icc_profile=b"damaged")), SMOOTH)
    lab = ImageCms.createProfile("LAB")
    greyish = Image.fromarray(SMOOTH)
    there = ImageCms.profileToProfile(
        greyish, ImageCms.createProfile("sRGB"), lab, outputMode="LAB"
    )
    assert there is not None
    with pytest.raises(ImageError, match="its colours are Lab; save it as RGB"):
        read(encoded(there, "TIFF"))


def test_an_ordinary_photograph_is_what_others_read() -> None:
    for form in ("JPEG", "PNG", "BMP", "PPM"):
        data = encoded(SMOOTH, form)
        with Image.open(io.BytesIO(data)) as image:
            same(read(data), np.array(image).astype(int))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"hello", "text, not an image; name an image file"),
        (
            b"<?xml version='1.0'?><svg/>",
            "XML, such as SVG, is not supported; convert it to PNG or",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not supported; convert it to PNG or JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIF is not supported"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", "CR3 is not supported"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video is not supported"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported"),
        (b"\xff\x0a\0\0", "JPEG XL is not supported"),
        (b"v/1\x01\2\0\0\0", "OpenEXR is not supported"),
        (bytes(128) + b"DICM", "DICOM is not supported"),
        (b"%PDF-1.4\n", "PDF is not supported; convert"),
        (encoded(SMOOTH, "EPS"), "PostScript is not supported; convert"),
        (encoded(UNIT, "SPIDER"), "SPIDER is not supported; convert"),
        (b"\x01\2\3\0" * 9, "unknown format; convert it to PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 100, "damaged"),
        (encoded(SMOOTH, "JPEG")[:600], "damaged"),
        (encoded(Image.new("1", (11_000, 10_000)), "PNG"), "11,000 × 10,000 pixels"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "more than 100,000,000"),
        (encoded(Image.new("LAB", (3, 3)), "TIFF"), "its colours are Lab; save it as RGB"),
        (encoded(UNIT * 300, "TIFF"), "its values are"),
        (encoded(UNIT - 1, "TIFF"), "scale them to 0..1"),
        (encoded(UNIT * np.nan, "TIFF"), "NaN or infinite"),
        (encoded(UNIT.astype(np.int32), "TIFF"), "its grey has 32 bits; save it with 8 or 16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_said_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(ImageError) as caught:
        read(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_anywhere_is_a_picture_or_one_line() -> None:
    exif = Image.Exif()
    exif[274] = 6
    lines = list[str]()
    whole = [encoded(SMOOTH, form, exif=exif) for form in ("JPEG", "PNG", "TIFF", "WEBP")]
    for data in [*whole, encoded(GREY16, "TIFF"), encoded(SMOOTH, "GIF")]:
        for _ in range(60):
            damaged = bytearray(data)
            for place in RNG.integers(0, min(len(data), 400), 3):
                damaged[place] = RNG.integers(256)
            try:
                found = read(bytes(damaged))
            except ImageError as error:
                lines.append(str(error))
            else:
                same(found, found)
                assert found.shape[2] == 3
    assert lines
    assert not any("\n" in line for line in lines)
