"""SimCLR v2's colour distortion as the authors use it on ImageNet, a batch at a time.

Follows the official augment/color_util.py, called by `color_map_fn` of augment_ops.py after
RandAugment: brightness, contrast, saturation and hue in a random order, clipped after each, then
greyscale and a second horizontal flip; no crop. The result is truncated to uint8, as there. The
official code scales to 0..1 and back, indices can lose a grey level to float error; here values are
float32 from 0 to 255, so unchanged pixels stay exact.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from repro.data.augment.ops import flip_horizontally, per_image, truncate
from repro.data.loading.transfer import constant, to_device

Function = Callable[[Tensor, Tensor], Tensor]  # images (n, 3, H, W), indices in the batch (n,)

DRAWS = 11  # jitter, greyscale, flip; four strengths; four sort keys for the order
_JITTERED, _GREY, _MIRRORED = 0.8, 0.2, 0.5  # probabilities
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 0.8, 0.8, 0.8, 0.2  # half a range, at strength 1
_LUMINANCE = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale


def color_jitter(pixels: Tensor, draws: Tensor, strength: float) -> Tensor:
    """uint8 (B, 3, H, W), uniform draws (B, DRAWS) on the CPU -> uint8."""
    jittered, grey, mirrored = (
        draws[:, i] < p for i, p in enumerate((_JITTERED, _GREY, _MIRRORED))
    )
    (amounts,) = to_device(pixels.device, _amounts(draws[:, 3:7], strength))
    functions = (
        None,
        *(_clamped_adjustment(adjust, amounts[:, i]) for i, adjust in enumerate(ADJUSTMENTS)),
    )
    order = draws[:, 7:].argsort(dim=1, stable=True) + 1
    images = pixels.to(torch.float32)
    for step in (order * jittered[:, None]).unbind(1):
        images = dispatch(functions, step, images)
    images = dispatch((None, _to_grey), grey.to(torch.int64), images)
    return flip_horizontally(truncate(images), mirrored)


def dispatch(functions: Sequence[Function | None], choice: Tensor, images: Tensor) -> Tensor:
    """Apply a chosen function to each image, in place; None leaves the image unchanged.

    choice (B,) int64, on the CPU, indexes `functions`. A function receives a writable copy of its
    images and their indices in the batch. Images are sorted by function, so that each runs once.
    """
    sizes = choice.bincount(minlength=len(functions)).tolist()
    (order,) = to_device(images.device, choice.argsort(stable=True))
    for function, indices in zip(functions, order.split(sizes), strict=True):
        if function and len(indices):
            images.index_copy_(0, indices, function(images.index_select(0, indices), indices))
    return images


def _amounts(draws: Tensor, strength: float) -> Tensor:
    """Uniform (B, 4): three factors around 1, and a hue shift around 0."""
    reach = [strength * half for half in (_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE)]
    low = draws.new_tensor([max(1 - reach[0], 0), 1 - reach[1], 1 - reach[2], -reach[3]])
    high = draws.new_tensor([1 + reach[0], 1 + reach[1], 1 + reach[2], reach[3]])
    return low + (high - low) * draws


def _to_grey(images: Tensor, indices: Tensor) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    luminance: Tensor = _LUMINANCE[0] * red + _LUMINANCE[1] * green + _LUMINANCE[2] * blue
    return luminance.expand_as(images)


def _clamped_adjustment(adjust: Callable[[Tensor, Tensor], Tensor], amounts: Tensor) -> Function:
    return lambda images, indices: adjust(
        images, per_image(amounts.index_select(0, indices))
    ).clamp_(0, 255)


# Adjustments, in place: images (n, 3, H, W) float32 in 0..255, amounts (n, 1, 1, 1).


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images.mul_(factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from each channel's own mean (tf.image.adjust_contrast)."""
    mean = images.mean((2, 3), keepdim=True, dtype=torch.float64).to(torch.float32)
    return images.sub_(mean).mul_(factor).add_(mean)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """HSV's S times the factor, at most 1 (tf.image.adjust_saturation).

    S = (V - low) / V, and V, the brightest channel, stays: so V - c is stretched by the factor, or
    by V / (V - low) where S reaches 1.
    """
    value, low = _max_and_min(images)
    limit = value / (value - low).clamp_(min=_TINY)
    return images.sub_(value).mul_(torch.minimum(factor, limit)).add_(value)


def hue(images: Tensor, turn: Tensor) -> Tensor:
    """HSV's H plus a part of a turn (tf.image.adjust_hue).

    With H in sixths of a turn, a channel is V - (V - low) clamp(min(k, 4 - k), 0, 1), where
    k = (offset + H) mod 6, and the offset is 5 for red, 3 for green and 1 for blue.
    """
    value, low = _max_and_min(images)
    spread = value - low
    sixth = _hue_sextant(images, value, spread.clamp(min=_TINY)).add_(6 * turn)
    offset = constant((5.0, 3.0, 1.0), torch.float32, images.device)[:, None, None]
    k = torch.add(sixth, offset, out=images)
    k.sub_((k / 6).floor_().mul_(6))
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.sub(value, share.mul_(spread), out=images)


def _hue_sextant(images: Tensor, value: Tensor, spread: Tensor) -> Tensor:
    """The hue (n, 1, H, W), -1 to 5, from the brightest channel and the other two."""
    red, green, blue = images.split(1, dim=1)
    is_red, is_green = (red == value).to(torch.float32), (green == value).to(torch.float32)
    sixth: Tensor = (red - green + 4 * spread).lerp_(blue - red + 2 * spread, is_green)
    return sixth.lerp_(green - blue, is_red).div_(spread)  # `where` is slow on a CPU


def _max_and_min(images: Tensor) -> tuple[Tensor, Tensor]:
    """The brightest and the darkest channel of each pixel, (n, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    return highest, torch.minimum(torch.minimum(red, green), blue)


_TINY = 1e-30  # replaces a spread of 0, whose quotient is only multiplied by 0
ADJUSTMENTS = (brightness, contrast, saturation, hue)
