"""Checkpoints: the newest whole one is found, whatever happened to the files."""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from repro.launch import lease
from repro.train import checkpoint
from tests.launch import full_disk


def fill(folder: Path, steps: int) -> list[Path]:
    paths = [checkpoint.save(folder, n, {"step": n, "w": torch.arange(999)}) for n in range(steps)]
    return [path for path in paths if path]


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


def test_a_half_written_one_is_not_seen_and_goes_with_the_next(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    half = tmp_path / "step000000009.0123.tmp"
    half.write_bytes(b"half")
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["step"] == 0
    fill(tmp_path, 1)
    assert not half.exists()


def test_only_plain_data_is_read(tmp_path: Path) -> None:
    """A checkpoint with code in it is refused by torch, though its digest is right."""
    checkpoint.save(tmp_path, 1, {"step": Path("/")})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load(tmp_path)


# --- written in a thread -------------------------------------------------------------------------


def read(folder: Path) -> dict[str, Any]:
    state = checkpoint.load(folder)
    assert state is not None
    return state


def test_a_state_is_that_of_its_moment(tmp_path: Path) -> None:
    """What training does while it is written, in place, is not in it."""
    net, history, trained = nn.BatchNorm2d(4), [1], threading.Event()
    net.weight.data = torch.randn(4)
    kernel = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)

    def ours() -> bool:
        return trained.wait(60)

    with checkpoint.Writer(tmp_path, 0.0, ours) as writer:
        for step in range(3):
            trained.clear()
            of_net = copy.deepcopy(net.state_dict())
            more = kernel.clone(), list(history)
            writer.write(step, {"net": net.state_dict(), "more": (kernel, history), "step": step})
            assert not writer.due()
            net.weight.data += 1
            kernel += 1
            history.append(step)
            trained.set()
            writer.wait()
            assert writer.due()
            state = read(tmp_path)
            assert state["step"] == step
            assert vars(state["net"]) == vars(of_net)  # torch keeps the modules' versions there
            torch.testing.assert_close(state["net"], of_net, rtol=0, atol=0)
            torch.testing.assert_close(state["more"][0], more[0], rtol=0, atol=0)
            assert state["more"][0].stride() == kernel.stride()
            assert state["more"][1] == more[1]


def test_a_run_that_was_taken_over_writes_nothing(tmp_path: Path) -> None:
    """Before a write, and between the writing and the name."""
    held = lease.acquire(tmp_path)
    folder, asked = tmp_path / "checkpoints", 0

    def ours() -> bool:
        nonlocal asked
        asked += 1
        if asked == 4:  # the second write is done, but for its name
            (tmp_path / "lease-2.json").write_text((tmp_path / "lease-1.json").read_text())
        return held.renew()

    with checkpoint.Writer(folder, 0.0, ours) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"step": step})
            writer.wait()
            assert [p.name[:13] for p in folder.iterdir()] == ["step000000001"]
    assert asked == 5
    assert held.lost


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    """A real one. What was there is kept, nothing half-written stays, and room is used again."""
    with full_disk(tmp_path / "small") as disk:
        folder = disk / "checkpoints"
        with checkpoint.Writer(folder, 0.0, lambda: True) as writer:
            writer.write(1, {"step": 1})
            writer.wait()
            writer.write(2, {"step": 2, "w": torch.zeros(10**6)})
            with pytest.warns(UserWarning, match=f"cannot save to {folder}: No space left on dev"):
                writer.wait()
            assert [p.name[:13] for p in folder.iterdir()] == ["step000000001"]
            writer.write(3, {"step": 3})
        assert read(folder)["step"] == 3


def test_any_other_error_is_raised_by_the_next_call(tmp_path: Path) -> None:
    with checkpoint.Writer(tmp_path, 0.0, lambda: True) as writer:
        writer.write(2, {"step": lambda: 2})
        with pytest.raises(Exception, match="lambda"):
            writer.write(3, {"step": 3})
        writer.write(4, {"step": 4})
    assert read(tmp_path)["step"] == 4
