"""`repro doctor` on this machine: it imports no torch, and has a line for whatever is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from repro import cli
from repro.launch import data
from repro.launch.doctor import machine
from repro.launch.doctor.machine import Driver
from tests.launch import fill, full_disk

Capture = pytest.CaptureFixture[str]
COMMAND = "import sys; from repro import cli; cli.main(['doctor']); "
COMMAND += "sys.exit(bool({'torch', 'pandas', 'timm'} & set(sys.modules)))"


def lines(data_folder: Path, results: Path) -> dict[str, str]:
    """The mark of each line, by its text."""
    return {text: mark for mark, text in machine.examine(data_folder, results)}


def line(found: dict[str, str], start: str) -> tuple[str, str]:
    """The one line with this start, after its mark."""
    ((text, mark),) = ((text, mark) for text, mark in found.items() if text.startswith(start))
    return mark, text


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", COMMAND], cwd=tmp_path, check=True, capture_output=True)


def test_free_space_is_reported(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", kib=2**20) as disk:
        found = lines(tmp_path / "data", disk / "later" / "results")
        mark, text = line(found, f"results and checkpoints in {disk}/later/results: ")
        assert (mark, text.partition(": ")[2]) == (
            "--", "writable, 1.1 of 1.1 GB free; `repro clean` lists what can go")  # fmt: skip
        mark, text = line(found, f"data in {tmp_path}/data: does not exist yet, ")
        assert text.endswith(" GB free")


def test_a_full_disk_is_missing_space(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk") as disk:
        fill(disk)
        mark, text = line(lines(disk, disk), "results")
        assert (mark, "0.0 of 0.0 GB free; `repro clean`" in text) == ("MISS", True)
        assert line(lines(disk, disk), "data in")[0] == "--"  # a set that is there needs none


def test_few_free_inodes_are_reported(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk", kib=2**24) as disk:
        subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(disk)], check=True)
        mark, text = line(lines(tmp_path, disk), "results")
        assert (mark, "and inodes for 99 more files only; `repro clean`" in text) == ("MISS", True)


def test_folders_that_cannot_be_used_are_lines(tmp_path: Path, capsys: Capture) -> None:
    loop, file = tmp_path / "loop", tmp_path / "file"
    loop.symlink_to(loop)
    file.write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = lines(file, loop / "results")
    assert line(found, "results") == (
        "MISS", f"results and checkpoints in {loop}/results: not writable (Too many levels of "
        "symbolic links); choose --results DIR")  # fmt: skip
    assert line(found, "data in") == (
        "MISS", f"data in {file}: not readable (Not a directory); choose --data DIR")  # fmt: skip
    for bad in (loop, file, file / "below", tmp_path / "gone"):
        assert line(lines(bad, tmp_path), "data in")[0] == "MISS", bad
    assert cli.main(["doctor", "--data", str(loop), "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unreadable_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "imagenet").write_text("")
    assert line(lines(tmp_path, tmp_path), "dataset imagenet:") == (
        "--", f"dataset imagenet: {tmp_path}/imagenet cannot be read: Not a directory")  # fmt: skip


def test_a_dataset_is_verified_once_it_was_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(b"0")
    mark, text = line(lines(tmp_path, tmp_path), "dataset cifar10 ")
    assert (mark, f"cifar10 is there; `repro prepare cifar10 --data {tmp_path}`" in text) == (
        "ok", True)  # fmt: skip
    monkeypatch.setattr("repro.data.prepare.prepare", lambda name, root: ["verified"])
    data.prepare("cifar10", tmp_path)
    assert line(lines(tmp_path, tmp_path), "dataset cifar10,") == (
        "ok", "dataset cifar10, verified")  # fmt: skip


H200 = ("NVIDIA H200", 9, 0)


@pytest.mark.parametrize(
    ("driver", "cuda", "mark", "text"),
    [
        (Driver(), "12.8", "ok", "device: CPU"),
        (Driver(12040, (H200, H200)), "12.8", "ok", "device: 2 × NVIDIA H200, bf16 autocast"),
        (Driver(12040, (H200,)), "13.0", "MISS", "their driver knows CUDA up to 12.4, torch needs"),
        (Driver(12040, (H200,)), "", "--", "1 × NVIDIA H200, but torch is built without CUDA"),
        (Driver(error="cuInit: 999"), "13.0", "MISS", "the NVIDIA driver fails (cuInit: 999)"),
    ],
)
def test_devices(driver: Driver, cuda: str, mark: str, text: str) -> None:
    found = {text: mark for mark, text in machine._devices(driver, cuda)}
    assert [m for t, m in found.items() if text in t] == [mark], found


def test_torch_says_its_cuda_without_an_import() -> None:
    import torch

    assert machine._cuda_of_torch() == (torch.version.cuda or "")


def test_a_driver_that_hangs_or_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_DRIVER_SECONDS", 0.1)
    for code, error in (
        ("import time; time.sleep(60)", "no answer within 0 s"),
        ("import os; os.abort()", "the query ended with exit status -6"),
    ):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            if "abort" in code:
                process.wait()
            assert machine._answer(process) == Driver(error=error)
