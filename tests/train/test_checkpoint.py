"""Checkpoints: the newest whole one is found, whatever happened to the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from repro.train import checkpoint


def fill(folder: Path, steps: int) -> list[Path]:
    return [checkpoint.save(folder, n, {"step": n, "w": torch.arange(999)}) for n in range(steps)]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    paths = fill(tmp_path / "c", 4)
    assert sorted((tmp_path / "c").iterdir()) == paths[2:]
    state = checkpoint.load(tmp_path / "c")
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["w"], torch.arange(999))
    assert checkpoint.newest_step(tmp_path / "c") == 3


def test_without_any_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path / "c") is None
    assert checkpoint.newest_step(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "pipe"])
def test_a_damaged_one_falls_back_with_a_warning(tmp_path: Path, damage: str) -> None:
    newest = fill(tmp_path, 3)[-1]
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1  # torch.load alone does not notice this
    if damage == "pipe":
        newest.unlink()
        os.mkfifo(newest)
    else:
        newest.write_bytes({"cut": data[:-9], "flip": data, "empty": bytearray()}[damage])
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged"):
        state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_a_half_written_one_is_not_seen(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (tmp_path / "step000000009-00000000.pt.tmp").write_bytes(b"half")
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 0


def test_only_plain_data_is_read(tmp_path: Path) -> None:
    """A checkpoint with code in it is refused by torch, though its digest is right."""
    checkpoint.save(tmp_path, 1, {"step": Path("/")})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load(tmp_path)
