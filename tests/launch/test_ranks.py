"""Ranks from torchrun, from srun and from our own spawn: all train the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from repro import results
from repro.data import datasets
from repro.data.prepare import prepare
from repro.execution import ExecutionOptions
from repro.launch import lease, local, ranks
from repro.launch.job import execute
from repro.spec import Classification, Localization, Recipe
from repro.tasks import classification
from repro.testbed.cluster import Testbed
from repro.train.distributed import Ranks
from tests.launch import LONG, RUN
from tests.tasks.test_classification import assert_alike
from tests.train.spawned import in_processes, in_ranks

JOB = ["-m", "repro.launch.job"]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[01-03,7],m1", "n01"), ("gpu7,m[1-2]", "gpu7"), ("r[1-2]n[3-4]", "r1n3")],
)
def test_the_first_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert ranks._first_name(nodes) == first


def test_outside_of_a_step_of_slurm_nothing_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")  # as in an interactive allocation
    monkeypatch.setenv("SLURM_NTASKS", "8")
    before = dict(os.environ)
    ranks.from_slurm()
    assert dict(os.environ) == before


def trained_by(root: Path, command: list[str], environment: dict[str, str]) -> int:
    """How many ranks trained RUN, started by this command."""
    spec = results.begin(root, RUN) / results.SPEC
    words = [*command, *JOB, str(spec), "--data", str(root / "data")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout.split()
    result = json.loads((results.folder(root, RUN) / results.RESULT).read_text())
    return int(result["provenance"]["ranks"])


def test_torchrun(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert trained_by(tmp_path, torchrun, {**os.environ, "OMP_NUM_THREADS": "1"}) == 2


def test_srun_by_hand(tmp_path: Path) -> None:
    with Testbed(nodes=2, cpus=1) as bed:
        srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "--time=10", sys.executable]
        environment = {**bed.whole_environment(), "OMP_NUM_THREADS": "1"}
        assert trained_by(tmp_path, srun, environment) == 2


def test_uneven_ranks_know_how_many_share_their_node(tmp_path: Path) -> None:
    with Testbed(nodes=2, cpus=2) as bed:
        code = (
            "import os; from repro.launch import ranks; ranks.from_slurm()\n"
            "print(*(os.environ[f'{name}'] for name in "
            "('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')))"
        )
        words = ["srun", "--nodes=2", "--ntasks=3", "--distribution=block", sys.executable, "-c"]
        lines = bed.ask(*words, code).splitlines()
        assert sorted(lines) == ["0 3 0 2", "1 3 1 2", "2 3 0 1"]


# --- more ranks than work ------------------------------------------------------------------------

FEW = Classification(
    model=RUN.model,
    dataset="cifar10-smoke",  # 20 images to train on, and 20 to be tested
    recipe=Recipe(epochs=2, batch_size=10, lr=1e-3, drop_path=0.1, crop_padding=2, mixup_alpha=0.8),
)
BOXES = Localization(
    classifier=None,
    dataset="imagenet-smoke",
    image_size=64,
    attribution="centre box",
    tuning="imagenetv2-smoke",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("cifar10-smoke", "imagenet-smoke", "imagenetv2-smoke"):
        prepare(name, folder)
    return folder


@pytest.mark.parametrize(("batch_size", "working"), [(10, 5), (4, 2), (2, 1)])
def test_eight_ranks_train_on_fewer_pairs_of_images(
    tmp_path: Path, data: Path, batch_size: int, working: int
) -> None:
    """As one rank does; those without a pair wait, and end well."""
    run = replace(FEW, recipe=replace(FEW.recipe, batch_size=batch_size))
    one, many = tmp_path / "one", tmp_path / "many"
    assert execute(run, one, ExecutionOptions(data)) == "done"
    assert in_processes(8, execute, run, many, ExecutionOptions(data, attempt="a")) == ["done"] * 8
    weights = [load_file(results.folder(root, run) / results.WEIGHTS) for root in (one, many)]
    assert_alike(*weights)
    result = results.outcome(many, run).result
    assert result is not None
    facts = result["provenance"]
    assert facts["ranks"] == working


def test_of_eight_ranks_the_first_explains(tmp_path: Path, data: Path) -> None:
    assert (
        in_processes(8, execute, BOXES, tmp_path, ExecutionOptions(data, attempt="a"))
        == ["done"] * 8
    )
    assert results.outcome(tmp_path, BOXES).state == "done"


def evaluate_few(ranks: Ranks) -> dict[str, float | int]:
    """The metrics of an untrained model on three images."""
    images = datasets.load("fashion-mnist-6k", "test", None)
    few = replace(images, pixels=images.pixels[:3], labels=images.labels[:3])
    net = classification.create(RUN.model, 10, 0.0, seed=0)
    return classification.evaluate(net, few, None, ranks, exact=True)[0]


def test_more_ranks_than_test_images(tmp_path: Path) -> None:
    alone = evaluate_few(Ranks(0, 1, torch.device("cpu")))
    assert in_ranks(5, evaluate_few) == [pytest.approx(alone)] * 5


# --- ranks that fail -----------------------------------------------------------------------------


def test_a_rank_that_is_killed_is_named(tmp_path: Path) -> None:
    """By the launcher and in the lease, where the others only know that it is gone."""
    events: list[local.Event] = []

    def tell(event: local.Event) -> None:
        events.append(event)
        if event.kind == "running" and event.facts.get("step", 0) > 0:
            kill(tmp_path)

    assert not local.launch([LONG], tmp_path, ExecutionOptions(), 1, tell, 3)
    (failed,) = [event.note for event in events if event.kind == "failed"]
    assert failed.startswith("rank 2: killed by signal SIGKILL")
    end = lease.failure_of(lease.read(results.folder(tmp_path, LONG)) or {})
    assert end is not None
    assert end.cause == "lost"
    assert "rank 2" in end.note


def kill(root: Path) -> None:
    """End the third rank, as its log names it."""
    log = results.folder(root, LONG) / "log-2.txt"
    pid = int(log.read_text().split("process ")[1].split()[0])
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
