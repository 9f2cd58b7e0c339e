"""The augmentation one image at a time, slowly and by other means: Pillow, colorsys, and loops.

Images are uint8 arrays (H, W, 3). `PILLOW` has the sixteen operations as Pillow does them; `EXACT`
replaces the four whose official arithmetic is not Pillow's. `augment` composes a sample's whole way
from the same draws as the batch. Levels are float32, and so are the products that are cut off.
"""

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageOps

from repro.data.augment.augment import Augmentation, AugmentStream
from repro.data.augment.color_jitter import DRAWS
from repro.data.augment.ops import OPERATIONS
from repro.data.randomness import normal, uniform

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Operation = Callable[[Pixels, float, float], Pixels]  # image, level, sign


def pillow(function: Callable[[Image.Image, float, float], Image.Image]) -> Operation:
    return lambda image, level, sign: np.array(function(Image.fromarray(image), level, sign))


def enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return pillow(lambda image, level, sign: enhancer(image).enhance(factor(level)))


def factor(level: float) -> float:
    return float(np.float32(1.8) * np.float32(level) + np.float32(0.1))


def whole(scale: float, level: float) -> int:
    return int(np.float32(scale) * np.float32(level))


def affine(
    a: float, b: float, c: float, d: float, e: float, f: float, image: Image.Image
) -> Image.Image:
    """x' = ax + by + c, y' = dx + ey + f between pixel indices; Pillow's count from corners."""
    matrix = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(128,) * 3
    )


def posterize(image: Image.Image, level: float, sign: float) -> Image.Image:
    bits = whole(4, level)
    return ImageOps.posterize(image, bits) if bits else Image.new("RGB", image.size)


def rotate(image: Image.Image, level: float, sign: float) -> Image.Image:
    return image.rotate(30 * level * sign, Image.Resampling.NEAREST, fillcolor=(128,) * 3)


def solarize_add(image: Pixels, level: float, sign: float) -> Pixels:
    brighter = np.minimum(image.astype(int) + whole(110, level), 255)
    return np.where(image < 128, brighter, image).astype(np.uint8)


def shift(image: Image.Image) -> int:
    return {224: 100, 128: 40, 96: 30, 32: 10}.get(image.width, int(0.3 * image.width))


PILLOW: dict[str, Operation] = {
    "identity": lambda image, level, sign: image,
    "auto_contrast": pillow(lambda image, level, sign: ImageOps.autocontrast(image)),
    "equalize": pillow(lambda image, level, sign: ImageOps.equalize(image)),
    "invert": pillow(lambda image, level, sign: ImageOps.invert(image)),
    "posterize": pillow(posterize),
    "solarize": pillow(lambda i, level, sign: ImageOps.solarize(i, min(whole(256, level), 255))),
    "solarize_add": solarize_add,
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "rotate": pillow(rotate),
    "shear_x": pillow(lambda i, level, sign: affine(1, 0.3 * level * sign, 0, 0, 1, 0, i)),
    "shear_y": pillow(lambda i, level, sign: affine(1, 0, 0, 0.3 * level * sign, 1, 0, i)),
    "translate_x": pillow(lambda i, level, sign: affine(1, 0, shift(i) * level * sign, 0, 1, 0, i)),
    "translate_y": pillow(lambda i, level, sign: affine(1, 0, 0, 0, 1, shift(i) * level * sign, i)),
}


def blend(degenerate: Floats, image: Pixels, level: float) -> Pixels:
    mixed = degenerate + np.float32(factor(level)) * (image.astype(np.float32) - degenerate)
    return np.clip(mixed, 0, 255).astype(np.uint8)


def grey(image: Pixels) -> Floats:
    """tf.image.rgb_to_grayscale of uint8: to [0, 1], weighted, times 255.5, cut off."""
    weights = np.array([0.2989, 0.5870, 0.1140])
    luminance = np.floor(image.astype(np.float64) @ weights / 255 * 255.5)
    return np.asarray(luminance[..., None], dtype=np.float32)


def color(image: Pixels, level: float, sign: float) -> Pixels:
    return blend(grey(image), image, level)


def contrast(image: Pixels, level: float, sign: float) -> Pixels:
    return blend(np.floor(grey(image).mean(keepdims=True) + 0.5), image, level)


def sharpness(image: Pixels, level: float, sign: float) -> Pixels:
    smooth = image.astype(np.float32)
    for y in range(1, image.shape[0] - 1):
        for x in range(1, image.shape[1] - 1):
            window = image[y - 1 : y + 2, x - 1 : x + 2].astype(int)
            smooth[y, x] = (window.sum((0, 1)) + 4 * window[1, 1]) // 13
    return blend(smooth, image, level)


def auto_contrast(image: Pixels, level: float, sign: float) -> Pixels:
    low, high = (bound((0, 1), keepdims=True).astype(int) for bound in (image.min, image.max))
    stretched = (image - low) * 255 // np.maximum(high - low, 1)
    return np.where(high > low, stretched, image).astype(np.uint8)


EXACT = PILLOW | {
    "auto_contrast": auto_contrast,
    "color": color,
    "contrast": contrast,
    "sharpness": sharpness,
}


def augment(
    image: Pixels, key: int, spec: Augmentation, mean: Sequence[float], std: Sequence[float]
) -> Floats:
    """What `repro.data.augment.augment.augment` makes of this sample, as (H, W, 3)."""
    height, width = image.shape[:2]
    pad = spec.crop_padding
    top, left, side = draws(key, AugmentStream.CROP, 3)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    row, column = int(top * (2 * pad + 1)), int(left * (2 * pad + 1))
    image = padded[row : row + height, column : column + width]
    if spec.flip and side < 0.5:
        image = image[:, ::-1]

    numbers = draws(key, AugmentStream.RANDAUGMENT, 4 * spec.randaugment_layers)
    deviations = normal(torch.tensor([key]), AugmentStream.RANDAUGMENT, len(numbers))[0].tolist()
    for start in range(0, len(numbers), 4):
        whether, which, direction, _ = numbers[start : start + 4]
        magnitude = spec.randaugment_magnitude + spec.randaugment_std * deviations[start + 3]
        if whether < spec.randaugment_prob:
            operation = EXACT[OPERATIONS[int(which * 16)]]
            level = min(max(magnitude, 0.0), 10.0) / 10
            image = operation(np.ascontiguousarray(image), level, -1.0 if direction < 0.5 else 1.0)

    if spec.color_jitter:
        image = color_jitter(image, draws(key, AugmentStream.JITTER, DRAWS), spec.color_jitter)
    result = (image.astype(np.float32) / 255 - np.array(mean)) / np.array(std)
    return erase(result.astype(np.float32), key, spec)


def erase(image: Floats, key: int, spec: Augmentation) -> Floats:
    height, width = image.shape[:2]
    whether, area, aspect, centre_y, centre_x = draws(key, AugmentStream.ERASE, 5)
    if whether >= spec.erase_prob:
        return image
    area = 0.02 + (1 / 3 - 0.02) * area
    ratio = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
    half_height, half_width = (
        height * math.sqrt(area * ratio) / 2,
        width * math.sqrt(area / ratio) / 2,
    )
    noise = (
        normal(torch.tensor([key]), AugmentStream.NOISE, image.size).numpy().reshape(image.shape)
    )
    for y in range(height):
        for x in range(width):
            if abs(y - centre_y * height) < half_height and abs(x - centre_x * width) < half_width:
                image[y, x] = noise[y, x]
    return image


Pixel = tuple[float, float, float]  # red, green, blue in [0, 1]


def brightness_of(pixels: list[Pixel], factor: float) -> list[Pixel]:
    return [(r * factor, g * factor, b * factor) for r, g, b in pixels]


def contrast_of(pixels: list[Pixel], factor: float) -> list[Pixel]:
    r0, g0, b0 = (math.fsum(channel) / len(pixels) for channel in zip(*pixels, strict=True))
    return [
        ((r - r0) * factor + r0, (g - g0) * factor + g0, (b - b0) * factor + b0)
        for r, g, b in pixels
    ]


def saturation_of(pixels: list[Pixel], factor: float) -> list[Pixel]:
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels]
    return [colorsys.hsv_to_rgb(h, min(max(s * factor, 0.0), 1.0), v) for h, s, v in hsv]


def hue_of(pixels: list[Pixel], turn: float) -> list[Pixel]:
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in pixels]
    return [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]


ADJUSTMENTS = {  # with the largest deviation of the amount at strength 1
    "brightness": (brightness_of, 0.8),
    "contrast": (contrast_of, 0.8),
    "saturation": (saturation_of, 0.8),
    "hue": (hue_of, 0.2),
}


def color_jitter(image: Pixels, numbers: Sequence[float], strength: float) -> Pixels:
    """SimCLR v2's distortion, each pixel through colorsys, from the draws of the batch."""
    pixels: list[Pixel] = [(r / 255, g / 255, b / 255) for r, g, b in image.reshape(-1, 3).tolist()]
    jittered, grey, mirrored = numbers[0] < 0.8, numbers[1] < 0.2, numbers[2] < 0.5
    amounts = []
    for number, (name, (_, reach)) in zip(numbers[3:7], ADJUSTMENTS.items(), strict=True):
        low, high = 1 - reach * strength, 1 + reach * strength
        low = max(low, 0) if name == "brightness" else low
        amounts.append(low + (high - low) * number - (name == "hue"))
    adjusters = [adjust for adjust, _ in ADJUSTMENTS.values()]
    for which in sorted(range(4), key=lambda i: numbers[7 + i]) if jittered else ():
        adjusted = adjusters[which](pixels, amounts[which])
        pixels = [(clip(r), clip(g), clip(b)) for r, g, b in adjusted]
    if grey:
        pixels = [(0.2989 * r + 0.587 * g + 0.114 * b,) * 3 for r, g, b in pixels]
    # What was a whole number of levels still is: the official float32 sometimes loses one.
    levels = np.floor(np.array(pixels) * 255 + 1e-9).astype(np.uint8).reshape(image.shape)
    return levels[:, ::-1] if mirrored else levels


def clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def draws(key: int, stream: int, count: int) -> list[float]:
    return [float(number) for number in uniform(torch.tensor([key]), stream, count)[0]]
