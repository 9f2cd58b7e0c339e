"""A wheel works outside the checkout: what it has, and what it says that it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests import checkout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`repro` of a wheel in a new environment, which has its dependencies from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = str(checkout.copy(folder))
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), source]
    subprocess.run([*pip, *build], check=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    install = ["--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    (packages,) = folder.glob("venv/lib/python3*/site-packages")
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(paths or [sysconfig.get_path("purelib")]))
    return folder / "venv/bin/repro"


def call(program: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [program, *words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_it_is_the_wheels_package(program: Path, tmp_path: Path) -> None:
    script = "import repro; print(repro.__file__)"
    done = subprocess.run(
        [program.with_name("python"), "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(program.parents[1])), done.stdout + done.stderr


def test_it_lists_and_says_what_it_lacks(program: Path, tmp_path: Path) -> None:
    done = call(program, tmp_path, "list")
    assert done.returncode == 0, done.stderr
    assert "table1" in done.stdout
    bare = call(program, tmp_path, "table1")
    assert bare.returncode == 2
    assert "there is no result in results" in bare.stderr
    assert "train with --launch local" in bare.stderr


def test_it_trains_and_renders_on_the_embedded_images(program: Path, tmp_path: Path) -> None:
    words = ("table1", "--scale", "demo", "--launch", "local", "--only", "NesT-T")
    done = call(program, tmp_path, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = (tmp_path / "tables/demo/table1.md").read_text().splitlines()
    (row,) = (line for line in rows if "| NesT-T " in line)
    assert "not run" not in row
    assert len(list(tmp_path.glob("results/*/result.json"))) == 2
