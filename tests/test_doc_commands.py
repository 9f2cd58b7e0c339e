"""Every command and snippet in README.md and docs/ is run, as the tables of this file say.

The working folder has the committed results/, slurm/ and tests/. DIR is an empty folder, RUN a
committed run. What trains or submits gets --dry-run; `doctor` looks at a real SLURM cluster.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import cli
from tests import checkout

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = "wrn28-10-fashion-mnist-6k-4ep-s0"  # its weights are in git

# The commands that end with another status than 0 here, and what they say.
STATUS_2 = {
    "repro sample RUN --n 64 --seed 0": RUN,  # a classifier; the generators' weights are not in git
    "repro explain photo.jpg --run timm:nest_small_jx.goog_in1k": "nest_small",
    **{
        f"repro prepare {name} --data DIR": name.partition("-")[0]
        for name in ("cifar10", "cifar100", "imagenet", "imagenet22k", "imagenet-256px",
                     "imagenet-64px", "inception")
    },
}  # fmt: skip
# What stands in for words of a command.
REPLACED = {
    "photo.jpg --run RUN --classes tench,lighter": "photo.jpg --run RUN --classes Coat,Bag",
    " --watch": "",  # which stays until it is interrupted; tests/test_cli.py does that
    "slurm/mysite.yaml": "slurm/default.yaml",
    "--wait": "",
}
CONTAINERS = ("docker", "apptainer")  # no daemon and no program of theirs is to be had in the tests


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a language, with the page of each."""
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M):
            yield page.name, block


def commands() -> list[str]:
    """Every command in the blocks of the shell, once, without its comment."""
    lines = (
        line.partition("#")[0].strip() for _, block in blocks("sh") for line in block.splitlines()
    )
    return list(dict.fromkeys(line for line in lines if line))


COMMANDS = commands()
REPRO = [line for line in COMMANDS if line.split()[0] == "repro"]
ON_CLUSTER = [
    line for line in REPRO if line.startswith(("repro testbed", "repro doctor --cluster"))
]
OTHERS = [line for line in COMMANDS if line not in REPRO]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the committed results, site files and papers, an empty DIR, and a photo."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("results", "slurm", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "DIR").mkdir()
    Image.new("RGB", (40, 30), (90, 60, 200)).save(folder / "photo.jpg")
    return folder


def prepared(line: str) -> list[str]:
    """The words of a command as it is run here."""
    for old, new in REPLACED.items():
        line = line.replace(old, new)
    words = [RUN if word == "RUN" else word for word in shlex.split(line)[1:]]
    acts = "--launch" in words or words[:1] in (["cancel"], ["retry"])
    return [*words, "--dry-run"] if acts and "--dry-run" not in words else words


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing outside this machine is reached, and npm is not found."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    kept = [p for p in os.environ["PATH"].split(":") if not (Path(p) / "npm").exists()]
    monkeypatch.setenv("PATH", ":".join(kept))


@pytest.mark.parametrize("line", [line for line in REPRO if line not in ON_CLUSTER])
def test_a_command_of_repro(
    line: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    offline(monkeypatch)
    if line.startswith("repro verify"):
        for name in ("tables", "figures"):
            shutil.rmtree(name, ignore_errors=True)
            shutil.copytree(ROOT / name, name)
    status = cli.main(prepared(line))
    err = capsys.readouterr().err
    if line in STATUS_2:
        assert (status, STATUS_2[line] in err) == (2, True), err
    else:
        assert status == 0, err


def test_the_exceptions_are_in_the_docs() -> None:
    assert set(STATUS_2) <= set(REPRO)
    assert all(any(old in line for line in REPRO) for old in REPLACED)


def test_the_commands_on_a_cluster(here: Path) -> None:
    """`doctor` writes a first site file, and the example of the testbed gets --dry-run."""
    (example,) = (line for line in ON_CLUSTER if "testbed" in line)
    (doctor,) = (line for line in ON_CLUSTER if "doctor" in line)
    launch = example.partition(" -- ")[2].replace("--wait", "--dry-run --cluster mysite.yaml")
    script = f"{doctor.replace('slurm/mysite.yaml', 'mysite.yaml')} && {launch}"
    words = ["testbed", "--nodes", "1", "--", "bash", "-c", script]
    done = subprocess.run(
        [sys.executable, "-m", "repro", *words], cwd=here, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (here / "mysite.yaml").exists()
    assert "#SBATCH" in done.stdout


@pytest.mark.parametrize("line", [line for line in OTHERS if not line.startswith(CONTAINERS)])
def test_another_command(line: str, tmp_path: Path) -> None:
    """Of make, pip, python and torchrun: as far as they go without installing anything."""
    program, *words = shlex.split(line)
    python, place = [sys.executable, "-m"], ROOT
    if program == "make":
        run = ["make", "--dry-run", *words]
    elif program == "pip":
        place = checkout.copy(tmp_path)
        dry = ["--dry-run", "--no-deps"] if words[0] == "install" else []
        run = [*python, "pip", words[0], *dry, "--no-build-isolation", *words[1:]]
    elif program == "torchrun":
        run = [*python, "torch.distributed.run", "--nproc-per-node", "1", "-m",
               "repro.launch.job", str(one_spec(tmp_path))]  # fmt: skip
    else:
        assert program == "python"
        run = [sys.executable, *words, "--help"]
    done = subprocess.run(run, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert program != "torchrun" or list(tmp_path.glob("results/*/result.json"))


def one_spec(folder: Path) -> Path:
    """The specification of a run that counts a model, in a results folder of its own."""
    source = next((ROOT / "results").glob("nest-tiny-cifar-32px-10-counted-*/spec.json"))
    target = folder / "results" / source.parent.name / "spec.json"
    target.parent.mkdir(parents=True)
    shutil.copy(source, target)
    return target


def test_the_containers_are_built_from_files_that_exist() -> None:
    """No daemon is to be had where the tests run, so nothing is built."""
    assert any(line.startswith(CONTAINERS) for line in OTHERS)
    dockerfile, apptainer = (ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.M)
    taken = re.search(r"^%files\n((?:    .+\n)+)", apptainer, re.M)
    assert copied
    assert taken
    names = [*" ".join(copied).split(), *(line.split()[0] for line in taken[1].splitlines())]
    assert [name for name in names if not (ROOT / name).exists()] == []


# --- snippets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "code"), [*blocks("python")])
def test_a_snippet(page: str, code: str) -> None:
    """README's go on with what its first makes: a model, images and classes."""
    known = {
        "model": timm.create_model("nest_tiny_cifar", num_classes=10).eval(),
        "images": torch.rand(2, 3, 32, 32),
        "classes": torch.tensor([3, 5]),
    }
    exec(compile(code, page, "exec"), known)
    if "maps" in known:
        assert [tuple(level.shape) for level in known["maps"]][-1][0] == 2
    if "tree" in known:
        assert len(known["tree"].path) == 2
