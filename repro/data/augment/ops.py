"""The authors' sixteen RandAugment operations on whole batches of uint8 images.

`apply` applies one operation to each image. Ranges and arithmetic follow the official
augment/rand_augment.py and augment_ops.py. Results are integers, or float32 truncated after a few
correctly rounded steps, so they are the same on every device. Where float error decides a grey
level in the official code (AutoContrast, Sharpness), the exact quotient is used here.

Images are sorted by operation, so that an operation, or a family of them, takes a few kernels on a
slice. Random numbers, and what depends on them alone, are computed on the CPU and copied.

On a CPU, `torch.where`, comparisons to bool and float-to-uint8 conversions are not vectorised and 5
to 20 times slower. Masks are therefore 0 and 1 in the type of the compared values, and float is
converted to uint8 via int16.
"""

from collections.abc import Callable, Sequence
from math import pi

import torch
from torch import Tensor

from repro.data.loading.transfer import constant, to_device

OPERATIONS = (
    *("identity", "auto_contrast", "equalize"),
    *("invert", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness"),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)
FILL = 128  # grey, where a geometric operation looks outside the image
_GREY = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale
_TRANSLATION_PIXELS = {224: 100, 128: 40, 96: 30, 32: 10}  # at level 1, by image side

Slices = dict[str, slice]  # the slice of each operation's images after sorting


def apply(pixels: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """Apply one operation to each image.

    pixels (B, 3, H, W) uint8. On the CPU: operation (B,) int64, an index into OPERATIONS; level
    (B,) in [0, 1], the magnitude; sign (B,) -1 or 1, the direction of the geometric ones.
    """
    order, places = sort_by_operation(operation, OPERATIONS)
    level, amount = level[order], (sign * level)[order]
    num_bits, threshold = (4 * level).to(torch.int32), (256 * level).clamp(max=255).to(torch.int32)
    bits = bit_operands(places, level, num_bits, threshold)
    geometric = span(places, "rotate", "translate_y")
    lines = _affine_maps(operation[order][geometric], amount[geometric], *pixels.shape[2:])

    order, back, bits, factor, along, down = to_device(
        pixels.device, order, order.argsort(), bits, 1.8 * level + 0.1, *lines
    )
    images = pixels.index_select(0, order)
    adjust(images, places, bits, factor, _grey, rounding=0)
    if len(along):
        _warp(images[geometric], along, down)
    return images.index_select(0, back)


def sort_by_operation(operation: Tensor, names: Sequence[str]) -> tuple[Tensor, Slices]:
    """The order (B,) that sorts images by operation, an index into `names`, and the slices."""
    ends = operation.bincount(minlength=len(names)).cumsum(0).tolist()
    slices = map(slice, [0, *ends], ends)
    return operation.argsort(stable=True), dict(zip(names, slices, strict=True))


def span(places: Slices, first: str, last: str) -> slice:
    """The images of the operations from `first` to `last`."""
    return slice(places[first].start, places[last].stop)


def flip_horizontally(pixels: Tensor, whether: Tensor) -> Tensor:
    """uint8 pixels, flipped left to right where `whether` (B,) bool, on the CPU, is True."""
    (mask,) = to_device(pixels.device, whether.to(torch.uint8) * 255)
    return pixels ^ ((pixels ^ pixels.flip(3)) & per_image(mask))


# Shared with timm_ops; in place, on sorted images (B, 3, H, W).


def adjust(
    images: Tensor,
    places: Slices,
    bits: Tensor,
    factor: Tensor,
    grey: Callable[[Tensor], Tensor],
    rounding: int,
) -> None:
    """All operations but the geometric ones.

    bits (4, B): see `bit_operands`. factor (B,): the enhancement factor, from the degenerate image
    (0) to the original (1) and beyond. `grey` computes the luminance of float32 pixels; `rounding`
    is that of `_smooth`.
    """
    if len(part := images[places["auto_contrast"]]):
        _auto_contrast(part)
    if len(part := images[places["equalize"]]):
        _equalize(part)
    group = span(places, "invert", "solarize_add")
    if len(part := images[group]):
        _bitwise(part, bits[:, group])
    group = span(places, "color", "sharpness")
    if len(part := images[group]):
        names = "color", "contrast", "brightness", "sharpness"
        counts = [places[name].stop - places[name].start for name in names]
        _enhance(part, factor[group], counts, grey, rounding)


def _auto_contrast(images: Tensor) -> None:
    """Stretches each channel to 0..255; a constant channel stays."""
    low = images.amin((2, 3), keepdim=True)
    span = images.amax((2, 3), keepdim=True) - low
    stretched = (images - low).to(torch.float32).mul_(255).div_(span.clamp(min=1))
    torch.add(truncate(stretched), low * (span == 0), out=images)


def _equalize(images: Tensor) -> None:
    """Equalise each channel's histogram in PIL's integers; a nearly constant channel stays."""
    pixels = images.view(-1, images.shape[2] * images.shape[3])
    channels = pixels.to(torch.int64)
    one, grey = (constant(of, torch.int32, images.device) for of in ((1,), range(256)))
    histogram = torch.zeros(len(pixels), 256, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(1, channels, one.expand_as(channels))
    brightest = histogram.gather(1, channels.amax(1, keepdim=True))
    step = (channels.shape[1] - brightest) // 255
    below = histogram.cumsum(1, dtype=torch.int32) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, grey).to(torch.uint8)
    torch.gather(table, 1, channels, out=pixels)


def bit_operands(places: Slices, level: Tensor, num_bits: Tensor, threshold: Tensor) -> Tensor:
    """The operands of `_bitwise` for sorted images, uint8 (4, B): the addend of dark pixels, the
    AND mask, the threshold of the XOR mask, and the XOR mask.

    `posterize` keeps the highest `num_bits` (B,) bits; with 0 the image is black. `solarize`
    inverts values from `threshold` (B,), 0 to 256, upwards. `solarize_add` adds int(110 level) to
    values below 128; 127 + 110 cannot overflow.
    """
    bits = torch.tensor([[0], [255], [0], [0]], dtype=torch.uint8).repeat(1, len(level))
    addition, mask, first, flip = bits
    flip[places["invert"]] = 255
    at = places["posterize"]
    mask[at] = (256 - (256 >> num_bits[at])).to(torch.uint8)
    at = places["solarize"]
    first[at] = threshold[at].clamp(max=255).to(torch.uint8)
    flip[at] = (threshold[at] < 256).to(torch.uint8) * 255
    at = places["solarize_add"]
    addition[at] = (110 * level[at]).to(torch.uint8)
    return bits


def _bitwise(images: Tensor, bits: Tensor) -> None:
    addition, mask, first, flip = (per_image(values) for values in bits)
    buffer = torch.empty_like(images)
    images.add_(torch.lt(images, 128, out=buffer).mul_(addition)).bitwise_and_(mask)
    images.bitwise_xor_(torch.ge(images, first, out=buffer).mul_(flip))


def _enhance(
    images: Tensor,
    factor: Tensor,
    counts: Sequence[int],
    grey: Callable[[Tensor], Tensor],
    rounding: int,
) -> None:
    """Blend the degenerate image and the original by `factor` (n,), for `counts` images each of
    color, contrast, brightness (whose degenerate image is black) and sharpness."""
    values = images.to(torch.float32)
    color, contrast, _, sharpness = values.split(counts)
    luminance = grey(values[: counts[0] + counts[1]])
    degenerate = [
        (color, luminance[: counts[0]]),
        (contrast, rounded_mean(luminance[counts[0] :])),
        (sharpness, _smooth(sharpness, rounding)),
    ]
    degenerate = [(one, other) for one, other in degenerate if len(one)]
    for one, other in degenerate:
        one.sub_(other)
    values.mul_(per_image(factor))
    for one, other in degenerate:
        one.add_(other)
    images.copy_(values.clamp_(0, 255).to(torch.int16))


def rounded_mean(grey: Tensor) -> Tensor:
    """The mean of integer-valued images (n, 1, H, W), rounded half up: (n, 1, 1, 1)."""
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.float64).to(torch.int64)
    pixels = grey.shape[2] * grey.shape[3]
    return ((2 * total + pixels) // (2 * pixels)).to(torch.float32)


def _smooth(original: Tensor, rounding: int) -> Tensor:
    """PIL's SMOOTH of integer-valued float32: a 3x3 mean with weight 5 at the centre; the border
    stays.

    The weights sum to 13: `rounding` 0 truncates (TensorFlow), 6 rounds to the nearest (PIL).
    """
    rows = original[:, :, :-2] + original[:, :, 1:-1] + original[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * original[:, :, 1:-1, 1:-1]
    smoothed = original.clone()
    # CUDA divides by a constant with its rounded inverse; half a unit keeps the floor exact.
    smoothed[:, :, 1:-1, 1:-1] = total.add_(rounding + 0.5).div_(13).floor_()
    return smoothed


def _grey(pixels: Tensor) -> Tensor:
    """Luminance as TensorFlow rounds it: float32 (n, 3, H, W) to whole numbers (n, 1, H, W)."""
    red, green, blue = pixels.split(1, dim=1)
    luminance: Tensor = (_GREY[0] * red).add_(_GREY[1] * green).add_(_GREY[2] * blue)
    return luminance.mul_(255.5 / 255).floor_()


# The authors' geometric operations.


def _affine_maps(kind: Tensor, amount: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The affine maps from output to input coordinates (y, x), as the contributions of each output
    column (n, 2, W) and row (n, 2, H).

    kind (n,) is an index into OPERATIONS; amount (n,) in [-1, 1] scales the rotation by up to 30
    degrees about the centre, the shear by 0.3 about the first pixel, and the translation.
    """
    pixels_far = _TRANSLATION_PIXELS.get(width, int(0.3 * width))
    reach = torch.tensor((pi / 6, 0.3, 0.3, pixels_far, pixels_far))
    selected = kind[:, None] == torch.arange(len(OPERATIONS) - len(reach), len(OPERATIONS))
    angle, shear_x, shear_y, shift_x, shift_y = (selected * reach * amount[:, None]).split(1, dim=1)
    cosine, sine = (f(angle.to(torch.float64)).to(torch.float32) for f in (torch.cos, torch.sin))
    y, x = (torch.arange(length, dtype=torch.float32) for length in (height, width))
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    from_y, from_x = y - middle_y, x - middle_x
    along = sine * from_x + shear_y * x, cosine * from_x + middle_x + shift_x
    down = cosine * from_y + middle_y + shift_y, shear_x * y - sine * from_y
    return torch.stack(along, dim=1), torch.stack(down, dim=1)


def _warp(images: Tensor, along: Tensor, down: Tensor) -> None:
    """Nearest-neighbour sampling at the input coordinates; FILL outside the image."""
    height, width = images.shape[2:]
    source = (along[:, :, None, :] + down[:, :, :, None]).add_(0.5).floor_()
    row, column = source.unbind(1)
    row_inside, column_inside = row.clamp(0, height - 1), column.clamp(0, width - 1)
    inside = truncate(row.eq_(row_inside).mul_(column.eq_(column_inside)))[:, None]
    index = row_inside.mul_(width).add_(column_inside).to(torch.int64).flatten(1)
    sampled = images.flatten(2).gather(2, index[:, None].expand(-1, 3, -1)).view_as(images)
    torch.add(sampled.sub_(FILL).mul_(inside), FILL, out=images)  # uint8 wraps around, and back


def truncate(values: Tensor) -> Tensor:
    """float32 in [0, 256) to uint8."""
    return values.to(torch.int16).to(torch.uint8)


def per_image(values: Tensor) -> Tensor:
    """One value per image, shaped to broadcast over (n, 3, H, W)."""
    return values[:, None, None, None]
