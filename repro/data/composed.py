"""Pictures composed of the embedded Fashion-MNIST images on textures: one object each, or four.

Data for small scales. A classifier learns on `singles`, by the ordinary task as 'fashion-singles';
what points at objects is measured on `fours`, whose boxes and masks are exact, since every pixel is
wholly the texture's or one object's.

A picture is a function of kind, split, seed and index alone. All arithmetic is on whole numbers,
held by int64 or, for matrix products, by float64 without rounding: the same bytes on any machine.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data import atlas
from repro.data.images import RGB, Images, Official, images_of
from repro.data.randomness import bits, sample_keys, seed_of, uniform

Kind = Literal["singles", "fours"]

SINGLES = "fashion-singles"  # the name of `singles` as a dataset
SOURCE = "fashion-mnist-6k"
SIDE = 64  # px, of a picture
MEAN: RGB = (0.1989, 0.1990, 0.2000)  # of the 6,000 train singles of 64 px
STD: RGB = (0.1055, 0.1041, 0.1051)

FRAME = 28  # px, of a Fashion-MNIST image
INK = 32  # grey level; what is lighter, or enclosed by it, is the object. Below are dim fringes
GRAIN = 32  # a picture's side is a multiple of it, and these are in units of side / GRAIN:
SMALLEST, LARGEST = 7, 13  # what FRAME becomes in the picture, 14 to 26 px of 64
MARGIN = 1  # around every object in its window, the picture or a quadrant, at least; 2 px of 64
CELLS = (2, 4, 8, 16, 32)  # px from one lattice point of a texture to the next
DARKEST, LIGHTEST = 16, 79  # levels of the first of the two colours of a texture, and by how many
CONTRAST, BRIGHTEST = 24, 103  # the other differs at most, and what it may be
TINT = 128  # the least level of an object's tint
_CHUNK = 256  # pictures are made at once, which is not seen in them


class Stream(IntEnum):
    """What a draw is for: of a picture's key, and after OBJECT of the keys of its objects."""

    CELLS = 0  # height and width of the cells of two fields
    LATTICE = 1  # one field after the other
    COLOURS = 2
    CLASSES = 3  # an order of all of them, of which the first four count
    OBJECT = 4  # the key of the object in each window
    WHICH = 5  # of the images of its class
    SIZE = 6
    PLACE = 7  # top, left
    TINT = 8


class Fours(NamedTuple):
    """N pictures of S px with four objects each, in the order TL, TR, BL, BR of their quadrants."""

    pixels: Tensor  # (N, 3, S, S) uint8
    labels: Tensor  # (N, 4) int64, four different classes
    boxes: Tensor  # (N, 4, 4) int64: x0, y0, x1, y1, tight around the mask; both corners are in it
    masks: Tensor  # (N, 4, S, S) bool: the pixels of each object


class Objects(NamedTuple):
    """What is cut out of M images."""

    grey: Tensor  # (M, 28, 28) uint8
    solid: Tensor  # (M, 28, 28) uint8, 1 on the object
    labels: Tensor  # (M,) int64

    def take(self, which: Tensor) -> Objects:
        return Objects(*(field[which] for field in self))


def singles(split: Official, side: int = SIDE) -> Images:
    """Every image of a split of Fashion-MNIST-6k, in its order, as an object on a texture.

    Its size and place are random: its 28 px become 14 to 26 of 64, and it lies anywhere 2 px from
    the border. The mean and std are those of 64 px. ValueError for a side that is no multiple of 32
    or another split; for 'fit' and 'validation' see `datasets.load`.
    """
    pixels, _ = _singles(split, side)
    labels = objects(split).labels.numpy().copy()
    return images_of(pixels.numpy(), labels, atlas.load(SOURCE, split).classes, MEAN, STD)


def boxes(split: Official, side: int = SIDE) -> Tensor:
    """The box of the object of each of `singles`, int64 (N, 4): x0, y0, x1, y1, both corners in."""
    return _singles(split, side)[1]


def _singles(split: Official, side: int) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, S, S) and boxes (N, 4)."""
    _check(split, side)
    every, found = objects(split), list[Tensor]()
    keys = picture_keys("singles", split, 0, torch.arange(len(every.labels)))
    pixels = torch.empty(len(keys), 3, side, side, dtype=torch.uint8)
    for chunk in torch.arange(len(keys)).split(_CHUNK):
        canvas = textures(keys[chunk], side)
        found.append(_put(canvas, every.take(chunk), _object_keys(keys[chunk], 0), side)[1])
        pixels[chunk] = canvas
    return pixels, torch.cat(found)


def fours(split: Official, count: int, seed: int = 0, *, side: int = SIDE, first: int = 0) -> Fours:
    """The pictures `first` to `first + count - 1` of a seed: four objects of different classes.

    Each lies wholly in its quadrant, 2 of 64 px or more from the quadrant's border, as large as in
    `singles` and anywhere there. The texture goes on behind all. 'test' shows the objects of the
    test split only, 'train' those of the train split. ValueError as `singles`, and for no pictures.
    """
    _check(split, side)
    if count < 1 or first < 0:
        raise ValueError(f"composed: {count} pictures from number {first} on")
    keys = picture_keys("fours", split, seed, torch.arange(first, first + count))
    parts = [_fours(objects(split), chunk, side) for chunk in keys.split(_CHUNK)]
    return Fours(*map(torch.cat, zip(*parts, strict=True)))


def leaf_shares(masks: Tensor, rows: int = 4) -> Tensor:
    """The share of each mask (..., S, S) that lies in each of rows² blocks, (..., rows, rows).

    bool to float32; ValueError for other masks, an empty one, or a side that does not divide.
    An object of `fours` may lie in one of the 16 leaf blocks, in two or in four.
    """
    side = masks.shape[-1]
    if masks.dtype != torch.bool or masks.ndim < 2 or side % rows or masks.shape[-2] % rows:
        found = f"{masks.dtype} {tuple(masks.shape)}"
        raise ValueError(
            f"leaf_shares: masks must be bool (..., S, S), S a multiple of {rows}, not {found}"
        )
    blocks = masks.unflatten(-1, (rows, -1)).unflatten(-3, (rows, -1)).sum((-3, -1))
    total = blocks.sum((-2, -1), keepdim=True)
    if not total.all():
        raise ValueError("leaf_shares: a mask is empty")
    shares: Tensor = blocks / total
    return shares


def picture_keys(kind: Kind, split: Official, seed: int, index: Tensor) -> Tensor:
    """The keys (B,) of the pictures `index` (B,), from which all of their draws come."""
    place = get_args(Kind).index(kind), get_args(Official).index(split)
    return sample_keys(seed_of(seed, *place), 0, index)


def textures(keys: Tensor, side: int = SIDE) -> Tensor:
    """The backgrounds of pictures with keys (B,), uint8 (B, 3, S, S), whatever lies on them.

    Between two colours goes the sum of two fields, 3 : 1, of bilinear noise on a lattice (value
    noise). Heights and widths of the cells are drawn apart, which gives grain, streaks and clouds.
    """
    points = side // CELLS[0] + 1
    cells = torch.tensor(CELLS)[_below(len(CELLS), keys, Stream.CELLS, 4)].view(-1, 2, 2)
    lattice = _below(256, keys, Stream.LATTICE, 2 * points**2).view(-1, 2, points, points)
    down, across = (_bilinear(cells[:, :, axis], side) for axis in (0, 1))
    fields = down @ lattice.double() @ across.mT
    height = (3 * fields[:, :1] + fields[:, 1:]) / (4 * max(CELLS) ** 2 * 256)  # 2^20: exact
    first = DARKEST + _below(LIGHTEST - DARKEST + 1, keys, Stream.COLOURS, 6)[:, :3]
    other = first - CONTRAST + _below(2 * CONTRAST + 1, keys, Stream.COLOURS, 6)[:, 3:]
    low, high = (c[:, :, None, None].double() for c in (first, other.clamp(0, BRIGHTEST)))
    return (low + (high - low) * height).round_().to(torch.uint8)


def _bilinear(cells: Tensor, side: int) -> Tensor:
    """The weights of lattice points `cells` (B, 2) px apart in each pixel, (B, 2, side, points).

    They sum to the largest cell, so that they are whole numbers.
    """
    pixel, point = torch.arange(side)[:, None], torch.arange(side // CELLS[0] + 1)
    cell = cells[:, :, None, None]
    near = (cell - (pixel - point * cell).abs()).clamp(min=0)
    return (near * (max(CELLS) // cell)).double()


@cache
def objects(split: Official) -> Objects:
    """The objects of a split, in the order of its images; the caller must not write to them."""
    images = atlas.load(SOURCE, split)
    border = (images.pixels.shape[-1] - FRAME) // 2
    grey = images.pixels[:, 0, border:-border, border:-border].contiguous()
    return Objects(grey, filled(grey > INK).to(torch.uint8), images.labels)


def filled(masks: Tensor) -> Tensor:
    """bool (B, H, W) masks with their holes: with all that is not joined to the outside by sides.

    So the dark print of a shirt is the shirt's, but so is what is seen through a bag's handle.
    """
    free = F.pad(~masks, (1, 1, 1, 1), value=True)
    before, outside = torch.zeros_like(free), torch.zeros_like(free)
    outside[:, 0] = True
    while not outside.equal(before):
        before = outside.clone()
        outside[:, 1:] |= before[:, :-1]
        outside[:, :-1] |= before[:, 1:]
        outside[:, :, 1:] |= before[:, :, :-1]
        outside[:, :, :-1] |= before[:, :, 1:]
        outside &= free
    return ~outside[:, 1:-1, 1:-1]


def _fours(every: Objects, keys: Tensor, side: int) -> Fours:
    """A chunk of `fours`."""
    of_class = every.labels.argsort(stable=True).view(int(every.labels.max()) + 1, -1)
    classes, images = of_class.shape
    shuffled = bits(keys[:, None], Stream.CLASSES, torch.arange(classes)).argsort(
        stable=True, dim=1
    )
    made = Fours(
        textures(keys, side),
        shuffled[:, :4],
        torch.zeros(len(keys), 4, 4, dtype=torch.int64),
        torch.zeros(len(keys), 4, side, side, dtype=torch.bool),
    )
    half = side // 2
    for quadrant in range(4):
        own = _object_keys(keys, quadrant)
        which = of_class[made.labels[:, quadrant], _below(images, own, Stream.WHICH)[:, 0]]
        top, left = quadrant // 2 * half, quadrant % 2 * half
        window = (..., slice(top, top + half), slice(left, left + half))
        mask, box = _put(made.pixels[window], every.take(which), own, side)
        made.masks[:, quadrant][window] = mask
        made.boxes[:, quadrant] = box + torch.tensor([left, top, left, top])
    return made


def _put(window: Tensor, chosen: Objects, keys: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Draw an object into each window (B, 3, H, W); its mask (B, H, W) and box (B, 4) there."""
    unit = side // GRAIN
    sizes = unit * SMALLEST + _below(unit * (LARGEST - SMALLEST) + 1, keys, Stream.SIZE)[:, 0]
    grey, solid = _scaled(chosen, sizes, unit * LARGEST)
    draws = uniform(keys, Stream.PLACE, 2).double()
    rows, y0, y1 = _moved(solid.any(2), draws[:, 0], window.shape[2], unit * MARGIN)
    columns, x0, x1 = _moved(solid.any(1), draws[:, 1], window.shape[3], unit * MARGIN)
    from_ = torch.arange(len(window))[:, None, None], rows[:, :, None], columns[:, None]
    mask = F.pad(solid, (0, 1, 0, 1))[from_]  # the last row and column are what is not there
    tint = TINT + _below(256 - TINT, keys, Stream.TINT, 3)[:, :, None, None]
    colour = F.pad(grey, (0, 1, 0, 1))[from_][:, None] * tint.int() // 255
    window[:] = torch.where(mask[:, None], colour.to(torch.uint8), window)
    return mask, torch.stack([x0, y0, x1, y1], dim=1)


def _scaled(chosen: Objects, sizes: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """The objects with FRAME brought to `sizes` (B,) px, top left in (B, largest, largest).

    Grey int32, the mean over the part of a pixel's area that is the object's; and whether that is
    half the area or more, so that a pixel shows nothing of what lay behind the object.
    """
    size = sizes[:, None, None]
    start, begins = torch.arange(largest)[:, None] * FRAME, torch.arange(FRAME) * size
    overlap = torch.minimum(start + FRAME, begins + size) - torch.maximum(start, begins)
    weights = overlap.clamp(min=0).double()  # of the FRAME / size source px in a pixel: FRAME
    solid = chosen.solid.double()
    area = weights @ solid @ weights.mT
    light = weights @ (chosen.grey * solid) @ weights.mT
    return (light // area.clamp(min=1)).int(), 2 * area >= FRAME**2


def _moved(line: Tensor, draw: Tensor, length: int, margin: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each of `length` pixels comes from, if the True part of line (B, n) goes where it may.

    That is (B, length), n for nowhere; then where the first and the last True are brought (B,).
    """
    n = line.shape[1]
    first, last = line.int().argmax(1), n - 1 - line.flip(1).int().argmax(1)
    room = length - 2 * margin - (last - first)  # places for the first, one or more
    to = margin + (draw * room).long()
    source = torch.arange(length) - (to - first)[:, None]
    return torch.where((source >= 0) & (source < n), source, n), to, to + last - first


def _object_keys(keys: Tensor, window: int) -> Tensor:
    return bits(keys, Stream.OBJECT, torch.tensor(window))


def _below(limit: int, keys: Tensor, stream: Stream, count: int = 1) -> Tensor:
    """int64 (B, count), from 0 to limit - 1."""
    return (uniform(keys, stream, count).double() * limit).long()


def _check(split: str, side: int) -> None:
    if split not in get_args(Official):
        raise ValueError(f"composed: a split is {' or '.join(get_args(Official))}, not {split}")
    if side < SIDE or side % GRAIN:
        raise ValueError(f"composed: a side is a multiple of {GRAIN} from {SIDE}, not {side}")
