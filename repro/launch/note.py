"""The note at the end of a launch: what became of its runs, by mail or to a command.

A note that cannot be delivered is a line in the log. It changes neither a run nor an exit status.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from repro import results
from repro.core import output, records
from repro.core.plan import Request
from repro.launch import lease, state
from repro.launch.slurm.cluster import Notify
from repro.launch.state import RunState

DELIVERY_SECONDS = 60.0  # for a command to end
_MAX_FAILED = 20  # runs that are named
_MAX_REASON = 200  # characters
_SYSTEM_FOLDERS = "/usr/sbin:/usr/lib:/sbin"  # of sendmail; rarely on a user's PATH


class NoteError(Exception):
    """A note was not delivered; one line with the reason."""


@dataclass(frozen=True)
class Note:
    """A note: its subject, its text, and its facts by name in capitals, such as DONE."""

    subject: str
    text: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class About:
    """A launch as its note names it."""

    items: list[str]  # empty: runs without an item
    scales: list[str]
    devices: float = 1.0  # that a run occupies: GPUs, or processes on CPUs
    unit: str = "GPU-hours"

    @classmethod
    def of(cls, request: Request, devices: float, has_gpus: bool) -> About:
        items = list(dict.fromkeys(group.item for group in request.groups))
        return cls(items, list(request.scales), devices, "GPU-hours" if has_gpus else "CPU-hours")


def write(about: About, states: Sequence[RunState], root: Path) -> Note:
    """The note about a launch whose runs are in these states. `root`: the results, absolute."""
    counts = Counter(each.name for each in states)
    summary = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    items, scale = " ".join(about.items), ", ".join(about.scales)
    subject = f"repro: {items or 'runs'} ({scale}): {summary}"
    settled = sum(each.is_settled for each in states)
    hours = about.devices * _seconds(states, root) / 3600
    text = [
        f"{items or 'The launch'}, {scale} scale: {settled} of {len(states)} runs have a result.",
        f"{summary}; {hours:,.3g} {about.unit} spent on them, with earlier launches",
        *_failed(states),
        "",
        *(f"repro {command} {items}".rstrip() + f" --results {root}"
          for command in (["failures"] if _has_failed(states) else []) + ["status"]),
    ]  # fmt: skip
    facts = {
        "SUBJECT": subject,
        "ITEMS": items,
        "SCALES": " ".join(about.scales),
        "RESULTS": str(root),
        "RUNS": str(len(states)),
        "FAILED_RUNS": str(sum(each.has_failed for each in states)),
        "HOURS": f"{hours:.6g}",
        "UNIT": about.unit,
        "DONE": "0",
        "FAILED": "0",
        **{name.upper().replace(" ", "_"): str(count) for name, count in counts.items()},
    }
    plain = {name: output.line(value.replace("\0", "")) for name, value in facts.items()}
    return Note(plain["SUBJECT"], "".join(f"{output.line(line)}\n" for line in text), plain)


def _has_failed(states: Sequence[RunState]) -> bool:
    return any(each.has_failed for each in states)


def _failed(states: Sequence[RunState]) -> Iterator[str]:
    failed = [each for each in states if each.has_failed]
    if failed:
        yield ""
    for each in failed[:_MAX_FAILED]:
        reason = records.one_line(each.note, _MAX_REASON)
        yield f"{each.run.id}: {each.name}{f', {reason}' if reason else ''}"
    if more := len(failed[_MAX_FAILED:]):
        yield f"and {more} more"


def _seconds(states: Sequence[RunState], root: Path) -> float:
    """The time spent on the runs over all their attempts, as far as it is known."""
    total = 0.0
    for each in states:
        content = lease.read(results.folder(root, each.run)) or {}
        outcome = results.outcome(root, each.run).result
        provenance = outcome.get("provenance", {}) if outcome else {}
        total += provenance.get("seconds") or content.get("seconds", 0.0)
    return total


# --- delivery ------------------------------------------------------------------------------------


def send(notify: Notify, about: About, request: Request, root: Path) -> list[str]:
    """Write and deliver the note about the runs as they are now; a line for each failure."""
    try:
        return deliver(notify, write(about, state.query(root, request.runs), root))
    except KeyboardInterrupt:
        return ["no note at the end of the launch: interrupted"]
    except Exception as error:  # the launch has its outcome already
        return [f"no note at the end of the launch: {type(error).__name__}: {error}"]


def deliver(notify: Notify, note: Note) -> list[str]:
    """Deliver a note to whom a site names; a line for each failure."""
    problems = list[str]()
    try:
        if notify.command:
            _call(notify.command, note.text, note.facts)
    except NoteError as error:
        problems.append(f"no note to {notify.command[0]}: {error}")
    try:
        if notify.mail:
            mail(notify.mail, note)
    except NoteError as error:
        problems.append(f"no note to {notify.mail}: {error}")
    return problems


def mail(address: str, note: Note) -> None:
    """Mail a note by sendmail, or else by mail or mailx. NoteError if that fails."""
    path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"
    if program := shutil.which("sendmail", path=path):
        message = EmailMessage()
        message["To"], message["Subject"] = address, note.subject
        message.set_content(note.text)
        text = message.as_bytes(policy=SMTP.clone(linesep="\n")).decode("ascii", "surrogateescape")
        _call((program, "-i", address), text)
    elif program := shutil.which("mail", path=path) or shutil.which("mailx", path=path):
        _call((program, "-s", note.subject, address), note.text)
    else:
        raise NoteError("no sendmail, mail or mailx on this machine; use notify.command")


def _call(command: Sequence[str], text: str, facts: Mapping[str, str] | None = None) -> None:
    """Run a command, without a shell, with a text on its standard input, and its facts as
    REPRO_NOTIFY_* variables. NoteError with its last line if it fails, or does not end in time."""
    variables = {f"REPRO_NOTIFY_{name}": value for name, value in (facts or {}).items()}
    # A file, not a pipe: what the command leaves running would keep a pipe open.
    with tempfile.TemporaryFile() as printed:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env=os.environ | variables,
                start_new_session=True,
            )
        except OSError as error:
            raise NoteError(error.strerror or str(error)) from None
        with process:
            try:
                process.communicate(text.encode("utf-8", "surrogateescape"), DELIVERY_SECONDS)
            except subprocess.TimeoutExpired:
                raise NoteError(f"it did not end within {DELIVERY_SECONDS:.0f} s") from None
            finally:
                if process.returncode is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").strip().splitlines()
            last = f": {records.one_line(lines[-1])}" if lines else ""
            raise NoteError(f"exit status {process.returncode}{last}")
