"""The commands about runs, without SLURM: states come from files."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import experiments, results
from repro.core.crops_256px import on_256px_crops
from repro.experiments.scales import at_scale
from repro.launch import attempt, lease
from repro.launch.failures import Cause, Failure
from repro.launch.slurm import submission, watch
from repro.spec import Run, with_seeds
from tests.command_line import Capture, error_of, run_command, stdout_of
from tests.test_cli import RUNS as PAPER_RUNS
from tests.test_cli import finish, snapshot

RUNS: dict[str, Run] = {
    cell.row: at_scale(cell.run, "smoke")
    for cell in experiments.get("table1").cells
    if cell.column == "C10"
}
TINY, SMALL, BASE = (RUNS[f"NesT-{size}"] for size in "TSB")
SWIN = RUNS["Swin-T"]
PAPER_TINY = PAPER_RUNS["NesT-T"]
ROOT = Path("results")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, without SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


def record_submission(*runs: Run, job: str = "55") -> submission.Submission:
    """Record a submission of one array."""
    planned = submission.new("0" * 16, "", None, [submission.Array([run.id for run in runs])])
    planned.arrays[0].job = job
    submission.record(ROOT, planned)
    return planned


def record_failure(run: Run, cause: Cause, note: str = "", printed: str = "") -> None:
    """Record an attempt at a run that ended without a result."""
    own_lease = lease.acquire(results.begin(ROOT, run))
    with attempt.log_path(results.folder(ROOT, run)).open("a") as log:
        log.write(f"\n--- 2026-01-01 00:00:00 process 1 on n1\n{printed}\n{note}\n")
    own_lease.release(Failure(cause, note))


# --- status --------------------------------------------------------------------------------------


def test_submitted_runs_are_queued_without_slurm(capsys: Capture) -> None:
    record_submission(TINY, SMALL)
    finish(SMALL, top1=10.0)
    out = stdout_of(capsys, "status table1")
    assert re.search(r"^item +scale +done +queued +missing$", out, re.MULTILINE)
    assert re.search(r"^table1 +smoke +1 +1 +30$", out, re.MULTILINE)
    assert "table1, smoke scale, queued: 1 × as of its submission; SLURM does not respond" in out
    rows = json.loads(stdout_of(capsys, "status table1 --json"))
    (smoke,) = (row for row in rows if row["scale"] == "smoke")
    (queued,) = (run for run in smoke["runs"] if run["state"] == "queued")
    assert (queued["run"], queued["job"]) == (TINY.id, "")


def test_status_shows_further_seeds_once_they_exist(capsys: Capture) -> None:
    line = "status table1 --scale smoke"
    assert stdout_of(capsys, line).splitlines()[-1].split() == ["table1", "smoke", "32"]
    record_submission(with_seeds(TINY, 2)[1])
    assert stdout_of(capsys, line).splitlines()[1].split() == ["table1", "smoke", "1", "63"]
    assert stdout_of(capsys, f"{line} --seeds 1").splitlines()[-1].split() == [
        "table1",
        "smoke",
        "32",
    ]


@pytest.mark.parametrize(
    ("cause", "name"),
    [("error", "failed"), ("time limit", "timed out"), ("preempted", "preempted"),
     ("out of memory", "out of memory"), ("cancelled", "cancelled"), ("lost", "lost")],
)  # fmt: skip
def test_status_and_failures_show_the_cause(capsys: Capture, cause: Cause, name: str) -> None:
    record_failure(TINY, cause, "the cause", printed="some lines\nof the log")
    assert f"{TINY.id}: {name}, the cause\n" in stdout_of(capsys, "status table1")
    out = stdout_of(capsys, "failures table1")
    assert out.splitlines() == [
        f"{TINY.id}: {name}, the cause", "    some lines", "    of the log", "    the cause",
    ]  # fmt: skip
    assert json.loads(stdout_of(capsys, "failures --json")) == [
        {"run": TINY.id, "state": name, "note": "the cause"}
    ]


def test_interrupted_and_missing_runs_have_not_failed(capsys: Capture) -> None:
    assert stdout_of(capsys, "failures") == "no run has ended badly\n"
    record_failure(TINY, "interrupted")
    results.begin(ROOT, SMALL)
    finish(BASE, top1=10.0)
    assert stdout_of(capsys, "failures") == "no run has ended badly\n"
    assert json.loads(stdout_of(capsys, "failures --json")) == []


@pytest.mark.parametrize("kind", ["huge", "endless", "pipe", "folder"])
def test_an_unreadable_log_affects_no_other_run(capsys: Capture, kind: str) -> None:
    for run in (TINY, SMALL):
        record_failure(run, "error", "a note", printed="a line")
    log = attempt.log_path(results.folder(ROOT, TINY))
    if kind == "huge":
        os.truncate(log, 2**36)
    else:
        log.unlink()
    if kind == "endless":
        log.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    out = stdout_of(capsys, "failures")
    assert f"{TINY.id}: failed, a note" in out
    assert f"{SMALL.id}: failed, a note\n    a line" in out
    if kind != "huge":
        assert "log.txt" in error_of(capsys, f"logs {TINY.id}")


def test_watch_repeats_until_interrupted(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    status, out, err = run_command(capsys, "status table1 --watch")
    assert (status, err) == (130, "\nrepro: interrupted\n")  # only a launch goes on
    assert out.count("table1  paper") == 2
    assert "\033" not in out  # this is no terminal
    assert "not allowed with argument --watch" in error_of(capsys, "status --watch --json")


def test_a_damaged_submission_is_named(capsys: Capture) -> None:
    token = record_submission(TINY).token
    record = submission.folder(ROOT, token) / "submission.json"
    record.write_text("{")
    folder = results.begin(ROOT, TINY)
    attempt.log_path(folder).write_text("words")
    for line in ("status", f"logs {TINY.id}", "cancel table1 --dry-run", "failures"):
        status, _, err = run_command(capsys, line)
        assert (status, err.count(f"{record} is damaged")) == (0, 1)
    old = time.time() - 7200
    snapshot = ROOT / submission.FOLDER / "code" / "abc"
    snapshot.mkdir(parents=True)
    os.utime(snapshot, (old, old))
    submission.prune(ROOT)
    assert snapshot.exists(), "the damaged record's jobs may need it"


# --- logs ----------------------------------------------------------------------------------------


def test_logs_by_the_prefix_of_a_run_id(capsys: Capture) -> None:
    record_failure(TINY, "error", "first words")
    record_failure(TINY, "error", "last words")
    for name in (TINY.id, TINY.id[:-3]):
        assert re.search("first words.*last words", stdout_of(capsys, f"logs {name}"), re.DOTALL)
    assert "last words" in stdout_of(capsys, f"logs {TINY.id} -f")  # nothing is to follow
    assert f"did you mean {TINY.id}?" in error_of(capsys, f"logs {TINY.id[:-2]}zz")
    assert "no log for rank 3" in error_of(capsys, f"logs {TINY.id} --rank 3")
    assert "rank" in error_of(capsys, f"logs {TINY.id} --rank -1")
    attempt.log_path(results.folder(ROOT, TINY), 1).write_text("the other's words")
    assert stdout_of(capsys, f"logs {TINY.id} --rank 1") == "the other's words"


def test_ambiguous_prefixes(capsys: Capture) -> None:
    assert "there are no runs in results" in error_of(capsys, "logs nest")
    record_submission(SWIN)
    assert "`repro status`" in error_of(capsys, f"logs {SWIN.id}")
    record_failure(TINY, "error")
    record_failure(SMALL, "error")
    error = error_of(capsys, "logs nest")
    assert f"'nest' is ambiguous: 2 runs match, {SMALL.id}, {TINY.id}" in error
    record_failure(BASE, "error")
    finish(SWIN, top1=1.0)
    assert "is ambiguous: 3 runs match" in error_of(capsys, "cancel nest")


def test_logs_of_a_job_that_never_started_its_run(capsys: Capture) -> None:
    token = record_submission(TINY, SMALL).token
    assert "no log for rank 0" in error_of(capsys, f"logs {SMALL.id}")
    folder = submission.folder(ROOT, token) / "jobs"
    folder.mkdir()
    (folder / "55_1_0_log.err").write_text("module: command not found\n")
    assert stdout_of(capsys, f"logs {SMALL.id}") == "module: command not found\n"


def test_following_shows_all_until_the_run_is_done(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the job's own lines to the run's, as they come: one more with every look."""
    planned = record_submission(TINY)
    folder = submission.folder(ROOT, planned.token) / "jobs"
    folder.mkdir()
    (folder / "55_0_log.err").write_text("the job's line\n")

    def train() -> Iterator[None]:
        own_lease = lease.acquire(results.begin(ROOT, TINY), {"submission": planned.token})
        log = attempt.log_path(results.folder(ROOT, TINY))
        for word in ("one", "two"):
            with log.open("a") as file:
                file.write(f"{word}\n")
            yield
        finish(TINY, top1=10.0)
        with log.open("a") as file:
            file.write("three\n")
        own_lease.release()
        yield

    training = train()
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(time, "sleep", lambda _: next(training))
    assert stdout_of(capsys, f"logs {TINY.id} -f") == "the job's line\none\ntwo\nthree\n"


# --- cancel and retry ----------------------------------------------------------------------------


def test_cancel_needs_something_to_cancel(capsys: Capture) -> None:
    assert "cancel what? Name an item, or a run" in error_of(capsys, "cancel")
    assert "nothing to cancel" in stdout_of(capsys, "cancel table1")
    finish(TINY, top1=10.0)
    assert "nothing to cancel" in stdout_of(capsys, f"cancel {TINY.id}")
    assert f"did you mean {TINY.id}?" in error_of(capsys, f"cancel {TINY.id}x")


def test_cancel_stops_a_run_on_this_machine(capsys: Capture) -> None:
    own_lease = lease.acquire(results.begin(ROOT, TINY))
    folder = results.folder(ROOT, TINY)
    out = stdout_of(capsys, "cancel table1 --dry-run")
    assert out == f"running  {TINY.id}\nwould cancel 1 run\n"
    assert not lease.is_cancel_requested(folder)
    out = stdout_of(capsys, f"cancel {TINY.id}")
    assert out == f"running  {TINY.id}\ncancelled 1 run; those in training save their state\n"
    assert lease.is_cancel_requested(folder)
    own_lease.release(Failure("cancelled", "stopped after step 3 of 4"))
    assert f"{TINY.id}: cancelled, stopped after step 3 of 4" in stdout_of(capsys, "status")


def test_a_waiting_job_is_marked_even_if_slurm_does_not_answer(capsys: Capture) -> None:
    record_submission(TINY)
    status, out, err = run_command(capsys, "cancel table1")
    assert (status, out) == (2, f"queued  {TINY.id}\n")
    assert "SLURM does not answer: 1 stay in its queue" in err
    assert err.count("\n") == 1
    assert lease.is_cancel_requested(results.folder(ROOT, TINY))


def test_retry_without_anything_to_retry(capsys: Capture) -> None:
    assert "retry what? Name an item, or a run" in error_of(capsys, "retry")
    assert "no run 'tabel1' in results" in error_of(capsys, "retry tabel1")
    finish(TINY, top1=10.0)
    assert stdout_of(capsys, "retry table1 --scale smoke").startswith("nothing to retry")
    assert "there is no folder typo" in error_of(capsys, "retry table1 --results typo")


def test_retry_starts_what_ended_badly_at_every_scale_where_it_ran(
    capsys: Capture, here: Path
) -> None:
    demo = at_scale(PAPER_TINY, "demo")
    record_failure(TINY, "lost", "silent")
    record_failure(demo, "cancelled")
    record_failure(SMALL, "interrupted")
    before = snapshot(here)
    out = stdout_of(capsys, "retry table1 --dry-run")  # here, where they were
    assert re.search(r"^table1, demo scale\n  row +cancelled\n  NesT-T +1$", out, re.MULTILINE)
    assert re.search(r"^table1, smoke scale\n  row +interrupted +lost$", out, re.MULTILINE)
    assert re.search(r"^  NesT-T {18}1$", out, re.MULTILINE)  # below 'lost'
    assert "3 runs: 1 cancelled, 1 interrupted, 1 lost" in out
    assert "2 runs: 1 interrupted, 1 lost" in stdout_of(
        capsys, "retry table1 --scale smoke --dry-run"
    )
    assert "1 run: 1 lost" in stdout_of(capsys, f"retry {TINY.id} --dry-run")
    assert "0 runs" in stdout_of(capsys, "retry table1 --budget 0.001gpuh --dry-run")
    assert "is for --launch slurm" in error_of(capsys, "retry table1 --wait")
    assert snapshot(here) == before


def test_retry_on_slurm_what_was_submitted_there(capsys: Capture, here: Path) -> None:
    Path("site.yaml").write_text("resources: [{gpus: 0, cpus: 1}]\n")
    record_submission(TINY)
    own_lease = lease.acquire(results.begin(ROOT, TINY), {"submission": "01234567"})
    own_lease.release(Failure("error", "a cause"))
    line = "retry table1 --cluster site.yaml"
    before = snapshot(here)
    out = stdout_of(capsys, f"{line} --dry-run")
    assert "1 run × 1 CPU" in out
    assert "would submit 1 of 1 runs" in out
    assert snapshot(here) == before
    assert "no SLURM here: looked for sbatch" in error_of(capsys, line)
    assert "1 run: 1 failed" in stdout_of(capsys, "retry table1 --launch local --dry-run")
    record_failure(SMALL, "error")
    error = error_of(capsys, line)
    assert "1 of these ran here and 1 on SLURM; choose with --launch local or" in error


def test_runs_on_256px_crops_are_seen_by_every_verb(capsys: Capture) -> None:
    cells = on_256px_crops(experiments.get("table2")).cells
    run = next(at_scale(cell.run, "smoke") for cell in cells if cell.row == "NesT-T")
    record_failure(run, "error", "a cause")
    assert f"{run.id}: failed, a cause" in stdout_of(capsys, "status")
    assert f"{run.id}: failed, a cause" in stdout_of(capsys, "failures table2")
    assert "1 run: 1 failed" in stdout_of(capsys, "retry table2 --dry-run")
    assert "nothing to cancel" in stdout_of(capsys, f"cancel {run.id}")
