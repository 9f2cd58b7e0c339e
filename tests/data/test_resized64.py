"""ImageNet as squares of 64 px: their pixels and files, and that those of 256 px stay the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, features

from repro.data import datasets
from repro.data.augment.crops import CentreCrop
from repro.data.datasets import load
from repro.data.imagenet import reader, resized
from repro.data.imagenet.photos import MEAN, STD
from repro.data.imagenet.resized import CROP_FORMATS, RESIZED, CropFormat
from repro.data.images import Bytes, OfficialSplit, Split
from repro.data.loading.loader import batches
from repro.data.prepare import SMOKE_SOURCE, prepare
from tests.data.test_imagenet import refused
from tests.data.test_loader import photos_in, samples

PHOTOS: Final = "imagenet-smoke"
NAME: Final = "imagenet-smoke-64px"
SPLITS: tuple[Split, ...] = ("train", "test", "fit", "validation")
OFFICIAL: tuple[OfficialSplit, ...] = ("train", "test")
FORM = CROP_FORMATS["64px"]
CPU = torch.device("cpu")

# Width, height: both orientations, odd margins, exact, enlarged, and the least there can be.
SHAPES = ((500, 375), (333, 257), (256, 256), (61, 60), (1, 1), (3, 500), (90, 7), (64, 64))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("squares")
    prepare(NAME, root)
    return root


def picture(width: int, height: int) -> Bytes:
    """(H, W, 3): rings and stripes of every frequency, in other colours on every side."""
    y, x, channel = np.indices((height, width, 3))
    pixels: Bytes = ((x * x + 7 * y + 31 * channel * (x + y)) % 256).astype(np.uint8)
    return pixels


def png(pixels: Bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def square_of(data: bytes) -> Bytes:
    """The rule again: numpy cuts, Pillow resizes."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    image = Image.fromarray(centre(pixels)).resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


def centre(pixels: Bytes) -> Bytes:
    height, width, _ = pixels.shape
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    return pixels[top : top + side, left : left + side]


# ---- pixels -------------------------------------------------------------------------------------


def test_every_split_has_the_squares_of_its_photos(made: Path) -> None:
    kinds = set()
    for split in SPLITS:
        photos, squares = load(PHOTOS, split, made), load(NAME, split, made)
        data = [photos.read(index) for index in range(len(photos))]
        kinds |= {(image.format, image.mode) for image in map(Image.open, map(io.BytesIO, data))}
        assert isinstance(squares, resized.MappedImages)
        assert squares.pixels.shape == (len(photos), 3, 64, 64)
        assert squares.pixels.dtype == torch.uint8
        assert (squares.classes, squares.mean, squares.std) == (photos.classes, MEAN, STD)
        wanted = sorted(
            (square_of(one).tobytes(), int(label))
            for one, label in zip(data, photos.labels, strict=True)
        )
        rows = zip(squares.pixels, squares.labels, strict=True)
        assert sorted((pixels.numpy().tobytes(), int(label)) for pixels, label in rows) == wanted
    assert kinds == {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")}
    train, _, fit, held_out = (load(NAME, split, made) for split in SPLITS)
    assert torch.equal(torch.cat([fit.pixels, held_out.pixels]), train.pixels)
    assert len({load(NAME, split, made).fingerprint for split in SPLITS}) == 4


@pytest.mark.parametrize("shape", [*SHAPES, (375, 500), (500, 3), (65, 64), (129, 128)])
def test_a_square_is_torchs_antialiased_bicubic_of_the_centre(shape: tuple[int, int]) -> None:
    pixels = picture(*shape)
    found = resized.decode_and_crop(png(pixels), FORM)
    assert found.shape == (3, 64, 64)
    assert found.dtype == np.uint8
    cut = torch.from_numpy(centre(pixels).transpose(2, 0, 1).copy())
    wanted = F.interpolate(cut[None], (64, 64), mode="bicubic", antialias=True)[0].numpy()
    assert np.abs(found.astype(int) - wanted).max() <= 2  # its weights are rounded otherwise
    if min(shape) == max(shape) == 64:
        assert np.array_equal(found, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (130, 90), (3, 500)])
def test_nothing_beside_the_square_shows_in_it(width: int, height: int) -> None:
    pixels = picture(width, height)
    painted = 255 - pixels
    centre(painted)[:] = centre(pixels)
    assert not np.array_equal(painted, pixels)
    assert np.array_equal(
        resized.decode_and_crop(png(painted), FORM), resized.decode_and_crop(png(pixels), FORM)
    )


# ---- files --------------------------------------------------------------------------------------


def built(name: str, root: Path, files: list[bytes], overwrite: bool = False) -> Path:
    """The folder with squares of these files, the second and the last but one for validation."""
    shutil.rmtree(root / "photos", ignore_errors=True)
    photos = photos_in(root / "photos", files)
    held_out = torch.zeros(len(files), dtype=torch.bool)
    held_out[[1, -2]] = True
    resized.build(name, "train", root, photos, held_out, overwrite)
    return root / name


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    return content


# 256px: made by the code that was there before 64px, as users have them. Results name their data
# by the fingerprints of train, fit and validation; another here is another dataset.
GOLDEN = {
    "256px": (
        "shorter side 256, bicubic, antialiased; centre square",
        "996d21416627909c36cd4339a6c4d81ccdff22fdeb375b8814e7e73d3809ad0b",
        ("8010cea3a6162c6a", "87c1e77e683d92c5", "4307dae7c6080954"),
    ),
    "64px": (
        "centre square of the shorter side; 64 x 64, bicubic, antialiased",
        "beeb732ac85b6070ef077cfd73ad261a7720291d422e13df5a31ec85d5b39674",
        ("d45c351e4165e621", "5a7d0734360926d5", "d36d3e7e9fdc611a"),
    ),
}


@pytest.mark.parametrize("form", CROP_FORMATS)
def test_files_are_the_same_bytes_as_ever(form: str, tmp_path: Path) -> None:
    folder = built(f"imagenet-smoke-{form}", tmp_path, [png(picture(*size)) for size in SHAPES])
    kernel, digest, marks = GOLDEN[form]
    about = {
        "images": 8,
        "fit": 6,
        "fingerprint": marks[0],
        "classes": [f"n{number:03}.JPEG" for number in range(8)],
        "source": {
            "photos": "",
            "Pillow": PIL.__version__,
            "libjpeg": features.version("jpg") or "unknown",
        },
        "kernel": kernel,
        "chunk": 256,
        "sha256": [digest],
    }
    assert (folder / "train.json").read_text() == json.dumps(about, indent=1) + "\n"
    found = tuple(resized.load(folder, s).fingerprint for s in ("train", "fit", "validation"))
    assert found == marks
    pixels, labels = (np.load(folder / f"train{part}.npy") for part in ("", "-labels"))
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == digest
    assert labels.tolist() == [0, 2, 3, 4, 5, 7, 1, 6]
    assert (pixels.dtype, labels.dtype) == (np.uint8, np.int64)
    assert pixels.shape == (8, 3, CROP_FORMATS[form].side, CROP_FORMATS[form].side)


def test_squares_by_another_rule_are_not_taken_for_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [png(picture(*size)) for size in SHAPES]
    before = manifest(built(NAME, tmp_path, files))
    other = CropFormat(
        64, "the whole image, squeezed", lambda image, side: image.resize((side, side))
    )
    monkeypatch.setitem(CROP_FORMATS, "64px", other)
    for act in (
        lambda: resized.load(tmp_path / NAME, "fit"),
        lambda: built(NAME, tmp_path, files),
    ):
        error = refused(act)
        assert f"another kernel ({before['kernel']}); remove {tmp_path / NAME} and" in error
        assert f"`repro prepare {NAME} --data {tmp_path}`" in error
    after = manifest(built(NAME, tmp_path, files, overwrite=True))
    assert after["kernel"] == "the whole image, squeezed"
    assert after["fingerprint"] != before["fingerprint"]
    assert resized.load(tmp_path / NAME, "train").fingerprint == after["fingerprint"]


KILLED = """
import os, signal, sys, time
from pathlib import Path
from repro.data import prepare
from repro.data.imagenet import resized
resized.CHUNK = 8
write = resized._write_chunk
def chunk(partial, *arguments):
    if arguments[-1] == 24:  # the fourth
        while partial.with_suffix(".journal").read_text().count("\\n") < 1 + 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return write(partial, *arguments)
resized._write_chunk = chunk
resized.os.sched_getaffinity = lambda _: {0}
prepare.prepare(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_killed_build_goes_on(made: Path, tmp_path: Path, writes: list[int]) -> None:
    command = [sys.executable, "-c", KILLED, NAME, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / NAME / "train.npy").exists()
    prepare(NAME, tmp_path)
    assert writes == [24, 32, 0, 8, 16]  # of 40 train images, and 20 test images
    for split in OFFICIAL:
        ours, theirs = load(NAME, split, tmp_path), load(NAME, split, made)
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.labels, theirs.labels)
    assert {path.suffix for path in (tmp_path / NAME).iterdir()} == {".json", ".lock", ".npy"}


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first images of the chunks of 8 that are written from here on, one after another."""
    starts: list[int] = []
    write = resized._write_chunk

    def counted(*arguments: Any) -> str:
        digest = write(*arguments)
        starts.append(arguments[-1])
        return digest

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(resized, "as_completed", list)
    monkeypatch.setattr(resized, "CHUNK", 8)
    monkeypatch.setattr(resized, "_write_chunk", counted)
    return starts


def broken_off(name: str, root: Path, files: list[bytes], writes: list[int]) -> Path:
    """The journal of a build of two chunks that ended in the second, at a broken last image.

    The image may then be made whole, since it is as long.
    """
    whole = files[-1]
    error = refused(lambda: built(name, root, [*files[:-1], b"?" * len(whole)]))
    assert f"n{len(files) - 1:03}.JPEG: unreadable image" in error
    assert not (root / name / "train.json").exists()
    journal = root / name / "train.journal"
    first = json.loads(journal.read_text().split("\n")[1])
    assert first[0] == 0
    writes.clear()
    return journal


def test_a_broken_image_is_named_and_the_rest_kept(tmp_path: Path, writes: list[int]) -> None:
    files = [png(picture(70 + number, 80)) for number in range(16)]
    broken_off(NAME, tmp_path, files, writes)
    folder = built(NAME, tmp_path, files)
    assert writes == [8]
    order = [0, *range(2, 14), 15, 1, 14]
    wanted = torch.from_numpy(np.stack([square_of(files[index]) for index in order]))
    assert torch.equal(resized.load(folder, "train").pixels, wanted)


@pytest.mark.parametrize(
    ("form", "change", "written"),
    [
        ("64px", "rule", [0, 8]),  # or squares of two rules would be in one file
        ("256px", "older", [8]),  # a journal of when 256px was the only form
    ],
)
def test_what_a_broken_off_build_left_is_used_if_made_in_the_same_way(
    form: str, change: str, written: list[int], tmp_path: Path, writes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name, files = f"imagenet-smoke-{form}", [png(picture(70, 80))] * 16
    journal = broken_off(name, tmp_path, files, writes)
    way, *rest = journal.read_text().split("\n")
    if change == "older":
        source = {k: v for k, v in json.loads(way).items() if k != "kernel"}
        journal.write_text("\n".join([json.dumps(source), *rest]))
    else:
        squeezed = CropFormat(64, "squeezed", lambda image, side: image.resize((side, side)))
        monkeypatch.setitem(CROP_FORMATS, form, squeezed)
    images = resized.load(built(name, tmp_path, files), "train")
    assert writes == written
    assert (images.pixels == images.pixels[0]).all()


# ---- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("crop", [None, CentreCrop(64, 1.0, "bicubic")])
def test_batches_are_whole_squares_as_stored(
    crop: CentreCrop | None, workers: int, made: Path
) -> None:
    images = load(NAME, "fit", made)
    stored = np.load(made / NAME / "train.npy")  # in memory
    pairs = list(samples(len(images.labels), 40, 0, 7))
    found = list(batches(images, pairs, crop, CPU, workers))
    for batch, (indices, _) in zip(found, pairs, strict=True):
        assert np.array_equal(batch.pixels.numpy(), stored[indices.numpy()])
        assert torch.equal(batch.labels, images.labels[indices])
        assert batch.readable.all()


READ = """
import hashlib, pickle, sys
images = pickle.load(sys.stdin.buffer)
print(hashlib.sha256(images.pixels.numpy().tobytes()).hexdigest(), images.fingerprint)
"""


def test_another_process_gets_the_name_of_the_file_and_reads_it(made: Path) -> None:
    images = load(NAME, "validation", made)
    message = pickle.dumps(images)
    assert len(message) < 1000
    assert str(made / NAME / "train.npy") in Path("/proc/self/maps").read_text()
    said = subprocess.run([sys.executable, "-c", READ], input=message, stdout=-1, check=True).stdout
    digest = hashlib.sha256(images.pixels.numpy().tobytes()).hexdigest()
    assert said.decode().split() == [digest, images.fingerprint]


def test_every_set_of_squares_is_made_of_one_of_photos() -> None:
    assert set(RESIZED) < set(datasets.names())
    assert RESIZED["imagenet-64px"] == RESIZED["imagenet-256px"] == "imagenet"
    assert set(RESIZED.values()) <= set(reader.PHOTO_SETS)
    assert {name: SMOKE_SOURCE[name] for name in RESIZED if name in SMOKE_SOURCE} == {
        "imagenet-smoke-64px": "fashion-mnist-6k", "imagenet-smoke-256px": "fashion-mnist-6k"
    }  # fmt: skip


def test_without_photos_it_says_where_to_put_them(tmp_path: Path) -> None:
    error = refused(lambda: prepare("imagenet-64px", tmp_path))
    assert f"no train images in {tmp_path / 'imagenet'}" in error
    error = refused(lambda: load("imagenet-64px", "train", tmp_path))
    assert f"`repro prepare imagenet-64px --data {tmp_path}`" in error
