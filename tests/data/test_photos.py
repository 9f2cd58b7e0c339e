"""Photos where they lie: reading, scanning, tar files, and a scan that is killed and goes on."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from repro.data.imagenet import photo_index, scan, tars
from repro.data.imagenet.photos import Photos
from repro.data.imagenet.scan import Container, with_file_stats
from repro.data.imagenet.smoke_photos import make_tar
from repro.data.images import DataError

CONTENTS = {f"train/n0000000{c}/b{i}.JPEG": bytes([c, i] * (i + 1)) for c in (1, 2) for i in (2, 0)}


def tree(folder: Path) -> Path:
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def folders() -> list[Container]:
    return [Container(f"train/n0000000{c}", "folder", f"n0000000{c}") for c in (1, 2)]


def scanned(folder: Path, containers: list[Container], journal: Path) -> Photos:
    found = scan.scan(folder, with_file_stats(folder, containers), journal, "title")
    labels = np.concatenate([np.full(len(p.length), int(u.wnid[-1]) - 1) for u, p in found])
    return photo_index.merge(folder, found, labels, ("one", "two"))


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return scanned(tree(tmp_path), folders(), tmp_path / "journal")


def test_photos_are_read_and_named_in_the_order_of_labels_and_names(photos: Photos) -> None:
    names = [f"n0000000{c}/b{i}.JPEG" for c in (1, 2) for i in (0, 2)]
    assert [photos.name(i) for i in range(len(photos))] == names
    assert [photos.read(i) for i in range(4)] == [CONTENTS[f"train/{name}"] for name in names]
    assert photos.labels.tolist() == [0, 0, 1, 1]
    assert photos.length.tolist() == [2, 6, 2, 6]
    kinds = (photos.file, photos.offset, photos.length, photos.labels)
    assert [x.dtype for x in kinds] == [torch.int32, torch.int64, torch.int64, torch.int64]


def test_photos_pass_to_workers_of_every_kind(photos: Photos) -> None:
    again: Photos = pickle.loads(pickle.dumps(photos))
    wanted = [photos.read(i) for i in range(4)]
    assert [again.read(i) for i in range(4)] == wanted
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(photos.read, [0, 1, 2, 3] * 100)) == wanted * 100
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        assert list(workers.map(photos.read, range(4))) == wanted


def test_reading_leaves_no_file_open(photos: Photos, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        photos.read(0)
    (tmp_path / "train/n00000001/b0.JPEG").unlink()
    for _ in range(50):
        with pytest.raises(DataError):
            photos.read(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


CHANGES = [(None, "missing"), (b"", "0 of 2"), (b"abc", "more than 2")]


@pytest.mark.parametrize(("content", "said"), CHANGES)
def test_a_photo_that_is_gone_or_changed_in_length_is_named(
    content: bytes | None, said: str, photos: Photos, tmp_path: Path
) -> None:
    path = tmp_path / "train/n00000001/b0.JPEG"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as error:
        photos.read(0)
    assert str(error.value).startswith(f"n00000001/b0.JPEG: {said}")
    assert "\n" not in str(error.value)
    assert photos.read(1)


def test_a_tar_that_shrank_is_named(tmp_path: Path) -> None:
    (tmp_path / "n00000001.tar").write_bytes(make_tar({"a.jpg": b"x" * 600, "b.jpg": b"y"}))
    photos = scanned(tmp_path, [Container("n00000001.tar", "tar", "n00000001")], tmp_path / "j")
    assert photos.name(1) == "n00000001.tar:b.jpg"
    os.truncate(tmp_path / "n00000001.tar", 1000)
    with pytest.raises(DataError, match=r"^n00000001\.tar:a\.jpg: 488 of 600 bytes"):
        photos.read(0)
    with pytest.raises(DataError, match=r"^n00000001\.tar:b\.jpg: 0 of 1 bytes"):
        photos.read(1)


def test_a_part_of_a_split_keeps_what_belongs_together(photos: Photos) -> None:
    part = photos.take(torch.tensor([1, 2]), "fit")
    assert len(part) == 2
    for ours, theirs in enumerate((1, 2)):
        assert (part.name(ours), part.read(ours)) == (photos.name(theirs), photos.read(theirs))
    other = photos.take(torch.tensor([0, 3]), "validation")
    assert len({photos.fingerprint, part.fingerprint, other.fingerprint}) == 3


def test_the_fingerprint_is_of_names_lengths_and_labels_and_not_of_endings(tmp_path: Path) -> None:
    marks = {}
    for change in ("none", "ending", "name", "length", "swap", "bytes"):
        folder = tree(tmp_path / change)
        path = folder / "train/n00000002/b0.JPEG"
        if change in ("ending", "name"):
            path.rename(path.with_name("b0.jpg" if change == "ending" else "b1.JPEG"))
        elif change == "length":
            path.write_bytes(b"123")
        elif change == "swap":  # the same names and lengths, of other classes
            (folder / "train/n00000001/c.JPEG").write_bytes(b"1")
            path.unlink()
        elif change == "bytes":
            path.write_bytes(b"??")
        marks[change] = scanned(folder, folders(), tmp_path / f"{change}.j").fingerprint
    assert marks["none"] == marks["ending"] == marks["bytes"]
    assert len(set(marks.values())) == 4
    assert all(len(mark) == 16 for mark in marks.values())


def test_the_fingerprint_tells_labels_apart() -> None:
    names, stems = np.frombuffer(b"ab", np.uint8), np.array([[0, 1], [1, 2]])
    sizes = np.array([5, 5])
    one, two = (photo_index._order(names, stems, sizes, np.array([0, n]))[1] for n in (0, 1))
    assert one != two


def test_the_index_gives_back_what_was_written_and_is_void_once_a_container_changes(
    photos: Photos, tmp_path: Path
) -> None:
    index, containers = tmp_path / "index.npz", with_file_stats(tmp_path, folders())
    assert photo_index.read(index, tmp_path, containers) is None
    photo_index.write(index, photos, tmp_path, containers)
    again = photo_index.read(index, tmp_path, containers)
    assert again is not None
    for name in photo_index.ARRAYS:
        assert torch.equal(getattr(again, name), getattr(photos, name))
    plain = ("files", "classes", "mean", "std", "fingerprint")
    assert [getattr(again, n) for n in plain] == [getattr(photos, n) for n in plain]
    (tmp_path / "train/n00000002/new.JPEG").write_bytes(b"new")
    assert photo_index.read(index, tmp_path, with_file_stats(tmp_path, folders())) is None
    index.write_bytes(index.read_bytes()[:-40])
    assert photo_index.read(index, tmp_path, containers) is None


# ---- tar files ----------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150)


@given(
    names=st.lists(NAMES, max_size=6, unique=True),
    sizes=st.lists(st.integers(0, 1500), min_size=6, max_size=6),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    folder=st.sampled_from(["", "n01440764/", "./a/", "d" * 120 + "/"]),
)
def test_members_lie_where_tarfile_finds_them(
    names: list[str],
    sizes: list[int],
    form: int,
    folder: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        if folder:
            about = tarfile.TarInfo(folder)
            about.type = tarfile.DIRTYPE
            tar.addfile(about)
        for name, size in zip(names, sizes, strict=False):
            info = tarfile.TarInfo(folder + name)
            info.size = size
            try:
                tar.addfile(info, io.BytesIO(bytes(size)))
            except (ValueError, UnicodeEncodeError):  # too long for the old format
                continue
    with tarfile.open(path) as tar:
        wanted = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert list(tars.members(path, 0, path.stat().st_size)) == wanted


def test_a_tar_inside_a_tar_is_read_in_place(tmp_path: Path) -> None:
    inner = make_tar({"a.jpg": b"first", "b.jpg": b"second"})
    (tmp_path / "all.tar").write_bytes(
        make_tar({"README": b"no tar", "whole/n00000001.tar": inner, "n00000002.tar": inner})
    )
    found = scanned(tmp_path, [Container("all.tar", "tar of tars")], tmp_path / "j")
    assert [found.read(i) for i in range(4)] == [b"first", b"second"] * 2
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.name(3) == "all.tar:b.jpg"


def test_a_tar_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(make_tar({"a.jpg": bytes(700), "b.jpg": bytes(300)}))
    for size in (0, 100, 512, 700, 1536, 1600, 2048, 2100, 2400):
        os.truncate(path, size)
        with pytest.raises(DataError, match=r"a\.tar: damaged or truncated tar file"):
            list(tars.members(path, 0, size))
        path.write_bytes(make_tar({"a.jpg": bytes(700), "b.jpg": bytes(300)}))
    damaged = bytearray(path.read_bytes())
    damaged[1536 + 3] ^= 1  # in the name of the second member
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="damaged or truncated"):
        list(tars.members(path, 0, len(damaged)))


def shard(path: Path, members: dict[str, bytes]) -> list[tuple[str, int]]:
    path.write_bytes(make_tar(members))
    return [(row[0], row[3]) for row in tars.labelled_images(path, path.stat().st_size)]


def test_a_shard_has_its_labels_in_cls_or_json(tmp_path: Path) -> None:
    path = tmp_path / "train-0.tar"
    rows = shard(
        path,
        {
            "0.cls": b"7\n", "0.jpg": b"a",  # in either order
            "d/1.JPEG": b"b", "d/1.json": b'{"label": 3, "other": 1}',
            "2.jpeg": b"c", "2.json": b'{"cls": 4}', "2.cls": b"5",  # cls is the one
            "3.json": b"{}", "3.png": b"d", "3.cls": b"6", "3.txt": b"words",
            "4.jpg": b"e", "4.cls": b"8", "4.json": b'{"label": 9}',
        },
    )  # fmt: skip
    assert rows == [("0.jpg", 7), ("d/1.JPEG", 3), ("2.jpeg", 5), ("3.png", 6), ("4.jpg", 8)]
    bads: tuple[dict[str, bytes], ...] = (
        {}, {"1.cls": b"x"}, {"1.json": b'{"label": "x"}'}, {"1.json": b"["}, {"0.cls": b"1"}
    )  # fmt: skip
    for bad in bads:
        with pytest.raises(DataError, match=r"train-0\.tar:1\.jpg: no 1\.cls"):
            shard(path, {"1.jpg": b"a", **bad})


def test_what_macos_and_others_leave_is_no_image() -> None:
    for name in ("a.jpg", "a.JPEG", "n/a.jpeg", "./a.PNG", "a.b.jpg"):
        assert tars.IMAGE.fullmatch(name)
    for name in ("._a.jpg", "n/._a.JPEG", ".jpg", "a.txt", "a.jpg.tmp", "ajpg"):
        assert not tars.IMAGE.fullmatch(name)


# ---- a scan that is killed ----------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from repro.data.imagenet import scan
write = scan._append
left = [3]
def append(file, unit, part):
    left[0] -= 1
    if left[0]:
        return write(file, unit, part)
    class Torn:  # writes all but the end of a record, and is no more
        def write(self, data):
            file.write(data[:-10]); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
        flush = file.flush
    write(Torn(), unit, part)
scan._append = append
root = Path(sys.argv[1])
units = [scan.Container(f"train/n0000000{c}", "folder", f"n0000000{c}") for c in range(6)]
scan.scan(root, scan.with_file_stats(root, units), root / "journal", "title")
"""


def test_a_killed_scan_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [Container(f"train/n0000000{c}", "folder", f"n0000000{c}") for c in range(6)]
    for unit in units:
        (tmp_path / unit.path).mkdir(parents=True)
        (tmp_path / unit.path / "a.jpg").write_bytes(unit.wnid.encode())
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    looked = []
    look = scan._scan_container

    def counted(folder: Path, unit: Container) -> scan.ContainerImages:
        looked.append(unit.path)
        return look(folder, unit)

    monkeypatch.setattr(scan, "_scan_container", counted)
    # What changes in a folder after it was scanned is scanned again.
    (tmp_path / units[0].path / "b.jpg").write_bytes(b"more")
    now = with_file_stats(tmp_path, units)
    found = scan.scan(tmp_path, now, tmp_path / "journal", "title")
    assert sorted(looked) == sorted(u.path for u in (units[0], *units[2:]))
    fresh = scan.scan(tmp_path, now, tmp_path / "other", "title")
    for (unit, part), (same, whole) in zip(found, fresh, strict=True):
        assert unit == same
        assert [values.tolist() for values in part] == [values.tolist() for values in whole]
    looked.clear()
    scan.scan(tmp_path, now, tmp_path / "journal", "title")
    assert looked == []


def test_a_long_scan_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan, "PROGRESS_S", -1.0)
    scanned(tree(tmp_path), folders(), tmp_path / "journal")
    out, err = capsys.readouterr()
    assert out == ""
    assert "title: scanned 2 of 2 folders or tars" in err


def test_a_row_is_small_and_nothing_is_an_object(photos: Photos) -> None:
    """So that 14 million images are about a gigabyte, with names as long as ImageNet's."""
    row = sum(getattr(photos, n)[:1].nbytes for n in photo_index.ARRAYS if n != "names")
    assert row <= 48
    assert len(photos.files) == 2
    assert len(pickle.dumps(replace(photos, names=torch.zeros(0, dtype=torch.uint8)))) < 5000
