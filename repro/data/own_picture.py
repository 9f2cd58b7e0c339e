"""A person's picture as the person sees it: 8-bit RGB, upright, on white where it is transparent.

ImageNet's photographs are read by `crops.decode` instead, as the field reads them. Needs no torch.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# All that Pillow decodes by itself and tells by how a file begins. (EPS would run a program.)
FORMATS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "CUR", "ICNS"),
    *("PSD", "QOI", "TGA", "PCX", "DCX", "DIB", "DDS", "SGI", "SUN", "XBM", "XPM", "MSP"),
    *("BLP", "FITS", "FLI", "GBR", "FTEX", "PIXAR"),
)
MOST_BYTES = 200_000_000  # of a file
MOST_PIXELS = 100_000_000  # of a picture
WHITE = 255

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B")  # grey of more than 8 bits
_PROFILED = ("L", "RGB", "CMYK")  # what an ICC profile describes
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS = 0, 262, 258  # of TIFF
_STARTS = {  # of files that a person may take for a picture
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"<svg": "SVG",
    b"<?xml": "XML, such as SVG,",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"II\xbc": "JPEG XR",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"#?RGBE": "Radiance HDR",
    b"BPG\xfb": "BPG",
    b"FLIF": "FLIF",
    b"gimp xcf": "XCF",
    b"FUJIFILM": "RAF",
    b"\x93NUMPY": "NumPy's format",
    b"\x1aE\xdf\xa3": "Matroska video",
    b"PK\x03\x04": "ZIP, such as OpenRaster,",
    b"\x1f\x8b": "gzip",
}
# What the ISO container is, by its brand; others are videos.
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC",
           b"hevx": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF",
           b"crx ": "CR3"}  # fmt: skip
_RIFF = {b"WEBP": "WebP", b"AVI ": "AVI video"}
_INTO = "convert it to PNG or JPEG"

RGB8 = npt.NDArray[np.uint8]  # (H, W, 3)


class PictureError(ValueError):
    """A file that is no picture which can be read here; one line with the next step."""


def read(data: bytes) -> RGB8:
    """An image file -> (H, W, 3), as a viewer shows it.

    The EXIF orientation is applied, an ICC profile converted to sRGB, transparency laid on white,
    16-bit grey scaled from 0..65535 (a TIFF's from the bits it has), floats from 0..1. Of an
    animation it is the first frame. Raises PictureError.
    """
    if not data:
        raise PictureError("empty; name an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of many pixels
            with Image.open(io.BytesIO(data), formats=_here()) as picture:
                _check_size(picture)
                picture.load()
                return _on_white(picture)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(_not_read(data)) from None
    except Image.DecompressionBombError:
        raise PictureError(_too_large("more than 178,956,970")) from None
    except Exception as error:  # Pillow raises whatever damaged bytes lead to
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise PictureError(f"damaged ({why}); save it anew") from error


def _here() -> list[str]:
    """Of the formats, those that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _not_read(data: bytes) -> str:
    """Why a file is not read, by its format, and the next step."""
    if kind := _kind(data):
        return f"{kind} is not read; {_INTO}"
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as picture:
        return f"{picture.format} is not read; {_INTO}"
    if b"\0" not in data[:512]:
        return "text, not an image; name an image file"
    return f"its format is not known here; {_INTO}"


def _kind(data: bytes) -> str:
    """The format of a file by how it begins; '' if that tells nothing."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video")
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], "RIFF")
    if data[128:132] == b"DICM":
        return "DICOM"
    start = data[:512].lstrip(b" \t\r\n").lower()
    return next((kind for mark, kind in _STARTS.items() if start.startswith(mark.lower())), "")


def _check_size(picture: Image.Image) -> None:
    if picture.width * picture.height > MOST_PIXELS:
        raise PictureError(_too_large(f"{picture.width:,} × {picture.height:,}"))


def _too_large(pixels: str) -> str:
    return f"{pixels} pixels, where {MOST_PIXELS:,} are the most; make it smaller"


def _on_white(picture: Image.Image) -> RGB8:
    """The pixels of a loaded picture."""
    upright = picture
    with contextlib.suppress(Exception):  # damaged EXIF data says nothing of an orientation
        upright = ImageOps.exif_transpose(picture)
    if picture.mode in _DEEP:
        upright = _eight_bits(upright, picture)
    colours = _in_srgb(upright)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, (WHITE,) * 4)
        colours.putalpha(upright.convert("RGBA").getchannel("A"))
        colours = Image.alpha_composite(white, colours).convert("RGB")
    return np.array(colours)


def _in_srgb(picture: Image.Image) -> Image.Image:
    """The colours as RGB, by the picture's ICC profile where it has one that can be read."""
    if picture.mode == "LAB":
        raise PictureError("its colours are Lab; save it as RGB")
    plain = picture if picture.mode in _PROFILED else picture.convert("RGBA").convert("RGB")
    if profile := picture.info.get("icc_profile"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(plain, source, srgb, outputMode="RGB") or plain
    return plain.convert("RGB")


def _eight_bits(grey: Image.Image, opened: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as L, or LA where a value is transparent; `opened` has the tags."""
    values = np.asarray(grey).astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError("some of its values are NaN or infinite; replace them")
    bits = _tiff_tag(opened, _BITS, 16)
    if grey.mode != "F" and bits > 16:
        raise PictureError(f"its grey has {bits} bits; save it with 8 or 16")
    whole = 1.0 if grey.mode == "F" else 2.0**bits - 1
    least, most = float(values.min()), float(values.max())
    if least < 0 or most > whole:
        raise PictureError(f"its values are {least:g} to {most:g}; scale them to 0..{whole:g}")
    if _tiff_tag(opened, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        values = whole - values
    shown = Image.fromarray((values / whole * WHITE).round().astype(np.uint8))
    clear = opened.info.get("transparency")
    if clear is None:
        return shown
    opaque = Image.fromarray(np.where(np.asarray(grey) == clear, 0, WHITE).astype(np.uint8))
    return Image.merge("LA", [shown, opaque])


def _tiff_tag(picture: Image.Image, tag: int, default: int) -> int:
    """A number of a TIFF's header."""
    value = getattr(picture, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
