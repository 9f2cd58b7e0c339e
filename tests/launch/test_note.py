"""The note at the end of a launch, by real commands: here, and from a job of a real SLURM."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import experiments, results
from repro.core import plan
from repro.launch import lease, note
from repro.launch.failures import Failure
from repro.launch.note import About, Note
from repro.launch.slurm import submission
from repro.launch.slurm.cluster import Cluster, Notify, dump, load
from repro.launch.state import RunState
from repro.testbed.cluster import Testbed
from tests.finished import finish
from tests.launch import wait_until
from tests.launch.test_submit import HOLD, LAUNCH, SITE, TWO_RUNS, User, a_user

NOTE = Note("repro: table1 (demo): 1 done", "Grüße\n", {"DONE": "1", "FAILED": "0"})
RUNS = plan.runs(experiments.get("table1").cells, "smoke", 1)
ABOUT = About(["table1"], ["smoke"], 2.0)


def program(path: Path, script: str) -> Path:
    """An executable script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def keeper(path: Path, then: str = "") -> Path:
    """A command that keeps its standard input and its facts beside itself."""
    script = f'cat >"$0.text"; env | grep ^REPRO_NOTIFY_ >"$0.facts"; {then or "true"}'
    return program(path, script)


# --- what it says --------------------------------------------------------------------------------


def test_it_counts_names_and_prices(tmp_path: Path) -> None:
    done, failed, lost = RUNS[:3]
    finish(tmp_path, done, provenance={"seconds": 5400.0})
    held = lease.acquire(results.begin(tmp_path, failed), {})
    held.release(Failure("error", "ValueError: no\x1b[2J"))
    states = [
        RunState(done, "done"),
        RunState(failed, "failed", "ValueError: no\x1b[2J\n"),
        RunState(lost, "lost", "x" * 1000),
    ]
    written = note.write(ABOUT, states, tmp_path)
    assert written.subject == "repro: table1 (smoke): 1 done, 1 failed, 1 lost"
    lines = written.text.splitlines()
    assert lines[0] == "table1, smoke scale: 1 of 3 runs have a result."
    assert lines[1] == f"{written.subject[23:]}; 3 GPU-hours spent on them, with earlier launches"
    assert f"{failed.id}: failed, ValueError: no\\x1b[2J" in lines
    assert f"{lost.id}: lost, {'x' * 200}…" in lines
    assert f"repro failures table1 --results {tmp_path}" in lines
    assert written.facts["FAILED_RUNS"] == "2"
    assert (written.facts["DONE"], written.facts["LOST"]) == ("1", "1")


def test_many_failures_are_counted(tmp_path: Path) -> None:
    states = [RunState(run, "failed", "no") for run in (RUNS * 30)[:30]]
    text = note.write(ABOUT, states, tmp_path).text
    assert text.count(": failed, no\n") == 20
    assert "\nand 10 more\n" in text


def test_a_launch_without_failures_names_none(tmp_path: Path) -> None:
    text = note.write(ABOUT, [RunState(RUNS[0], "diverged")], tmp_path).text
    assert "repro failures" not in text
    assert f"repro status table1 --results {tmp_path}" in text


# --- delivery ------------------------------------------------------------------------------------


def test_a_command_gets_the_text_and_the_facts(tmp_path: Path) -> None:
    command = keeper(tmp_path / "note $(touch x); sh")
    assert note.deliver(Notify(command=(str(command), "a b; c")), NOTE) == []
    assert Path(f"{command}.text").read_text() == "Grüße\n"
    facts = Path(f"{command}.facts").read_text().splitlines()
    assert sorted(facts) == ["REPRO_NOTIFY_DONE=1", "REPRO_NOTIFY_FAILED=0"]


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo first; echo a reason >&2; exit 3", "exit status 3: a reason"),
        ("exit 1", "exit status 1"),
        ("kill -9 $$", "exit status -9"),
        ("sleep 60", "it did not end within 1 s"),
        ("cat >/dev/null; sleep 60 & sleep 60", "it did not end within 1 s"),
        ("exec <&-; sleep 60 & exit 0", ""),  # what it leaves behind is not waited for
    ],
)
def test_a_command_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    monkeypatch.setattr(note, "DELIVERY_SECONDS", 1.0)
    command = program(tmp_path / "note.sh", script)
    began = time.monotonic()
    found = note.deliver(Notify(command=(str(command),)), NOTE)
    assert time.monotonic() - began < 30
    assert found == ([f"no note to {command}: {problem}"] if problem else [])


def test_a_command_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for name, problem in (("nowhere", "No such file or directory"), ("text", "Permission denied")):
        path = str(tmp_path / name)
        assert note.deliver(Notify(command=(path,)), NOTE) == [f"no note to {path}: {problem}"]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where programs for mail are looked for; with the usual small ones."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "env", "grep"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(note, "_SYSTEM_FOLDERS", str(folder))
    return folder


def test_mail_by_sendmail(path: Path) -> None:
    keeper(path / "sendmail", f'echo "$@" >"{path}/arguments"')
    assert note.deliver(Notify(mail="me@example.org"), NOTE) == []
    assert (path / "arguments").read_text() == "-i me@example.org\n"
    text = (path / "sendmail.text").read_text()
    assert "To: me@example.org\nSubject: repro: table1 (demo): 1 done\n" in text
    assert 'Content-Type: text/plain; charset="utf-8"' in text


def test_mail_by_mail(path: Path) -> None:
    keeper(path / "mailx", f'echo "$1|$2|$3" >"{path}/arguments"')
    assert note.deliver(Notify(mail="me@example.org"), NOTE) == []
    assert (path / "arguments").read_text() == f"-s|{NOTE.subject}|me@example.org\n"
    assert (path / "mailx.text").read_text() == "Grüße\n"


def test_without_a_mail_program(path: Path) -> None:
    (problem,) = note.deliver(Notify(mail="me@example.org"), NOTE)
    assert problem.startswith("no note to me@example.org: no sendmail, mail or mailx")


def test_both_are_tried(path: Path) -> None:
    command = keeper(path / "note.sh", "exit 1")
    keeper(path / "sendmail")
    (problem,) = note.deliver(Notify(mail="me@example.org", command=(str(command),)), NOTE)
    assert problem == f"no note to {command}: exit status 1"
    assert (path / "sendmail.text").exists()


def test_a_site_file_is_written_as_it_is_read(tmp_path: Path) -> None:
    site = Cluster(notify=Notify(mail="me@example.org", command=("note", "a"), partition="cpu"))
    (tmp_path / "site.yaml").write_text(dump(site))
    assert load(tmp_path / "site.yaml") == site


# --- on this machine -----------------------------------------------------------------------------


def test_a_local_launch_sends_one_whatever_becomes_of_it(tmp_path: Path) -> None:
    command = keeper(tmp_path / "note.sh", "echo no network; exit 4")
    line = f"table1 --scale smoke --only NesT-T --seeds 1 --launch local --notify {command}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "repro", *line.split()]
    done = subprocess.run(
        launch, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"repro: warning: no note to {command}: exit status 4: no network"
    )
    text = Path(f"{command}.text").read_text()
    assert text.startswith("table1, smoke scale: 2 of 2 runs have a result.\n2 done; ")
    assert "REPRO_NOTIFY_DONE=2\n" in Path(f"{command}.facts").read_text()

    Path(f"{command}.text").unlink()
    subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert not Path(f"{command}.text").exists()  # nothing was trained


# --- from a job ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bed() -> Iterator[Testbed]:
    with Testbed(nodes=2, cpus=2) as bed:
        yield bed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def user(bed: Testbed, data: Path, tmp_path: Path) -> Iterator[User]:
    """A user whose sendmail keeps what it gets in `bin/`."""
    keeper(tmp_path / "bin" / "sendmail")
    variables = {"REPRO_DATA": str(data), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    with a_user(bed, tmp_path, **variables) as user:
        yield user


def folder(user: User) -> Path:
    (record,) = user.submissions()
    return record.parent


def wait_sent(user: User) -> str:
    """What the note job printed, after its end."""
    wait_until(lambda: (folder(user) / submission.SENT).exists() and not user.jobs(), 0.5)
    return (folder(user) / "note.log").read_text()


def test_a_job_sends_it_after_the_runs(user: User) -> None:
    command = keeper(user.here / "note.sh")
    user.site(f"{SITE}notify: {{mail: me@example.org, command: [{command}]}}\n")
    preview = user.stdout_of(f"{LAUNCH} --dry-run")
    assert f"a note at the end to me@example.org and {command}\n" in preview
    out = user.stdout_of(LAUNCH)  # and the launcher is gone
    assert f"a note at the end to me@example.org and {command}\n" in out
    assert wait_sent(user) == ""
    assert user.names() == {"done": 2}
    text = Path(f"{command}.text").read_text()
    assert text.startswith("table1, smoke scale: 2 of 2 runs have a result.\n2 done; ")
    assert text == (folder(user) / submission.SENT).read_text()
    assert "CPU-hours" in text
    assert (
        "Subject: repro: table1 (smoke): 2 done\n" in (user.here / "bin/sendmail.text").read_text()
    )


def test_cancelled_runs_are_noted_and_failures_of_a_note_are_lines(user: User) -> None:
    program(user.here / "bin/sendmail", "echo no relay; exit 75")
    mail = program(user.here / "mail.sh", 'echo "$@" >"$0.part" && mv "$0.part" "$0.arguments"')
    configuration = user.bed.root / "slurm.conf"
    text = configuration.read_text().replace("MailProg=/bin/true", f"MailProg={mail}")
    configuration.write_text(text)
    user.bed.ask("scontrol", "reconfigure")
    user.site(f"{HOLD}notify: {{mail: me@example.org, command: [/nowhere/note]}}\n")
    user.stdout_of(LAUNCH)
    user.stdout_of("cancel table1 --scale smoke")
    first, second, *others = wait_sent(user).splitlines()
    assert first == "no note to /nowhere/note: No such file or directory"
    assert second == "no note to me@example.org from this node: exit status 75: no relay"
    assert others == ["SLURM mails its subject"]
    assert user.names() == {"cancelled": 2}
    assert "2 cancelled" in (folder(user) / submission.SENT).read_text()
    wait_until(Path(f"{mail}.arguments").exists)
    arguments = Path(f"{mail}.arguments").read_text()
    assert "Name=repro: table1 (smoke): 2 cancelled Ended" in arguments
    assert arguments.endswith(" me@example.org\n")


def test_a_refused_note_job_changes_nothing(user: User) -> None:
    user.site(f"{HOLD}notify: {{mail: me@example.org, partition: nowhere}}\n")
    out = user.stdout_of(LAUNCH)
    assert "no note at the end: SLURM refused: " in out
    assert "; the runs are not affected\n" in out
    assert user.names() == {"queued": 2}
    assert not (folder(user) / submission.NOTE).exists()


def test_a_submission_is_kept_for_its_note(tmp_path: Path) -> None:
    sent = submission.new("c0de", "", None, [submission.Array([RUNS[0].id], "1")])
    sent.created -= 7200
    submission.record(tmp_path, sent)
    finish(tmp_path, RUNS[0])
    home = submission.folder(tmp_path, sent.token)
    (home / submission.NOTE).write_text("{}")
    assert home not in submission.prunable(tmp_path)
    (home / submission.SENT).write_text("")
    assert home in submission.prunable(tmp_path)


def test_who_gets_it_is_checked(user: User) -> None:
    assert "--notify: 'nobody' is neither an address nor a program" in user.error_of(
        f"{TWO_RUNS} --launch local --notify nobody"
    )
    assert "is not one address" in user.error_of(f"{LAUNCH} --notify -a@b.org".replace(
        "--notify -a", "--notify=-a"))  # fmt: skip
    assert "--notify is for --launch local or slurm" in user.error_of(
        "table1 --scale smoke --notify me@example.org"
    )
