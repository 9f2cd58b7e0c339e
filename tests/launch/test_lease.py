"""No two processes ever hold the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.launch import lease

HOLDER = """
import sys, time
from pathlib import Path
from repro.launch import lease
held = lease.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A living process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(lease.Held, match=rf"process {process.pid} on "):
            lease.acquire(tmp_path)
        process.kill()


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    assert lease.acquire(tmp_path).generation == 2


def test_a_zombie_does_not_hold(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, 9)
        time.sleep(0.2)  # dead, and not yet waited for
        assert lease.acquire(tmp_path).generation == 2


def test_a_released_run_is_free_and_remembers_its_time(tmp_path: Path) -> None:
    first = lease.acquire(tmp_path)
    first.seconds_before = 100.0
    first.release()
    second = lease.acquire(tmp_path)
    assert second.generation == 2
    assert second.seconds >= 100.0


def test_a_holder_elsewhere_keeps_it_until_it_has_been_silent(tmp_path: Path) -> None:
    elsewhere = {"host": "node7", "boot": "another", "pid": 1, "process_start": "1"}
    path = tmp_path / "lease-1.json"
    path.write_text(json.dumps(elsewhere | {"beat": time.time() - lease.SILENCE_SECONDS / 2}))
    with pytest.raises(lease.Held, match="node7"):
        lease.acquire(tmp_path)
    path.write_text(json.dumps(elsewhere | {"beat": time.time() - lease.SILENCE_SECONDS - 1}))
    assert lease.acquire(tmp_path).generation == 2


def test_a_holder_that_was_taken_over_notices_and_writes_no_more(tmp_path: Path) -> None:
    slept = lease.acquire(tmp_path)
    (tmp_path / "lease-2.json").write_text("{}")  # the taker
    slept.beat()
    assert slept.lost
    slept.release()
    assert (tmp_path / "lease-2.json").read_text() == "{}"


def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    """Eight processes race for a dead holder's run, twenty times."""
    code = (
        "import sys, time; from pathlib import Path; from repro.launch import lease\n"
        "for n in range(20):\n"
        "    folder = Path(sys.argv[1]) / str(n); go = folder / 'go'\n"
        "    while not go.exists(): time.sleep(0.001)\n"
        "    try: lease.acquire(folder); (folder / f'won-{sys.argv[2]}').touch()\n"
        "    except lease.Held: pass\n"
        "time.sleep(2)\n"
    )
    dead = {"boot": lease._boot(), "pid": 2**22 + 1, "process_start": "0", "beat": time.time()}
    for n in range(20):
        (tmp_path / str(n)).mkdir()
        (tmp_path / str(n) / "lease-1.json").write_text(json.dumps(dead))
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(i)]) for i in range(8)
    ]
    time.sleep(1)
    for n in range(20):
        (tmp_path / str(n) / "go").touch()
        time.sleep(0.02)
    assert [racer.wait() for racer in racers] == [0] * 8
    assert [len(list((tmp_path / str(n)).glob("won-*"))) for n in range(20)] == [1] * 20
