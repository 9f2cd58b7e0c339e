"""The authors' sixteen RandAugment operations on whole batches of uint8 images.

`apply` gives every image the operation it drew. Ranges and arithmetic are those of the official
augment/rand_augment.py and augment_ops.py. Results are whole numbers, or float32 cut off at the
point after a few correctly rounded steps, and so the same on every device. Where the official code
leaves a grey level to float error (AutoContrast, Sharpness), the exact quotient decides here.

Masks are arithmetic on uint8, and float becomes uint8 by way of int16, because a CPU vectorises
neither `torch.where` nor the direct conversion: 16 and 3 microseconds per image instead of 0.4.
"""

from collections.abc import Callable, Sequence
from math import pi

import torch
from torch import Tensor

Function = Callable[[Tensor, Tensor], Tensor]  # images (n, 3, H, W), places in the batch (n,)

FILL = 128  # grey, where a geometric operation looks outside the image
_GREY = (0.2989, 0.5870, 0.1140)  # tf.image.rgb_to_grayscale
_TRANSLATION_PIXELS = {224: 100, 128: 40, 96: 30, 32: 10}  # at level 1, by image side


def apply(pixels: Tensor, operation: Tensor, level: Tensor, sign: Tensor) -> Tensor:
    """To each image its own operation.

    pixels (B, 3, H, W) uint8; operation (B,) int64, an index into OPERATIONS; level (B,) in [0, 1],
    the magnitude; sign (B,) -1 or 1, the direction of the geometric ones, which are one function.
    """

    def toned(tone: Callable[[Tensor, Tensor], Tensor]) -> Function:
        return lambda images, which: tone(images, level[which])

    def moved(images: Tensor, which: Tensor) -> Tensor:
        return move(images, operation[which] - len(TONES), (sign * level)[which])

    functions = (None, *map(toned, TONES[1:]), moved)
    return dispatch(functions, operation.clamp(max=len(TONES)), pixels.clone())


def dispatch(functions: Sequence[Function | None], choice: Tensor, images: Tensor) -> Tensor:
    """To each image its own function, written into `images`; None leaves an image as it is.

    choice (B,) int64 are indices into `functions`. A function gets its images, a copy that it may
    write to, and their places in the batch. Images are sorted by function, so that each runs once;
    the host waits for the device to learn how many chose which.
    """
    every = torch.arange(len(functions), device=choice.device)
    sizes = (choice == every[:, None]).sum(1).tolist()
    places = choice.argsort(stable=True).split(sizes)
    for function, which in zip(functions, places, strict=True):
        if function and len(which):
            images.index_copy_(0, which, function(images.index_select(0, which), which))
    return images


def mirror(pixels: Tensor, whether: Tensor) -> Tensor:
    """uint8 pixels with left and right exchanged where `whether` (B,) bool."""
    mask = each(whether).to(torch.uint8) * 255
    return pixels ^ ((pixels ^ pixels.flip(3)) & mask)


# Tones: pixels (n, 3, H, W) and the level (n,) of each image.


def identity(pixels: Tensor, level: Tensor) -> Tensor:
    return pixels


def auto_contrast(pixels: Tensor, level: Tensor) -> Tensor:
    """Stretches each channel to 0..255; a constant channel stays."""
    low = pixels.amin((2, 3), keepdim=True)
    span = pixels.amax((2, 3), keepdim=True) - low
    stretched = (pixels - low).to(torch.float32) * 255 / span.clamp(min=1)
    return truncate(stretched) + low * (span == 0)


def equalize(pixels: Tensor, level: Tensor) -> Tensor:
    """Flattens each channel's histogram, in PIL's integers; a channel of hardly one value stays."""
    channels = pixels.reshape(-1, pixels.shape[2] * pixels.shape[3]).to(torch.int64)
    grey = torch.arange(256, device=pixels.device)
    first_bin = 256 * torch.arange(len(channels), device=pixels.device)[:, None]
    histogram = torch.bincount((channels + first_bin).flatten(), minlength=256 * len(channels))
    histogram = histogram.view(-1, 256)
    brightest = histogram.gather(1, channels.amax(1, keepdim=True))
    step = (channels.shape[1] - brightest) // 255
    below = histogram.cumsum(1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = table * (step > 0) + grey * (step == 0)
    return table.to(torch.uint8).gather(1, channels).view_as(pixels)


def invert(pixels: Tensor, level: Tensor) -> Tensor:
    return 255 - pixels


def posterize(pixels: Tensor, level: Tensor) -> Tensor:
    """Keeps the highest int(4 level) bits; with none kept the image is black."""
    kept = (4 * level).to(torch.int32)
    return pixels & each(256 - (256 >> kept)).to(torch.uint8)


def solarize(pixels: Tensor, level: Tensor) -> Tensor:
    """Inverts from the threshold int(256 level) upwards: 255 - pixel is pixel XOR 255."""
    threshold = (256 * level).clamp(max=255).to(torch.uint8)
    return pixels ^ ((pixels >= each(threshold)).to(torch.uint8) * 255)


def solarize_add(pixels: Tensor, level: Tensor) -> Tensor:
    """Adds int(110 level) to what is darker than 128; 127 + 110 cannot overflow."""
    addition = (110 * level).to(torch.uint8)
    return pixels + (pixels < 128) * each(addition)


def color(pixels: Tensor, level: Tensor) -> Tensor:
    return _enhance(_grey(pixels), pixels, level)


def contrast(pixels: Tensor, level: Tensor) -> Tensor:
    return _enhance(rounded_mean(_grey(pixels)), pixels, level)


def brightness(pixels: Tensor, level: Tensor) -> Tensor:
    return _enhance(torch.zeros((), device=pixels.device), pixels, level)


def sharpness(pixels: Tensor, level: Tensor) -> Tensor:
    return _enhance(smooth(pixels, 0), pixels, level)


def smooth(pixels: Tensor, rounding: int) -> Tensor:
    """PIL's SMOOTH, float32: the 3x3 mean with the centre counted five times; the border stays.

    The mean is of thirteenths: `rounding` 0 cuts off (TensorFlow), 6 rounds to the nearest (PIL).
    """
    original = pixels.to(torch.float32)
    rows = original[:, :, :-2] + original[:, :, 1:-1] + original[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * original[:, :, 1:-1, 1:-1]
    # CUDA divides by a constant with its rounded inverse; half a unit keeps the floor exact.
    original[:, :, 1:-1, 1:-1] = ((total + (rounding + 0.5)) / 13).floor()
    return original


def _enhance(degenerate: Tensor, pixels: Tensor, level: Tensor) -> Tensor:
    """From the degenerate image by `factor` towards this one: 1.72 at level 0.9, so beyond it."""
    return blend(degenerate, pixels, 1.8 * level + 0.1)


def blend(degenerate: Tensor, pixels: Tensor, factor: Tensor) -> Tensor:
    """uint8: `factor` (n,) of the way from the degenerate image, which is float32, to `pixels`."""
    distance = pixels.to(torch.float32).sub_(degenerate)
    return truncate(distance.mul_(each(factor)).add_(degenerate).clamp_(0, 255))


def rounded_mean(grey: Tensor) -> Tensor:
    """Of images of whole numbers (n, 1, H, W), half a level upwards: (n, 1, 1, 1), at any size."""
    total = grey.sum((1, 2, 3), keepdim=True, dtype=torch.float64).to(torch.int64)
    pixels = grey.shape[2] * grey.shape[3]
    return ((2 * total + pixels) // (2 * pixels)).to(torch.float32)


def _grey(pixels: Tensor) -> Tensor:
    """Luminance as TensorFlow rounds it, whole numbers as float32 (n, 1, H, W)."""
    red, green, blue = torch.split(pixels.to(torch.float32), 1, dim=1)
    luminance = _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue
    return (luminance * (255.5 / 255)).floor_()


def move(pixels: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    """The five geometric operations, which are one affine map from output to input coordinates.

    kind (n,) is an index into MOVES, amount (n,) in [-1, 1] how far: rotation by up to 30 degrees
    about the centre, shear by 0.3 about the first pixel, translation. Nearest pixel, or grey.
    """
    height, width = pixels.shape[2:]
    pixels_far = _TRANSLATION_PIXELS.get(width, int(0.3 * width))
    reach = torch.tensor((pi / 6, 0.3, 0.3, pixels_far, pixels_far), device=pixels.device)
    drawn = kind[:, None] == torch.arange(len(MOVES), device=pixels.device)
    extent = (drawn * reach * amount[:, None])[:, :, None, None]
    angle, shear_x, shear_y, shift_x, shift_y = extent.unbind(1)
    cosine, sine = (f(angle.to(torch.float64)).to(torch.float32) for f in (torch.cos, torch.sin))

    y = torch.arange(height, dtype=torch.float32, device=pixels.device)[:, None]
    x = torch.arange(width, dtype=torch.float32, device=pixels.device)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    from_y, from_x = y - middle_y, x - middle_x
    source_y = (sine * from_x + shear_y * x) + (cosine * from_y + middle_y + shift_y)
    source_x = (cosine * from_x + middle_x + shift_x) + (shear_x * y - sine * from_y)
    return _nearest(pixels, source_y, source_x)


def _nearest(pixels: Tensor, source_y: Tensor, source_x: Tensor) -> Tensor:
    """The pixel nearest to the coordinates (n, H, W), or FILL."""
    height, width = pixels.shape[2:]
    row, column = (source_y + 0.5).floor_(), (source_x + 0.5).floor_()
    row_inside, column_inside = row.clamp(0, height - 1), column.clamp(0, width - 1)
    inside = ((row == row_inside) & (column == column_inside))[:, None]
    source = (row_inside * width + column_inside).to(torch.int64).flatten(1)
    shown = pixels.flatten(2).gather(2, source[:, None].expand(-1, 3, -1)).view_as(pixels)
    return shown.mul_(inside).add_(~inside * shown.new_tensor(FILL))


def truncate(values: Tensor) -> Tensor:
    """float32 in [0, 256) to uint8."""
    return values.to(torch.int16).to(torch.uint8)


def each(values: Tensor) -> Tensor:
    """One value per image, shaped to broadcast over (n, 3, H, W)."""
    return values[:, None, None, None]


TONES = (
    identity,
    auto_contrast,
    equalize,
    invert,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
)
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (*(tone.__name__ for tone in TONES), *MOVES)
