"""Ranks from torchrun, from srun and from our own spawn: all train the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro import results
from repro.launch import ranks
from repro.launch.testbed import Testbed
from tests.launch import RUN

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
