"""sbatch scripts by submitit's executor, without a SLURM and without writing anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from submitit import SlurmExecutor

from repro import experiments
from repro.core import plan
from repro.launch.slurm import arrays
from repro.launch.slurm.cluster import Cluster, Resources
from repro.launch.slurm.executor import ScriptExecutor

RUNS = plan.runs(experiments.get("table1").cells, "smoke", 1)
SITE = Cluster(
    account="mine", parallel=3, resources=(Resources(gpus=2, cpus=3, nodes=2, memory_gb=4.0),)
)


@pytest.mark.parametrize("folder", ["plain", "with a 'quote'"])
def test_a_script_is_made_where_there_is_no_slurm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    root = tmp_path / folder
    (array,) = arrays.scripts(SITE, RUNS, root)
    (single,) = arrays.scripts(SITE, RUNS[:1], root)
    assert f"#SBATCH --array=0-{len(RUNS) - 1}%3\n" in array
    assert "--array" not in single
    for script in (array, single):
        assert script.startswith("#!/bin/bash\n")
        assert "#SBATCH --account=mine\n" in script
        assert "#SBATCH --nodes=2\n" in script
        assert script.count("submitit.core._submit") == 1
        assert "%%" not in script
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_script_is_the_one_that_submitit_submits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    """By its public interface, with stand-ins for SLURM's clients."""
    clients = tmp_path / "bin"
    clients.mkdir()
    for name, line in (("srun", "true"), ("sbatch", "echo Submitted batch job 7")):
        (clients / name).write_text(f"#!/bin/sh\n{line}\n")
        (clients / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(clients), prepend=":")
    settings = {"job_name": "some", "time": 60, "array_parallelism": 2, "setup": ["true"]}
    theirs = SlurmExecutor(tmp_path / "jobs", python="py")
    ours = ScriptExecutor(tmp_path / "jobs", python="py")
    theirs.update_parameters(**settings)
    ours.update_parameters(**settings)
    if count > 1:
        theirs.map_array(print, range(count))
    else:
        theirs.submit(print)
    assert (tmp_path / "jobs/7_submission.sh").read_text() == ours.script(count)
