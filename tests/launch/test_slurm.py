"""Runs on a real SLURM: stopped in every way that a cluster knows, nothing is lost and nothing is
done twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from repro import results
from repro.execution import ExecutionOptions
from repro.launch import attempt, code, lease, local, state
from repro.launch.cancel import jobs_of as cancel_jobs
from repro.launch.failures import Failure
from repro.launch.slurm import arrays, queue, submission
from repro.launch.slurm.cluster import Cluster, Resources
from repro.spec import Classification
from repro.testbed.cluster import Testbed
from tests.launch import (
    BROKEN,
    LONG,
    RUN,
    fill,
    full_disk,
    is_pending,
    outputs,
    status,
    wait_until,
    wrap_clients,
)

ONE = Resources(cpus=1, time="30m")
SITE = Cluster(resources=(ONE,), silence_seconds=5)
FOUR_RANKS = replace(SITE, resources=(Resources(cpus=1, nodes=2, gpus=2, time="30m"),))
CHILD = replace(RUN, seed=7, pretrained=RUN)

# Options of SLURM's clients, as another program may have exported them.
FOREIGN = {
    "SQUEUE_PARTITION": "nosuch",
    "SQUEUE_STATES": "SUSPENDED",
    "SQUEUE_NAMES": "nosuch",
    "SQUEUE_FORMAT": "%i",
    "SINFO_PARTITION": "nosuch",
    "SCANCEL_STATE": "SUSPENDED",
    "SBATCH_ARRAY_INX": "7",
    "SRUN_CPUS_PER_TASK": "500",
    "SLURM_CLUSTERS": "nosuch",
    "SLURM_CONSTRAINT": "nosuch",
}
BANNER = "echo 'after this job 17 credits remain|1|2|3|4|5|6'; echo 17"


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    with Testbed(nodes=3, cpus=2) as bed, pytest.MonkeyPatch.context() as patch:
        for name, value in bed.environment.items():
            patch.setenv(name, value)
        yield bed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN, LONG and CHILD as they come out when nothing happens, trained here."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert local.launch(
        [RUN, LONG, CHILD], root, ExecutionOptions(root / "data"), 1, lambda _: None
    )
    return root


# Each poll of a state starts squeue.
wait_for_state = partial(wait_until, poll_seconds=0.5)


def submit(root: Path, *runs: Classification, site: Cluster = SITE) -> submission.Submission:
    """Submit runs that save after every step."""
    return arrays.submit(
        site, "", runs, root, ExecutionOptions(root / "data", checkpoint_seconds=0.0)
    )


def state_of(root: Path, run: Classification) -> state.RunState:
    (found,) = state.query(root, [run])
    return found


def names(root: Path, *runs: Classification) -> list[str]:
    return [found.name for found in state.query(root, runs)]


def wait_done(root: Path, *runs: Classification) -> None:
    def are_done() -> bool:
        states = state.query(root, runs)
        bad = [s for s in states if s.has_failed]
        assert not bad, bad
        return all(s.name == "done" for s in states)

    wait_for_state(are_done)


def wait_training(root: Path, run: Classification) -> str:
    """Wait until a run has saved a step; its job."""
    folder = results.folder(root, run)
    wait_until(lambda: list(folder.glob("checkpoints/step*.pt")))
    return state_of(root, run).job


def log(root: Path, run: Classification, rank: int = 0) -> str:
    path = attempt.log_path(results.folder(root, run), rank)
    return path.read_text() if path.exists() else ""


def attempts(root: Path, run: Classification) -> int:
    return log(root, run).count("\n--- ")


def assert_untouched(root: Path, undisturbed: Path, *runs: Classification) -> None:
    """Every byte is as if nothing had happened, and nothing is left over."""
    for run in runs:
        assert outputs(root, run) == outputs(undisturbed, run)
        folder = results.folder(root, run)
        wait_until(partial(is_gone, folder / "checkpoints"))  # the last that is done to a run
        assert not {path.name for path in folder.iterdir() if "tmp" in path.name}


def is_gone(path: Path) -> bool:
    return not path.exists()


def process_of(bed: Testbed, job: str, rank: int) -> int:
    """The process number here of a rank of a job; 0 if there is none."""
    conf = f"SLURM_CONF={bed.environment['SLURM_CONF']}"
    number = job.partition("_")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        is_rank = b"_submit" in command and not command.startswith(b"srun")
        is_rank = is_rank and b"bootstrap.py" not in command  # which has yet to hold signals back
        here = is_rank and {f"SLURM_PROCID={rank}", conf} <= set(words)
        array = f"SLURM_ARRAY_JOB_ID={number[0]}" in words
        task = f"SLURM_ARRAY_TASK_ID={number[2]}" in words
        if here and (f"SLURM_JOB_ID={job}" in words or (array and task)):
            return int(process.name)
    return 0


# --- what is submitted ---------------------------------------------------------------------------


def test_an_array_a_child_and_what_waits_for_a_failure(
    bed: Testbed, tmp_path: Path, undisturbed: Path
) -> None:
    """Equal shapes are one array; a run comes after its start; what cannot start is not kept."""
    other, orphan = replace(RUN, seed=1), replace(RUN, seed=2, pretrained=BROKEN)
    planned = submit(tmp_path, CHILD, RUN, other, BROKEN, orphan)
    assert [len(array.runs) for array in planned.arrays] == [3, 1, 1]
    assert state_of(tmp_path, CHILD).note == "Dependency"

    wait_for_state(lambda: names(tmp_path, CHILD, RUN, other) == ["done"] * 3)
    assert_untouched(tmp_path, undisturbed, RUN, CHILD)
    wait_for_state(lambda: names(tmp_path, BROKEN, orphan) == ["failed", "never started"])
    assert "'colour'" in state_of(tmp_path, BROKEN).note
    assert state_of(tmp_path, orphan).note == f"its pretrained run {BROKEN.id} has no result"
    bed.wait_empty()

    # It ran the code that was submitted, and says so.
    result = json.loads((results.folder(tmp_path, RUN) / results.RESULT).read_text())
    assert result["provenance"]["code"] == planned.code == code.digest()
    (snapshot,) = (tmp_path / submission.FOLDER / "code").iterdir()
    assert snapshot.name == planned.code
    # A result has the digests of its files.
    assert set(result["files"]) == {results.METRICS, results.PREDICTIONS, results.WEIGHTS}


def test_four_ranks_on_two_nodes(bed: Testbed, tmp_path: Path, undisturbed: Path) -> None:
    submit(tmp_path, RUN, site=FOUR_RANKS)
    wait_done(tmp_path, RUN)
    result = json.loads((results.folder(tmp_path, RUN) / results.RESULT).read_text())
    alone = json.loads((results.folder(undisturbed, RUN) / results.RESULT).read_text())
    assert result["provenance"]["ranks"] == 4
    assert result["metrics"]["loss"] == pytest.approx(alone["metrics"]["loss"], rel=1e-3)
    for rank in range(4):
        assert log(tmp_path, RUN, rank).count("\n--- ") == 1


HELD_SITE = replace(SITE, sbatch={"hold": "true"})
OTHER = replace(RUN, seed=1)


def test_options_that_others_have_exported_hide_nothing(
    bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    (array,) = submit(tmp_path, RUN, OTHER, site=HELD_SITE).arrays
    assert names(tmp_path, RUN, OTHER) == ["queued", "queued"]
    assert state_of(tmp_path, OTHER).job == f"{array.job}_1"
    queue.cancel([state_of(tmp_path, OTHER).job])
    assert names(tmp_path, RUN, OTHER) == ["queued", "never started"]  # SLURM has forgotten it
    queue.cancel([array.job])
    bed.wait_empty()


@pytest.mark.parametrize(
    "sbatch",
    [
        f'{BANNER}; exec "$REAL" "$@"',
        'shift; exec "$REAL" "$@"',  # SLURM's own prose
        '"$REAL" "$@" > /dev/null',
        '"$REAL" "$@" > /dev/null && echo 999999',  # the number of no job
        '"$REAL" "$@" > /dev/null && "$REAL" --hold --parsable --wrap=true',  # of another one
        '"$REAL" "$@" && echo "sbatch: error: of a plugin" >&2 && echo',
        '"$REAL" "$@" && exit 3',
        '"$REAL" "$@" && exec sleep 600',
    ],
)
def test_what_sbatch_says_cannot_lose_a_job(
    bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sbatch: str
) -> None:
    """Behind a site's wrapper: the number is the queue's."""
    monkeypatch.setattr(arrays, "_SBATCH_SECONDS", 2.0)
    scripts = dict.fromkeys(("squeue", "scontrol", "sinfo"), f'{BANNER}; exec "$REAL" "$@"')
    for name, value in wrap_clients(tmp_path / "bin", sbatch=sbatch, **scripts).items():
        monkeypatch.setenv(name, value)
    (array,) = submit(tmp_path, RUN, OTHER, site=HELD_SITE).arrays
    assert names(tmp_path, RUN, OTHER) == ["queued", "queued"]
    assert state_of(tmp_path, OTHER).job == f"{array.job}_1"
    monkeypatch.undo()
    assert queue.has_name(array.job, f"repro-{submission.read_all(tmp_path)[0].token}-0")
    bed.ask("scancel", array.job)
    bed.ask("scancel", "--name=wrap")
    bed.wait_empty()


@pytest.mark.parametrize(
    ("end", "error"),
    [("kill -INT $PPID; sleep 5", KeyboardInterrupt), ("exit 3", queue.QueueError)],
)
def test_what_slurm_took_before_the_launch_failed_is_cancelled(
    bed: Testbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    error: type[BaseException],
) -> None:
    """Of two arrays, the second is refused, or the launch is interrupted once SLURM has it."""
    count = tmp_path / "count"
    take = '"$REAL" "$@" > /dev/null'
    refuse = f"[ $(wc -l < {count}) = 2 ] && [ '{end}' = 'exit 3' ] || {take}"
    sbatch = f"echo >> {count}; {refuse}; [ $(wc -l < {count}) = 1 ] || {{ {end}; }}"
    for name, value in wrap_clients(tmp_path / "bin", sbatch=sbatch).items():
        monkeypatch.setenv(name, value)
    shapes = (replace(ONE, runs=RUN.id), replace(ONE, time="29m"))
    with pytest.raises(error):
        submit(tmp_path, RUN, OTHER, site=replace(HELD_SITE, resources=shapes))
    assert count.read_text() == "\n\n"
    bed.wait_empty()
    assert names(tmp_path, RUN, OTHER) == ["missing", "missing"]
    assert submission.read_all(tmp_path) == []


def test_without_an_answer_a_submission_stays_on_file(
    bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM may take the job yet."""
    monkeypatch.setattr(arrays, "_QUEUE_LAG_SECONDS", 1.0)
    monkeypatch.setenv("PATH", wrap_clients(tmp_path / "bin", sbatch="echo thanks")["PATH"])
    with pytest.raises(queue.NoAnswer, match=r"printed no job ID \(thanks\); `repro status`"):
        submit(tmp_path, RUN)
    found = state_of(tmp_path, RUN)
    assert (found.name, found.note) == ("never started", "SLURM has no job for it; relaunch it")


def test_a_refusal_with_status_0_leaves_nothing(
    bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's own words, behind a wrapper that loses its status."""
    monkeypatch.setattr(arrays, "_QUEUE_LAG_SECONDS", 1.0)
    path = wrap_clients(tmp_path / "bin", sbatch='"$REAL" --licenses=nosuch "$@"; exit 0')["PATH"]
    monkeypatch.setenv("PATH", path)
    with pytest.raises(queue.QueueError, match=r"refused: Batch job.*; nothing was submitted"):
        submit(tmp_path, RUN)
    assert submission.read_all(tmp_path) == []
    assert state_of(tmp_path, RUN).name == "missing"


# --- several runs a job --------------------------------------------------------------------------

PAIRS = replace(SITE, resources=(replace(ONE, per_gpu=2),))
OTHER = replace(LONG, seed=1)


def test_runs_that_share_a_job_end_each_in_its_own_way(
    bed: Testbed, tmp_path: Path, undisturbed: Path
) -> None:
    """One of two fails, and a third one has a job to itself; nothing is tried again."""
    planned = submit(tmp_path, RUN, BROKEN, LONG, site=PAIRS)
    (array,) = planned.arrays
    assert array.elements == [[RUN.id, BROKEN.id], [LONG.id]]
    wait_for_state(lambda: names(tmp_path, RUN, BROKEN, LONG) == ["done", "failed", "done"])
    wait_until(lambda: not [job for job in queue.jobs_named([planned.name(0)]) if job.is_running])
    assert names(tmp_path, RUN, BROKEN, LONG) == ["done", "failed", "done"]
    assert [attempts(tmp_path, run) for run in (RUN, BROKEN, LONG)] == [1, 1, 1]
    assert_untouched(tmp_path, undisturbed, RUN, LONG)


def test_runs_that_share_a_job_are_warned_and_requeued_together(
    bed: Testbed, tmp_path: Path, undisturbed: Path
) -> None:
    submit(tmp_path, LONG, OTHER, site=PAIRS)
    wait_training(tmp_path, OTHER)
    job = wait_training(tmp_path, LONG)
    assert state_of(tmp_path, OTHER).job == job
    bed.ask("scancel", "--signal=USR2", job)
    wait_for_state(lambda: names(tmp_path, LONG, OTHER) == ["queued", "queued"])
    wait_done(tmp_path, LONG, OTHER)
    assert [attempts(tmp_path, run) for run in (LONG, OTHER)] == [2, 2]
    assert_untouched(tmp_path, undisturbed, LONG)


def test_of_runs_that_share_a_job_one_is_killed(
    bed: Testbed, tmp_path: Path, undisturbed: Path
) -> None:
    """The other one goes on to its end; then the job is requeued for the first."""
    submit(tmp_path, LONG, OTHER, site=PAIRS)
    wait_training(tmp_path, OTHER)
    job = wait_training(tmp_path, LONG)
    os.kill(process_of(bed, job, 0), signal.SIGKILL)
    wait_for_state(lambda: state_of(tmp_path, OTHER).name == "done")
    assert attempts(tmp_path, OTHER) == 1
    wait_done(tmp_path, LONG)
    assert attempts(tmp_path, LONG) == 2
    endings = (lease.read(results.folder(tmp_path, LONG)) or {})["endings"]
    assert endings == {"lost": 1}
    assert_untouched(tmp_path, undisturbed, LONG)


def test_of_runs_that_share_a_job_one_is_cancelled(bed: Testbed, tmp_path: Path) -> None:
    """By its mark: to cancel the job is for the last of its runs."""
    submit(tmp_path, LONG, OTHER, site=PAIRS)
    wait_training(tmp_path, OTHER)
    job = wait_training(tmp_path, LONG)
    both = state.query(tmp_path, [LONG, OTHER])
    assert cancel_jobs(both[:1], tmp_path) == []
    assert cancel_jobs(both, tmp_path) == [job]
    lease.request_cancel(results.folder(tmp_path, LONG))
    wait_done(tmp_path, OTHER)
    wait_for_state(lambda: state_of(tmp_path, LONG).name == "cancelled")
    assert attempts(tmp_path, OTHER) == attempts(tmp_path, LONG) == 1


# --- stopped -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "ranks"), [("USR2", 1), ("TERM", 4)])
def test_a_warning_saves_and_requeues(
    bed: Testbed, tmp_path: Path, undisturbed: Path, number: str, ranks: int
) -> None:
    """As a preemption warns one rank, and four that must agree on the step.

    The site's lines export options of SLURM's clients, and put wrappers with a banner on PATH.
    """
    path = wrap_clients(tmp_path / "bin", squeue=f'{BANNER}; exec "$REAL" "$@"')["PATH"]
    lines = [f"export {name}={value}" for name, value in (FOREIGN | {"PATH": path}).items()]
    resources = (SITE if ranks == 1 else FOUR_RANKS).resources
    site = replace(SITE, resources=resources, setup=tuple(lines), environment={"SQUEUE_ALL": "x"})
    submit(tmp_path, LONG, site=site)
    bed.ask("scancel", f"--signal={number}", wait_training(tmp_path, LONG))
    wait_for_state(lambda: state_of(tmp_path, LONG).name == "queued")
    assert "requeued after: preempted" in state_of(tmp_path, LONG).note
    assert "stopped after step" in log(tmp_path, LONG)
    wait_done(tmp_path, LONG)
    assert attempts(tmp_path, LONG) == 2
    if ranks == 1:
        assert_untouched(tmp_path, undisturbed, LONG)


@pytest.mark.parametrize("user_signal", [True, False])
def test_preempted_by_a_more_urgent_job(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, user_signal: bool
) -> None:
    """Whether the site sends USR2 or only TERM."""
    with Testbed(nodes=1, cpus=1, user_signal=user_signal) as bed:
        monkeypatch.setenv("SLURM_CONF", bed.environment["SLURM_CONF"])
        submit(tmp_path, LONG)
        wait_training(tmp_path, LONG)
        bed.ask("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 2")
        wait_for_state(lambda: state_of(tmp_path, LONG).name == "queued")
        wait_done(tmp_path, LONG)
    assert attempts(tmp_path, LONG) == 2
    assert "stopped after step" in log(tmp_path, LONG)
    assert_untouched(tmp_path, undisturbed, LONG)


def test_the_time_limit(bed: Testbed, tmp_path: Path, undisturbed: Path) -> None:
    """Two minutes at a time, for a run that is held up until it is warned, while it starts."""
    site = replace(SITE, resources=(replace(ONE, time="2m"),), warning_seconds=60)
    submit(tmp_path, LONG, site=site)
    job = state_of(tmp_path, LONG).job
    held_up: list[int] = []

    def is_held_up() -> bool:
        held_up[:] = [stop(process_of(bed, job, 0))]
        return bool(held_up[0])

    wait_until(is_held_up)
    wait_until(lambda: is_pending(held_up[0], signal.SIGUSR2))
    os.kill(held_up[0], signal.SIGCONT)
    wait_for_state(lambda: state_of(tmp_path, LONG).name == "queued")
    assert state_of(tmp_path, LONG).note == "requeued after: time limit"
    assert "stopped after step 1 of 150" in log(tmp_path, LONG)
    wait_done(tmp_path, LONG)
    assert_untouched(tmp_path, undisturbed, LONG)


def stop(pid: int) -> int:
    """Stop a process, and tell it again if it then stands still; 0 if it was about to end."""
    if not pid:
        return 0
    try:
        os.kill(pid, signal.SIGSTOP)
    except ProcessLookupError:
        return 0
    time.sleep(0.2)
    return pid if status(pid, "State").startswith("T") else 0


def test_requeued_by_an_administrator(bed: Testbed, tmp_path: Path, undisturbed: Path) -> None:
    submit(tmp_path, LONG)
    job = wait_training(tmp_path, LONG)
    bed.ask("scontrol", "requeue", job)
    wait_for_state(lambda: state_of(tmp_path, LONG).name == "queued")
    wait_done(tmp_path, LONG)
    assert attempts(tmp_path, LONG) == 2
    assert_untouched(tmp_path, undisturbed, LONG)


def test_cancelled_by_hand_it_is_not_requeued(
    bed: Testbed, tmp_path: Path, undisturbed: Path
) -> None:
    submit(tmp_path, LONG)
    bed.ask("scancel", wait_training(tmp_path, LONG))
    bed.wait_empty()
    assert state_of(tmp_path, LONG).name == "cancelled"
    assert attempts(tmp_path, LONG) == 1
    submit(tmp_path, LONG)
    wait_done(tmp_path, LONG)
    assert_untouched(tmp_path, undisturbed, LONG)


# --- killed --------------------------------------------------------------------------------------


def test_a_rank_is_killed(bed: Testbed, tmp_path: Path) -> None:
    """The others do not wait for it for ever; the run is started again, and is told who it was."""
    submit(tmp_path, LONG, site=FOUR_RANKS)
    job = wait_training(tmp_path, LONG)
    os.kill(process_of(bed, job, 2), signal.SIGKILL)
    wait_for_state(lambda: state_of(tmp_path, LONG).name == "queued")
    end = lease.failure_of(state_of(tmp_path, LONG).facts)
    assert end is not None
    assert end.cause == "lost"
    assert end.note.startswith("rank 2 on n")
    wait_done(tmp_path, LONG)
    assert state_of(tmp_path, LONG).name == "done"
    assert attempts(tmp_path, LONG) == 2


def test_an_error_of_one_rank_names_it(bed: Testbed, tmp_path: Path) -> None:
    """Its error is told, not that of those who waited for it, nor what only reads like SLURM's."""
    root = tmp_path / "out of memory"
    messages = "srun: error: n9: task 7: Killed", "slurmstepd: error: Detected 1 oom-kill event(s)"
    setup = tuple(f"echo '{line}' >&2" for line in messages)
    run = replace(RUN, dataset="cifar10-smoke")
    submit(root, run, site=replace(FOUR_RANKS, setup=setup))
    wait_for_state(lambda: state_of(root, run).has_failed)
    assert state_of(root, run).name == "failed"
    assert "cifar-10-batches-py" in state_of(root, run).note
    bed.wait_empty()
    assert attempts(root, run) == 1


def test_out_of_memory_is_tried_once_more_and_then_said(bed: Testbed, tmp_path: Path) -> None:
    """A real shortage: the run's processes may have no more than 1 GiB of addresses."""
    site = replace(SITE, environment={"PYTHONMALLOC": "malloc"}, setup=("ulimit -v 4000000",))
    greedy = replace(RUN, model=RUN.model.updated(embed_dims=(6144, 6144), num_heads=(8, 8)))
    submit(tmp_path, greedy, site=site)
    wait_for_state(lambda: state_of(tmp_path, greedy).name == "out of memory")
    bed.wait_empty()
    assert attempts(tmp_path, greedy) == 2


def test_its_node_dies(bed: Testbed, tmp_path: Path, undisturbed: Path) -> None:
    submit(tmp_path, LONG)
    wait_training(tmp_path, LONG)
    node = state_of(tmp_path, LONG).facts["host"]
    bed.kill_node(node)
    try:
        bed.wait_down(node)
        wait_for_state(lambda: state_of(tmp_path, LONG).facts.get("host") not in (None, node))
        assert state_of(tmp_path, LONG).facts["endings"] == {"lost": 1}
    finally:
        bed.start_node(node)
    wait_done(tmp_path, LONG)
    assert_untouched(tmp_path, undisturbed, LONG)


def test_its_node_freezes_and_wakes(bed: Testbed, tmp_path: Path, undisturbed: Path) -> None:
    """SLURM gives the node up and starts the run elsewhere; then the frozen process goes on."""
    submit(tmp_path, LONG)
    wait_training(tmp_path, LONG)
    node = state_of(tmp_path, LONG).facts["host"]
    bed.freeze_node(node)
    try:
        bed.wait_down(node)
        wait_for_state(lambda: state_of(tmp_path, LONG).facts.get("host") not in (None, node))
    finally:
        bed.thaw_node(node)
    wait_done(tmp_path, LONG)
    assert_untouched(tmp_path, undisturbed, LONG)
    bed.kill_node(node)
    bed.start_node(node)


def test_the_controller_is_restarted(bed: Testbed, tmp_path: Path, undisturbed: Path) -> None:
    runs = [LONG, *(replace(RUN, seed=seed) for seed in range(1, 8))]
    submit(tmp_path, *runs)
    wait_training(tmp_path, LONG)
    bed.kill_controller()
    with pytest.raises(queue.QueueError, match="does not respond"):
        submit(tmp_path, RUN)
    assert set(names(tmp_path, *runs)) <= {"running", "queued", "done"}  # from the files alone
    bed.start_controller()
    wait_for_state(lambda: names(tmp_path, *runs) == ["done"] * 8)
    assert_untouched(tmp_path, undisturbed, LONG)


# --- nowhere to write ----------------------------------------------------------------------------


def test_a_full_disk(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on while it can, then says what it could not write; what was there is kept."""
    with full_disk(tmp_path / "disk", 24 * 1024) as root, Testbed(nodes=1, cpus=1) as bed:
        monkeypatch.setenv("SLURM_CONF", bed.environment["SLURM_CONF"])
        submit(root, LONG)
        wait_training(root, LONG)
        filler = fill(root)
        wait_for_state(lambda: state_of(root, LONG).has_failed)
        found = state_of(root, LONG)
        saved = list(results.folder(root, LONG).glob("checkpoints/step*.pt"))
        assert saved
        filler.unlink()
        assert found.name in ("failed", "lost")
        assert not (results.folder(root, LONG) / results.RESULT).exists()
        submit(root, LONG)
        wait_done(root, LONG)
        assert_untouched(root, undisturbed, LONG)


# --- the states ----------------------------------------------------------------------------------


def entry(name: str, reason: str = "None") -> queue.QueuedJob:
    return queue.QueuedJob("55_0", "repro-0000000a-0", name, reason, "")


def of_files(
    root: Path,
    facts: dict[str, object] | None,
    jobs: Sequence[queue.QueuedJob] | None,
    cancelled: bool = False,
) -> tuple[str, str]:
    """The state of a submitted run by its lease and what squeue says."""
    planned = submission.Submission(
        "0000000a", 100.0, "me", "here", "", "", None, [submission.Array([RUN.id, "x"], "55")]
    )
    seen = state._Observation(
        facts or {},
        submission.SubmittedRun(planned, 0, 0),
        (submission.index_jobs(jobs) if jobs is not None else {}).get(("0000000a", 0, 0)),
        jobs is not None,
        cancelled,
    )
    return state._state_without_result(seen)


HELD = {
    "submission": "0000000a",
    "job": "55_0",
    "boot": "other",
    "pid": 1,
    "silence": 5.0,
    "host": "n1",
}


@pytest.mark.parametrize(
    ("facts", "jobs", "expected"),
    [
        (None, [entry("PENDING", "Priority")], ("queued", "Priority")),
        (None, [entry("PENDING", "PartitionTimeLimit")], ("never started", "PartitionTimeLimit")),
        (None, [entry("RUNNING")], ("running", "starting")),
        (None, [entry("CANCELLED")], ("cancelled", "")),
        (None, [entry("TIMEOUT", "TimeLimit")], ("never started", "TIMEOUT TimeLimit")),
        (None, [], ("never started", "no longer knows its job")),
        (None, None, ("queued", "does not respond")),
        (HELD | {"beat": 1.0}, [entry("RUNNING")], ("running", "no heartbeat")),
        (HELD | {"beat": 1.0}, [entry("PENDING", "BeginTime")], ("queued", "")),
        (HELD | {"beat": 9e9}, [], ("lost", "no heartbeat from process 1 on n1")),
        (HELD | {"beat": 9e9}, [entry("NODE_FAIL")], ("lost", "NODE_FAIL")),
        (HELD | {"beat": 9e9}, [entry("OUT_OF_MEMORY")], ("out of memory", "SLURM")),
    ],
)
def test_states(
    facts: dict[str, object] | None, jobs: list[queue.QueuedJob] | None, expected: tuple[str, str]
) -> None:
    name, note = of_files(Path(), facts, jobs)
    assert name == expected[0]
    assert expected[1] in note


BURIED = HELD | {"beat": 9e9, "released": True, "cause": "lost", "note": "killed by SIGKILL"}


@pytest.mark.parametrize("facts", [HELD | {"beat": 9e9}, BURIED])
def test_cancelled_it_may_be_killed_before_it_says_so(
    tmp_path: Path, facts: dict[str, object]
) -> None:
    """A busy machine may take longer than SLURM's KillWait."""
    jobs = [entry("FAILED", "NonZeroExitCode")]
    assert of_files(tmp_path, facts, jobs)[0] == "lost"
    assert of_files(tmp_path, facts, jobs, cancelled=True)[0] == "cancelled"


@pytest.mark.parametrize(
    ("cause", "name"),
    [("error", "failed"), ("time limit", "timed out"), ("out of memory", "out of memory")],
)
def test_states_of_endings(cause: str, name: str) -> None:
    released = HELD | {"beat": 1.0, "released": True, "cause": cause, "note": "why"}
    assert of_files(Path(), released, []) == (name, "why")
    assert of_files(Path(), released, [entry("PENDING", "BeginTime")])[0] == "queued"
    assert lease.failure_of(released) == Failure(cause, "why")  # type: ignore[arg-type]


def test_a_number_that_slurm_has_forgotten_is_nobodys(bed: Testbed, tmp_path: Path) -> None:
    """After a crash of the controller it may be given again, and must not be cancelled then."""
    lost = submission.new("0" * 16, "", None, [submission.Array([RUN.id])])
    lost.arrays[0].job = "17"
    submission.record(tmp_path, lost)
    found = state_of(tmp_path, RUN)
    assert (found.name, found.job) == ("never started", "")
