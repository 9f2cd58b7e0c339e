"""The doctor on a real SLURM: what it finds well, what it misses, and that it leaves nothing."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from repro.launch.doctor import cluster_info, probe
from repro.launch.slurm import cluster, queue
from repro.launch.slurm.cluster import Cluster, Gpus, Resources
from repro.testbed.cluster import Testbed
from tests.launch import wait_until

SMALL = Resources(gpus=0, cpus=1)


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two nodes, to be left as they were found."""
    with Testbed(nodes=2, cpus=4) as bed:
        yield bed


@pytest.fixture
def place(bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the site file and the results, on a machine from which jobs are submitted."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    for name, value in bed.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run").write_text("another's")
    yield tmp_path
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["run"]
    assert "repro-doctor" not in names(bed)


def site(place: Path, **values: object) -> Path:
    """A site file with these parameters."""
    values = {"resources": (SMALL,), **values}
    file = place / "site.yaml"
    file.write_text(cluster.dump(Cluster(**values)))  # type: ignore[arg-type]
    return file


def examine(place: Path, file: Path) -> dict[str, list[str]]:
    """The lines by their marks."""
    found: dict[str, list[str]] = {"ok": [], "--": [], "MISS": []}
    for mark, line in probe.examine(file, place / "results"):
        assert len(line.splitlines()) == 1
        found[mark].append(line)
    return found


def names(bed: Testbed) -> str:
    """Of all jobs in the queue."""
    return bed.ask("squeue", "--noheader", "--format=%j")


# --- jobs ----------------------------------------------------------------------------------------


def test_a_healthy_cluster_gets_a_first_site_file(place: Path) -> None:
    file, results = place / "sites" / "mine.yaml", place / "results"
    found = examine(place, file)
    assert not found["MISS"], found
    text = "\n".join(found["ok"])
    assert "the controller of testbed answers" in text
    assert "partition main (default): at most 1d; nodes: 2, each with CPUs: 4" in text
    assert "GPUs: 4 pretend" in text
    assert "the probe job ran on n1, n2 after" in text
    assert f"results folder {results} is shared and writable from the nodes" in text
    assert "2 ranks on 2 nodes connected in" in text
    assert "scontrol answers on the nodes" in text
    assert cluster.load(file) == Cluster(
        gpus=Gpus(type="pretend"),
        resources=(Resources(gpus=1, cpus=1, time="1d"),),
        shared=(str(results),),
    )


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_results_folder_of_its_own_on_a_node(place: Path, bed: Testbed, node: str) -> None:
    """The node's mount is seen in its own namespace alone, as a local disk's would be."""
    results, file = place / "results", place / "site.yaml"
    bed.ask("srun", "-w", node, "mount", "-t", "tmpfs", "none", str(results))
    try:
        found = examine(place, file)
    finally:
        bed.ask("srun", "-w", node, "umount", str(results))
    assert found["MISS"] == [
        f"results folder {results} is not the same folder on {node}, or cannot be written there; "
        "choose --results DIR elsewhere"
    ]
    assert cluster.load(file).shared == ()  # nothing was proven


def test_a_job_that_waits_is_cancelled_with_slurms_reason(
    place: Path, bed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "QUEUE_SECONDS", 1.0)
    bed.ask("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        found = examine(place, site(place))
    finally:
        bed.ask("scontrol", "update", "PartitionName=main", "State=UP")
    assert len(found["MISS"]) == 1
    assert "was still pending after 1 s and was cancelled: PartitionDown; " in found["MISS"][0]


def test_a_setup_line_that_fails_says_so_itself(place: Path) -> None:
    file = site(place, setup=("module load nothing", "true"))
    found = examine(place, file)
    assert found["MISS"] == [
        f"the probe job failed on n1: module: command not found; change {file}"
    ]


def test_ranks_that_cannot_meet(place: Path) -> None:
    file = site(place, environment={"GLOO_SOCKET_IFNAME": "nowhere"})
    found = examine(place, file)
    assert len(found["MISS"]) == 1
    assert "the ranks could not connect: rank 0: " in found["MISS"][0]
    assert "Unable to find address for: nowhere; " in found["MISS"][0]
    assert "connected in" not in "".join(found["ok"])


def test_another_python_on_the_nodes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version_tuple", lambda: ("3", "99", "0"))
    file = site(place)
    there = ".".join(map(str, sys.version_info[:2]))
    assert examine(place, file)["MISS"] == [
        f"Python {there} on the nodes, 3.99 here; set `python` in {file} to the same version"
    ]


def test_one_node_is_tried_where_two_are_refused(place: Path) -> None:
    """And what somebody has changed in the first file meanwhile is left as it is."""
    file = place / "site.yaml"
    found: dict[str, list[str]] = {"ok": [], "--": [], "MISS": []}
    for mark, line in probe.examine(file, place / "results"):
        found[mark].append(line)
        if line.startswith("wrote "):
            site(place, exclude="n1")
    text = cluster.dump(Cluster(exclude="n1", resources=(SMALL,)))
    assert not found["MISS"], found
    assert any(
        "the probe job requested 1 node with no GPUs instead" in line for line in found["--"]
    )
    assert any("communication between nodes was not tested" in line for line in found["--"])
    assert any(f"it could have shared: [{place / 'results'}]" in line for line in found["--"])
    assert any("the probe job ran on n2 after" in line for line in found["ok"])
    assert file.read_text() == text


def test_ctrl_c_cancels_the_job(place: Path, bed: Testbed) -> None:
    file = site(place, setup=("sleep 600",))
    command = [sys.executable, "-m", "repro", "doctor", "--cluster", str(file)]
    with subprocess.Popen(
        [*command, "--results", str(place / "results")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's & ignores it
    ) as doctor:
        wait_until(lambda: "repro-doctor-" in names(bed))
        doctor.send_signal(signal.SIGINT)
        text, _ = doctor.communicate()
    assert doctor.returncode == 130
    assert "MISS" not in text


# --- before any job ------------------------------------------------------------------------------


def test_an_unknown_partition(place: Path) -> None:
    file = site(place, partition="nope")
    assert examine(place, file)["MISS"] == [
        f"there is no partition 'nope'; there are main, urgent, short, closed; change {file}"
    ]


def test_a_refusal_by_slurm_is_quoted(place: Path) -> None:
    file = site(place, sbatch={"nonsense": "3"})
    found = examine(place, file)
    assert len(found["MISS"]) == 1
    assert "unrecognized option '--nonsense=3'" in found["MISS"][0]


def test_a_site_file_with_a_mistake(place: Path) -> None:
    file = place / "site.yaml"
    file.write_text("acount: me\n")
    assert examine(place, file)["MISS"] == [f"{file}: acount: unknown key; did you mean account?"]
    assert file.read_text() == "acount: me\n"


def test_no_slurm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(queue.QueueError, match=r"no SLURM here: .*; train here with") as refusal:
        queue.require()
    found = list(probe.examine(tmp_path / "site.yaml", tmp_path / "results"))
    assert found == [("MISS", str(refusal.value))]
    assert not list(tmp_path.iterdir())


# --- the first guess -----------------------------------------------------------------------------


def first_site(
    monkeypatch: pytest.MonkeyPatch,
    *offered: queue.Partition,
    select: str = "select/cons_tres",
    memory: str = "DefMemPerNode = UNLIMITED",
) -> Cluster:
    monkeypatch.setattr(queue, "config", lambda: {"SelectType": select})
    monkeypatch.setattr(cluster_info, "query", lambda *_, **__: memory)
    return cluster_info.first_site({part.name: part for part in offered})


def partition(
    name: str,
    gpus: Mapping[str, int],
    *,
    default: bool = False,
    minutes: float = 7 * 24 * 60,
    accounts: frozenset[str] = frozenset(),
) -> queue.Partition:
    return queue.Partition(name, default, minutes, 8, 64, 256.0, gpus, frozenset(), accounts)


def test_gpus_are_looked_for_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = partition("batch", {}, default=True)
    few, many = partition("few", {"v100": 2}), partition("many", {"a100": 8})
    closed = partition("closed", {"h100": 8}, accounts=frozenset({"others"}))
    found = first_site(monkeypatch, batch, few, closed, many)
    assert (found.partition, found.gpus.type) == ("many", "a100")
    assert found.resources == (Resources(gpus=1, cpus=8, time="1d"),)


def test_the_default_partition_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = partition("batch", {"v100": 2, "a100": 4}, default=True, minutes=90)
    found = first_site(monkeypatch, batch, partition("many", {"a100": 8}))
    assert (found.partition, found.gpus) == (None, Gpus())
    assert found.resources == (Resources(gpus=1, cpus=12, time="90m"),)


def test_a_site_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    found = first_site(monkeypatch, partition("batch", {}, default=True, minutes=720))
    assert found.resources == (Resources(gpus=0, cpus=12, time="12h"),)


def test_an_older_slurm_gets_gres_options(monkeypatch: pytest.MonkeyPatch) -> None:
    part = partition("batch", {"": 4}, default=True)
    assert first_site(monkeypatch, part, select="select/cons_res").gpus == Gpus(request="gres")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("DefMemPerCPU=100", 16), ("DefMemPerCPU=4000", None), ("DefMemPerNode = 1024", 16)],
)
def test_a_tiny_memory_by_default(
    monkeypatch: pytest.MonkeyPatch, rule: str, expected: float | None
) -> None:
    part = partition("batch", {"a100": 4}, default=True)
    assert first_site(monkeypatch, part, memory=rule).resources[0].memory_gb == expected


def test_a_partition_of_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = first_site(monkeypatch, partition("debug", {}, default=True, minutes=2))
    assert (found.resources[0].time, found.warning_seconds) == ("2m", 60)
