"""Training augmentation, a whole batch at a time, on the batch's own device.

Each image has its own crop, operations, magnitudes, box and noise, all derived from its key
(`randomness.sample_keys`). Nothing depends on the rest of the batch except the partner in `mix`.
Random numbers are generated on the CPU, where the keys are, and copied to the device without
blocking the host. Values and order follow the official code (libml/preprocess.py,
augment/augment_ops.py), or timm if `augmentation` is 'timm'; every deviation is noted. Each
operation has a fixed overhead of some microseconds on a CPU, so 64 CIFAR images cost more per image
than 512: augment several small batches together, then split.
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

from repro.data.augment import color_jitter, timm_augment, timm_ops
from repro.data.augment.ops import OPERATIONS, apply, flip_horizontally
from repro.data.loading.transfer import constant, to_device
from repro.data.randomness import bits, gaussian, uniform, unit_interval

ERASED_AREA = (0.02, 1 / 3)  # of the image, uniform
ERASED_ASPECT = 0.3  # height over width from this to its inverse, log-uniform
_CPU_PIXELS = 2**19  # of images that are augmented at once, so that a CPU's caches hold them


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of training images. Zero or False disables a step."""

    crop_padding: int = 2  # pixels per side
    flip: bool = True
    randaugment_layers: int = 2
    randaugment_magnitude: float = 9.0  # of 10
    randaugment_std: float = 0.5
    randaugment_prob: float = 0.5  # of each layer
    erase_prob: float = 0.25
    mixup_alpha: float = 0.8
    cutmix: bool = True  # its alpha is 1: the weight is uniform
    mix_prob: float = 1.0  # that a pair of images (timm: a batch) is mixed
    label_smoothing: float = 0.1  # of mixed images only, as in the official code
    smooth_unmixed: bool = False  # label smoothing of unmixed images as well, as in timm
    augmentation: Literal["authors", "timm"] = "authors"  # whose RandAugment, erasing and mixing
    color_jitter: float = 0.0  # strength, after RandAugment, with SimCLR v2's greyscale and flip

    @property
    def mixes(self) -> bool:
        return self.mix_prob > 0 and (self.mixup_alpha > 0 or self.cutmix)

    @property
    def mixup_odds(self) -> float:
        """The probability that a mixed pair, or batch, is mixed by Mixup."""
        return 0.0 if self.mixup_alpha == 0 else 0.5 if self.cutmix else 1.0


class AugmentStream(IntEnum):
    """The random streams of a sample, with the columns of each."""

    CROP = 0  # top, left, horizontal flip
    RANDAUGMENT = 1  # four per layer: apply, operation, direction, magnitude
    ERASE = 2  # apply, area, aspect, centre row, centre column; timm: see erase_box
    NOISE = 3  # one per value of the image, channels last
    MIX_PAIR = 4  # apply, Mixup or CutMix; from the key of the pair's first sample
    MIX_SAMPLE = 5  # weight, box row, box column
    JITTER = 6  # see color_jitter
    MIX_BATCH = 7  # of the batch key: see timm_augment.mix_weights


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
        kind = f"{pixels.dtype} {tuple(pixels.shape)}"
        raise ValueError(f"augment: pixels must be torch.uint8 (B, 3, H, W), not {kind}")
    size = len(pixels)
    if pixels.device.type == "cpu":
        size = max(1, _CPU_PIXELS // (pixels.shape[2] * pixels.shape[3]))
    pairs = zip(pixels.split(size), keys.split(size), strict=True)
    parts = [_augment_uint8(part, part_keys, spec, mean) for part, part_keys in pairs]
    pixels = torch.cat(parts) if len(parts) > 1 else parts[0]
    return erase(normalize(pixels, mean, std), keys, spec)


def _augment_uint8(
    pixels: Tensor, keys: Tensor, spec: Augmentation, mean: Sequence[float]
) -> Tensor:
    """The steps that work on uint8 pixels."""
    pixels = crop_and_flip(pixels, keys, spec)
    pixels = rand_augment(pixels, keys, spec, mean)
    if spec.color_jitter == 0:
        return pixels
    draws = uniform(keys, AugmentStream.JITTER, color_jitter.DRAWS)
    return color_jitter.color_jitter(pixels, draws, spec.color_jitter)


def normalize(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W) -> float32 (pixels / 255 - mean) / std, as for evaluation."""
    center, scale = (
        constant(values, torch.float32, pixels.device).view(-1, 1, 1) for values in (mean, std)
    )
    return pixels.to(torch.float32).div_(255).sub_(center).div_(scale)


def crop_and_flip(pixels: Tensor, keys: Tensor, spec: Augmentation) -> Tensor:
    """A random crop of the zero-padded image, flipped with probability 1/2, in one gather."""
    height, width = pixels.shape[2:]
    pad = spec.crop_padding
    draws = uniform(keys, AugmentStream.CROP, 3)
    if pad == 0:
        return flip_horizontally(pixels, draws[:, 2] < 0.5) if spec.flip else pixels
    top, left = (draws[:, :2] * (2 * pad + 1)).to(torch.int64).unsqueeze(2).unbind(1)
    row, column = torch.arange(height), torch.arange(width)
    if spec.flip:
        column = torch.where(draws[:, 2:] < 0.5, width - 1 - column, column)
    rows, columns = to_device(pixels.device, (top + row) * (width + 2 * pad), left + column)
    source = (rows[:, :, None] + columns[:, None, :]).flatten(1)[:, None].expand(-1, 3, -1)
    return F.pad(pixels, (pad,) * 4).flatten(2).gather(2, source).view_as(pixels)


def rand_augment(pixels: Tensor, keys: Tensor, spec: Augmentation, mean: Sequence[float]) -> Tensor:
    """RandAugment: each layer applies a random operation with probability `randaugment_prob`.

    The authors' code has sixteen operations, including the identity. timm has fifteen, 'increasing'
    ones, which fill with the dataset's mean colour outside the image.
    """
    layers = spec.randaugment_layers
    columns = torch.arange(4 * layers)
    draws = bits(keys[:, None], AugmentStream.RANDAUGMENT, columns).view(len(keys), layers, 4)
    apply_draw, choice_draw, direction_draw = unit_interval(draws[:, :, :3]).unbind(2)
    magnitude = spec.randaugment_magnitude + spec.randaugment_std * gaussian(draws[:, :, 3])
    level = magnitude.clamp(0, 10) * 0.1  # not / 10, which CUDA rounds otherwise
    sign = 1 - 2 * (direction_draw < 0.5).to(torch.float32)
    apply_operation, names, first = apply, OPERATIONS, 0
    if spec.augmentation == "timm":
        colour = tuple(min(255, round(255 * channel)) for channel in mean)
        apply_operation, names, first = partial(timm_ops.apply, fill=colour), timm_ops.OPERATIONS, 1
    operation = first + (choice_draw * (len(names) - first)).to(torch.int64)
    operation = operation * (apply_draw < spec.randaugment_prob)  # 0 is the identity
    for layer in range(layers):
        pixels = apply_operation(pixels, operation[:, layer], level[:, layer], sign[:, layer])
    return pixels


def erase(images: Tensor, keys: Tensor, spec: Augmentation) -> Tensor:
    """With `erase_prob`, a box of N(0, 1) noise per image, written into `images`."""
    if spec.erase_prob == 0:
        return images
    height, width = images.shape[2:]
    is_timm = spec.augmentation == "timm"
    draws = uniform(keys, AugmentStream.ERASE, 1 + (timm_augment.ERASE_DRAWS if is_timm else 4))
    sample = (draws[:, 0] < spec.erase_prob).nonzero()[:, 0]
    box = timm_augment.erase_box if is_timm else _erase_box
    (top, tall), (left, wide) = map(_first_and_count, box(draws[sample, 1:], height, width))

    # The pixels of all boxes in one list; pixel n of a box is in its row n // wide.
    counts = tall * wide
    columns_list = [
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
    counts, on_device = to_device(device, counts, torch.stack(columns_list, dim=1))
    box_of = torch.repeat_interleave(counts, output_size=total)
    sample, of_pixel, start, wide, skipped, first = on_device.index_select(0, box_of).unbind(1)
    number = torch.arange(total, device=device) - start
    place = number + number // wide * skipped + first
    position = 3 * place[:, None] + constant(range(3), torch.int64, device)
    noise = gaussian(bits(of_pixel[:, None], AugmentStream.NOISE, position))
    images.view(len(images), 3, -1)[sample, :, place] = noise
    return images


def _first_and_count(line: Tensor) -> tuple[Tensor, Tensor]:
    """The start and the length of the contiguous run of True in each row of a bool (B, L)."""
    return line.to(torch.uint8).argmax(1), line.sum(1)


def _erase_box(draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Masks of rows (B, H) and columns (B, W). The centre is uniform; the box is clipped.

    As in the official code, a clipped box is not resampled.
    """
    area, aspect, centre_y, centre_x = draws.unbind(1)
    area = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area
    stretch = ((1 - 2 * aspect.to(torch.float64)) * log(ERASED_ASPECT)).exp().to(torch.float32)
    rows = _open_interval_mask(centre_y * height, height * (area * stretch).sqrt() / 2, height)
    return rows, _open_interval_mask(centre_x * width, width * (area / stretch).sqrt() / 2, width)


def _open_interval_mask(middle: Tensor, half_length: Tensor, length: int) -> Tensor:
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

    The partner of the sample at position p is p XOR 1. Batches are shuffled, so the partner is
    random, and a global batch gives the same result however it is split over GPUs or accumulation
    steps, as long as the slices are even. (The official code chooses Mixup or CutMix, and the
    partners, once per device batch; here each pair chooses, by the key of its first sample.) As in
    the official code, each sample has its own weight, and only mixed labels are smoothed: without
    mixing, targets are one-hot.

    With timm's mixing, one choice, weight and box apply to the global batch. They derive from
    `batch_key`, a 0-dim int64; `keys` are unused.

    Raises ValueError if a batch to be mixed has an odd size or lacks its key.
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
        draws = uniform(batch_key.view(1), AugmentStream.MIX_BATCH, timm_augment.MIX_DRAWS)[0]
        mixed, label_weight, *pixel_weights = timm_augment.mix_weights(
            draws, height, width, spec.mix_prob, spec.mixup_odds, spec.mixup_alpha
        )
    else:
        mixed, label_weight, *pixel_weights = _mix_weights(keys, height, width, spec)

    smoothed = (spec.label_smoothing * (mixed | spec.smooth_unmixed))[:, None]
    one_hot_scale, smoothing_share, label_weight, partner_weight, rows, columns = to_device(
        images.device,
        1 - smoothed,
        smoothed / num_classes,
        label_weight,
        1 - label_weight,
        *pixel_weights,
    )
    targets = targets * one_hot_scale + smoothing_share
    pixels = (rows * columns)[:, None]
    images = _partner(images).mul_(1 - pixels).add_(images * pixels)
    targets = targets * label_weight + _partner(targets) * partner_weight
    return images, targets


def _mix_weights(
    keys: Tensor, height: int, width: int, spec: Augmentation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whether each sample is mixed (B,), the weight of its own label (B, 1), and the weight of its
    own pixels as a product of (B, H, 1) and (B, 1, W).

    Mixup gives the larger weight to the sample itself. CutMix keeps a box of the sample, always
    inside the image and nominally at most half of it; the label weight is the nominal area.
    """
    apply_draw, choice_draw = (
        uniform(keys[::2], AugmentStream.MIX_PAIR, 2).repeat_interleave(2, dim=0).unbind(1)
    )
    mixed = apply_draw < spec.mix_prob
    by_mixup = (mixed & (choice_draw < spec.mixup_odds))[:, None]
    by_cutmix = (mixed & (choice_draw >= spec.mixup_odds))[:, None]
    draw, top, left = uniform(keys, AugmentStream.MIX_SAMPLE, 3)[:, :, None].unbind(1)
    minor = draw.to(torch.float64) ** (1 / (spec.mixup_alpha or 1)) / 2
    even_share = torch.where(by_mixup, 1 - minor.to(torch.float32), 1.0)
    box_area = draw / 2
    rows = torch.where(by_cutmix, _box(box_area, top, height), even_share)
    columns = torch.where(by_cutmix, _box(box_area, left, width), 1.0)
    label_weight = torch.where(by_cutmix, box_area, even_share)
    return mixed, label_weight, rows[:, :, None], columns[:, None, :]


def _box(area: Tensor, start: Tensor, length: int) -> Tensor:
    """(B, length): 1 on floor(sqrt(area) length) pixels; the start is as in the official code."""
    extent = (area.sqrt() * length).to(torch.int64)
    first = (start * length).to(torch.int64) % (length - extent)
    line = torch.arange(length, device=area.device)
    return ((line >= first) & (line < first + extent)).to(torch.float32)


def _partner(values: Tensor) -> Tensor:
    """A copy with neighbours swapped: rows 1, 0, 3, 2, ..."""
    return values.view(-1, 2, *values.shape[1:]).flip(1).view_as(values)
