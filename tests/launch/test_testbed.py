"""A real SLURM on this machine: it does what a cluster does, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.testbed import cluster
from repro.testbed.cluster import Testbed, TestbedError, run
from tests.launch import wait_until

# Writes down its signals and starts, and ends only when killed or told to by a signal's name.
STUBBORN = """#!/bin/bash
#SBATCH --signal=USR2@60 --open-mode=append --output=/dev/null
srun --overcommit bash -c '
    for name in USR2 TERM; do trap "echo $name >> {log}; [ $name != {end} ] || exit 1" $name; done
    echo start >> {log}
    while true; do sleep 0.1; done'
"""


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two nodes, to be left as they were found."""
    with Testbed(nodes=2, cpus=4) as bed:
        yield bed


def stubborn(bed: Testbed, folder: Path, *options: str, end: str = "never") -> tuple[str, Path]:
    """A job that runs by now, and the file of what it has seen."""
    log, script = folder / "seen", folder / "job.sh"
    script.write_text(STUBBORN.format(log=log, end=end))
    job = bed.ask("sbatch", "--parsable", *options, str(script)).strip()
    wait_until(lambda: "start" in log_words(log))
    return job, log


def log_words(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def state_of(bed: Testbed, job: str) -> str:
    """RUNNING on n1, for example."""
    return bed.ask(
        "squeue", "--noheader", "--states=all", f"--jobs={job}", "-o", "%T on %N"
    ).strip()


def processes(root: Path) -> list[str]:
    """The commands of all that belongs to a testbed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"SLURM_CONF={root}/slurm.conf".encode() in path.read_bytes().split(b"\0"):
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_job_of_two_nodes_finds_them_by_name(bed: Testbed) -> None:
    script = "hostname; getent ahostsv4 n1 >&2 && getent ahostsv4 n2 >&2"
    lines = bed.ask("srun", "-N2", "--ntasks-per-node=2", "sh", "-c", script).split()
    assert sorted(lines) == ["n1", "n1", "n2", "n2"]


def test_jobs_on_one_node_get_gpus_of_their_own(bed: Testbed) -> None:
    command = ["srun", "--nodelist=n1", "--gpus=pretend:2", "sh", "-c"]
    first = subprocess.Popen(
        [*command, "echo $CUDA_VISIBLE_DEVICES; read -r _"],
        env=bed.whole_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with first:
        assert first.stdout
        assert first.stdout.readline() == "0,1\n"
        assert bed.ask(*command, "echo $CUDA_VISIBLE_DEVICES") == "2,3\n"
        first.communicate("\n")


def test_one_bad_task_ends_the_job(bed: Testbed) -> None:
    command = ["srun", "-N2", "--kill-on-bad-exit=1", "sh", "-c"]
    with pytest.raises(TestbedError, match="Exited with exit code 7"):
        bed.ask(*command, "[ $SLURM_PROCID = 1 ] && exit 7; sleep 600")


def test_other_clusters_do_not_shine_through(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SQUEUE_FORMAT", "SRUN_DEBUG", "SLURM_CONF"):
        monkeypatch.setenv(name, "nonsense")
    names = {name for name in bed.whole_environment() if name.startswith("S")}
    assert "SLURM_CONF" in names
    assert not names & {"SLURM_JOB_ID", "SBATCH_PARTITION", "SQUEUE_FORMAT", "SRUN_DEBUG"}
    bed.wait_empty()  # it answers; the job of the test before may be completing yet


def test_an_urgent_job_preempts_and_the_other_is_requeued(tmp_path: Path) -> None:
    """On two clusters at a time: one announces it by the user's signal, the other does not."""
    with (
        Testbed(1, 1, grace_seconds=1) as kind,
        Testbed(1, 1, grace_seconds=1, user_signal=False) as rude,
    ):
        logs = []
        for bed in (kind, rude):
            (tmp_path / bed.root.name).mkdir()
            logs.append(stubborn(bed, tmp_path / bed.root.name)[1])
            bed.ask("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap", "sleep 1")
        wait_until(lambda: all(log_words(log).count("start") == 2 for log in logs))
        assert log_words(logs[0])[:2] == ["start", "USR2"]
        assert log_words(logs[1])[:2] == ["start", "TERM"]
        assert "USR2" not in log_words(logs[1])


def test_a_dead_node_is_noticed_and_its_job_goes_on_elsewhere(bed: Testbed, tmp_path: Path) -> None:
    job, log = stubborn(bed, tmp_path, end="TERM")
    home = state_of(bed, job).removeprefix("RUNNING on ")
    other = {"n1": "n2", "n2": "n1"}[home]
    bed.kill_node(home)
    bed.wait_down(home)
    wait_until(lambda: state_of(bed, job) == f"RUNNING on {other}")
    bed.start_node(home)
    wait_until(lambda: bed.state(home) == "idle")  # its last job may be completing yet
    bed.ask("scancel", job)
    bed.wait_empty()
    assert log_words(log) == ["start", "start", "TERM"]


def test_a_frozen_node_stands_still_and_goes_on(bed: Testbed, tmp_path: Path) -> None:
    job, _ = stubborn(bed, tmp_path, "--nodelist=n1")
    clock = tmp_path / "clock"
    ticking = f"while true; do echo >> {clock}; sleep 0.05; done"
    ticker = bed.ask(
        "sbatch", "--parsable", "--nodelist=n1", "--output=/dev/null", "--wrap", ticking
    )
    wait_until(clock.exists)
    bed.freeze_node("n1")
    size = clock.stat().st_size
    time.sleep(0.5)
    assert clock.stat().st_size == size
    bed.thaw_node("n1")
    wait_until(lambda: clock.stat().st_size > size)
    bed.ask("scancel", "--signal=KILL", "--full", job, ticker.strip())
    bed.wait_empty()
    bed.wait_up()


def test_a_new_controller_knows_the_queue(bed: Testbed) -> None:
    job = bed.ask("sbatch", "--parsable", "--hold", "--job-name=kept", "--wrap", "true").strip()
    saved = bed.root / "state/job_state"
    wait_until(lambda: saved.exists() and b"kept" in saved.read_bytes())
    bed.kill_controller()
    with pytest.raises(TestbedError, match=r"scontrol: Slurmctld.* is DOWN"):
        bed.ask("scontrol", "ping")
    bed.start_controller()
    assert state_of(bed, job) == "PENDING on"
    bed.ask("scancel", job)
    bed.wait_empty()


@pytest.mark.parametrize("namespaces", [True, False])
def test_nothing_is_left_of_a_killed_owner(tmp_path: Path, namespaces: bool) -> None:
    """Not even a job that ignores TERM and has detached itself."""
    owner = (
        "import sys, time; from repro.testbed.cluster import Testbed\n"
        f"with Testbed(namespaces={namespaces}) as bed:\n"
        "    print(bed.root, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        root = Path(process.stdout.readline().strip())
        running = tmp_path / "running"
        job = f"trap '' TERM; setsid sh -c 'touch {running}; sleep 600' & sleep 600"
        environment = {**os.environ, "SLURM_CONF": f"{root}/slurm.conf"}
        command = ["sbatch", "--output=/dev/null", "--wrap", job]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        wait_until(running.exists)
        assert any("slurmctld" in line for line in processes(root))
        assert any("sleep" in line for line in processes(root))
        process.kill()
    wait_until(lambda: not processes(root) and not root.exists())


def test_run_gives_the_status_of_the_command(bed: Testbed) -> None:
    nodes = "test $(sinfo -h -N -p main | wc -l) = 2"
    assert run(["sh", "-c", f"{nodes}; exit 5$?"], bed) == 50
    assert run(["sh", "-c", "kill -9 $$"], bed) == 128 + 9
    with pytest.raises(TestbedError, match="no-such-command cannot be run: No such file"):
        run(["no-such-command"], bed)


def test_an_error_inside_takes_it_down() -> None:
    with pytest.raises(ZeroDivisionError), Testbed(1) as bed:
        _ = 1 / 0
    assert not bed.root.exists()
    assert not processes(bed.root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_command_gets_the_signal_and_ends_before_all_is_taken_down(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As a terminal does it, Ctrl-C goes to the whole group; the others go to us alone."""
    code = (
        "import sys; from repro.testbed.cluster import Testbed, run\n"
        "with Testbed(1) as bed: status = run(['bash', '-c', sys.argv[1]], bed)\n"
        "sys.exit(status)"
    )
    script = (
        "trap 'squeue -h && exit 42' INT TERM HUP QUIT; echo ${SLURM_CONF%/*}; "
        "while true; do sleep 0.1; done"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        root = Path(process.stdout.readline().strip())
        assert root.is_dir()
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.wait() == 42
    assert not root.exists()
    assert not processes(root)


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_SYSTEM_FOLDERS", "/nowhere")
    folder = Path(shutil.which("sbatch") or "").parent
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(TestbedError, match=r"needs slurmctld, .*/nowhere; .*`apt-get install"):
        Testbed().__enter__()


def test_a_daemon_that_dies_at_the_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONFIGURATION", cluster._CONFIGURATION + "Nonsense=1\n")
    bed = Testbed(1)
    with pytest.raises(TestbedError, match=r"controller of the testbed died: .*Nonsense") as caught:
        bed.__enter__()
    assert "\n" not in str(caught.value)
    assert not bed.root.exists()


@pytest.mark.parametrize(("nodes", "cpus", "gpus"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_what_cannot_be_is_refused(nodes: int, cpus: int, gpus: int) -> None:
    with pytest.raises(TestbedError, match="no testbed of"):
        Testbed(nodes, cpus, gpus)
