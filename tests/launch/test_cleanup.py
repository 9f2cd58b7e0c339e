"""`repro clean`: what is no longer needed goes, and nothing else."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from repro import cli, experiments, results
from repro.core import plan
from repro.launch import cleanup, lease
from repro.launch.failures import Failure
from repro.launch.slurm import submission
from repro.spec import Run
from tests.finished import finish

Capture = pytest.CaptureFixture[str]
RUN = plan.runs(experiments.get("table1").cells, "smoke", 1)[0]
DONE, DIVERGED, CANCELLED, RUNNING, CANCELLED_AND_RUNNING, INTERRUPTED, STARTED = (
    replace(RUN, seed=seed) for seed in range(7)
)
OLD = time.time() - 7200


def with_checkpoint(root: Path, run: Run) -> Path:
    """The checkpoints of a run, of 1,000 bytes."""
    folder = results.begin(root, run) / cleanup.CHECKPOINTS
    folder.mkdir()
    (folder / "step100.pt").write_bytes(b"0" * 1000)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run in each state, two files of killed processes, and two submissions."""
    for run in (DONE, DIVERGED, CANCELLED, RUNNING, CANCELLED_AND_RUNNING, INTERRUPTED, STARTED):
        with_checkpoint(tmp_path, run)
    finish(tmp_path, DONE)
    results.finish(tmp_path / DIVERGED.id, {"status": "diverged", "metrics": {"step": 1}})
    lease.acquire(tmp_path / CANCELLED.id).release(Failure("cancelled"))
    lease.acquire(tmp_path / INTERRUPTED.id).release(Failure("interrupted"))
    for run in (RUNNING, CANCELLED_AND_RUNNING):
        lease.acquire(tmp_path / run.id)
    for run in (CANCELLED, CANCELLED_AND_RUNNING):
        lease.request_cancel(tmp_path / run.id)
    for name, age in (("log.txt.1.tmp", OLD), ("log.txt.2.tmp", time.time())):
        (tmp_path / STARTED.id / name).write_bytes(b"0" * 10)
        os.utime(tmp_path / STARTED.id / name, (age, age))
    for run, code in ((DONE, "aa"), (STARTED, "bb")):
        array = submission.Array([run.id], "55")
        submitted = replace(submission.new(code, "", None, [array]), created=OLD)
        submission.record(tmp_path, submitted)
        snapshot = tmp_path / submission.FOLDER / "code" / code
        snapshot.mkdir(parents=True)
        os.utime(snapshot, (OLD, OLD))
    return tmp_path


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_what_is_found(root: Path) -> None:
    found = {each.path.relative_to(root): each for each in cleanup.find(root)}
    finished = {Path(submission.FOLDER, one.token) for one in submission.read_all(root)
                if one.code == "aa"}  # fmt: skip
    assert set(found) == {
        *(Path(run.id, cleanup.CHECKPOINTS) for run in (DONE, DIVERGED, CANCELLED)),
        Path(STARTED.id, "log.txt.1.tmp"),
        Path(submission.FOLDER, "code", "aa"),
        *finished,
    }
    assert found[Path(DONE.id, cleanup.CHECKPOINTS)].bytes == 1000
    assert all(each.why for each in found.values())


def test_it_is_removed_on_request(root: Path, capsys: Capture) -> None:
    before, found = files(root), cleanup.find(root)
    assert cli.main(["clean", "--results", str(root)]) == 0
    assert files(root) == before
    assert capsys.readouterr().out.endswith(" in 6 places; --yes removes them\n")
    assert cli.main(["clean", "--yes", "--results", str(root)]) == 0
    assert "removed 0.00 GB in 6 places\n" in capsys.readouterr().out
    gone = {path for path in before if any(path.is_relative_to(each.path) for each in found)}
    assert files(root) == before - gone
    assert (root / DONE.id / results.RESULT).exists()
    assert cli.main(["clean", "--yes", "--results", str(root)]) == 0
    assert "removed 0.00 GB in 0 places\n" in capsys.readouterr().out


def test_what_vanishes_meanwhile_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `repro clean`, or a run that renames its file, while this one looks and removes."""
    found = cleanup.find(root)
    lstat = Path.lstat

    def remove_first(path: Path) -> os.stat_result:
        if path.name.endswith(".tmp") or cleanup.CHECKPOINTS in path.parts:
            path.unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", remove_first)
    checkpoints = [each for each in cleanup.find(root) if each.path.name == cleanup.CHECKPOINTS]
    assert [each.bytes for each in checkpoints] == [0, 0, 0]
    for each in found:
        shutil.rmtree(each.path, ignore_errors=True)
    cleanup.remove(found)


def test_folders_that_nobody_knows_are_left(root: Path) -> None:
    other = root / "other"
    (other / cleanup.CHECKPOINTS).mkdir(parents=True)
    moved = root / "moved"
    (root / DIVERGED.id).rename(moved)
    found = {each.path for each in cleanup.find(root)}
    assert not [path for path in found if path.is_relative_to(other) or path.is_relative_to(moved)]


def test_no_folder_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["clean", "--results", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
