"""No two processes ever hold the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repro.launch import lease
from repro.launch.failures import Failure
from tests.launch import fill, full_disk

HOLDER = """
import signal, sys
from pathlib import Path
from repro.launch import lease
held = lease.acquire(Path(sys.argv[1]))
print("held", flush=True)
signal.pause()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A living process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_names_the_owner_of_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(lease.RunLocked, match=rf"process {process.pid} on "):
            lease.acquire(tmp_path)
        process.kill()


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    assert lease.acquire(tmp_path).generation == 2


def test_no_lease_is_believed_for_years(tmp_path: Path) -> None:
    content = {"generation": 1, "boot": "x", "pid": 1, "silence": 1e10, "beat": 1}
    (tmp_path / "lease-1.json").write_text(json.dumps(content))
    found, wrong = lease.read_or_explain(tmp_path)
    assert found is None
    assert "lease-1.json" in wrong


def test_a_zombie_does_not_hold(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and it stays a zombie
        assert lease.acquire(tmp_path).generation == 2


def test_a_released_run_is_free_and_remembers_its_time(tmp_path: Path) -> None:
    first = lease.acquire(tmp_path)
    first.previous_seconds = 100.0
    first.release()
    second = lease.acquire(tmp_path)
    assert second.generation == 2
    assert second.seconds >= 100.0


# A process space of its own is as another host to us: its process numbers say nothing here.
APART = ("unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child")
BEATING = HOLDER.replace("(Path(sys.argv[1]))", "(Path(sys.argv[1]), {}, 4.0)").replace(
    "print(", "held.start_heartbeat(); print("
)


@contextmanager
def elsewhere(folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process out of our sight that holds the run and promises to be heard every four seconds."""
    process = subprocess.Popen(
        [*APART, sys.executable, "-c", BEATING, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_holder_elsewhere_keeps_it_as_long_as_it_is_heard(tmp_path: Path) -> None:
    with elsewhere(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(lease.RunLocked):
                lease.acquire(tmp_path)
        process.kill()
        process.wait()
        assert lease.seems_locked(lease.read(tmp_path) or {})  # for a moment one cannot know
        assert lease.acquire(tmp_path).generation == 2
    assert (lease.read(tmp_path) or {})["endings"] == {"lost": 1}


@pytest.mark.parametrize("jump", ["+400d", "-400d"])
def test_a_clock_that_is_wrong_moves_no_lease(tmp_path: Path, jump: str) -> None:
    """The holder's clock is more than a year away from ours."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    faked = {"LD_PRELOAD": str(library), "FAKETIME": jump, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with elsewhere(tmp_path, **faked) as process:
        assert abs((lease.read(tmp_path) or {})["beat"] - time.time()) > 300 * 86400
        with pytest.raises(lease.RunLocked):
            lease.acquire(tmp_path)
        process.kill()
        process.wait()
        assert lease.acquire(tmp_path).generation == 2


def test_a_frozen_holder_is_taken_over_and_writes_no_more(tmp_path: Path) -> None:
    """SIGSTOP, as a suspended job; what it does when it wakes is in `test_job`."""
    held = lease.acquire(tmp_path, {}, 2.0)
    (tmp_path / "lease-2.json").write_text("{}")  # the taker
    assert not held.renew()
    assert held.lost
    held.release()
    assert (tmp_path / "lease-2.json").read_text() == "{}"


def test_endings_are_counted_within_a_submission(tmp_path: Path) -> None:
    for cause in ("preempted", "preempted", "lost"):
        lease.acquire(tmp_path, {"submission": "a"}).release(Failure(cause))
    third = lease.acquire(tmp_path, {"submission": "a"})
    assert third.failure_counts == {"preempted": 2, "lost": 1}
    third.release()  # it left a result
    assert lease.acquire(tmp_path, {"submission": "a"}).failure_counts == {
        "preempted": 2,
        "lost": 1,
    }
    assert (lease.read(tmp_path) or {})["generation"] == 5


def test_another_submission_counts_anew(tmp_path: Path) -> None:
    lease.acquire(tmp_path, {"submission": "a"}).release(Failure("lost"))
    assert lease.acquire(tmp_path, {"submission": "b"}).failure_counts == {}


def test_the_dead_are_buried_and_nobody_else(tmp_path: Path) -> None:
    lease.acquire(tmp_path)
    dead = lease.read(tmp_path) or {}
    lease.mark_dead(tmp_path, dead, Failure("out of memory", "rank 1"))
    buried = lease.read(tmp_path) or {}
    assert lease.failure_of(buried) == Failure("out of memory", "rank 1")
    lease.acquire(tmp_path)
    lease.mark_dead(tmp_path, dead, Failure("error"))  # too late: there is a new holder
    assert (lease.read(tmp_path) or {})["generation"] == 2
    assert lease.failure_of(lease.read(tmp_path) or {}) is None


def test_a_request_to_stop_is_heard_with_the_next_beat(tmp_path: Path) -> None:
    heard = threading.Event()
    held = lease.acquire(tmp_path, {}, 0.4)
    held.start_heartbeat(lambda: heard.set() if lease.is_cancel_requested(tmp_path) else None)
    lease.request_cancel(tmp_path)
    assert heard.wait(60)
    lease.clear_cancel(tmp_path)
    assert not lease.is_cancel_requested(tmp_path)
    held.release()


def test_a_beat_that_cannot_be_written_is_no_loss(tmp_path: Path) -> None:
    """A full disk: a real one, of 64 KiB."""
    with full_disk(tmp_path / "small") as folder:
        held = lease.acquire(folder)
        fill(folder)
        assert held.renew()
        held.facts = {"note": "x" * 100_000}
        assert held.renew()
        assert not list(folder.glob("*.tmp-*"))
        held.release()


def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    """Eight processes race for a dead holder's run, twenty times."""
    code = (
        "import sys, time; from pathlib import Path; from repro.launch import lease\n"
        "for n in range(20):\n"
        "    folder = Path(sys.argv[1]) / str(n); go = folder / 'go'\n"
        "    while not go.exists(): time.sleep(0.001)\n"
        "    try: lease.acquire(folder); (folder / f'won-{sys.argv[2]}').touch()\n"
        "    except lease.RunLocked: pass\n"
        "print('done', flush=True); sys.stdin.read()\n"  # who has won, lives until all have tried
    )
    dead = {"boot": lease._boot(), "pid": 2**22 + 1, "process_start": "0", "beat": time.time()}
    for n in range(20):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "lease-1.json").write_text(json.dumps(dead))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(i)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(8)
    ]
    time.sleep(1)
    for n in range(20):
        (tmp_path / str(n) / "go").touch()
        time.sleep(0.02)
    assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["done\n"] * 8
    for racer in racers:
        racer.communicate()
    assert [racer.returncode for racer in racers] == [0] * 8
    assert [len(list((tmp_path / str(n)).glob("won-*"))) for n in range(20)] == [1] * 20
