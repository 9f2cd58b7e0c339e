"""`repro ITEM --launch slurm` and its verbs as a user meets them, on a real SLURM.

Jobs are held where a test wants them to wait, and let go when it has looked.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from repro import experiments, results
from repro.experiments.scales import at_scale
from repro.launch import attempt, code, lease
from repro.testbed.cluster import Testbed
from tests.finished import finish
from tests.launch import wait_until, wrap_clients

SITE = """
partition: main
resources:
- gpus: 0
  cpus: 1
  time: 5m
silence_seconds: 8
"""
HOLD = f"{SITE}sbatch: {{hold: true}}\n"  # its jobs wait until they are released
TWO_RUNS = "table1 --scale smoke --only NesT-T"
LAUNCH = f"{TWO_RUNS} --launch slurm --cluster site.yaml"
LONG = "table1 --scale demo --only NesT-T --seeds 2 --launch slurm --cluster site.yaml"

PACKAGE = code.PACKAGE
NEST_T = [cell for cell in experiments.get("table1").cells if cell.row == "NesT-T"]


@dataclass(frozen=True)
class User:
    """A user with a folder and an environment for the cluster."""

    bed: Testbed
    here: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        common = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
        return self.bed.whole_environment() | common | self.variables

    def site(self, text: str) -> None:
        (self.here / "site.yaml").write_text(text)

    def start(self, line: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "repro", *line.split()],
            cwd=self.here,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, line: str) -> tuple[int, str, str]:
        """Exit status, output and errors of a command."""
        return finish_process(self.start(line))

    def stdout_of(self, line: str) -> str:
        status, out, err = self.run(line)
        assert (status, err) == (0, ""), (out, err)
        return out

    def error_of(self, line: str) -> str:
        """The one line of a command that is refused."""
        status, _, err = self.run(line)
        assert (status, err.count("\n")) == (2, 1), err
        assert err.startswith("repro: ")
        return err

    def states(self) -> dict[str, dict[str, Any]]:
        """What `repro status` knows of every run of which there is anything."""
        rows = json.loads(self.stdout_of("status table1 --json"))
        runs = [run for row in rows for run in row["runs"]]
        return {run["run"]: run for run in runs if run["state"] != "missing"}

    def names(self) -> dict[str, int]:
        """The number of runs in each state."""
        return Counter(run["state"] for run in self.states().values())

    def step_saved(self, run: str) -> int:
        """The last step after which a run saved its state; 0 if it has not."""
        names = (p.name for p in (self.here / "results" / run).glob("checkpoints/step*.pt"))
        return max((int(name[4:13]) for name in names), default=0)

    def submissions(self) -> list[Path]:
        return sorted(self.here.glob("results/submissions/*/submission.json"))

    def queued(self) -> list[str]:
        """The run of every job of ours that is in the queue, by the submissions' own record."""
        lines = self.bed.ask("squeue", "--noheader", "--array", "--format=%j %i %Z").splitlines()
        found = []
        for name, job, folder in map(str.split, lines):
            if Path(folder).is_relative_to(self.here):
                _, token, array = name.split("-")
                record = json.loads((Path(folder) / "submission.json").read_text())
                assert record["token"] == token
                index = int(job.partition("_")[2] or 0)
                found.append(record["arrays"][int(array)]["runs"][index])
        return found

    def jobs(self) -> list[str]:
        lines = self.bed.ask("squeue", "--noheader", "--format=%A %Z").splitlines()
        found = map(str.split, lines)
        return sorted({job for job, folder in found if Path(folder).is_relative_to(self.here)})

    def release(self) -> None:
        """Let the held jobs start."""
        self.bed.ask("scontrol", "release", *self.jobs())

    def until(self, **names: int) -> None:
        """Wait until so many runs are in these states."""
        wait_until(lambda: self.names() == names, poll_seconds=1.0)  # each poll is a process


def finish_process(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    with process:
        out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def content(folder: Path) -> dict[str, bytes | None]:
    """Every folder and file with its content, but for the leases."""
    return {
        str(p): None if p.is_dir() else p.read_bytes()
        for p in folder.rglob("*")
        if not p.name.startswith("lease-")
    }


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    """Two runs a node, of which some only wait."""
    with Testbed(nodes=2, cpus=2) as bed:
        yield bed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")  # the first launch makes the smoke datasets there


@contextmanager
def a_user(bed: Testbed, here: Path, **variables: str) -> Iterator[User]:
    user = User(bed, here, variables)
    user.site(SITE)
    try:
        yield user
    finally:
        if jobs := user.jobs():
            bed.ask("scancel", *jobs)
        wait_until(lambda: not user.jobs())


@pytest.fixture
def user(bed: Testbed, data: Path, tmp_path: Path) -> Iterator[User]:
    with a_user(bed, tmp_path, REPRO_DATA=str(data)) as user:
        yield user


@pytest.fixture(scope="module")
def orphaned(bed: Testbed, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user whose launcher was killed between SLURM's acceptance and its own record of that."""
    folder = tmp_path_factory.mktemp("orphaned")
    path = wrap_clients(folder / "bin", sbatch='"$REAL" "$@" && kill -KILL $PPID')
    with a_user(bed, folder, REPRO_DATA=str(data)) as user:
        status, _, err = finish_process(User(bed, folder, user.variables | path).start(LAUNCH))
        assert (status, err) == (-signal.SIGKILL, "")
        yield user


# --- submitting ----------------------------------------------------------------------------------


def test_killed_between_submitting_and_recording_it_is_known(orphaned: User) -> None:
    """The jobs exist, but can never load their payload."""
    (record,) = orphaned.submissions()
    assert json.loads(record.read_text())["arrays"][0]["job"] == ""  # it never got there
    assert len(orphaned.queued()) == 2
    states = orphaned.states()
    assert {state["state"] for state in states.values()} == {"never started"}
    assert all("launcher died" in state["note"] for state in states.values())
    assert {state["job"].partition("_")[0] for state in states.values()} == {*orphaned.jobs()[:1]}


def test_from_a_dry_run_to_the_drawn_table(user: User) -> None:
    """What is submitted is what was shown; asked again, nothing is done twice."""
    user.site(HOLD)
    before = content(user.here)
    nowhere = User(user.bed, user.here, user.variables | {"PATH": "/nowhere", "SLURM_CONF": "/no"})
    shown = nowhere.stdout_of(f"{LAUNCH} --dry-run")
    assert content(user.here) == before
    assert "2 runs × 1 CPU, 5m per attempt, in main\n" in shown
    assert "would submit 2 of 2 runs" in shown

    log = user.here / "asked"
    asking = wrap_clients(user.here / "bin", squeue=f'echo "$@" >> {log}; exec "$REAL" "$@"')
    watched = User(user.bed, user.here, user.variables | asking)
    assert re.search(r"smoke +32$", watched.stdout_of("status table1"), re.MULTILINE)
    assert not log.exists()  # nothing was ever submitted: SLURM has nothing to say

    out = user.stdout_of(LAUNCH)
    (job,) = user.jobs()
    assert f"submitted 2 runs: SLURM job {job}\n" in out
    assert user.names() == {"queued": 2}
    runs = user.states()
    assert {state["job"] for state in runs.values()} == {f"{job}_0", f"{job}_1"}
    assert "2 × JobHeldUser" in user.stdout_of("status table1")
    (record,) = user.submissions()
    (script,) = record.parent.glob("jobs/*_submission.sh")
    (token,) = set(re.findall(r"--job-name=repro-(\w{8})-0", shown))
    assert script.read_text().replace(record.parent.name, token) in shown

    for _ in range(2):
        assert "2 under way already" in user.stdout_of(LAUNCH)
    assert sorted(user.queued()) == sorted(runs)
    assert user.submissions() == [record]
    assert "would submit 0 of 2 runs" in user.stdout_of(f"{LAUNCH} --dry-run")
    log.unlink(missing_ok=True)
    watched.stdout_of("status")
    assert len(log.read_text().splitlines()) == 1  # one question, whatever the number of runs

    user.release()
    status, out, err = user.run(f"{LAUNCH} --wait")
    assert status == 0, err
    assert re.findall(r"^\[\d/2\]", err, re.MULTILINE) == ["[1/2]", "[2/2]"]
    assert all(run in err for run in runs)
    assert len(re.findall(r"\d+\.\d\d \(1\)", out)) == 2
    assert user.names() == {"done": 2}
    before = content(user.here)
    again = user.stdout_of(LAUNCH)
    assert again == out.partition("2 under way already\n")[2]
    assert content(user.here) == before
    log.unlink()
    assert re.search(r"smoke +2 +30$", watched.stdout_of("status table1"), re.MULTILINE)


def test_a_launcher_with_another_clock_hides_no_job(user: User) -> None:
    user.site(HOLD)
    user.stdout_of(LAUNCH)
    (record,) = user.submissions()
    record.write_text(re.sub(r'"created": (\d)', r'"created": 9\1', record.read_text()))
    user.stdout_of("cancel table1 --scale smoke")
    assert "submitted 2 runs" in user.stdout_of(LAUNCH)
    assert "2 under way already" in user.stdout_of(LAUNCH)
    assert user.names() == {"queued": 2}
    user.stdout_of("cancel table1 --scale smoke")
    wait_until(lambda: not user.queued())


def test_jobs_whose_record_is_damaged_are_not_submitted_again(user: User) -> None:
    user.site(HOLD)
    user.stdout_of(LAUNCH)
    (record,), kept = user.submissions(), user.submissions()[0].read_text()
    record.write_text(kept[:100])
    status, out, err = user.run(LAUNCH)
    assert (status, "submitted" in out) == (2, False)
    assert f"scancel --name=repro-{record.parent.name}-0" in err
    record.write_text(kept)
    assert user.names() == {"queued": 2}
    user.stdout_of("cancel table1 --scale smoke")
    wait_until(lambda: not user.queued())


def test_shells_at_the_same_moment_submit_every_run_once(user: User) -> None:
    user.site(HOLD + f"environment: {{REPRO_DATA: {user.variables['REPRO_DATA']}}}\n")
    line = LAUNCH.replace("--only NesT-T ", "")
    for number in range(3):
        place = f"--results results/{number}"
        shells = [user.start(f"{line} {place}") for _ in range(2)]
        answers = [finish_process(shell) for shell in shells]
        assert [(status, err) for status, _, err in answers] == [(0, "")] * 2
        reports = sorted(re.findall(r"submitted 32|32 under way", "".join(a[1] for a in answers)))
        assert reports == ["32 under way", "submitted 32"]
        runs = user.queued()
        assert len(runs) == len(set(runs)) == 32
        user.bed.ask("scancel", *user.jobs())
        wait_until(lambda: not user.jobs())


def test_the_code_that_runs_is_the_code_that_was_submitted(user: User) -> None:
    copy = user.here / "checkout" / "repro"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text((copy / "__init__.py").read_text() + "\n# another state\n")
    theirs = User(user.bed, user.here, user.variables | {"PYTHONPATH": str(copy.parent)})
    user.site(HOLD)
    theirs.stdout_of(LAUNCH)
    (record,) = user.submissions()
    submitted = json.loads(record.read_text())["code"]
    assert submitted != code.digest()
    for path in copy.rglob("*.py"):
        path.write_text("raise RuntimeError('edited meanwhile')\n")
    user.release()
    user.until(done=2)
    for run in user.states():
        result = json.loads((user.here / "results" / run / "result.json").read_text())
        assert result["provenance"]["code"] == submitted


# --- waiting -------------------------------------------------------------------------------------


def test_waiting_ended_by_a_signal_leaves_the_jobs(user: User) -> None:
    """On a terminal, with a block that is drawn anew; the jobs are SLURM's."""
    user.site(HOLD)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "repro", *f"{LAUNCH} --wait".split()]
    with subprocess.Popen(
        command,
        cwd=user.here,
        env=user.environment,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        seen = b""
        while b"2 queued of 2" not in seen:
            seen += os.read(ours, 1000)
        os.killpg(process.pid, signal.SIGQUIT)
        assert process.wait(timeout=300) == 130
    seen += os.read(ours, 10_000)
    os.close(ours)
    assert "repro: the jobs continue; `repro status` shows them" in seen.decode()
    assert "Traceback" not in seen.decode()
    assert user.names() == {"queued": 2}
    assert len(user.queued()) == 2


# --- mending -------------------------------------------------------------------------------------


def test_cancel_and_go_on(user: User) -> None:
    """A waiting run, a running one by SLURM's own command, and the rest; then where they were."""
    user.site(f"{SITE}parallel: 2\n")
    user.stdout_of(f"{LONG} --checkpoint-seconds 0")
    runs = user.queued()
    assert len(runs) == 4
    wait_until(lambda: sum("rate" in s for s in user.states().values()) == 2, poll_seconds=1.0)
    states = user.states()
    assert user.names() == {"running": 2, "queued": 2}
    training = {run for run in runs if states[run]["state"] == "running"}
    for run in training:
        assert states[run]["steps"] == 375
        assert states[run]["host"] in user.bed.names
        assert re.search(rf"{run}: step \d+ of 375, .* steps/s, ", user.stdout_of("status table1"))

    # One that waits.
    waiting = next(run for run in runs if run not in training)
    assert f"queued  {waiting}" in user.stdout_of(f"cancel {waiting} --dry-run")
    assert waiting in user.queued()
    assert "cancelled 1 run;" in user.stdout_of(f"cancel {waiting}")
    wait_until(lambda: waiting not in user.queued())
    assert user.states()[waiting]["state"] == "cancelled"
    assert len(user.queued()) == 3

    # One that runs, by hand: it saves, and nobody starts it again.
    by_hand, *_ = training
    user.bed.ask("scancel", states[by_hand]["job"])
    wait_until(lambda: by_hand not in user.queued())
    wait_until(lambda: user.states()[by_hand]["state"] not in ("running", "queued"))
    stopped = user.states()[by_hand]
    assert stopped["state"] in ("cancelled", "preempted"), stopped
    assert stopped["note"]

    # All the others, of which one runs at the least.
    assert "cancelled 2 runs" in user.stdout_of("cancel table1")
    wait_until(lambda: not user.queued())
    assert "nothing to cancel" in user.stdout_of("cancel table1")
    states = user.states()
    (other,) = training - {by_hand}
    assert states[other]["state"] == "cancelled"
    assert not {s["state"] for s in states.values()} - {"cancelled", "preempted"}
    assert f"{other}: cancelled" in user.stdout_of("failures")

    # `retry` and the launch itself begin again where the runs were.
    saved = {run: user.step_saved(run) for run in training}
    assert all(saved.values())
    retry = LONG.replace("table1", "retry table1").replace("--launch slurm ", "")
    assert "submitted 4 runs" in user.stdout_of(retry)
    first: dict[str, int] = {}

    def are_training() -> bool:
        for run, state in user.states().items():
            if run in training and state["state"] == "running" and "step" in state:
                first.setdefault(run, state["step"])
        return first.keys() == training

    wait_until(are_training)
    assert all(first[run] >= saved[run] for run in training)
    user.stdout_of("cancel table1")
    wait_until(lambda: not user.queued())


def test_a_run_that_fails_says_why_and_is_finished_by_another_launch(user: User) -> None:
    own = user.here / "data"
    user = User(user.bed, user.here, {"REPRO_DATA": str(own)})
    user.site(HOLD)
    user.stdout_of(LAUNCH)
    (good,) = (run for run in user.queued() if "cifar100" in run)
    (bad,) = (run for run in user.queued() if "cifar100" not in run)
    (folder,) = own.glob("cifar10-*")
    folder.rename(user.here / "away")
    following = user.start(f"logs -f {good}")
    following_bad = user.start(f"logs -f {bad}")
    user.release()
    status, out, err = user.run(f"{LAUNCH} --wait")
    assert status == 1
    assert "not run" in out
    (line,) = (line for line in err.splitlines() if bad in line)
    assert f"{bad} failed: " in line
    assert str(folder) in line
    cause = line.partition(" failed: ")[2]
    assert user.names() == {"done": 1, "failed": 1}
    assert f"{bad}: failed, {cause}" in user.stdout_of("status table1")
    shown = user.stdout_of("failures table1")
    assert shown.startswith(f"{bad}: failed, {cause}\n")
    assert "Traceback" not in shown
    (row,) = json.loads(user.stdout_of("failures --json"))
    assert row == {"run": bad, "state": "failed", "note": cause}

    # Its log, by the beginning of its name.
    assert cause in user.stdout_of(f"logs {bad[:-6]}")
    assert f"did you mean {bad}?" in user.error_of(f"logs {bad[:-2]}xx")
    assert "2 runs match" in user.error_of("logs nest")
    assert "no log for rank 3" in user.error_of(f"logs {good} --rank 3")
    assert "process" in finish_process(following)[1]
    assert cause in finish_process(following_bad)[1]  # nothing is to follow

    (user.here / "away").rename(folder)
    user.site(SITE)
    status, out, err = user.run(f"retry {LAUNCH} --wait")
    assert status == 0, err
    assert "submitted 1 run:" in out
    assert user.names() == {"done": 2}
    assert "nothing to retry" in user.stdout_of(f"retry {TWO_RUNS}")
    assert "no run has ended badly" in user.stdout_of("failures")


def test_a_job_that_never_comes_to_its_run_says_why(user: User) -> None:
    """The site's own lines failed, before anything of ours began."""
    user.site(f"{SITE}setup: [module load nonsense]\n")
    user.stdout_of(LAUNCH)
    user.until(failed=2)
    notes = {state["note"] for state in user.states().values()}
    assert all("module" in note for note in notes)
    assert "module" in user.stdout_of(f"logs {min(user.states())}")


# --- refusals ------------------------------------------------------------------------------------


def shape(**values: object) -> str:
    given = {"gpus": 0, "cpus": 1, "time": "5m"} | values
    return f"resources: [{json.dumps(given)}]\n"


@pytest.fixture(scope="module")
def refusing(bed: Testbed, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Somebody to whom nothing is ever submitted."""
    with a_user(bed, tmp_path_factory.mktemp("refusing"), REPRO_DATA=str(data)) as user:
        yield user
        assert user.queued() == []


ONE_OF_TWO = (
    'resources:\n- {runs: "*cifar10-*", gpus: 0, cpus: 1}\n'
    "- {gpus: 0, cpus: 1, partition: short, time: 6m}\n"
)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (shape() + "partition: mian", "there is no partition 'mian'; there are main, urgent"),
        (shape(time="6m") + "partition: short", "time: 6m exceeds the limit of partition short"),
        (shape(gpus=5), "gpus: 5 per node requested, partition main has at most 4"),
        (shape(gpus=1) + "gpus: {type: a100}", "has no a100; it has pretend"),
        (
            shape(memory_gb=50_000),
            "memory_gb: 50000 GiB per node requested, partition main has at most",
        ),
        (shape(nodes=3), "nodes: 3 requested, partition main has 2"),
        (shape(cpus=3), "cpus: 3 per node requested, partition main has at most 2"),
        (shape() + "shared: [/scratch]", "not in a folder shared with the nodes (/scratch)"),
        (shape() + "partition: closed", "account: partition closed is for nobody-here; set"),
        (shape() + "partition: closed\naccount: mine", "for nobody-here, not for mine"),
        (shape() + "sbatch: {nonsense: 1}", "unrecognized option '--nonsense=1'"),
        (shape() + "sbatch: {licenses: x}", "SLURM refused: Batch job submission failed: Invalid"),
        (shape() + "constraint: fast", "Invalid feature specification; nothing was submitted"),
        (ONE_OF_TWO, "time: 6m exceeds the limit of partition short"),
        (shape() + "acount: mine", "site.yaml: acount: unknown key; did you mean account?"),
        ("resources: [{gpus: none}]", "resources[0].gpus: must be a whole number, not 'none'"),
        ('resources: [{runs: "x*"}]', "resources: none for the run nest-tiny-cifar-cifar10-smoke"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_left(
    refusing: User, site: str, message: str
) -> None:
    refusing.site(f"{site}\nenvironment: {{REPRO_DATA: {refusing.variables['REPRO_DATA']}}}\n")
    assert message in refusing.error_of(LAUNCH)
    assert refusing.queued() == []
    assert refusing.submissions() == []
    assert refusing.names() == {}


def test_the_second_array_is_refused_and_the_first_is_taken_back(user: User) -> None:
    """SLURM's own refusal, after it has accepted the array before."""
    asked = user.here / "asked"
    refuse = f'[ $(wc -l < {asked}) = 2 ] && echo "sbatch: error: No, thanks" >&2 && exit 1'
    path = wrap_clients(user.here / "bin", sbatch=f'echo >> {asked}\n{refuse}\nexec "$REAL" "$@"')
    user.site(ONE_OF_TWO.replace("6m", "5m") + "sbatch: {hold: true}")
    asking = User(user.bed, user.here, user.variables | path)
    assert "SLURM refused: No, thanks; nothing was submitted" in asking.error_of(LAUNCH)
    assert asked.read_text() == "\n\n"
    wait_until(lambda: not user.jobs())
    assert user.submissions() == []
    assert user.names() in ({}, {"started": 1})


def test_what_slurm_never_took_is_not_cancelled(user: User) -> None:
    path = wrap_clients(user.here / "bin", sbatch="echo thanks")
    without = User(user.bed, user.here, user.variables | path)
    assert "sbatch printed no job ID (thanks)" in without.error_of(LAUNCH)
    assert user.names() == {"never started": 2}
    assert "nothing to cancel" in user.stdout_of("cancel table1")
    assert user.names() == {"never started": 2}
    user.site(HOLD)
    assert "submitted 2 runs" in user.stdout_of(LAUNCH)


def test_no_slurm_here(refusing: User) -> None:
    refusing.site(SITE)
    without = User(refusing.bed, refusing.here, refusing.variables | {"PATH": "/nowhere"})
    error = without.error_of(LAUNCH)
    assert "no SLURM here: looked for sbatch, squeue, scontrol on PATH" in error
    assert "--launch local" in error
    assert "repro testbed" in error
    (refusing.here / "a-file").write_text("kept")
    error = refusing.error_of(f"{LAUNCH} --results a-file")
    assert "a-file is a file, where a folder is expected" in error
    assert "no such file" in refusing.error_of(LAUNCH.replace("site.yaml", "absent.yaml"))
    assert refusing.submissions() == []


def test_what_slurm_never_starts_is_said_and_replaced(user: User) -> None:
    """It accepts a job for a partition that is closed to it; so does a partition that closes."""
    user.site(SITE.replace("main", "short"))
    user.bed.ask("scontrol", "update", "partition=short", "AllowAccounts=others")
    try:
        path = wrap_clients(  # as if it had been open when we looked
            user.here / "bin",
            scontrol='"$REAL" "$@" | sed s/AllowAccounts=others/AllowAccounts=ALL/',
        )
        User(user.bed, user.here, user.variables | path).stdout_of(LAUNCH)
        user.until(**{"never started": 2})
        assert "can't use this partition (short allows others)" in user.stdout_of("status table1")
        stuck = user.jobs()
        user.site(HOLD)
        assert "submitted 2 runs" in user.stdout_of(LAUNCH)
        wait_until(lambda: len(user.queued()) == 2)
        assert not {*user.jobs()} & {*stuck}
    finally:
        user.bed.ask("scontrol", "update", "partition=short", "AllowAccounts=ALL")


def test_without_a_controller_files_tell(data: Path, tmp_path: Path) -> None:
    with Testbed(1, 1) as bed:
        user = User(bed, tmp_path, {"REPRO_DATA": str(data)})
        user.site(HOLD)
        user.stdout_of(LAUNCH)
        before = content(tmp_path)
        bed.kill_controller()
        assert user.names() == {"queued": 2}
        assert "as of its submission; SLURM does not respond" in user.stdout_of("status table1")
        assert "2 under way already" in user.stdout_of(LAUNCH)
        more = LAUNCH.replace("NesT-T", "NesT-S")
        assert "SLURM's controller does not respond" in user.error_of(more)
        assert content(tmp_path) == before


# --- here, in ranks ------------------------------------------------------------------------------


def test_two_ranks_here_give_the_result_of_one(data: Path, tmp_path: Path, bed: Testbed) -> None:
    user = User(bed, tmp_path, {"REPRO_DATA": str(data)})
    run, other = (at_scale(cell.run, "smoke") for cell in NEST_T)
    found = []
    for ranks in ("1", "2"):
        root = tmp_path / ranks
        finish(root, other)
        status, _, err = user.run(f"{TWO_RUNS} --launch local --ranks {ranks} --results {ranks}")
        assert status == 0, err
        assert "training 1 run, 1 at a time" in err
        assert f"[1/1] {run.id} done" in err
        lines = (results.folder(root, run) / results.METRICS).read_text().splitlines()
        found.append([[*json.loads(line).values()] for line in lines])
        assert attempt.log_path(results.folder(root, run), 1).exists() == (ranks == "2")
    for one, two in zip(*found, strict=True):
        assert two == pytest.approx(one, rel=1e-3)


def test_a_rank_that_is_killed_here_is_named(tmp_path: Path, bed: Testbed) -> None:
    user = User(bed, tmp_path)
    line = "table1 --launch local --scale demo --only NesT-T --seeds 1 --ranks 2 --jobs 1"
    process = user.start(line)

    def logs() -> list[Path]:
        return list(tmp_path.glob("results/*/log-1.txt"))

    wait_until(lambda: any("process" in log.read_text() for log in logs()))
    (log,) = logs()
    run = log.parent.name
    wait_until(lambda: "step" in (lease.read(log.parent) or {}))
    victim = re.search(r"process (\d+) on ", log.read_text())
    assert victim
    os.kill(int(victim[1]), signal.SIGKILL)
    wait_until(lambda: len(logs()) == 2)  # the other run's turn
    os.killpg(process.pid, signal.SIGHUP)
    status, _, err = finish_process(process)
    assert status == 130
    assert f"{run} failed: rank 1: killed by signal SIGKILL; relaunch to resume it" in err
    assert attempt.log_path(log.parent, 1) == log
    assert user.states()[run]["state"] == "lost"
    assert "rank 1: killed by signal SIGKILL" in user.stdout_of("failures")


# --- at last: what the first test left ------------------------------------------------------------


def test_killed_between_submitting_and_recording_it_is_finished(orphaned: User) -> None:
    """Another launch replaces the jobs, and does their work."""
    status, out, err = orphaned.run(f"{LAUNCH} --wait")
    assert status == 0, err
    assert "submitted 2 runs" in out
    assert orphaned.names() == {"done": 2}
