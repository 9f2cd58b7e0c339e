"""Datasets are loaded before a submission, and not again while their files stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.launch import data
from repro.launch.data import MissingData

FILE = Path("cifar10-smoke/cifar-10-batches-py/test_batch")
AGAIN = "import sys; from pathlib import Path; from repro.launch import data; "
AGAIN += "data.check_once(['cifar10-smoke', 'glyphs'], Path(sys.argv[1])); "
AGAIN += "sys.exit('torch' in sys.modules)"


def rewrite(path: Path) -> None:
    """Other content of the same length, with the time of the first."""
    about, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    data.check_once(["cifar10-smoke"], tmp_path)
    return tmp_path


def test_a_valid_dataset_needs_no_torch(data_folder: Path) -> None:
    subprocess.run([sys.executable, "-c", AGAIN, str(data_folder)], check=True)


@pytest.mark.parametrize("change", [Path.unlink, rewrite, lambda path: path.write_bytes(b"")])
def test_a_changed_dataset_is_checked_again(
    data_folder: Path, change: Callable[[Path], object]
) -> None:
    """A smoke set is then made anew."""
    before = (data_folder / FILE).read_bytes()
    change(data_folder / FILE)
    data.check_once(["cifar10-smoke"], data_folder)
    assert (data_folder / FILE).read_bytes() == before


def test_changed_code_checks_again(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[object]()
    monkeypatch.setattr(data, "check", lambda names, root: loaded.extend(names))
    data.check_once(["cifar10-smoke"], data_folder)
    assert not loaded
    monkeypatch.setattr(data, "_reader", lambda: "another")
    data.check_once(["cifar10-smoke"], data_folder)
    assert loaded == ["cifar10-smoke"]


def test_missing_data_is_reported_every_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(MissingData, match="cifar10"):
            data.check_once(["cifar10"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_many_files_are_checked_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_MAX_FILES", 2)
    data.check_once(["cifar10-smoke"], tmp_path)
    assert not (tmp_path / ".data_folder").exists()
