"""Read a user's image as a viewer shows it: 8-bit RGB, upright, transparency on white. No torch.

ImageNet's images are read by `crops.decode` instead, which ignores orientation and profiles.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

# All formats that Pillow decodes without other programs (EPS needs one) and detects by signature.
FORMATS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "CUR", "ICNS"),
    *("PSD", "QOI", "TGA", "PCX", "DCX", "DIB", "DDS", "SGI", "SUN", "XBM", "XPM", "MSP"),
    *("BLP", "FITS", "FLI", "GBR", "FTEX", "PIXAR"),
)
MAX_BYTES = 200_000_000  # of a file
MAX_PIXELS = 100_000_000  # of an image
WHITE = 255

_HIGH_BIT_DEPTH = ("I", "F", "I;16", "I;16L", "I;16B")  # grey of more than 8 bits
_ICC_MODES = ("L", "RGB", "CMYK")  # modes that ICC profiles describe
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS = 0, 262, 258  # of TIFF
_SIGNATURES = {  # of other files that users may pass
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
# Formats of the ISO container by brand; others are videos.
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"heim": "HEIC", b"heis": "HEIC", b"hevc": "HEIC",
           b"hevx": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF",
           b"crx ": "CR3"}  # fmt: skip
_RIFF = {b"WEBP": "WebP", b"AVI ": "AVI video"}
_CONVERT = "convert it to PNG or JPEG"

RGB8 = npt.NDArray[np.uint8]  # (H, W, 3)


class ImageError(ValueError):
    """A file that is not a readable image; one line with the next step."""


def read(data: bytes) -> RGB8:
    """An image file -> (H, W, 3), as a viewer shows it.

    Applies the EXIF orientation, converts an ICC profile to sRGB, composites transparency on white,
    and scales 16-bit grey from 0..65535 (a TIFF's from its bit depth) and floats from 0..1. Of an
    animation, reads the first frame. Raises ImageError.
    """
    if not data:
        raise ImageError("empty; name an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata and many pixels
            with Image.open(io.BytesIO(data), formats=_available_formats()) as image:
                _check_size(image)
                image.load()
                return _composite_on_white(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_unsupported(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(_too_large("more than 178,956,970")) from None
    except Exception as error:  # a damaged file raises nearly anything
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"damaged ({why}); save it again") from error


def _available_formats() -> list[str]:
    """The formats that this build of Pillow supports."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _unsupported(data: bytes) -> str:
    """Why a file cannot be read, by its format, and the next step."""
    if kind := _file_kind(data):
        return f"{kind} is not supported; {_CONVERT}"
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        return f"{image.format} is not supported; {_CONVERT}"
    if b"\0" not in data[:512]:
        return "text, not an image; name an image file"
    return f"unknown format; {_CONVERT}"


def _file_kind(data: bytes) -> str:
    """The format of a file by its signature; '' if unknown."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video")
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], "RIFF")
    if data[128:132] == b"DICM":
        return "DICOM"
    start = data[:512].lstrip(b" \t\r\n").lower()
    return next((kind for mark, kind in _SIGNATURES.items() if start.startswith(mark.lower())), "")


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_large(f"{image.width:,} × {image.height:,}"))


def _too_large(pixels: str) -> str:
    return f"{pixels} pixels, more than {MAX_PIXELS:,}; make it smaller"


def _composite_on_white(image: Image.Image) -> RGB8:
    """The pixels of a loaded image."""
    upright = image
    with contextlib.suppress(Exception):  # ignores damaged EXIF data
        upright = ImageOps.exif_transpose(image)
    if image.mode in _HIGH_BIT_DEPTH:
        upright = _to_eight_bits(upright, image)
    colours = _to_srgb(upright)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, (WHITE,) * 4)
        colours.putalpha(upright.convert("RGBA").getchannel("A"))
        colours = Image.alpha_composite(white, colours).convert("RGB")
    return np.array(colours)


def _to_srgb(image: Image.Image) -> Image.Image:
    """The colours as RGB, converted by the image's ICC profile if it has a valid one."""
    if image.mode == "LAB":
        raise ImageError("its colours are Lab; save it as RGB")
    plain = image if image.mode in _ICC_MODES else image.convert("RGBA").convert("RGB")
    if profile := image.info.get("icc_profile"):
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(plain, source, srgb, outputMode="RGB") or plain
    return plain.convert("RGB")


def _to_eight_bits(grey: Image.Image, opened: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as L, or LA if a value is transparent; `opened` has the tags."""
    values = np.asarray(grey).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("some of its values are NaN or infinite; replace them")
    bits = _tiff_tag(opened, _BITS, 16)
    if grey.mode != "F" and bits > 16:
        raise ImageError(f"its grey has {bits} bits; save it with 8 or 16")
    white = 1.0 if grey.mode == "F" else 2.0**bits - 1
    least, most = float(values.min()), float(values.max())
    if least < 0 or most > white:
        raise ImageError(f"its values are {least:g} to {most:g}; scale them to 0..{white:g}")
    if _tiff_tag(opened, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        values = white - values
    luminance = Image.fromarray((values / white * WHITE).round().astype(np.uint8))
    transparent = opened.info.get("transparency")
    if transparent is None:
        return luminance
    alpha = Image.fromarray(np.where(np.asarray(grey) == transparent, 0, WHITE).astype(np.uint8))
    return Image.merge("LA", [luminance, alpha])


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """A number of a TIFF's header."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
