"""Training augmentation, a whole batch at a time, on the batch's own device.

Every image has its own crop, operations, magnitudes, box and noise, all drawn from its key
(`randomness.sample_keys`); nothing depends on the rest of the batch but the partner in `mix`.
Choices are drawn on the CPU, where the keys are, and sent, so that the host waits for no device.
Values and order are those of the official code (libml/preprocess.py, augment/augment_ops.py), or of
timm where `augmentation` says so; where we depart from them, we say so. A step costs a CPU some
microseconds before it begins, so 64 images of CIFAR cost more apiece than 512: augment several
small batches at once, and cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data import color_jitter, timm_augment, timm_ops
from repro.data.ops import OPERATIONS, apply, mirror
from repro.data.randomness import bits, gaussian, uniform, unit_interval
from repro.data.transfer import constant, sent

ERASED_AREA = (0.02, 1 / 3)  # of the image, uniform
ERASED_ASPECT = 0.3  # height over width from this to its inverse, log-uniform
_CPU_PIXELS = 2**19  # of images that are augmented at once, so that a CPU's caches hold them


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image. Zero, or False, leaves a step out."""

    crop_padding: int = 2  # pixels per side
    flip: bool = True
    randaugment_layers: int = 2
    randaugment_magnitude: float = 9.0  # of 10
    randaugment_std: float = 0.5
    randaugment_prob: float = 0.5  # of each layer
    erase_prob: float = 0.25
    mixup_alpha: float = 0.8
    cutmix: bool = True  # its alpha is 1: the weight is uniform
    mix_prob: float = 1.0  # of a pair of images (timm: a batch) being mixed at all
    label_smoothing: float = 0.1  # applied by the mixing only, as the official code does
    smooth_unmixed: bool = False  # where nothing is mixed as well, as timm does
    augmentation: Literal["authors", "timm"] = "authors"  # whose RandAugment, erasing and mixing
    color_jitter: float = 0.0  # strength, after RandAugment, with SimCLR v2's greyscale and flip

    @property
    def mixes(self) -> bool:
        return self.mix_prob > 0 and (self.mixup_alpha > 0 or self.cutmix)

    @property
    def mixup_odds(self) -> float:
        """The probability that a mixed pair, or batch, is mixed by Mixup."""
        return 0.0 if self.mixup_alpha == 0 else 0.5 if self.cutmix else 1.0


class Stream(IntEnum):
    """What a sample's draws are for, with the columns of each stream."""

    CROP = 0  # top, left, whether mirrored
    RANDAUGMENT = 1  # four per layer: whether, operation, direction, magnitude
    ERASE = 2  # whether, area, aspect, centre row, centre column; timm: those of erased_box
    NOISE = 3  # one per value of the image, channels last
    MIX_PAIR = 4  # whether, Mixup or CutMix; those of the pair's first sample count
    MIX_SAMPLE = 5  # weight, box row, box column
    JITTER = 6  # those of color_jitter
    MIX_BATCH = 7  # of the batch's key: those of timm_augment.own_share


def augment(
    pixels: Tensor,
    keys: Tensor,
    spec: Augmentation,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """uint8 (B, 3, H, W), with keys (B,) on the CPU -> normalised float32 (B, 3, H, W).

    Crop, flip, RandAugment, colour jitter, normalisation, random erasing. ValueError for other
    pixels.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        found = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(f"augment: pixels must be torch.uint8 (B, 3, H, W), not {found}")
    size = len(pixels)
    if pixels.device.type == "cpu":
        size = max(1, _CPU_PIXELS // (pixels.shape[2] * pixels.shape[3]))
    pairs = zip(pixels.split(size), keys.split(size), strict=True)
    parts = [_distort(part, of_part, spec, mean) for part, of_part in pairs]
    pixels = torch.cat(parts) if len(parts) > 1 else parts[0]
    return erase(normalize(pixels, mean, std), keys, spec)


def _distort(pixels: Tensor, keys: Tensor, spec: Augmentation, mean: Sequence[float]) -> Tensor:
    """Everything that is done to uint8 pixels."""
    pixels = crop_and_flip(pixels, keys, spec)
    pixels = rand_augment(pixels, keys, spec, mean)
    if spec.color_jitter == 0:
        return pixels
    draws = uniform(keys, Stream.JITTER, color_jitter.DRAWS)
    return color_jitter.color_jitter(pixels, draws, spec.color_jitter)


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (pixels / 255 - mean) / std; all that evaluation needs."""
    center, scale = (
        constant(of, torch.float32, pixels.device).view(-1, 1, 1) for of in (mean, std)
    )
    return pixels.to(torch.float32).div_(255).sub_(center).div_(scale)


def crop_and_flip(pixels: Tensor, keys: Tensor, spec: Augmentation) -> Tensor:
    """A random window of the zero-padded image, mirrored with probability 1/2, in one gather."""
    height, width = pixels.shape[2:]
    pad = spec.crop_padding
    draws = uniform(keys, Stream.CROP, 3)
    if pad == 0:
        return mirror(pixels, draws[:, 2] < 0.5) if spec.flip else pixels
    top, left = (draws[:, :2] * (2 * pad + 1)).to(torch.int64).unsqueeze(2).unbind(1)
    row, column = torch.arange(height), torch.arange(width)
    if spec.flip:
        column = torch.where(draws[:, 2:] < 0.5, width - 1 - column, column)
    rows, columns = sent(pixels.device, (top + row) * (width + 2 * pad), left + column)
    source = (rows[:, :, None] + columns[:, None, :]).flatten(1)[:, None].expand(-1, 3, -1)
    return F.pad(pixels, (pad,) * 4).flatten(2).gather(2, source).view_as(pixels)


def rand_augment(pixels: Tensor, keys: Tensor, spec: Augmentation, mean: Sequence[float]) -> Tensor:
    """Layers that each, with `randaugment_prob`, do one of the operations; each its magnitude.

    The authors' are sixteen, the identity among them; timm's are fifteen, 'increasing', with the
    data set's mean colour outside the image.
    """
    layers = spec.randaugment_layers
    columns = torch.arange(4 * layers)
    draws = bits(keys[:, None], Stream.RANDAUGMENT, columns).view(len(keys), layers, 4)
    whether, which, side = unit_interval(draws[:, :, :3]).unbind(2)
    magnitude = spec.randaugment_magnitude + spec.randaugment_std * gaussian(draws[:, :, 3])
    level = magnitude.clamp(0, 10) * 0.1  # not / 10, which CUDA rounds otherwise
    sign = 1 - 2 * (side < 0.5).to(torch.float32)
    done, names, first = apply, OPERATIONS, 0
    if spec.augmentation == "timm":
        colour = tuple(min(255, round(255 * channel)) for channel in mean)
        done, names, first = partial(timm_ops.apply, fill=colour), timm_ops.OPERATIONS, 1
    operation = first + (which * (len(names) - first)).to(torch.int64)
    operation = operation * (whether < spec.randaugment_prob)  # 0 is the identity
    for layer in range(layers):
        pixels = done(pixels, operation[:, layer], level[:, layer], sign[:, layer])
    return pixels


def erase(images: Tensor, keys: Tensor, spec: Augmentation) -> Tensor:
    """With `erase_prob`, a box of N(0, 1) noise per image, written into `images`."""
    if spec.erase_prob == 0:
        return images
    height, width = images.shape[2:]
    timms = spec.augmentation == "timm"
    draws = uniform(keys, Stream.ERASE, 1 + (timm_augment.ERASE_DRAWS if timms else 4))
    sample = (draws[:, 0] < spec.erase_prob).nonzero()[:, 0]
    box = timm_augment.erased_box if timms else _erased_box
    (top, tall), (left, wide) = map(_run, box(draws[sample, 1:], height, width))

    # The pixels of all boxes, one after the other: the n-th of its box is in line n // wide of it.
    counts = tall * wide
    facts = [
        sample,
        keys[sample],
        counts.cumsum(0) - counts,
        wide,
        width - wide,
        top * width + left,
    ]
    total, device = int(counts.sum()), images.device
    if not total:
        return images
    counts, there = sent(device, counts, torch.stack(facts, dim=1))
    box_of = torch.repeat_interleave(counts, output_size=total)
    sample, of_pixel, start, wide, skipped, first = there.index_select(0, box_of).unbind(1)
    number = torch.arange(total, device=device) - start
    place = number + number // wide * skipped + first
    position = 3 * place[:, None] + constant(range(3), torch.int64, device)
    noise = gaussian(bits(of_pixel[:, None], Stream.NOISE, position))
    images.view(len(images), 3, -1)[sample, :, place] = noise
    return images


def _run(line: Tensor) -> tuple[Tensor, Tensor]:
    """Where the True begin in each row of a bool (B, L), and how many there are, in one piece."""
    return line.to(torch.uint8).argmax(1), line.sum(1)


def _erased_box(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which rows (B, H) and columns (B, W): the centre is uniform, what lies outside is lost.

    The official code does not draw again.
    """
    area, aspect, centre_y, centre_x = draws.unbind(1)
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area
    stretch = ((1 - 2 * aspect.to(torch.float64)) * log(ERASED_ASPECT)).exp().to(torch.float32)
    rows = _within(centre_y * height, height * (area * stretch).sqrt() / 2, height)
    return rows, _within(centre_x * width, width * (area / stretch).sqrt() / 2, width)


def _within(middle: Tensor, half_length: Tensor, length: int) -> Tensor:
    """Bool (B, length): which of 0..length-1 lie less than half_length (B,) from middle (B,)."""
    line = torch.arange(length, device=middle.device)
    middle, half_length = middle[:, None], half_length[:, None]
    return (line > middle - half_length) & (line < middle + half_length)


def mix(
    images: Tensor,
    labels: Tensor,
    keys: Tensor,
    num_classes: int,
    spec: Augmentation,
    *,
    batch_key: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix with the neighbour: images (B, 3, H, W), soft targets (B, num_classes).

    The partner of the sample at position p is p XOR 1. Batches are shuffled, so it is a random one;
    and a global batch cut into any even slices, over GPUs or accumulation steps, is mixed the same.
    (The official code chooses Mixup or CutMix once, and partners, within each device's batch; here
    each pair chooses, by its first sample's key.) Weights are each sample's own, as there. Labels
    are smoothed where they are mixed, as there: without mixing, targets are one-hot.

    As timm mixes, one choice, weight and box hold for the global batch, and come from its
    `batch_key`, a 0-dim int64; `keys` are not used.

    Raises ValueError when there is something to mix and the batch is odd or its key is missing.
    """
    targets = F.one_hot(labels, num_classes).to(torch.float32)
    if not spec.mixes:
        smoothing = spec.label_smoothing * spec.smooth_unmixed
        return images, targets * (1 - smoothing) + smoothing / num_classes
    if len(images) % 2:
        raise ValueError(f"mix: images are mixed in pairs, and this batch has {len(images)}")
    height, width = images.shape[2:]
    if spec.augmentation == "timm":
        if batch_key is None:
            raise ValueError("mix: timm mixes by the key of the global batch; pass batch_key")
        draws = uniform(batch_key.view(1), Stream.MIX_BATCH, timm_augment.MIX_DRAWS)[0]
        mixed, share, *own = timm_augment.own_share(
            draws, height, width, spec.mix_prob, spec.mixup_odds, spec.mixup_alpha
        )
    else:
        mixed, share, *own = _own_share(keys, height, width, spec)

    smoothed = (spec.label_smoothing * (mixed | spec.smooth_unmixed))[:, None]
    kept, spread, share, others, rows, columns = sent(
        images.device, 1 - smoothed, smoothed / num_classes, share, 1 - share, *own
    )
    targets = targets * kept + spread
    pixels = (rows * columns)[:, None]
    images = _partner(images).mul_(1 - pixels).add_(images * pixels)
    targets = targets * share + _partner(targets) * others
    return images, targets


def _own_share(
    keys: Tensor, height: int, width: int, spec: Augmentation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which samples are mixed (B,); their own share of their label (B, 1), and of their pixels, a
    product of (B, H, 1) and (B, 1, W).

    Mixup keeps the larger part. CutMix keeps a box, always inside the image, of nominally at most
    half of it; the label follows the nominal area.
    """
    whether, which = uniform(keys[::2], Stream.MIX_PAIR, 2).repeat_interleave(2, dim=0).unbind(1)
    mixed = whether < spec.mix_prob
    by_mixup = (mixed & (which < spec.mixup_odds))[:, None]
    by_cutmix = (mixed & (which >= spec.mixup_odds))[:, None]
    draw, top, left = uniform(keys, Stream.MIX_SAMPLE, 3)[:, :, None].unbind(1)
    minor = draw.to(torch.float64) ** (1 / (spec.mixup_alpha or 1)) / 2
    even_share = torch.where(by_mixup, 1 - minor.to(torch.float32), 1.0)
    box_area = draw / 2
    rows = torch.where(by_cutmix, _box(box_area, top, height), even_share)
    columns = torch.where(by_cutmix, _box(box_area, left, width), 1.0)
    share = torch.where(by_cutmix, box_area, even_share)
    return mixed, share, rows[:, :, None], columns[:, None, :]


def _box(area: Tensor, start: Tensor, length: int) -> Tensor:
    """(B, length): 1 on floor(sqrt(area) length) places, from where the official modulo begins."""
    extent = (area.sqrt() * length).to(torch.int64)
    first = (start * length).to(torch.int64) % (length - extent)
    line = torch.arange(length, device=area.device)
    return ((line >= first) & (line < first + extent)).to(torch.float32)


def _partner(values: Tensor) -> Tensor:
    """A copy with neighbours exchanged: rows 1, 0, 3, 2, ..."""
    return values.view(-1, 2, *values.shape[1:]).flip(1).view_as(values)
