"""Microseconds per 32x32 training image: in whole batches (repro.data) and one by one (timm).

    python benchmarks/augmentation.py [--rounds 15] [--images 1024]

Both do what the recipe asks for: crop, flip, RandAugment (2 layers, m9, p 0.5, not 'increasing'),
normalisation, erasing, Mixup or CutMix. timm's way is DeiT's: its transform factory with a padded
crop in front, an image at a time as in a DataLoader's worker. One process, one thread; the ways
take turns within a round, so that whatever else the machine does falls on all; medians count.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from PIL import Image
from timm.data import Mixup, create_transform
from torchvision import transforms

from repro.data.augment import Augmentation, augment, mix
from repro.data.datasets import Images, load
from repro.data.randomness import sample_keys

BATCH_SIZES = (64, 128, 256, 512)
SPEC = Augmentation()
CLASSES = 10


def batched(images: Images, batch_size: int) -> None:
    for start in range(0, len(images.labels), batch_size):
        index = torch.arange(start, min(start + batch_size, len(images.labels)))
        keys = sample_keys(0, 0, index)
        pixels = augment(images.pixels[index], keys, SPEC, images.mean, images.std)
        mix(pixels, images.labels[index], keys, CLASSES, SPEC)


def one_by_one(images: Images) -> Callable[[int], None]:
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
    mixup = Mixup(SPEC.mixup_alpha, 1.0, label_smoothing=SPEC.label_smoothing, num_classes=CLASSES)
    arrays = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()

    def run(batch_size: int) -> None:
        for start in range(0, len(arrays), batch_size):
            stop = min(start + batch_size, len(arrays))
            batch = torch.stack([transform(Image.fromarray(array)) for array in arrays[start:stop]])
            mixup(batch, images.labels[start:stop])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=1024, help="even")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    data = load("fashion-mnist-6k", "train")
    count = arguments.images
    images = replace(data, pixels=data.pixels[:count], labels=data.labels[:count])
    timm_way = one_by_one(images)
    ways: dict[str, Callable[[], None]] = {"timm, one by one": partial(timm_way, 128)}
    for size in BATCH_SIZES:
        ways[f"whole batches of {size}"] = partial(batched, images, size)

    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 + arguments.rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            times[way].append((time.perf_counter() - start) / count * 1e6)
    medians = {way: median(rounds[1:]) for way, rounds in times.items()}  # the first one warms up
    slow = medians["timm, one by one"]
    for way, microseconds in medians.items():
        print(f"{way:22} {microseconds:7.1f} us/image {slow / microseconds:6.1f}x")


if __name__ == "__main__":
    main()
