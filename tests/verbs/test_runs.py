"""The verbs about runs, on files alone: no SLURM is here, or none answers."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import experiments, results
from repro.experiments.scales import at_scale, on_squares
from repro.launch import attempt, lease, submission, watch
from repro.launch.ending import Cause, Ending
from repro.spec import Run, with_seeds
from tests.test_cli import RUNS as PAPER_RUNS
from tests.test_cli import Capture, call, finish, refused, snapshot, works

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
    """Every command runs in an empty folder, where there is no SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


def submitted(*runs: Run, job: str = "55") -> submission.Submission:
    """A submission of one array, on file."""
    planned = submission.new("0" * 16, "", None, [submission.Array([run.id for run in runs])])
    planned.arrays[0].job = job
    submission.record(ROOT, planned)
    return planned


def stopped(run: Run, cause: Cause, note: str = "", printed: str = "") -> None:
    """An attempt at a run that has ended."""
    held = lease.acquire(results.begin(ROOT, run))
    with attempt.log_path(results.folder(ROOT, run)).open("a") as log:
        log.write(f"\n--- 2026-01-01 00:00:00 process 1 on n1\n{printed}\n{note}\n")
    held.release(Ending(cause, note))


# --- status --------------------------------------------------------------------------------------


def test_what_was_submitted_is_queued_as_far_as_files_tell(capsys: Capture) -> None:
    submitted(TINY, SMALL)
    finish(SMALL, top1=10.0)
    out = works(capsys, "status table1")
    assert re.search(r"^item +scale +done +queued +missing$", out, re.MULTILINE)
    assert re.search(r"^ +smoke +1 +1 +28$", out, re.MULTILINE)
    assert "queued: 1 × as of its submission; SLURM does not answer" in out
    rows = json.loads(works(capsys, "status table1 --json"))
    (smoke,) = (row for row in rows if row["scale"] == "smoke")
    (queued,) = (run for run in smoke["runs"] if run["state"] == "queued")
    assert (queued["run"], queued["job"]) == (TINY.id, "")


def test_more_seeds_are_told_once_there_are_any(capsys: Capture) -> None:
    line = "status table1 --scale smoke"
    assert works(capsys, line).splitlines()[-1].split() == ["table1", "smoke", "30"]
    submitted(with_seeds(TINY, 2)[1])
    assert works(capsys, line).splitlines()[1].split() == ["table1", "smoke", "1", "59"]
    assert works(capsys, f"{line} --seeds 1").splitlines()[-1].split() == ["table1", "smoke", "30"]


@pytest.mark.parametrize(
    ("cause", "name"),
    [("error", "failed"), ("time limit", "timed out"), ("preempted", "preempted"),
     ("out of memory", "out of memory"), ("cancelled", "cancelled"), ("lost", "lost")],
)  # fmt: skip
def test_how_an_attempt_ended_is_said_with_its_cause(
    capsys: Capture, cause: Cause, name: str
) -> None:
    stopped(TINY, cause, "the cause", printed="some lines\nof the log")
    assert f"{TINY.id}: {name}, the cause\n" in works(capsys, "status table1")
    out = works(capsys, "failures table1")
    assert out.splitlines() == [
        f"{TINY.id}: {name}, the cause", "    some lines", "    of the log", "    the cause",
    ]  # fmt: skip
    assert json.loads(works(capsys, "failures --json")) == [
        {"run": TINY.id, "state": name, "note": "the cause"}
    ]


def test_what_was_interrupted_here_or_never_begun_has_not_failed(capsys: Capture) -> None:
    assert works(capsys, "failures") == "no run has ended badly\n"
    stopped(TINY, "interrupted")
    results.begin(ROOT, SMALL)
    finish(BASE, top1=10.0)
    assert works(capsys, "failures") == "no run has ended badly\n"
    assert json.loads(works(capsys, "failures --json")) == []


@pytest.mark.parametrize("kind", ["huge", "endless", "pipe", "folder"])
def test_a_log_that_is_none_stops_nobody(capsys: Capture, kind: str) -> None:
    for run in (TINY, SMALL):
        stopped(run, "error", "a note", printed="a line")
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
    out = works(capsys, "failures")
    assert f"{TINY.id}: failed, a note" in out
    assert f"{SMALL.id}: failed, a note\n    a line" in out
    if kind != "huge":
        assert "log.txt" in refused(capsys, f"logs {TINY.id}")


def test_watching_looks_again_until_it_is_interrupted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    status, out, err = call(capsys, "status table1 --watch")
    assert (status, err) == (130, "\nrepro: interrupted\n")  # only a launch goes on
    assert out.count("table1  paper") == 2
    assert "\033" not in out  # this is no terminal
    assert "not allowed with argument --watch" in refused(capsys, "status --watch --json")


def test_a_damaged_submission_is_named(capsys: Capture) -> None:
    token = submitted(TINY).token
    record = submission.folder(ROOT, token) / "submission.json"
    record.write_text("{")
    folder = results.begin(ROOT, TINY)
    attempt.log_path(folder).write_text("words")
    for line in ("status", f"logs {TINY.id}", "cancel table1 --dry-run", "failures"):
        status, _, err = call(capsys, line)
        assert (status, err.count(f"{record} is damaged")) == (0, 1)
    old = time.time() - 7200
    snapshot = ROOT / submission.FOLDER / "code" / "abc"
    snapshot.mkdir(parents=True)
    os.utime(snapshot, (old, old))
    submission.tidy(ROOT)
    assert snapshot.exists(), "the damaged record's jobs may need it"


# --- logs ----------------------------------------------------------------------------------------


def test_a_log_is_found_by_the_beginning_of_its_run(capsys: Capture) -> None:
    stopped(TINY, "error", "first words")
    stopped(TINY, "error", "last words")
    for name in (TINY.id, TINY.id[:-3]):
        assert re.search("first words.*last words", works(capsys, f"logs {name}"), re.DOTALL)
    assert "last words" in works(capsys, f"logs {TINY.id} -f")  # nothing is to follow
    assert f"did you mean {TINY.id}?" in refused(capsys, f"logs {TINY.id[:-2]}zz")
    assert "has printed nothing as rank 3" in refused(capsys, f"logs {TINY.id} --rank 3")
    assert "rank" in refused(capsys, f"logs {TINY.id} --rank -1")
    attempt.log_path(results.folder(ROOT, TINY), 1).write_text("the other's words")
    assert works(capsys, f"logs {TINY.id} --rank 1") == "the other's words"


def test_a_name_that_does_not_say_which(capsys: Capture) -> None:
    assert "there are no runs in results" in refused(capsys, "logs nest")
    submitted(SWIN)
    assert "`repro status`" in refused(capsys, f"logs {SWIN.id}")
    stopped(TINY, "error")
    stopped(SMALL, "error")
    error = refused(capsys, "logs nest")
    assert f"'nest' may be {SMALL.id}, {TINY.id}; 2 runs begin so" in error
    stopped(BASE, "error")
    finish(SWIN, top1=1.0)
    assert "; 3 runs begin so" in refused(capsys, "cancel nest")


def test_a_job_that_never_came_to_its_run_has_printed_something(capsys: Capture) -> None:
    token = submitted(TINY, SMALL).token
    assert "has printed nothing" in refused(capsys, f"logs {SMALL.id}")
    folder = submission.folder(ROOT, token) / "jobs"
    folder.mkdir()
    (folder / "55_1_0_log.err").write_text("module: command not found\n")
    assert works(capsys, f"logs {SMALL.id}") == "module: command not found\n"


def test_following_shows_all_until_the_run_is_done(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the job's own lines to the run's, as they come: one more with every look."""
    planned = submitted(TINY)
    folder = submission.folder(ROOT, planned.token) / "jobs"
    folder.mkdir()
    (folder / "55_0_log.err").write_text("the job's line\n")

    def train() -> Iterator[None]:
        held = lease.acquire(results.begin(ROOT, TINY), {"submission": planned.token})
        log = attempt.log_path(results.folder(ROOT, TINY))
        for word in ("one", "two"):
            with log.open("a") as file:
                file.write(f"{word}\n")
            yield
        finish(TINY, top1=10.0)
        with log.open("a") as file:
            file.write("three\n")
        held.release()
        yield

    training = train()
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(time, "sleep", lambda _: next(training))
    assert works(capsys, f"logs {TINY.id} -f") == "the job's line\none\ntwo\nthree\n"


# --- cancel and retry ----------------------------------------------------------------------------


def test_cancel_needs_something_to_cancel(capsys: Capture) -> None:
    assert "cancel what? Name an item, or a run" in refused(capsys, "cancel")
    assert "nothing to cancel" in works(capsys, "cancel table1")
    finish(TINY, top1=10.0)
    assert "nothing to cancel" in works(capsys, f"cancel {TINY.id}")
    assert f"did you mean {TINY.id}?" in refused(capsys, f"cancel {TINY.id}x")


def test_a_run_in_training_here_is_asked_to_stop(capsys: Capture) -> None:
    held = lease.acquire(results.begin(ROOT, TINY))
    folder = results.folder(ROOT, TINY)
    out = works(capsys, "cancel table1 --dry-run")
    assert out == f"running  {TINY.id}\nwould cancel 1 run\n"
    assert not lease.is_asked_to_stop(folder)
    out = works(capsys, f"cancel {TINY.id}")
    assert out == f"running  {TINY.id}\ncancelled 1 run; those in training save their state\n"
    assert lease.is_asked_to_stop(folder)
    held.release(Ending("cancelled", "stopped after step 3 of 4"))
    assert f"{TINY.id}: cancelled, stopped after step 3 of 4" in works(capsys, "status")


def test_a_waiting_job_is_marked_even_if_slurm_does_not_answer(capsys: Capture) -> None:
    submitted(TINY)
    status, out, err = call(capsys, "cancel table1")
    assert (status, out) == (2, f"queued   {TINY.id}\n")
    assert "SLURM does not answer: 1 stay in its queue" in err
    assert err.count("\n") == 1
    assert lease.is_asked_to_stop(results.folder(ROOT, TINY))


def test_retry_without_anything_to_retry(capsys: Capture) -> None:
    assert "retry what? Name an item, or a run" in refused(capsys, "retry")
    assert "no run 'tabel1' in results" in refused(capsys, "retry tabel1")
    finish(TINY, top1=10.0)
    assert works(capsys, "retry table1 --scale smoke").startswith("nothing to retry")
    assert "there is no folder typo" in refused(capsys, "retry table1 --results typo")


def test_retry_starts_what_ended_badly_at_every_scale_where_it_ran(
    capsys: Capture, here: Path
) -> None:
    proxy = at_scale(PAPER_TINY, "proxy")
    stopped(TINY, "lost", "silent")
    stopped(proxy, "cancelled")
    stopped(SMALL, "interrupted")
    before = snapshot(here)
    out = works(capsys, "retry table1 --dry-run")  # here, where they were
    assert re.search(r"^table1, proxy scale\n  NesT-T  1 cancelled$", out, re.MULTILINE)
    assert re.search(r"^  NesT-T  1 lost$", out, re.MULTILINE)
    assert "3 runs: 1 cancelled, 1 interrupted, 1 lost" in out
    assert "2 runs: 1 interrupted, 1 lost" in works(capsys, "retry table1 --scale smoke --dry-run")
    assert "1 run: 1 lost" in works(capsys, f"retry {TINY.id} --dry-run")
    assert "0 runs" in works(capsys, "retry table1 --budget 0.001gpuh --dry-run")
    assert "is for --launch slurm" in refused(capsys, "retry table1 --wait")
    assert snapshot(here) == before


def test_retry_on_slurm_what_was_submitted_there(capsys: Capture, here: Path) -> None:
    Path("site.yaml").write_text("resources: [{gpus: 0, cpus: 1}]\n")
    submitted(TINY)
    held = lease.acquire(results.begin(ROOT, TINY), {"submission": "01234567"})
    held.release(Ending("error", "a cause"))
    line = "retry table1 --cluster site.yaml"
    before = snapshot(here)
    out = works(capsys, f"{line} --dry-run")
    assert "1 run × 1 CPU" in out
    assert "would submit 1 of 1 runs" in out
    assert snapshot(here) == before
    assert "no SLURM here: looked for sbatch" in refused(capsys, line)
    assert "1 run: 1 failed" in works(capsys, "retry table1 --launch local --dry-run")
    stopped(SMALL, "error")
    error = refused(capsys, line)
    assert "1 of these ran here and 1 on SLURM; choose with --launch local or" in error


def test_runs_on_squares_are_seen_by_every_verb(capsys: Capture) -> None:
    cells = on_squares(experiments.get("table2")).cells
    run = next(at_scale(cell.run, "smoke") for cell in cells if cell.row == "NesT-T")
    stopped(run, "error", "a cause")
    assert f"{run.id}: failed, a cause" in works(capsys, "status")
    assert f"{run.id}: failed, a cause" in works(capsys, "failures table2")
    assert "1 run: 1 failed" in works(capsys, "retry table2 --dry-run")
    assert "nothing to cancel" in works(capsys, f"cancel {run.id}")
