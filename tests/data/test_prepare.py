"""`repro prepare`: what it writes, what it refuses, and what it says where there is no network."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from repro.data import atlas, cifar
from repro.data import prepare as module
from repro.data.datasets import DataError, load
from repro.data.prepare import Download, prepare
from tests.launch import full_disk


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host behind a proxy that refuses, so that no machine downloads 170 MB in a test."""
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(module, "TIMEOUT_S", 2.0)


def refused(name: str, root: Path | None, debian: Path = Path("nowhere")) -> str:
    with pytest.raises(DataError) as error:
        prepare(name, root, debian)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", atlas.ATLASES)
def test_embedded_sets_need_nothing(name: str) -> None:
    said = " ".join(prepare(name, None))
    assert f"{name} is embedded" in said
    assert "6,000 train and 2,000 test images" in said
    assert load(name, "train").fingerprint in said


@pytest.mark.parametrize("name", ["cifar10-smoke", "cifar100-smoke"])
def test_smoke_sets_are_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    written = []
    for root in (tmp_path / "a", tmp_path / "b", tmp_path / "b"):
        said = prepare(name, root)
        files = [path for path in root.rglob("*") if path.is_file()]
        written.append({path.relative_to(root): path.read_bytes() for path in files})
    assert written[0] == written[1] == written[2]
    assert sum(map(len, written[0].values())) < 1_400_000
    assert {str(path.parent) for path in written[0]} == {cifar.CIFARS[name].folder}
    assert load(name, "test", root).fingerprint in " ".join(said)
    assert (root / cifar.CIFARS[name].folder / "meta").exists() == (name == "cifar100-smoke")


@pytest.mark.parametrize("name", ["cifar10-smoke", "imagenet-smoke"])
def test_a_full_disk_keeps_no_part_of_a_file(name: str, tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", 32) as root:
        assert "no space left on device" in refused(name, root)
        assert [path for path in root.rglob("*") if ".tmp" in path.name] == []


def test_prepare_repairs_what_it_wrote_itself(tmp_path: Path) -> None:
    prepare("cifar10-smoke", tmp_path)
    batch = tmp_path / "cifar10-smoke/cifar-10-batches-py/data_batch_2"
    batch.write_bytes(b"torn")
    prepare("cifar10-smoke", tmp_path)
    assert load("cifar10-smoke", "train", tmp_path).pixels.shape == (20, 3, 32, 32)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_without_a_network_it_names_the_file_to_put_where(name: str, tmp_path: Path) -> None:
    error = refused(name, tmp_path)
    download = module.CIFAR_ARCHIVES[name]
    for part in (download.url, download.md5, f"{download.size:,} bytes"):
        assert part in error
    assert f"to {tmp_path / download.file}, then run `repro prepare {name} --data" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_without_a_network_it_names_all_the_files_of_fashion_mnist(tmp_path: Path) -> None:
    error = refused("fashion-mnist", tmp_path)
    for download in module.FASHION_FILES:
        assert download.md5 in error
        assert f"to {tmp_path / 'FashionMNIST' / 'raw' / download.file}" in error
    assert "apt-get install dataset-fashion-mnist" in error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("no_network")
def test_the_socket_timeout_is_put_back(tmp_path: Path) -> None:
    import socket

    before = socket.getdefaulttimeout()
    refused("cifar10", tmp_path)
    assert socket.getdefaulttimeout() == before


def test_downloads_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

    for name, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        ours = module.CIFAR_ARCHIVES[name]
        assert (ours.url, ours.md5, ours.file) == (theirs.url, theirs.tgz_md5, theirs.filename)
    assert [(ours.file, ours.md5) for ours in module.FASHION_FILES] == FashionMNIST.resources
    assert all(d.url == FashionMNIST.mirrors[0] + d.file for d in module.FASHION_FILES)


def test_a_wrong_archive_is_refused_and_left(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half a download")
    assert f"{archive}: truncated or altered" in refused("cifar10", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def small_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, hostile: str = "") -> Path:
    """An archive of smoke files at `root`, under the md5 that prepare and load then ask for."""
    prepare("cifar10-smoke", root / "made")
    small, made = cifar.CIFARS["cifar10-smoke"], root / "made" / "cifar10-smoke"

    def md5(path: Path) -> str:
        return hashlib.md5(path.read_bytes()).hexdigest()

    own = replace(
        small,
        folder="cifar-10-batches-py",
        train={file: md5(made / "cifar-10-batches-py" / file) for file in small.train},
    )
    monkeypatch.setitem(cifar.CIFARS, "cifar10", own)
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(made / "cifar-10-batches-py", "cifar-10-batches-py")
        if hostile:
            member = tarfile.TarInfo(hostile)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"bad"))
    shutil.rmtree(root / "made")
    download = Download(f"https://nowhere/{archive.name}", md5(archive), archive.stat().st_size)
    monkeypatch.setitem(module.CIFAR_ARCHIVES, "cifar10", download)
    return archive


def test_an_archive_that_the_user_put_there_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = small_cifar(tmp_path, monkeypatch)
    said = prepare("cifar10", tmp_path)
    assert said[0] == f"cifar10: unpacked {archive}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-batches-py", archive.name]
    assert prepare("cifar10", tmp_path) == said[1:]  # and not again


def test_a_damaged_file_is_named_and_comes_back_once_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_cifar(tmp_path, monkeypatch)
    prepare("cifar10", tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    batch.write_bytes(b"mine")
    assert f"{batch}: truncated or altered" in refused("cifar10", tmp_path)
    assert batch.read_bytes() == b"mine"
    batch.unlink()
    prepare("cifar10", tmp_path)
    assert len(load("cifar10", "train", tmp_path).labels) == 20


def test_an_archive_cannot_write_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    small_cifar(root, monkeypatch, hostile="../../outside")
    assert "outside" in refused("cifar10", root)
    assert not list(tmp_path.rglob("outside"))


def test_another_fashion_mnist_is_not_copied_from_debian(tmp_path: Path) -> None:
    debian = tmp_path / "debian"
    debian.mkdir()
    for download in module.FASHION_FILES:
        (debian / download.file.removesuffix(".gz")).write_bytes(b"\0\0\x08\x01\0\0\0\0")
    root = tmp_path / "root"
    assert "train-images-idx3-ubyte: truncated or altered" in refused("fashion-mnist", root, debian)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("not a folder")
    error = refused("cifar10-smoke", taken)
    assert str(taken) in error
    assert "--data DIR" in error


def test_an_unknown_name_or_a_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    assert "did you mean cifar100?" in refused("cifar-100", tmp_path)
    assert "--data DIR" in refused("cifar10", None)
