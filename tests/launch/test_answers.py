"""What ranks answered a probe job may be anything: the doctor says so in one line for each node."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from repro.commands import machine
from repro.launch.doctor import probe
from repro.launch.doctor.probe_job import Answer, Torch
from repro.launch.slurm.cluster import Resources

SOUND = Answer("n1", "3.11.7", True, True, Torch("2.4", None, ["H200"], 2, 0.5))
EVIL = "\x1b[2J\nMISS \u202ex\x00"
SHOWN = json.dumps(asdict(replace(SOUND, node=EVIL, sees=False, error=EVIL))).encode()
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just(EVIL),
    st.just("9" * 5000), st.lists(st.just(EVIL), max_size=2), st.just({}),
)  # fmt: skip


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A sound answer; one with a value exchanged, or cut; or no answer at all."""
    answer = asdict(SOUND)
    for place in draw(st.lists(st.sampled_from([answer, answer["torch"]]), max_size=2)):
        place[draw(st.sampled_from(sorted(place)))] = draw(VALUES)
    whole = json.dumps(answer).encode()
    kinds = [whole, whole[: draw(st.integers(0, len(whole)))], draw(st.binary(max_size=40)),
             b"[" * 100_000, b'{"node":' * 100_000, b"\xff\xfe" * 50]  # fmt: skip
    return draw(st.sampled_from([whole, whole, *kinds]))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=contents(), second=contents())
@example(first=SHOWN, second=SHOWN)
def test_answers_may_hold_anything(
    first: bytes, second: bytes,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(probe, "_VISIBLE_SECONDS", -1.0)
    job = probe.Job(tmp_path, "7", tmp_path, Resources(nodes=2, gpus=0, cpus=1))
    for rank, content in enumerate((first, second)):
        (tmp_path / f"answer-{rank}").write_bytes(content)
        (tmp_path / f"7_{rank}_log.err").write_text("printed\n")
    lines = list(probe.report(job, tmp_path / "site.yaml", tmp_path))
    damaged = [line for _, line in lines if "cannot read the answer" in line]
    for line in damaged:
        rank = int("answer of node 2" in line)
        assert line.startswith(f"cannot read the answer of node {rank + 1}: {tmp_path}/answer-")
    assert len(damaged) == len(lines) or not damaged
    assert machine.report(lines) == (2 if any(mark == "MISS" for mark, _ in lines) else 0)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == len(lines)
    assert all(sign.isprintable() for line in shown.splitlines() for sign in line)


@pytest.mark.parametrize("place", ["pipe", "folder", "nothing"])
def test_an_answer_may_be_no_file(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_VISIBLE_SECONDS", -1.0)
    job = probe.Job(tmp_path, "7", tmp_path, Resources(nodes=1, gpus=0, cpus=1))
    (tmp_path / "7_0_log.err").write_text("printed\n")
    if place != "nothing":
        {"pipe": os.mkfifo, "folder": os.mkdir}[place](tmp_path / "answer-0")
    ((mark, line),) = probe.report(job, tmp_path / "site.yaml", tmp_path)
    assert mark == "MISS"
    assert "node 1" in line
    assert ("not a regular file" in line) == (place != "nothing")
