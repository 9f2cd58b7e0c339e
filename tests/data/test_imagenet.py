"""ImageNet in every form that users have it in, its official numbers, its sample, its fast form."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from PIL import Image

from repro.data import datasets
from repro.data.datasets import load
from repro.data.imagenet import devkit, reader, resized, scan, smoke_photos, verify
from repro.data.imagenet.photos import Photos
from repro.data.imagenet.smoke_photos import make_tar
from repro.data.images import DataError, OfficialSplit
from repro.data.prepare import prepare

NAME: Final = "imagenet-smoke"
SPLITS: tuple[datasets.Split, ...] = ("train", "test", "fit", "validation")
OFFICIAL: tuple[OfficialSplit, ...] = ("train", "test")
Classes = dict[str, dict[str, bytes]]  # wnid -> file -> bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    prepare(NAME, root)
    prepare("imagenet22k-smoke", root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the smoke data that a test may damage, not yet indexed."""
    for name in (NAME, "imagenet22k-smoke"):
        shutil.copytree(made / name, tmp_path / "data" / name)
    return tmp_path / "data"


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as error:
        act()
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)  # what is wrong; the next step
    return str(error.value)


# ---- the forms ----------------------------------------------------------------------------------


def images(folder: Path) -> Classes:
    return {
        place.name: {path.name: path.read_bytes() for path in sorted(place.iterdir())}
        for place in sorted(folder.iterdir())
    }


def as_tree(train: Classes, val: Classes, to: Path) -> None:
    for part, classes in (("train", train), ("val", val)):
        for wnid, files in classes.items():
            (to / part / wnid).mkdir(parents=True)
            for name, data in files.items():
                (to / part / wnid / name).write_bytes(data)


def as_ilsvrc(train: Classes, val: Classes, to: Path) -> None:
    inner = {f"{wnid}.tar": make_tar(files) for wnid, files in train.items()}
    (to / "ILSVRC2012_img_train.tar").write_bytes(make_tar(inner))
    labels = {name: wnid for wnid, files in val.items() for name in files}
    (to / "ILSVRC2012_img_val.tar").write_bytes(
        make_tar({n: val[labels[n]][n] for n in sorted(labels, reverse=True)})
    )
    write_devkit(to / devkit.ARCHIVE, [labels[name] for name in sorted(labels)], list(val))


def as_flat(train: Classes, val: Classes, to: Path) -> None:
    as_ilsvrc(train, val, to)
    (to / "val").mkdir()
    with tarfile.open(to / "ILSVRC2012_img_val.tar") as tar:
        tar.extractall(to / "val", filter="data")
    (to / "ILSVRC2012_img_val.tar").unlink()


def as_val_with_folders(train: Classes, val: Classes, to: Path) -> None:
    as_ilsvrc(train, val, to)
    (to / devkit.ARCHIVE).unlink()
    files = {f"val/{wnid}/{n}": data for wnid, files in val.items() for n, data in files.items()}
    (to / "ILSVRC2012_img_val.tar").write_bytes(make_tar(files))


def as_class_tars(train: Classes, val: Classes, to: Path) -> None:
    for part, classes in (("train", train), ("val", val)):
        (to / part).mkdir()
        for wnid, files in classes.items():
            (to / part / f"{wnid}.tar").write_bytes(make_tar(files))


def as_shards(train: Classes, val: Classes, to: Path) -> None:
    for part, classes in (("imagenet1k-train", train), ("imagenet1k-validation", val)):
        rows = [
            (Path(name).stem, data, label)
            for label, files in enumerate(classes.values())
            for name, data in files.items()
        ]
        mixed = sorted(rows, key=lambda row: zlib.crc32(row[0].encode()))  # as shards are
        for number in range(3):
            members: dict[str, bytes] = {}
            for stem, data, label in mixed[number::3]:
                about = {"cls": str(label).encode()}
                if number == 1:
                    about = {"json": json.dumps({"label": label}).encode()}
                members |= {f"{stem}.jpg": data} | {f"{stem}.{e}": v for e, v in about.items()}
            (to / f"{part}-{number:04}.tar").write_bytes(make_tar(members))


FORMS = (as_tree, as_ilsvrc, as_flat, as_val_with_folders, as_class_tars, as_shards)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_dataset(
    form: Callable[..., None], made: Path, tmp_path: Path
) -> None:
    tree = made / NAME
    (tmp_path / NAME).mkdir()
    form(images(tree / "train"), images(tree / "val"), tmp_path / NAME)
    for split in SPLITS:
        ours, theirs = load(NAME, split, tmp_path), load(NAME, split, made)
        assert ours.fingerprint == theirs.fingerprint
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.classes == theirs.classes == reader.SMOKE_CLASSES
        assert [ours.read(i) for i in range(len(ours))] == [
            theirs.read(i) for i in range(len(theirs))
        ]
        assert stems(ours) == stems(theirs)
    assert verify.prepare(NAME, tmp_path)


def stems(photos: Photos) -> list[str]:
    return [Path(photos.name(i)).stem.split(":")[-1] for i in range(len(photos))]


def test_the_tree_is_read_as_torchvision_reads_it(made: Path) -> None:
    from torchvision.datasets import ImageFolder

    for split, part in (("train", "train"), ("test", "val")):
        theirs = ImageFolder(made / NAME / part)
        ours = load(NAME, "train" if split == "train" else "test", made)
        assert list(ours.classes) == theirs.classes
        assert [(i, Path(p).read_bytes()) for p, i in sorted(theirs.samples, key=by_stem)] == [
            (int(ours.labels[i]), ours.read(i)) for i in range(len(ours))
        ]


def by_stem(row: tuple[str, int]) -> tuple[int, str]:
    return row[1], Path(row[0]).stem


def test_names_say_where_an_image_is(made: Path, tmp_path: Path) -> None:
    assert load(NAME, "train", made).name(0) == "n90000000/n90000000_0.JPEG"
    assert load("imagenet22k-smoke", "train", made).name(0) == "n91000000.tar:n91000000_0.JPEG"
    (tmp_path / NAME).mkdir()
    as_shards(images(made / NAME / "train"), images(made / NAME / "val"), tmp_path / NAME)
    assert load(NAME, "train", tmp_path).name(0).endswith(".tar:n90000000_0.jpg")


def test_22k_may_lie_in_its_folder_itself_or_in_one_tar(made: Path, tmp_path: Path) -> None:
    name = "imagenet22k-smoke"
    tars = {path.name: path.read_bytes() for path in (made / name / "train").iterdir()}
    wanted = load(name, "train", made).fingerprint
    for form in ("folders", "tars", "whole"):
        folder = tmp_path / form / name
        folder.mkdir(parents=True)
        if form == "whole":
            (folder / "fall11_whole.tar").write_bytes(make_tar(tars))
        for file, data in tars.items() if form != "whole" else ():
            if form == "tars":
                (folder / file).write_bytes(data)
            else:
                with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                    tar.extractall(folder / file.removesuffix(".tar"), filter="data")
        assert load(name, "train", tmp_path / form).fingerprint == wanted


def test_22k_has_no_test_split(made: Path) -> None:
    for name in ("imagenet22k", "imagenet22k-smoke"):
        assert datasets.splits(name) == ("train",)
        with pytest.raises(DataError, match=f"{name} has no test split, only 'train'"):
            load(name, "test", made)
    assert len(load("imagenet22k-smoke", "validation", made)) == 12
    assert datasets.splits("cifar10") == datasets.splits("imagenet") == ("train", "test")


@pytest.mark.parametrize("name", ["imagenet", "imagenet22k"])
def test_missing_files_are_requested_by_name(name: str, tmp_path: Path) -> None:
    error = refused(lambda: prepare(name, tmp_path))
    for part in (str(tmp_path / name), "image-net.org", "train/<wnid>/*.JPEG", "train-000000.tar"):
        assert part in error
    assert f"`repro prepare {name} --data {tmp_path}`" in error


def test_a_missing_validation_file_is_requested_by_name(root: Path) -> None:
    shutil.rmtree(root / NAME / "val")
    assert "no test images" in refused(lambda: load(NAME, "test", root))
    assert len(load(NAME, "train", root)) == 40


def test_a_folder_with_a_number_is_no_class_of_imagenet(root: Path) -> None:
    """As those of ImageNetV2 are, which may have been unpacked beside."""
    place = root / NAME / "train"
    shutil.copytree(next(place.glob("n*")), place / "17")
    assert len(load(NAME, "train", root)) == 40


# ---- what it must be ----------------------------------------------------------------------------


def test_the_classes_of_imagenet_are_the_thousand_in_the_standard_order() -> None:
    wnids = reader.synsets()
    assert len(set(wnids)) == 1000
    assert list(wnids) == sorted(wnids)
    assert (wnids[0], wnids[207], wnids[999]) == ("n01440764", "n02099601", "n15075141")


def test_archives_are_torchvisions() -> None:
    from torchvision.datasets.imagenet import ARCHIVE_META

    assert dict(ARCHIVE_META.values()) == reader.ARCHIVES


def test_other_numbers_are_not_imagenet(root: Path) -> None:
    (root / NAME).rename(root / "imagenet")
    for number, folder in enumerate(sorted((root / "imagenet" / "train").iterdir())):
        folder.rename(folder.with_name(reader.synsets()[number]))
    error = refused(lambda: load("imagenet", "train", root))
    assert "40 train images, but imagenet has 1,281,167" in error
    assert "n01440764 has 4, n01443537 has 4" in error
    assert "997 more classes, expected 732 to 1,300" in error
    assert not (root / "imagenet-index" / "train.npz").exists()


@pytest.mark.parametrize("damage", ["image", "class", "extra", "stranger", "even"])
def test_a_wrong_count_names_the_class(damage: str, root: Path) -> None:
    folder = root / NAME / "train"
    if damage in ("image", "even"):
        next((folder / "n90000003").iterdir()).unlink()
        wanted = "39 train images, but imagenet-smoke has 40; n90000003 has 3, expected 4"
    if damage == "even":  # the total is right, and yet it is another set
        (folder / "n90000004" / "more.JPEG").write_bytes(b"x")
        wanted = "n90000003 has 3, n90000004 has 5, expected 4"
    elif damage == "class":
        shutil.rmtree(folder / "n90000003")
        wanted = "36 train images, but imagenet-smoke has 40; n90000003 has 0, expected 4"
    elif damage == "extra":
        (folder / "n90000009" / "more.JPEG").write_bytes(b"x")
        wanted = "n90000009 has 5, expected 4"
    elif damage == "stranger":
        (folder / "n90000003").rename(folder / "n12345678")
        wanted = "n12345678 is not a class of imagenet-smoke"
    assert wanted in refused(lambda: load(NAME, "train", root))


def test_a_shard_with_another_label_is_refused(root: Path) -> None:
    shutil.rmtree(root / NAME)
    (root / NAME).mkdir()
    (root / NAME / "train-000000.tar").write_bytes(make_tar({"a.jpg": b"x", "a.cls": b"10"}))
    error = refused(lambda: load(NAME, "train", root))
    assert "label 10, but imagenet-smoke has 10 classes" in error


def test_a_truncated_tar_is_named(root: Path) -> None:
    path = root / "imagenet22k-smoke" / "train" / "n91000005.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = refused(lambda: load("imagenet22k-smoke", "train", root))
    assert f"{path}: damaged or truncated tar file" in error


def test_an_unknown_release_of_22k_is_warned_of(root: Path) -> None:
    (root / "imagenet22k-smoke").rename(root / "imagenet22k")
    said = verify.prepare("imagenet22k", root)
    assert any(line.startswith("warning: imagenet22k is not a known release") for line in said)
    counts = [(c, n) for (n, c) in reader.RELEASES]
    assert (21841, 14197122) in counts


# ---- the index ----------------------------------------------------------------------------------


def test_an_indexed_set_is_not_scanned_again_until_it_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(NAME, "train", root)
    kept = {path.name for path in reader.index_folder(NAME, root).iterdir()}
    assert kept == {"train.npz", "train.lock"}

    def forbidden(*_: object) -> None:
        raise AssertionError("scanned again")

    with monkeypatch.context() as context:
        context.setattr(scan, "_scan_container", forbidden)
        assert load(NAME, "train", root).fingerprint == before.fingerprint
        with pytest.raises(AssertionError, match="scanned again"):
            load(NAME, "test", root)
    path = root / NAME / "train" / "n90000002" / "n90000002_8.JPEG"
    assert path.exists()
    path.rename(path.with_name("another.JPEG"))
    assert load(NAME, "train", root).fingerprint != before.fingerprint


def test_a_tar_that_was_replaced_is_scanned_again(root: Path) -> None:
    path = root / "imagenet22k-smoke" / "train" / "n91000001.tar"
    before = load("imagenet22k-smoke", "train", root)
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    path.write_bytes(make_tar({f"new-{file}": data for file, data in files.items()}))
    after = load("imagenet22k-smoke", "train", root)
    assert after.fingerprint != before.fingerprint
    assert [after.read(i) for i in range(48)] == [before_bytes(before, files, i) for i in range(48)]


def before_bytes(before: Photos, files: dict[str, bytes], index: int) -> bytes:
    own = before.name(index).partition(":")[2]
    return files[own] if own in files else before.read(index)


def test_an_index_that_cannot_be_written_is_named(root: Path) -> None:
    (root / f"{NAME}-index").write_text("a file")
    assert f"{root / NAME}-index" in refused(lambda: load(NAME, "train", root))


def test_the_folder_of_the_data_itself_is_not_written_to(root: Path) -> None:
    files = sorted(root.joinpath(NAME).rglob("*"))
    verify.prepare(NAME, root)
    assert sorted(root.joinpath(NAME).rglob("*")) == files


def test_fit_and_validation_share_out_the_train_split(made: Path) -> None:
    train, _, fit, validation = (load(NAME, split, made) for split in SPLITS)
    rows = [
        [(x.name(i), int(x.labels[i])) for i in range(len(x))] for x in (train, fit, validation)
    ]
    assert sorted(rows[1] + rows[2]) == sorted(rows[0])
    assert not set(rows[1]) & set(rows[2])
    assert validation.labels.bincount().tolist() == [1] * 10
    assert fit.labels.bincount().tolist() == [3] * 10


# ---- the devkit ---------------------------------------------------------------------------------


def element(kind: int, data: bytes) -> bytes:
    """A data element of a MAT file; small ones as MATLAB writes them."""
    if 0 < len(data) <= 4:
        return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(of: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"") -> bytes:
    flags = element(6, struct.pack("<II", of, 0))
    sizes = element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, flags + sizes + element(1, name) + b"".join(parts))


def meta_mat(rows: list[tuple[int, str, int]], compressed: bool) -> bytes:
    """A meta.mat of synsets with an id, a wnid and a number of children, as MATLAB 7 writes it."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "num_children", "children")
    width = 32
    names = b"".join(field.encode().ljust(width, b"\0") for field in fields)
    values = b""
    for number, wnid, children in rows:
        values += matrix(6, (1, 1), element(9 if number % 2 else 4, packed(number)))
        values += matrix(4, (1, 9), element(16 if number % 3 else 4, text(wnid, number)))
        values += matrix(4, (1, 5), element(16, b"a, b\xc3"))
        values += matrix(6, (1, 1), element(2, bytes([children])))
        values += matrix(6, (0, 0), element(9, b""))
    shape = (len(rows), 1)
    head = (element(5, struct.pack("<i", width)), element(1, names))
    synsets = matrix(2, shape, *head, values, name=b"synsets")
    other = matrix(6, (1, 1), element(9, struct.pack("<d", 1.0)))  # another variable before it
    parts = [other, synsets]
    if compressed:
        small = [zlib.compress(part) for part in parts]
        parts = [struct.pack("<II", 15, len(part)) + part for part in small]
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(parts)


def packed(number: int) -> bytes:
    """MATLAB keeps a whole double as a smaller type where it can; here every second one."""
    return struct.pack("<d", number) if number % 2 else struct.pack("<H", number)


def text(word: str, number: int) -> bytes:
    return word.encode("ascii" if number % 3 else "utf-16-le")


def write_devkit(path: Path, truth: list[str], wnids: list[str], compressed: bool = True) -> None:
    """A devkit: its numbers are not in the order of the wnids, and one synset is no class."""
    numbers = {wnid: number for number, wnid in enumerate(reversed(wnids), 1)}
    rows = [(number, wnid, 0) for wnid, number in numbers.items()]
    rows.append((len(rows) + 1, "n00000000", 3))
    lines = "".join(f"{numbers[wnid]}\n" for wnid in truth).encode()
    files = {devkit.META: meta_mat(rows, compressed), devkit.GROUND_TRUTH: lines}
    members = {f"ILSVRC2012_devkit_t12/{name}": data for name, data in files.items()}
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("compressed", [True, False])
def test_the_devkit_says_which_number_is_which_class(compressed: bool, tmp_path: Path) -> None:
    truth = ["n90000002", "n90000000", "n90000002", "n90000001"]
    wnids = sorted(set(truth))
    write_devkit(tmp_path / devkit.ARCHIVE, truth, wnids, compressed)
    assert devkit.wnids(tmp_path / devkit.ARCHIVE, None, "step") == truth
    assert devkit.class_wnids(meta_mat([(2, "n2", 0), (1, "n1", 0), (3, "n3", 1)], compressed)) == {
        1: "n1", 2: "n2"
    }  # fmt: skip


def test_another_devkit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / devkit.ARCHIVE
    assert "missing" in refused(lambda: devkit.wnids(path, None, "put it there"))
    write_devkit(path, ["n1"], ["n1"])
    md5 = reader.PHOTO_SETS["imagenet"].devkit_md5
    assert md5 == reader.ARCHIVES[devkit.ARCHIVE]
    assert "truncated or altered" in refused(lambda: devkit.wnids(path, md5, "put it there"))
    good = path.read_bytes()
    for damage in (b"", b"no archive", good[: len(good) // 2]):
        path.write_bytes(damage)
        assert str(path) in refused(lambda: devkit.wnids(path, None, "put it there"))
    for content in (b"", b"x" * 300, meta_mat([(1, "n1", 0)], False)[:400]):
        with tarfile.open(path, "w:gz") as tar:
            for name, data in ((devkit.META, content), (devkit.GROUND_TRUTH, b"1\n")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        assert str(path) in refused(lambda: devkit.wnids(path, None, "put it there"))


def test_val_images_need_their_numbers(root: Path, made: Path) -> None:
    shutil.rmtree(root / NAME)
    (root / NAME).mkdir()
    as_ilsvrc(images(made / NAME / "train"), images(made / NAME / "val"), root / NAME)
    (root / NAME / devkit.ARCHIVE).rename(root / "kept")
    assert devkit.ARCHIVE in refused(lambda: load(NAME, "test", root))
    (root / "kept").rename(root / NAME / devkit.ARCHIVE)
    for name in ("photo.JPEG", "ILSVRC2012_val_00000021.JPEG", "ILSVRC2012_val_00000000.JPEG"):
        (root / NAME / "ILSVRC2012_img_val.tar").write_bytes(make_tar({name: b"x"}))
        assert "ILSVRC2012_val_00000001.JPEG to 00000020" in refused(
            lambda: load(NAME, "test", root)
        )


# ---- the sample ---------------------------------------------------------------------------------


def test_prepare_says_what_it_found_and_is_content_with_it_again(root: Path) -> None:
    said = verify.prepare(NAME, root)
    assert said == [
        f"{NAME} train: 40 images of 10 classes, a folder per class; 40 of them read and decoded",
        f"{NAME} test: 20 images of 10 classes, a folder per class; 20 of them read and decoded",
    ]
    assert verify.prepare(NAME, root) == said


def test_a_second_prepare_names_what_changed(root: Path) -> None:
    verify.prepare(NAME, root)
    path = root / NAME / "train" / "n90000004" / "n90000004_16.JPEG"
    good = path.read_bytes()
    changed = bytearray(good)
    changed[30] ^= 1  # in a table of the JPEG's: it is decoded, to other pixels
    path.write_bytes(changed)
    error = refused(lambda: verify.prepare(NAME, root))
    assert "n90000004/n90000004_16.JPEG changed" in error
    assert f"remove {reader.manifest(NAME, root)}" in error
    path.write_bytes(good)
    verify.prepare(NAME, root)
    path.write_bytes(changed)
    reader.manifest(NAME, root).unlink()
    verify.prepare(NAME, root)


def test_a_change_of_names_alone_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SAMPLE_SIZE", 3)
    verify.prepare(NAME, root)
    seen = [
        e["index"] for e in json.loads(reader.manifest(NAME, root).read_text())["train"]["sample"]
    ]
    assert len(seen) == 3
    other = next(i for i in range(40) if i not in seen)
    photos = load(NAME, "train", root)
    path = root / NAME / "train" / photos.name(other)
    path.rename(path.with_stem(f"{path.stem}x"))
    assert "outside the sample changed" in refused(lambda: verify.prepare(NAME, root))


@pytest.mark.parametrize("damage", ["not an image", "cut"])
def test_an_image_that_cannot_be_decoded_is_named(damage: str, root: Path) -> None:
    path = root / NAME / "val" / "n90000001" / "ILSVRC2012_val_00000003.JPEG"
    path.write_bytes(b"text" if damage == "not an image" else path.read_bytes()[:-200])
    assert f"n90000001/{path.name}: unreadable image" in refused(lambda: verify.prepare(NAME, root))


def test_the_sample_is_fixed_and_spread() -> None:
    chosen = verify.sample_indices(1_281_167)
    assert len(set(chosen)) == 1000
    assert chosen == sorted(chosen) == verify.sample_indices(1_281_167)
    assert chosen[:3] == GOLDEN_SAMPLE
    assert np.histogram(chosen, 4, (0, 1_281_167))[0].min() > 200
    assert verify.sample_indices(40) == list(range(40))


GOLDEN_SAMPLE = [527, 2125, 3838]  # another sample would void every manifest


# ---- smoke sets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["imagenet-smoke", "imagenet22k-smoke"])
def test_smoke_sets_are_the_same_bytes_every_time_and_repaired(
    name: str, made: Path, tmp_path: Path
) -> None:
    def contents(root: Path) -> dict[str, bytes]:
        files = (p for p in (root / name).rglob("*") if p.is_file())
        return {str(p.relative_to(root)): p.read_bytes() for p in files}

    prepare(name, tmp_path)
    assert contents(tmp_path) == contents(made)
    assert sum(map(len, contents(made).values())) < 500_000
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / name).rglob("*")}
    prepare(name, tmp_path)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / name).rglob("*")}
    manifest = reader.manifest(name, tmp_path)  # of the images of another Pillow
    about = json.loads(manifest.read_text())
    about["train"]["fingerprint"] = "another"
    manifest.write_text(json.dumps(about))
    torn = next(p for p in (tmp_path / name).rglob("*") if p.is_file())
    torn.write_bytes(b"torn")
    prepare(name, tmp_path)
    assert contents(tmp_path) == contents(made)


def test_the_smoke_set_has_what_the_real_one_has(made: Path) -> None:
    photos = load(NAME, "train", made)
    opened = [Image.open(io.BytesIO(photos.read(i))) for i in range(len(photos))]
    kinds = [(image.format, image.mode) for image in opened]
    assert {k: kinds.count(k) for k in set(kinds)} == {
        ("JPEG", "RGB"): 37, ("JPEG", "L"): 1, ("JPEG", "CMYK"): 1, ("PNG", "RGB"): 1
    }  # fmt: skip
    sizes = {image.size for image in opened}
    assert len(sizes) > 30
    assert all(60 <= side <= 120 for size in sizes for side in size)
    assert all(width != height for width, height in sizes)
    assert len({photos.read(i) for i in range(40)}) == 40


# ---- the fast form ------------------------------------------------------------------------------

FAST: Final = "imagenet-smoke-256px"


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fast")
    prepare(FAST, root)
    return root


def test_the_fast_form_is_torchvisions_resize_and_centre_crop(fast: Path) -> None:
    for split in SPLITS:
        photos, squares = load(NAME, split, fast), load(FAST, split, fast)
        assert squares.pixels.shape == (len(photos), 3, 256, 256)
        assert squares.pixels.dtype == torch.uint8
        assert (squares.classes, squares.mean) == (photos.classes, photos.mean)
        wanted = {square_of(photos, i): int(photos.labels[i]) for i in range(len(photos))}
        rows = zip(squares.pixels, squares.labels, strict=True)
        assert {pixels.numpy().tobytes(): int(label) for pixels, label in rows} == wanted
    train, fit, held_out = (load(FAST, s, fast) for s in ("train", "fit", "validation"))
    assert torch.equal(torch.cat([fit.pixels, held_out.pixels]), train.pixels)
    assert len({load(FAST, split, fast).fingerprint for split in SPLITS}) == 4


def by_torchvision(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    square = CenterCrop(256)(Resize(256, InterpolationMode.BICUBIC)(image))
    return np.asarray(square).transpose(2, 0, 1)


def square_of(photos: Photos, index: int) -> bytes:
    return by_torchvision(Image.open(io.BytesIO(photos.read(index))).convert("RGB")).tobytes()


SHAPES = [(500, 375), (375, 500), (333, 257), (256, 256), (100, 301), (61, 60), (257, 256)]


@pytest.mark.parametrize("size", SHAPES)
def test_a_square_is_torchvisions_at_any_shape(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    wanted = by_torchvision(Image.fromarray(pixels))
    assert np.array_equal(
        resized.decode_and_crop(buffer.getvalue(), resized.CROP_FORMATS["256px"]), wanted
    )


def test_the_fast_form_stays_in_its_file_and_goes_to_workers_by_name(fast: Path) -> None:
    images = load(FAST, "validation", fast)
    message = pickle.dumps(images)
    assert len(message) < 1000
    again = pickle.loads(message)
    assert torch.equal(again.pixels, images.pixels)
    assert again.fingerprint == images.fingerprint
    mapped = Path("/proc/self/maps").read_text()
    assert str(fast / FAST / "train.npy") in mapped


def test_a_fast_form_that_changed_is_refused(fast: Path, tmp_path: Path) -> None:
    shutil.copytree(fast, tmp_path / "data")
    root, path = tmp_path / "data", tmp_path / "data" / FAST / "train.npy"
    os.utime(root / NAME / "train" / "n90000000")  # a new scan, and the same photos
    prepare(FAST, root)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "images 0 to 39 changed; remove" in refused(lambda: prepare(FAST, root))
    path.write_bytes(good[:-1])
    assert "train.npy" in refused(lambda: load(FAST, "train", root))
    (root / FAST / "test.json").unlink()
    assert f"run `repro prepare {FAST}" in refused(lambda: load(FAST, "test", root))


def test_a_fast_form_of_other_photos_is_refused(fast: Path, tmp_path: Path) -> None:
    photos = load(NAME, "test", fast)
    shutil.copytree(fast / FAST, tmp_path / FAST)
    part = photos.take(torch.arange(19), "part")
    error = refused(lambda: resized.build(FAST, "test", tmp_path, part, None, False))
    assert "built from different images" in error
    resized.build(FAST, "test", tmp_path, part, None, True)
    assert len(load(FAST, "test", tmp_path).labels) == 19


KILLED = """
import os, signal, sys
from pathlib import Path
from repro.data import prepare
from repro.data.imagenet import resized
resized.CHUNK = 8
write, left = resized._write_chunk, [int(sys.argv[2])]
def chunk(*arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
resized._write_chunk = chunk
resized.os.sched_getaffinity = lambda _: {0}
prepare.prepare("imagenet-smoke-256px", Path(sys.argv[1]))
"""


def test_a_killed_build_of_the_fast_form_goes_on(
    fast: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), "4"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / FAST / "train.npy").exists()
    journal = tmp_path / FAST / "train.journal"
    kept = journal.read_text().count("\n") - 1
    assert kept >= 2
    with journal.open("a") as file:
        file.write('[16, "torn')
    monkeypatch.setattr(resized, "CHUNK", 8)
    written = []
    write = resized._write_chunk

    def counted(*arguments: object) -> str:
        written.append(arguments[-1])
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(resized, "_write_chunk", counted)
    prepare(FAST, tmp_path)
    assert len(written) == 5 - kept + 3  # of 40 train images, and 20 test images
    for split in OFFICIAL:
        ours, theirs = load(FAST, split, tmp_path), load(FAST, split, fast)
        assert torch.equal(ours.pixels, theirs.pixels)
        assert torch.equal(ours.labels, theirs.labels)
    assert sorted(p.suffix for p in (tmp_path / FAST).glob("train*")) == [
        ".json", ".lock", ".npy", ".npy"
    ]  # fmt: skip


def test_every_photo_set_has_a_smoke_source() -> None:
    assert set(smoke_photos.SOURCE) <= set(datasets.names())
    assert set(resized.RESIZED.values()) <= set(reader.PHOTO_SETS)
