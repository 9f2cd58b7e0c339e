"""Images composed of embedded Fashion-MNIST images on textures: one object each, or four.

Data for small scales. Classifiers are trained on `singles`, the dataset 'fashion-singles';
explanations are evaluated on `fours`, whose boxes and masks are exact, since no pixel blends an
object with the texture.

An image is a function of kind, split, seed and index. All arithmetic is on integers, in int64 or,
for matrix products, in float64 without rounding: the same bytes on any machine.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data import atlas
from repro.data.images import RGB, Images, OfficialSplit, make_images
from repro.data.randomness import bits, derive_seed, sample_keys, uniform

ImageKind = Literal["singles", "fours"]

SINGLES = "fashion-singles"  # the name of `singles` as a dataset
SOURCE = "fashion-mnist-6k"
SIDE = 64  # px, of a composed image
MEAN: RGB = (0.1989, 0.1990, 0.2000)  # of the 6,000 train singles of 64 px
STD: RGB = (0.1055, 0.1041, 0.1051)

FRAME = 28  # px, of a Fashion-MNIST image
INK = 32  # grey level; brighter pixels, and holes within them, are the object; others its fringe
GRAIN = 32  # divides an image's side; the next constants are in units of side / GRAIN
SMALLEST, LARGEST = 7, 13  # FRAME in the composed image, 14 to 26 px of 64
MARGIN = 1  # minimum around every object in its window, the image or a quadrant; 2 px of 64
CELLS = (2, 4, 8, 16, 32)  # px between neighbouring lattice points of a texture
DARKEST, LIGHTEST = 16, 79  # levels of the first of a texture's two colours
CONTRAST, BRIGHTEST = 24, 103  # maximum difference of the second colour, and its maximum
TINT = 128  # minimum level of an object's tint
_CHUNK = 256  # images rendered at once; does not affect the result


class ComposedStream(IntEnum):
    """The random streams of an image's key and, after OBJECT, of the keys of its objects."""

    CELLS = 0  # height and width of the cells of two fields
    LATTICE = 1  # one field after the other
    COLOURS = 2
    CLASSES = 3  # a permutation, of which the first four are used
    OBJECT = 4  # the key of the object in each window
    WHICH = 5  # the index among the images of its class
    SIZE = 6
    PLACE = 7  # top, left
    TINT = 8


class Fours(NamedTuple):
    """N images of S px with four objects each; quadrants in the order TL, TR, BL, BR."""

    pixels: Tensor  # (N, 3, S, S) uint8
    labels: Tensor  # (N, 4) int64, four different classes
    boxes: Tensor  # (N, 4, 4) int64: x0, y0, x1, y1, tight around the mask, inclusive
    masks: Tensor  # (N, 4, S, S) bool: the pixels of each object


class Objects(NamedTuple):
    """Objects cut out of M images."""

    grey: Tensor  # (M, 28, 28) uint8
    solid: Tensor  # (M, 28, 28) uint8, 1 on the object
    labels: Tensor  # (M,) int64

    def take(self, indices: Tensor) -> Objects:
        return Objects(*(field[indices] for field in self))


def singles(split: OfficialSplit, side: int = SIDE) -> Images:
    """Every image of a split of Fashion-MNIST-6k, in its order, as an object on a texture.

    Size and position are random: 28 px become 14 to 26 of 64, at least 2 px from the border. The
    mean and std are those of 64 px. ValueError for a side that is not a multiple of 32 or another
    split; for 'fit' and 'validation' see `datasets.load`.
    """
    pixels, _ = _singles(split, side)
    labels = objects(split).labels.numpy().copy()
    return make_images(pixels.numpy(), labels, atlas.load(SOURCE, split).classes, MEAN, STD)


def boxes(split: OfficialSplit, side: int = SIDE) -> Tensor:
    """The box of each object of `singles`, int64 (N, 4): x0, y0, x1, y1, inclusive."""
    return _singles(split, side)[1]


def _singles(split: OfficialSplit, side: int) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, S, S) and boxes (N, 4)."""
    _check_arguments(split, side)
    every, chunk_boxes = objects(split), list[Tensor]()
    keys = image_keys("singles", split, 0, torch.arange(len(every.labels)))
    pixels = torch.empty(len(keys), 3, side, side, dtype=torch.uint8)
    for chunk in torch.arange(len(keys)).split(_CHUNK):
        canvas = textures(keys[chunk], side)
        chunk_boxes.append(_paste(canvas, every.take(chunk), _object_keys(keys[chunk], 0), side)[1])
        pixels[chunk] = canvas
    return pixels, torch.cat(chunk_boxes)


def fours(
    split: OfficialSplit, count: int, seed: int = 0, *, side: int = SIDE, first: int = 0
) -> Fours:
    """The images `first` to `first + count - 1` of a seed: four objects of different classes.

    Each object is in its own quadrant, at least 2 of 64 px from the quadrant's border, with the
    sizes of `singles` and a random position, on one texture. 'test' uses objects of the test split
    only, 'train' those of the train split. ValueError as in `singles`, and for a count below 1.
    """
    _check_arguments(split, side)
    if count < 1 or first < 0:
        raise ValueError(f"composed: {count} images from number {first} on")
    keys = image_keys("fours", split, seed, torch.arange(first, first + count))
    parts = [_fours(objects(split), chunk, side) for chunk in keys.split(_CHUNK)]
    return Fours(*map(torch.cat, zip(*parts, strict=True)))


def leaf_shares(masks: Tensor, rows: int = 4) -> Tensor:
    """The share of each mask (..., S, S) that lies in each of rows² blocks, (..., rows, rows).

    bool to float32; ValueError for other masks, an empty one, or a side that does not divide.
    An object of `fours` may overlap one of the 16 leaf blocks, two or four.
    """
    side = masks.shape[-1]
    if masks.dtype != torch.bool or masks.ndim < 2 or side % rows or masks.shape[-2] % rows:
        kind = f"{masks.dtype} {tuple(masks.shape)}"
        raise ValueError(
            f"leaf_shares: masks must be bool (..., S, S), S a multiple of {rows}, not {kind}"
        )
    blocks = masks.unflatten(-1, (rows, -1)).unflatten(-3, (rows, -1)).sum((-3, -1))
    total = blocks.sum((-2, -1), keepdim=True)
    if not total.all():
        raise ValueError("leaf_shares: a mask is empty")
    shares: Tensor = blocks / total
    return shares


def image_keys(kind: ImageKind, split: OfficialSplit, seed: int, index: Tensor) -> Tensor:
    """The keys (B,) of the images `index` (B,), from which all of their randomness derives."""
    numbers = get_args(ImageKind).index(kind), get_args(OfficialSplit).index(split)
    return sample_keys(derive_seed(seed, *numbers), 0, index)


def textures(keys: Tensor, side: int = SIDE) -> Tensor:
    """The backgrounds of images with keys (B,), uint8 (B, 3, S, S).

    Two colours are interpolated by the sum, 3 : 1, of two fields of value noise (bilinear, on a
    lattice). Cell heights and widths are independent, which gives grain, streaks and clouds.
    """
    points = side // CELLS[0] + 1
    cells = torch.tensor(CELLS)[_randint(len(CELLS), keys, ComposedStream.CELLS, 4)].view(-1, 2, 2)
    lattice = _randint(256, keys, ComposedStream.LATTICE, 2 * points**2).view(-1, 2, points, points)
    down, across = (_bilinear(cells[:, :, axis], side) for axis in (0, 1))
    fields = down @ lattice.double() @ across.mT
    height = (3 * fields[:, :1] + fields[:, 1:]) / (4 * max(CELLS) ** 2 * 256)  # 2^20: exact
    first = DARKEST + _randint(LIGHTEST - DARKEST + 1, keys, ComposedStream.COLOURS, 6)[:, :3]
    other = first - CONTRAST + _randint(2 * CONTRAST + 1, keys, ComposedStream.COLOURS, 6)[:, 3:]
    low, high = (c[:, :, None, None].double() for c in (first, other.clamp(0, BRIGHTEST)))
    return (low + (high - low) * height).round_().to(torch.uint8)


def _bilinear(cells: Tensor, side: int) -> Tensor:
    """The weights of lattice points `cells` (B, 2) px apart in each pixel, (B, 2, side, points).

    They sum to the largest cell size, so that they are integers.
    """
    pixel, point = torch.arange(side)[:, None], torch.arange(side // CELLS[0] + 1)
    cell = cells[:, :, None, None]
    near = (cell - (pixel - point * cell).abs()).clamp(min=0)
    return (near * (max(CELLS) // cell)).double()


@cache
def objects(split: OfficialSplit) -> Objects:
    """The objects of a split, in the order of its images; cached, do not write to them."""
    images = atlas.load(SOURCE, split)
    border = (images.pixels.shape[-1] - FRAME) // 2
    grey = images.pixels[:, 0, border:-border, border:-border].contiguous()
    return Objects(grey, fill_holes(grey > INK).to(torch.uint8), images.labels)


def fill_holes(masks: Tensor) -> Tensor:
    """Fill the holes of bool (B, H, W) masks: all that is not 4-connected to the outside.

    That adds the dark print of a shirt, but also the background inside a bag's handle.
    """
    background = F.pad(~masks, (1, 1, 1, 1), value=True)
    before, outside = torch.zeros_like(background), torch.zeros_like(background)
    outside[:, 0] = True
    while not outside.equal(before):
        before = outside.clone()
        outside[:, 1:] |= before[:, :-1]
        outside[:, :-1] |= before[:, 1:]
        outside[:, :, 1:] |= before[:, :, :-1]
        outside[:, :, :-1] |= before[:, :, 1:]
        outside &= background
    return ~outside[:, 1:-1, 1:-1]


def _fours(every: Objects, keys: Tensor, side: int) -> Fours:
    """A chunk of `fours`."""
    of_class = every.labels.argsort(stable=True).view(int(every.labels.max()) + 1, -1)
    classes, per_class = of_class.shape
    shuffled = bits(keys[:, None], ComposedStream.CLASSES, torch.arange(classes)).argsort(
        stable=True, dim=1
    )
    images = Fours(
        textures(keys, side),
        shuffled[:, :4],
        torch.zeros(len(keys), 4, 4, dtype=torch.int64),
        torch.zeros(len(keys), 4, side, side, dtype=torch.bool),
    )
    half = side // 2
    for quadrant in range(4):
        object_keys = _object_keys(keys, quadrant)
        index = _randint(per_class, object_keys, ComposedStream.WHICH)[:, 0]
        chosen = every.take(of_class[images.labels[:, quadrant], index])
        top, left = quadrant // 2 * half, quadrant % 2 * half
        window = (..., slice(top, top + half), slice(left, left + half))
        mask, box = _paste(images.pixels[window], chosen, object_keys, side)
        images.masks[:, quadrant][window] = mask
        images.boxes[:, quadrant] = box + torch.tensor([left, top, left, top])
    return images


def _paste(window: Tensor, chosen: Objects, keys: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Paste an object into each window (B, 3, H, W); returns its mask (B, H, W) and box (B, 4)."""
    unit = side // GRAIN
    sizes = (
        unit * SMALLEST + _randint(unit * (LARGEST - SMALLEST) + 1, keys, ComposedStream.SIZE)[:, 0]
    )
    grey, solid = _resize_objects(chosen, sizes, unit * LARGEST)
    draws = uniform(keys, ComposedStream.PLACE, 2).double()
    rows, y0, y1 = _place(solid.any(2), draws[:, 0], window.shape[2], unit * MARGIN)
    columns, x0, x1 = _place(solid.any(1), draws[:, 1], window.shape[3], unit * MARGIN)
    source = torch.arange(len(window))[:, None, None], rows[:, :, None], columns[:, None]
    mask = F.pad(solid, (0, 1, 0, 1))[source]  # the padded row and column stand for 'outside'
    tint = TINT + _randint(256 - TINT, keys, ComposedStream.TINT, 3)[:, :, None, None]
    colour = F.pad(grey, (0, 1, 0, 1))[source][:, None] * tint.int() // 255
    window[:] = torch.where(mask[:, None], colour.to(torch.uint8), window)
    return mask, torch.stack([x0, y0, x1, y1], dim=1)


def _resize_objects(chosen: Objects, sizes: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Resize objects so that FRAME becomes `sizes` (B,) px, top left in (B, largest, largest).

    Returns grey int32, the mean over the object's part of a pixel's area; and whether that part is
    at least half, so that no pixel shows the background behind the object.
    """
    size = sizes[:, None, None]
    start, source_start = torch.arange(largest)[:, None] * FRAME, torch.arange(FRAME) * size
    overlap = torch.minimum(start + FRAME, source_start + size) - torch.maximum(start, source_start)
    weights = overlap.clamp(min=0).double()  # of the source px in a pixel; they sum to FRAME
    solid = chosen.solid.double()
    area = weights @ solid @ weights.mT
    light = weights @ (chosen.grey * solid) @ weights.mT
    return (light // area.clamp(min=1)).int(), 2 * area >= FRAME**2


def _place(line: Tensor, draw: Tensor, length: int, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """Place the True part of line (B, n) at a random position among `length` pixels.

    Returns the source index of each pixel (B, length), n for none, and the positions of the first
    and the last True (B,).
    """
    n = line.shape[1]
    first, last = line.int().argmax(1), n - 1 - line.flip(1).int().argmax(1)
    room = length - 2 * margin - (last - first)  # possible positions of the first, at least one
    start = margin + (draw * room).long()
    source = torch.arange(length) - (start - first)[:, None]
    return torch.where((source >= 0) & (source < n), source, n), start, start + last - first


def _object_keys(keys: Tensor, window: int) -> Tensor:
    return bits(keys, ComposedStream.OBJECT, torch.tensor(window))


def _randint(limit: int, keys: Tensor, stream: ComposedStream, count: int = 1) -> Tensor:
    """int64 (B, count), from 0 to limit - 1."""
    return (uniform(keys, stream, count).double() * limit).long()


def _check_arguments(split: str, side: int) -> None:
    if split not in get_args(OfficialSplit):
        raise ValueError(
            f"composed: split must be {' or '.join(get_args(OfficialSplit))}, not {split}"
        )
    if side < SIDE or side % GRAIN:
        raise ValueError(
            f"composed: side must be a multiple of {GRAIN}, at least {SIDE}, not {side}"
        )
