"""Launching here, with real processes and real training: stopped in every way, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from repro import results
from repro.execution import ExecutionOptions
from repro.launch import failures, job, lease, local, state
from repro.launch.attempt import log_path
from repro.spec import Classification, to_json
from repro.train import eval_batch
from tests.launch import BROKEN, RUN, is_pending, outputs, status, wait_until
from tests.pretended_gpu import GPU, pretended_gpu

OTHER = replace(RUN, seed=1)

# Prints every event but 'running' as JSON, then how the launch ended.
LAUNCHER = """
import json, sys
from pathlib import Path
from repro import spec
from repro.core import signals
from repro.launch import local
from repro.launch.data import MissingData
from repro.execution import ExecutionOptions

def tell(event):
    if event.kind != "running":
        print(json.dumps([event.kind, event.run.id, event.note]), flush=True)

root, data, jobs, *texts = sys.argv[1:]
runs = [spec.from_json(text) for text in texts]
how = ExecutionOptions(Path(data), checkpoint_seconds=0.0)
signals.interrupt_once()  # as `repro` does
try:
    end = local.launch(runs, Path(root), how, int(jobs), tell)
except (KeyboardInterrupt, MissingData) as error:
    end = [type(error).__name__, str(error)]
signals.ignore()
print(json.dumps(end), flush=True)
sys.exit(130 if isinstance(end, list) else 0)
"""


@contextmanager
def launcher(
    root: Path, *runs: Classification, jobs: int = 2, errors: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process that launches the runs, saving after every step."""
    command = [sys.executable, "-c", LAUNCHER, str(root), str(root / "data"), str(jobs)]
    process = subprocess.Popen(
        [*command, *map(to_json, runs)],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def finish_process(process: subprocess.Popen[str]) -> tuple[list[list[str]], object]:
    """Wait for the launcher; returns its events and its result."""
    output, _ = process.communicate(timeout=300)
    *events, end = map(json.loads, output.splitlines())
    return events, end


def launch(root: Path, *runs: Classification, jobs: int = 2) -> tuple[list[list[str]], object]:
    with launcher(root, *runs, jobs=jobs) as process:
        return finish_process(process)


def of_kind(events: list[list[str]], kind: str) -> dict[str, str]:
    """The notes of the events of a kind, by run."""
    return {run: note for k, run, note in events if k == kind}


def steps_saved(root: Path, run: Classification) -> set[str]:
    folder = results.folder(root, run) / "checkpoints"
    return {path.name for path in folder.glob("step*.pt")}


def is_done(root: Path, run: Classification) -> bool:
    return results.outcome(root, run).state == "done"


def holder(root: Path, run: Classification) -> int | None:
    """The PID of the process that holds a run; None if no process does."""
    folder = results.folder(root, run)
    content = (lease.read(folder) if folder.exists() else None) or {}
    return int(content["pid"]) if lease.seems_locked(content) else None


@contextmanager
def pause(pid: int | None) -> Iterator[int]:
    """Stop a process, so that it cannot finish before the test has acted."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: status(pid, "State").startswith("T"))
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def trace(root: Path) -> dict[Path, tuple[int, int]]:
    """Every file but the logs, with its inode and time of change."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("log"))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]], object]:
    """Two runs that work and one that does not, two at a time, and the events."""
    root = tmp_path_factory.mktemp("undisturbed")
    return root, *launch(root, RUN, BROKEN, OTHER)


class Started:
    """A context that notes what a process would be started with."""

    def __init__(self) -> None:
        self.hows, self.environments = list[ExecutionOptions](), list[dict[str, str]]()

    def Process(self, target: object, args: tuple[Any, ...]) -> Started:  # noqa: N802
        self.hows.append(args[2])
        self.environments.append(args[3])
        return self

    def start(self) -> None: ...


@pytest.mark.parametrize(("jobs", "ranks", "shared"), [(2, 1, 1), (3, 1, 2), (6, 1, 3), (1, 2, 1)])
def test_runs_share_the_gpus_evenly_and_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, ranks: int, shared: int
) -> None:
    """Each process sees its own GPU, those of a run's ranks all of its GPUs."""
    monkeypatch.setattr(local, "gpus", lambda: ["3", "5"])
    started = Started()
    for number in range(jobs):
        devices = range(ranks * number, ranks * (number + 1))
        local._start_ranks(started, RUN, tmp_path, ExecutionOptions(), devices, jobs)
    assert {how.per_gpu for how in started.hows} == {shared}
    seen = [environment["CUDA_VISIBLE_DEVICES"] for environment in started.environments]
    assert seen == (["3,5"] * 2 if ranks == 2 else (["3", "5"] * 3)[:jobs])


def test_so_many_runs_at_a_time_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "gpus", lambda: ["0", "1", "2", "3"])
    assert [local.default_jobs(1, per_gpu) for per_gpu in (1, 2, 5)] == [4, 8, 20]
    assert local.default_jobs(ranks_per_run=2) == 2


def test_a_run_takes_its_part_of_the_memory() -> None:
    """So many fewer images fit, beside the weights."""
    large = nn.Sequential(nn.Conv2d(3, 256, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pretended_gpu():
        alone = eval_batch.make_batcher(large.to(GPU), 512).size
        job._limit_gpu_memory(4)
        shared = eval_batch.make_batcher(large, 512).size
    assert shared == pytest.approx(alone / 4, abs=2)


def test_a_run_that_fails_leaves_the_others_alone(
    undisturbed: tuple[Path, list[list[str]], object],
) -> None:
    root, events, well = undisturbed
    assert well is False
    assert set(of_kind(events, "started")) == {RUN.id, OTHER.id, BROKEN.id}
    assert set(of_kind(events, "done")) == {RUN.id, OTHER.id}
    assert is_done(root, RUN)
    assert is_done(root, OTHER)
    assert outputs(root, RUN) != outputs(root, OTHER)
    failed = of_kind(events, "failed")
    assert set(failed) == {BROKEN.id}
    assert "'colour'" in failed[BROKEN.id]
    assert "\n" not in failed[BROKEN.id]
    log = log_path(results.folder(root, BROKEN))
    assert f"(see {log})" in failed[BROKEN.id]
    assert "Traceback" in log.read_text()
    assert results.outcome(root, BROKEN).state == "started"


def test_a_second_launch_trains_nothing(
    undisturbed: tuple[Path, list[list[str]], object],
) -> None:
    root = undisturbed[0]
    before = trace(root)
    events, well = launch(root, RUN, OTHER)
    assert well is True
    assert set(of_kind(events, "done")) == {RUN.id, OTHER.id}
    assert trace(root) == before


def test_stopped_in_every_way_it_ends_the_same(
    tmp_path: Path, undisturbed: tuple[Path, list[list[str]], object]
) -> None:
    """Interrupted, its launcher killed, itself killed, and repeated: every byte is the same."""
    # Ctrl-C: the runs save, then the launcher ends with KeyboardInterrupt.
    with launcher(tmp_path, RUN, OTHER) as process:
        wait_until(lambda: bool(steps_saved(tmp_path, RUN)))
        with pause(holder(tmp_path, RUN)) as pid:
            process.send_signal(signal.SIGINT)
            wait_until(lambda: is_pending(pid, signal.SIGTERM))
        _, end = finish_process(process)
    assert end == ["KeyboardInterrupt", ""]
    assert holder(tmp_path, RUN) is None
    assert holder(tmp_path, OTHER) is None
    saved = steps_saved(tmp_path, RUN)
    assert saved
    assert not is_done(tmp_path, RUN)
    assert "stopped after step" in (log_path(results.folder(tmp_path, RUN))).read_text()

    # The launcher is killed: its run goes on from there, notices, saves and stops.
    with launcher(tmp_path, RUN) as process:
        wait_until(lambda: holder(tmp_path, RUN) is not None)
        wait_until(lambda: steps_saved(tmp_path, RUN) != saved)
        with pause(holder(tmp_path, RUN)):
            process.kill()
            process.wait()
        wait_until(lambda: holder(tmp_path, RUN) is None)
    assert not is_done(tmp_path, RUN)
    assert steps_saved(tmp_path, RUN) > set()
    assert "stopped after step" in (log_path(results.folder(tmp_path, RUN))).read_text()

    # The run's own process is killed: that is a failure, and no loss.
    with launcher(tmp_path, RUN) as process:
        wait_until(lambda: holder(tmp_path, RUN) is not None)
        os.kill(holder(tmp_path, RUN) or 0, signal.SIGKILL)
        events, well = finish_process(process)
    assert well is False
    assert "killed by signal SIGKILL" in of_kind(events, "failed")[RUN.id]
    assert not is_done(tmp_path, RUN)

    # Repeated, it finishes, and did not begin anew.
    assert steps_saved(tmp_path, RUN) > set()
    events, well = launch(tmp_path, RUN, OTHER)
    assert well is True
    for run in (RUN, OTHER):
        assert outputs(tmp_path, run) == outputs(undisturbed[0], run)
        assert not (results.folder(tmp_path, run) / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_terminal_that_closes_lets_runs_save(tmp_path: Path, number: signal.Signals) -> None:
    """It sends the signal to every process, and a shell once more."""
    with launcher(tmp_path, RUN) as process:
        wait_until(lambda: bool(steps_saved(tmp_path, RUN)))
        with pause(holder(tmp_path, RUN)) as pid:
            for _ in range(2):
                os.killpg(process.pid, number)
            wait_until(lambda: is_pending(pid, signal.SIGTERM))
        events, end = finish_process(process)
    assert end == ["KeyboardInterrupt", ""]
    assert not of_kind(events, "failed")
    assert holder(tmp_path, RUN) is None
    assert "stopped after step" in log_path(results.folder(tmp_path, RUN)).read_text()


@pytest.mark.parametrize("is_to_group", [False, True])
def test_the_second_ctrl_c_lets_runs_save(tmp_path: Path, is_to_group: bool) -> None:
    """To the launcher or to all of its processes, while they start, save and end."""
    with launcher(tmp_path, RUN, errors=subprocess.PIPE) as process:
        assert process.stdout
        assert '"started"' in process.stdout.readline()
        while process.poll() is None:
            send = os.killpg if is_to_group else os.kill
            send(process.pid, signal.SIGINT)
            time.sleep(0.001)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    assert json.loads(output.splitlines()[-1]) == ["KeyboardInterrupt", ""]
    content = lease.read(results.folder(tmp_path, RUN)) or {}
    assert content["cause"] == "interrupted"
    log = log_path(results.folder(tmp_path, RUN)).read_text()
    assert "stopped after step" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("with_server", [False, True])
def test_a_process_that_stands_still_is_killed(tmp_path: Path, with_server: bool) -> None:
    """With its server, nobody can tell when it has ended."""
    with launcher(tmp_path, RUN) as process:
        wait_until(lambda: bool(steps_saved(tmp_path, RUN)))
        pid = holder(tmp_path, RUN) or 0
        with ExitStack() as stack:
            if with_server:
                stack.enter_context(pause(int(status(pid, "PPid"))))
            os.kill(pid, signal.SIGSTOP)
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 130
            assert status(pid, "State")[:1] in ("", "Z")
        events, end = finish_process(process)
    assert end == ["KeyboardInterrupt", ""]
    note = of_kind(events, "failed")[RUN.id]
    assert note.startswith(f"process {pid} did not respond for 20 s and was killed; ")
    content = lease.read(results.folder(tmp_path, RUN)) or {}
    assert (content["cause"], content["note"]) == ("lost", note)
    assert steps_saved(tmp_path, RUN)


def test_a_run_whose_server_was_killed_says_how_it_ended(tmp_path: Path) -> None:
    with launcher(tmp_path, RUN) as process:
        wait_until(lambda: bool(steps_saved(tmp_path, RUN)))
        with pause(holder(tmp_path, RUN)) as pid:
            os.kill(int(status(pid, "PPid")), signal.SIGKILL)
            wait_until(lambda: status(pid, "PPid") == "1")
        events, end = finish_process(process)
    assert end == ["KeyboardInterrupt", ""]
    assert "stopped after step" in of_kind(events, "interrupted")[RUN.id]


def test_a_run_that_was_killed_often_resumes_at_every_launch(
    tmp_path: Path, undisturbed: tuple[Path, list[list[str]], object]
) -> None:
    """SLURM would start it again without end, and is refused; here somebody has asked."""
    folder = results.begin(tmp_path, RUN)
    for _ in range(int(failures.MAX_RETRIES["lost"]) + 1):
        lease.acquire(folder).release(failures.Failure("lost", "killed by signal SIGKILL"))
    with pytest.raises(results.ResultsError, match="lost 6 times; "):
        job.execute(RUN, tmp_path, ExecutionOptions(tmp_path / "data", job="7"))
    lease.acquire(folder).release(failures.Failure("lost", "killed by signal SIGKILL"))
    _, well = launch(tmp_path, RUN)
    assert well is True
    assert outputs(tmp_path, RUN) == outputs(undisturbed[0], RUN)


def test_a_second_launcher_names_the_owner_of_the_lock(
    tmp_path: Path, undisturbed: tuple[Path, list[list[str]], object]
) -> None:
    with launcher(tmp_path, RUN) as first:
        wait_until(lambda: holder(tmp_path, RUN) is not None)
        with pause(holder(tmp_path, RUN)) as pid:
            events, well = launch(tmp_path, RUN)
        assert well is False
        assert f"process {pid} on " in of_kind(events, "locked")[RUN.id]
        events, well = finish_process(first)
    assert well is True
    assert RUN.id in of_kind(events, "done")
    assert outputs(tmp_path, RUN) == outputs(undisturbed[0], RUN)
    leases = list(results.folder(tmp_path, RUN).glob("lease-*.json"))
    assert [path.name for path in leases] == ["lease-1.json"]  # it was held once


def test_a_log_that_is_a_pipe_fails_its_run_alone(tmp_path: Path) -> None:
    folder = results.begin(tmp_path, RUN)
    os.mkfifo(log_path(folder))
    events, well = launch(tmp_path, RUN, OTHER)
    assert well is False
    assert "log.txt: No such device or address; move it away" in of_kind(events, "failed")[RUN.id]
    assert is_done(tmp_path, OTHER)


def test_a_cancelled_run_that_waits_is_not_started(tmp_path: Path) -> None:
    """By the launcher that has it on its list, which is told as a queue is."""
    third = replace(RUN, seed=2)
    with launcher(tmp_path, RUN, OTHER, third, jobs=1) as process:
        wait_until(lambda: holder(tmp_path, RUN) is not None)
        with pause(holder(tmp_path, RUN)):
            found = {s.run: s for s in state.query(tmp_path, [RUN, OTHER, third])}
            assert [s.name for s in found.values()] == ["running", "queued", "queued"]
            assert (
                found[OTHER].note == f"waiting for process {process.pid} on {os.uname().nodename}"
            )
            lease.request_cancel(results.folder(tmp_path, OTHER))
            names = [s.name for s in state.query(tmp_path, [OTHER, third])]
            assert names == ["cancelled", "queued"]
        events, well = finish_process(process)
    assert well is False
    assert of_kind(events, "cancelled") == {OTHER.id: ""}
    assert set(of_kind(events, "started")) == set(of_kind(events, "done")) == {RUN.id, third.id}
    assert not (tmp_path / "submissions").exists()
    assert [s.name for s in state.query(tmp_path, [OTHER])] == ["cancelled"]
    events, well = launch(tmp_path, OTHER)  # asked for again
    assert well is True


def test_the_list_of_a_launcher_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    with launcher(tmp_path, RUN, OTHER, jobs=1) as process:
        wait_until(lambda: holder(tmp_path, RUN) is not None)
        process.kill()
        process.wait()
        assert [s.name for s in state.query(tmp_path, [OTHER])] == ["missing"]
        wait_until(lambda: holder(tmp_path, RUN) is None)
    launch(tmp_path, RUN)
    assert not (tmp_path / "submissions").exists()


def test_missing_data_is_found_before_anything_starts(tmp_path: Path) -> None:
    events, end = launch(tmp_path, RUN, replace(RUN, dataset="cifar10"))
    assert events == []
    assert isinstance(end, list)
    assert end[0] == "MissingData"
    assert str(tmp_path / "data" / "cifar-10-batches-py") in end[1]
    assert "repro prepare cifar10" in end[1]
    assert list(tmp_path.iterdir()) == []
