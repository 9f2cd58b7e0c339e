"""Training crops of photographs: our decoding and cropping, and timm's pipeline for DeiT.

timm runs its recipe on the CPU: decode, crop, flip, RandAugment, normalise, erase. Ours leaves
everything but decoding and cropping to the GPU; the ratio measures that difference. The images are
synthetic: 500 x 375 px of 1/f noise and shapes, JPEG 4:2:0, about the size of ImageNet's. They are
in memory or the page cache, so no disk is measured.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from timm.data import create_transform
from torch import Tensor

from repro.bench import BenchOptions
from repro.bench.measure import interleave, seconds
from repro.bench.record import Comparison
from repro.data.augment.crops import CentreCrop, RandomCrop, decode
from repro.data.imagenet.photos import MEAN, STD, Photos
from repro.data.images import Images
from repro.data.loading.loader import batches
from repro.data.randomness import sample_keys

COUNT = 64
TIMM = RandomCrop(224, (0.08, 1.0), "bicubic")
AUTHORS = RandomCrop(224, (0.05, 1.0), "aliased", "tensorflow")
TEST = CentreCrop(224, 0.875, "bicubic")
PILLOW = Image.Resampling.BICUBIC
CPU = torch.device("cpu")


# ---- the images ---------------------------------------------------------------------------------


def photo(seed: int) -> bytes:
    """A JPEG with about the size, detail and colours of a photograph."""
    generator = np.random.default_rng(seed)
    width, height = (375, 500) if seed % 4 == 0 else (500, 375)
    texture = 30 * field(generator, height, width, 1.05)[..., None]
    warm = 18 * field(generator, height, width, 1.6)[..., None] * [1, 0, -1]
    green = 12 * field(generator, height, width, 1.6)[..., None] * [-0.5, 1, -0.5]
    base = generator.uniform(70, 180, 3) + texture + warm + green
    image = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    shapes = image.copy()
    draw = ImageDraw.Draw(shapes)
    for _ in range(8):
        x, y, a, b = generator.uniform((0, 0, 10, 10), (width, height, 90, 90)).tolist()
        red, green_, blue = generator.integers(0, 256, 3).tolist()
        draw.ellipse((x - a, y - b, x + a, y + b), fill=(red, green_, blue))
    file = io.BytesIO()
    Image.blend(image, shapes, 0.5).save(file, "JPEG", quality=95, subsampling="4:2:0")
    return file.getvalue()


def field(
    generator: np.random.Generator, height: int, width: int, slope: float
) -> npt.NDArray[np.float64]:
    """Noise with amplitudes proportional to frequency^-slope, of mean 0 and variance 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    noise = generator.normal(size=(2, *frequency.shape))
    values = np.fft.irfft2((noise[0] + 1j * noise[1]) * frequency**-slope, s=(height, width))
    scaled: npt.NDArray[np.float64] = (values - values.mean()) / values.std()
    return scaled


def in_folder(folder: Path, files: Sequence[bytes]) -> Photos:
    folder.mkdir()
    names = [f"{number:06}.JPEG" for number in range(len(files))]
    for name, data in zip(names, files, strict=True):
        (folder / name).write_bytes(data)
    ends = torch.tensor([len(name) for name in names]).cumsum(0)
    return Photos(
        files=(folder,),
        file=torch.zeros(len(files), dtype=torch.int32),
        offset=torch.full((len(files),), -1),
        length=torch.tensor([len(data) for data in files]),
        labels=torch.zeros(len(files), dtype=torch.int64),
        classes=("photo",),
        mean=MEAN,
        std=STD,
        fingerprint="",
        names=torch.frombuffer(bytearray("".join(names).encode()), dtype=torch.uint8),
        spans=torch.stack([ends - len(names[0]), ends], dim=1),
    )


def in_tar(path: Path, photos: Photos) -> Photos:
    with tarfile.open(path, "w") as tar:
        tar.add(photos.files[0], "photos")
    with tarfile.open(path) as tar:
        members = sorted((m for m in tar if m.isfile()), key=lambda member: member.name)
    offsets = torch.tensor([member.offset_data for member in members])
    return replace(photos, files=(path,), offset=offsets)


def in_memmap(path: Path, photos: Photos) -> Images:
    """256 x 256 px, uint8, as `repro.data.imagenet.resized` stores them."""
    square = CentreCrop(256, 1.0, "bicubic")
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (len(photos), 3, 256, 256))
    for index in range(len(photos)):
        array[index] = square(decode(photos.read(index)), []).numpy()
    return Images(torch.from_numpy(array), photos.labels, photos.classes, MEAN, STD, "")


# ---- the alternatives, functions of an image's index --------------------------------------------


class TimmTransform:
    """timm's transform for DeiT, on Pillow images."""

    def __init__(self, files: Sequence[bytes], auto_augment: str | None, re_prob: float) -> None:
        self.files = files
        self.transform = create_transform(
            224,
            is_training=True,
            auto_augment=auto_augment,
            color_jitter=0.3,  # timm omits it when RandAugment is on
            interpolation="bicubic",
            re_prob=re_prob,
            re_mode="pixel",
        )

    def __call__(self, index: int) -> None:
        # Pillow 13 refuses to posterize to zero bits.
        with suppress(ValueError), Image.open(io.BytesIO(self.files[index])) as image:
            self.transform(image.convert("RGB"))


class OurCrop:
    """Bytes to uint8 crops, with a new random crop of each image every time."""

    def __init__(self, files: Sequence[bytes], crop: RandomCrop | CentreCrop) -> None:
        self.files, self.crop, self.done = files, crop, 0
        self.pixels = torch.empty(32, 3, 224, 224, dtype=torch.uint8)
        self.draws = list[list[float]]()

    def __call__(self, index: int) -> None:
        slot = self.done % 32
        if slot == 0:  # as in a worker, a chunk at a time
            keys = sample_keys(0, 0, torch.arange(self.done, self.done + 32))
            self.draws = self.crop.draws(keys)
        self.pixels[slot] = self.crop(decode(self.files[index]), self.draws[slot])
        self.done += 1


def pillow(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def stages(files: Sequence[bytes]) -> dict[str, Callable[[int], object]]:
    tensors, images = [decode(data) for data in files], [pillow(data) for data in files]
    draws = TIMM.draws(sample_keys(0, 0, torch.arange(len(files))))
    boxes = []
    for image, draw in zip(images, draws, strict=True):
        top, left, height, width = TIMM.box(image.height, image.width, draw)
        boxes.append((left, top, left + width, top + height))
    return {
        "decoding alone": lambda i: decode(files[i]),
        "Pillow's decoding, as an array": lambda i: np.array(pillow(files[i])),
        "cropping alone": lambda i: TIMM(tensors[i], draws[i]),
        "Pillow's cropping": lambda i: images[i].resize((224, 224), PILLOW, boxes[i]),
    }


def through_loader(images: Images | Photos) -> Callable[[int], object]:
    """Loads the whole set in this process at index 0; does nothing at other indices."""
    indices = torch.arange(len(images.labels))
    samples: list[tuple[Tensor, Tensor]] = [(indices, sample_keys(0, 0, indices))]

    def run(index: int) -> None:
        if index == 0:
            list(batches(images, samples, TIMM, CPU, 0))

    return run


# ---- the measurement ----------------------------------------------------------------------------

DEIT, FEW = "timm, DeiT's transform", "timm, crop, jitter, flip"
# The peer of each of our entries.
PEERS = {
    "timm's crop (bicubic)": DEIT,
    "the authors' crop (aliased)": DEIT,
    "timm's test crop (bicubic)": FEW,
    "loader, timm's crop, folder": DEIT,
    "loader, timm's crop, tar": DEIT,
    "loader, timm's crop, 256 px memmap": DEIT,
    "decoding alone": "Pillow's decoding, as an array",
    "cropping alone": "Pillow's cropping",
}


def measure(options: BenchOptions) -> Iterator[Comparison]:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)  # timm uses all three
    files = [photo(seed) for seed in range(COUNT)]
    with TemporaryDirectory() as scratch:
        folder = in_folder(Path(scratch, "photos"), files)
        tar = in_tar(Path(scratch, "photos.tar"), folder)
        memmap = in_memmap(Path(scratch, "256px.npy"), folder)
        steps: dict[str, Callable[[int], object]] = {
            DEIT: TimmTransform(files, "rand-m9-mstd0.5-inc1", 0.25),
            FEW: TimmTransform(files, None, 0.0),
            "timm's crop (bicubic)": OurCrop(files, TIMM),
            "the authors' crop (aliased)": OurCrop(files, AUTHORS),
            "timm's test crop (bicubic)": OurCrop(files, TEST),
            "loader, timm's crop, folder": through_loader(folder),
            "loader, timm's crop, tar": through_loader(tar),
            "loader, timm's crop, 256 px memmap": through_loader(memmap),
            **stages(files),
        }
        timers = {name: partial(_milliseconds, step) for name, step in steps.items()}
        times = interleave(timers, options.rounds)
    for name, peer in PEERS.items():
        yield Comparison(
            name=name, unit="ms an image", ours=times[name], peer=peer, theirs=times[peer]
        )


def _milliseconds(step: Callable[[int], object]) -> float:
    def all_images() -> None:
        for index in range(COUNT):
            step(index)

    return 1e3 * seconds(all_images, CPU) / COUNT
