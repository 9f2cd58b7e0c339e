"""scripts/gpu_check without a GPU: its trial on the CPU, and what it does with what fails."""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest
import torch

from repro import records
from tests.pretended_gpu import GPU, pretended_gpu

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check"


class Row(TypedDict):
    item: str
    found: str
    well: bool | None
    seconds: float
    numbers: dict[str, float]


class Content(TypedDict):
    about: dict[str, Any]
    sections: dict[str, list[Row]]


def gpu_check(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_trial_on_a_cpu(tmp_path: Path) -> None:
    """Of every section the first item at least, and all is well."""
    done = gpu_check("--device", "cpu", "--minutes", "0.02", "--out", str(tmp_path / "new"))
    assert done.returncode == 0, done.stdout + done.stderr
    content = records.read(tmp_path / "new/report.json", Content)
    assert len(content["sections"]) == 7
    assert all(rows[0]["seconds"] >= 0 for rows in content["sections"].values())
    rows = [row for rows in content["sections"].values() for row in rows]
    assert not [row for row in rows if row["well"] is False]
    text = (tmp_path / "new/REPORT.md").read_text()
    assert all(f"\n## {title}\n" in text for title in content["sections"])
    assert all(row["item"] in text for row in rows)
    assert {"equal to the last bit", "not reached within the time"} <= {r["found"] for r in rows}


def test_without_a_gpu_it_is_one_line(tmp_path: Path) -> None:
    done = gpu_check("--out", str(tmp_path / "new"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "gpu_check: torch finds no GPU here; `--device cpu` tries the script itself\n"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("section", "items"),
    [
        ("What only a device can tell", ["a checkpoint while its tensors change"]),
        ("Augmentation on the CPU and on the device", ["the authors' policy, 32 px",
                                                       "timm's policy, 32 px"]),
        ("Rates beside timm's", ["NesT-T, small"]),
    ],
)  # fmt: skip
def test_its_items_on_a_pretended_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, items: list[str]
) -> None:
    """No devices mix, and what is to be equal is."""
    monkeypatch.syspath_prepend(str(SCRIPT))
    sections = importlib.import_module("sections")
    with pretended_gpu() as log:
        asked = sections.Asked(GPU, tmp_path, tmp_path, small=True)
        asked.deadline = time.monotonic()
        every = dict(sections.SECTIONS[section][1](asked))
        found = [every[item]() for item in items]
    assert all(each.well in (True, None) for each in found)
    assert log.kernels


def fails() -> object:
    raise RuntimeError("CUDA error:\nan illegal memory access")


def is_stopped() -> object:
    raise KeyboardInterrupt


def measures() -> object:
    return SimpleNamespace(text="7 | 8", well=None, numbers={"rate": 7.0, "none": float("nan")})


@pytest.mark.parametrize("last", [measures, is_stopped])
def test_what_fails_ends_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: Callable[[], object]
) -> None:
    """An item, a section that cannot even say what it would do, and Ctrl-C."""

    def broken(asked: Any) -> Iterator[Any]:
        raise ImportError("no such library")

    sections = {
        "A": (0.5, lambda asked: iter([("fails", fails), ("measures", measures)])),
        "B": (0.5, broken),
        "C": (0.0, lambda asked: iter([("first", measures), ("second", measures)])),
        "D": (0.5, lambda asked: iter([("last", last)])),
    }
    stub = SimpleNamespace(SECTIONS=sections, Asked=_Asked)
    monkeypatch.setitem(sys.modules, "sections", stub)
    words = ["gpu_check", "--device", "cpu", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == (130 if last is is_stopped else 1)
    content = records.read(tmp_path / "report.json", Content)
    found = {title: [row["found"] for row in rows] for title, rows in content["sections"].items()}
    assert found == {
        "A": ["RuntimeError: CUDA error: an illegal memory access", "7 | 8"],
        "B": ["ImportError: no such library"],
        "C": ["7 | 8", "not reached within the time"],
        "D": [] if last is is_stopped else ["7 | 8"],
    }
    assert content["about"]["stopped"] is (last is is_stopped)
    assert content["sections"]["A"][1]["numbers"] == {"rate": 7.0}
    text = (tmp_path / "REPORT.md").read_text()
    assert "| fails | RuntimeError: CUDA error: an illegal memory access | FAILED |" in text
    assert r"| measures | 7 \| 8 |  |" in text


class _Asked:
    """What the driver knows of it."""

    def __init__(self, device: torch.device, data: Path, scratch: Path, small: bool) -> None:
        self.deadline = 0.0

    @property
    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())
