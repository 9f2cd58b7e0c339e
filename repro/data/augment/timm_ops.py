"""timm's fifteen 'increasing' RandAugment operations on whole batches of uint8 images.

Follows timm 1.0.31's auto_augment.py ('rand-m9-mstd0.5-inc1' of DeiT and Swin), which works on
single Pillow images. The geometric operations are bicubic, as both recipes specify; by default timm
chooses bilinear or bicubic at random.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

from repro.data.augment import ops
from repro.data.augment.ops import adjust, bit_operands, sort_by_operation, span, truncate
from repro.data.loading.transfer import constant, to_device

OPERATIONS = ops.OPERATIONS
_OPERATION_ORDER = (*OPERATIONS[:12], "shear_x", "translate_x", "shear_y", "translate_y")
_ORDER_INDEX = torch.tensor([_OPERATION_ORDER.index(name) for name in OPERATIONS])
_LUMINANCE = (19595, 38470, 7471)  # Pillow's, of 65536; sums of products are exact in float32
_TAPS = (-1, 0, 1, 2)  # the pixels that bicubic interpolation takes
_SHEAR, _SHIFT, _ROTATION = 0.3, 0.45, pi / 6  # at level 1; a shift is of the image's side


def apply(
    pixels: Tensor, operation: Tensor, level: Tensor, sign: Tensor, fill: tuple[int, ...]
) -> Tensor:
    """Apply one operation to each image.

    pixels (B, 3, H, W) uint8; `fill`, the colour (3,) outside the image. On the CPU: operation (B,)
    int64, an index into OPERATIONS; level (B,) in [0, 1], the magnitude; sign (B,) -1 or 1, the
    direction.
    """
    height, width = pixels.shape[2:]
    order, places = sort_by_operation(_ORDER_INDEX[operation], _OPERATION_ORDER)
    level, sign = level[order], sign[order]
    # With no bit left the image is black, as in Pillow < 13.
    num_bits, threshold = 4 - (4 * level).to(torch.int32), 256 - (256 * level).to(torch.int32)
    bits = bit_operands(places, level, num_bits, threshold)
    # 'Increasing': away from 1, which changes nothing, by 0.9 level to either side.
    factor = (1 + sign * (0.9 * level)).clamp(min=0.1)
    amount = (sign * level).to(torch.float64)
    shears = [_SHEAR * amount[places[name], None] for name in ("shear_x", "shear_y")]
    shifts = [_SHIFT * amount[places[name], None] for name in ("translate_x", "translate_y")]
    lines = _rotation_maps(_ROTATION * amount[places["rotate"], None], height, width)
    rows = _line_shifts(shears[0], width * shifts[0], height)
    columns = _line_shifts(shears[1], height * shifts[1], width)

    order, back, bits, factor, *moves = to_device(
        pixels.device, order, order.argsort(), bits, factor, *lines, *rows, *columns
    )
    colour = constant(fill, torch.uint8, pixels.device).view(3, 1, 1)
    images = pixels.index_select(0, order)
    adjust(images, places, bits, factor, _grey, rounding=6)
    if len(part := images[places["rotate"]]):
        _rotate(part, moves[:2], colour)
    if len(part := images[span(places, "shear_x", "translate_x")]):
        _shift_lines(part, moves[2:5], colour)
    if len(part := images[span(places, "shear_y", "translate_y")]):
        _shift_lines(part.mT, moves[5:], colour)
    return images.index_select(0, back)


def _grey(pixels: Tensor) -> Tensor:
    """Luminance as Pillow rounds it: float32 (n, 3, H, W) to whole numbers (n, 1, H, W)."""
    red, green, blue = pixels.split(1, dim=1)
    total: Tensor = (_LUMINANCE[0] * red).add_(_LUMINANCE[1] * green).add_(_LUMINANCE[2] * blue)
    return total.add_(32768).div_(65536).floor_()


# The geometric operations: what the CPU computes, and what is done to images (n, 3, H, W).


def _line_shifts(shear: Tensor, shift: Tensor, lines: int) -> tuple[Tensor, Tensor, Tensor]:
    """The shift of each image line in pixels (n, lines), its integer part, and the weights
    (4, n, lines) of the pixels at _TAPS.

    shear (s, 1) is in pixels per line, about the corner of the image; shift (t, 1) in pixels.
    """
    sheared = shear * (torch.arange(lines) + 0.5)
    distance = torch.cat([sheared, shift.expand(-1, lines)])
    whole = distance.floor()
    return distance, whole.to(torch.int64), torch.stack(_cubic(distance - whole))


def _shift_lines(images: Tensor, slid: Sequence[Tensor], fill: Tensor) -> None:
    """Shift each row by its own distance (`_line_shifts`), bicubic along the row."""
    (distance, whole, weights), width, device = slid, images.shape[3], images.device
    column = whole[..., None] + constant(range(width), torch.int64, device)
    sampled = torch.zeros(images.shape, device=device)
    for tap, weight in zip(_TAPS, weights, strict=True):
        index = (column + tap).clamp_(0, width - 1)[:, None].expand(images.shape)
        sampled.addcmul_(images.gather(3, index), weight[:, None, :, None])
    centre = constant((x + 0.5 for x in range(width)), torch.float64, device)
    position = distance[..., None] + centre
    inside = torch.ge(position, 0, out=torch.empty_like(position)).mul_(position.lt_(width))
    _write_inside(images, sampled, inside, fill)


def _rotation_maps(angle: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A rotation by angle (n, 1) about the centre, as the contributions of each output column
    (n, 2, W) and row (n, 2, H) to the input coordinates (y, x), which start at the corner."""
    cosine, sine = angle.cos().to(torch.float32), angle.sin().to(torch.float32)
    y, x = (torch.arange(length) + (0.5 - length / 2) for length in (height, width))
    along = torch.stack([sine * x, cosine * x], dim=1)
    return along, torch.stack([cosine * y + height / 2, width / 2 - sine * y], dim=1)


def _rotate(images: Tensor, lines: Sequence[Tensor], fill: Tensor) -> None:
    """Bicubic, by the coordinates of `_rotation_maps`."""
    (along, down), device = lines, images.device
    n, _, height, width = images.shape
    source = along[:, :, None, :] + down[:, :, :, None]
    before = source - 0.5
    first = before.floor()
    taps = constant(_TAPS, torch.int64, device).view(-1, 1, 1)
    rows, columns = (first.to(torch.int64)[:, :, None] + taps).unbind(1)
    rows, columns = rows.clamp_(0, height - 1).mul_(width), columns.clamp_(0, width - 1)
    weights_y, weights_x = torch.stack(_cubic(before.sub_(first)), dim=2).unbind(1)
    channels, sampled = images.flatten(2), torch.zeros(images.shape, device=device)
    for row, weight_y in zip(rows.split(1, dim=1), weights_y.split(1, dim=1), strict=True):
        index = (row + columns).view(n, 1, -1).expand(n, 3, -1)
        taken = channels.gather(2, index).view(n, 3, len(_TAPS), height, width)
        weights = (weight_y * weights_x)[:, None]
        for pixels, weight in zip(taken.unbind(2), weights.unbind(2), strict=True):
            sampled.addcmul_(pixels, weight)
    ends = constant((height, width), torch.float32, device).view(2, 1, 1)
    inside = torch.ge(source, 0, out=torch.empty_like(source)).mul_(source.lt_(ends))
    _write_inside(images, sampled, inside[:, 0].mul_(inside[:, 1]), fill)


def _cubic(part: Tensor) -> tuple[Tensor, ...]:
    """Bicubic weights of the four pixels at _TAPS for a fractional position 0 <= part < 1.

    Keys' kernel with a = -1, as in Pillow, at the distances 1 + part, part, 1 - part, 2 - part.
    """
    part = part.to(torch.float32)
    rest = 1 - part
    both = part * rest
    return -rest * both, rest * (1 + both), part * (1 + both), -part * both


def _write_inside(images: Tensor, sampled: Tensor, inside: Tensor, fill: Tensor) -> None:
    """Write `sampled` where `inside` (n, H, W) is 1, and `fill` where it is 0."""
    levels = truncate(sampled.clamp_(0, 255)).sub_(fill)  # uint8 wraps around, and back
    torch.add(levels.mul_(truncate(inside)[:, None]), fill, out=images)
