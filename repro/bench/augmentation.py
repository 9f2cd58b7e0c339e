"""Augmentation of 32 x 32 px images: in whole batches (`repro.data`), and image by image.

All perform the recipe: crop, flip, RandAugment (2 layers, magnitude 9, probability 0.5 each),
normalisation, erasing, Mixup or CutMix. timm's side is DeiT's transform factory, preceded by a
padded crop, one image at a time as in a DataLoader worker. torchvision's v2 has no probability per
layer; it gets half as many layers for the same work. Both peers run on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from timm.data import Mixup, create_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from repro.bench import BenchOptions
from repro.bench.measure import device_here, interleave, seconds
from repro.bench.record import Comparison
from repro.data.augment.augment import Augmentation, augment, mix
from repro.data.datasets import Images, load
from repro.data.randomness import sample_keys

IMAGES = 1024
BATCH_SIZES = (128, 512)
MOVED = 3.0 * 32 * 32 * (1 + 4)  # bytes per image: read as uint8, written as fp32
SPEC = Augmentation()
CLASSES = 10
CPU = torch.device("cpu")


def measure(options: BenchOptions) -> Iterator[Comparison]:
    data = load("fashion-mnist-6k", "train")
    images = replace(data, pixels=data.pixels[:IMAGES], labels=data.labels[:IMAGES])
    device = device_here()
    device_images = replace(
        images, pixels=images.pixels.to(device), labels=images.labels.to(device)
    )
    peers = {
        "timm": partial(_one_by_one, images, _timm(images)),
        "torchvision v2": partial(_one_by_one, images, _torchvision(images)),
    }
    ours = {f"batches of {size}": partial(_batched, device_images, size) for size in BATCH_SIZES}
    timers = {name: partial(_microseconds, work, CPU) for name, work in peers.items()}
    timers |= {name: partial(_microseconds, work, device) for name, work in ours.items()}
    times = interleave(timers, options.rounds)
    for name in ours:
        for peer in peers:
            yield Comparison(
                name=name,
                unit="µs an image",
                ours=times[name],
                peer=f"{peer}, image by image",
                theirs=times[peer],
                per_second=1e6,
                bytes=MOVED,
            )


def _microseconds(work: Callable[[], object], device: torch.device) -> float:
    return seconds(work, device) / IMAGES * 1e6


def _batched(images: Images, batch_size: int) -> None:
    device = images.pixels.device
    for start in range(0, len(images.labels), batch_size):
        index = torch.arange(start, min(start + batch_size, len(images.labels)))
        keys, index = sample_keys(0, 0, index).to(device), index.to(device)
        pixels = augment(images.pixels[index], keys, SPEC, images.mean, images.std)
        mix(pixels, images.labels[index], keys, CLASSES, SPEC)


def _one_by_one(images: Images, transform: Callable[[Image.Image], Tensor]) -> None:
    mixup = Mixup(SPEC.mixup_alpha, 1.0, label_smoothing=SPEC.label_smoothing, num_classes=CLASSES)
    arrays = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
    for start in range(0, len(arrays), BATCH_SIZES[0]):
        part = arrays[start : start + BATCH_SIZES[0]]
        batch = torch.stack([transform(Image.fromarray(array)) for array in part])
        mixup(batch, images.labels[start : start + BATCH_SIZES[0]])


def _timm(images: Images) -> Callable[[Image.Image], Tensor]:
    transform = create_transform(
        32,
        is_training=True,
        color_jitter=None,
        auto_augment="rand-m9-n2-mstd0.5-p0.5",
        mean=images.mean,
        std=images.std,
        re_prob=SPEC.erase_prob,
        re_mode="pixel",
    )
    transform.transforms[0] = transforms.RandomCrop(32, padding=SPEC.crop_padding)
    typed: Callable[[Image.Image], Tensor] = transform
    return typed


def _torchvision(images: Images) -> Callable[[Image.Image], Tensor]:
    transform: Callable[[Image.Image], Tensor] = v2.Compose(
        [
            v2.RandomCrop(32, padding=SPEC.crop_padding),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=1, magnitude=9, num_magnitude_bins=11),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(images.mean, images.std),
            v2.RandomErasing(SPEC.erase_prob),
        ]
    )
    return transform
