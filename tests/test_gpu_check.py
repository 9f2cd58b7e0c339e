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

from repro.core import records
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
        context = sections.Context(GPU, tmp_path, tmp_path, small=True)
        context.deadline = time.monotonic()
        items_of = dict(sections.SECTIONS[section][1](context))
        found = [items_of[item]() for item in items]
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

    def broken(context: Any) -> Iterator[Any]:
        raise ImportError("no such library")

    sections = {
        "A": (0.5, lambda context: iter([("fails", fails), ("measures", measures)])),
        "B": (0.5, broken),
        "C": (0.0, lambda context: iter([("first", measures), ("second", measures)])),
        "D": (0.5, lambda context: iter([("last", last)])),
    }
    stub = SimpleNamespace(SECTIONS=sections, Context=_Context)
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
    assert text.startswith(
        f"# A check on a GPU{', stopped before its end' * (last is is_stopped)}\n"
    )
    assert "| fails | RuntimeError: CUDA error: an illegal memory access | FAILED |" in text
    assert r"| measures | 7 \| 8 |  |" in text


@pytest.mark.parametrize("at", ["options", "folder", "section", "item"])
def test_stopped_before_anything_was_found(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the report of an earlier check stays."""
    (tmp_path / "REPORT.md").write_text("of an earlier check")

    def stopped(*_: object) -> Any:
        raise KeyboardInterrupt

    one = {"A": (0.5, stopped if at == "section" else lambda context: iter([("first", stopped)]))}
    monkeypatch.setitem(sys.modules, "sections", SimpleNamespace(SECTIONS=one, Context=_Context))
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--device", "cpu", "--out", str(tmp_path)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if at == "options":
        monkeypatch.setattr("argparse.ArgumentParser.parse_args", stopped)
    if at == "folder":
        monkeypatch.setattr("repro.results.require_writable", stopped)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 130
    assert capsys.readouterr().err == (
        "gpu_check: stopped before the first result; no report was written\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["REPORT.md"]
    assert (tmp_path / "REPORT.md").read_text() == "of an earlier check"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """It is found before anything is checked."""
    (tmp_path / "a-file").touch()
    done = gpu_check("--device", "cpu", "--out", str(tmp_path / "a-file/x"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("a-file/x: Not a directory; name another with --out DIR\n")
    assert done.stderr.count("\n") == 1


class _Context:
    """What the driver uses of the real one."""

    def __init__(self, device: torch.device, data: Path, scratch: Path, small: bool) -> None:
        self.deadline = 0.0

    @property
    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())
