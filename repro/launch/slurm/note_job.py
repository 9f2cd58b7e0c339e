"""The job that sends the note when the runs of a submission have ended.

SLURM starts it after the arrays, whatever became of them, so that it needs no login session:
`python -m repro.launch.slurm.note_job RESULTS TOKEN`. It takes one CPU for seconds. In the folder
of its submission are `note.json`, what it needs to know; `note.txt`, the note, once it has been
delivered or given up; `note.log`, its output.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from repro import paper, results, spec
from repro.core import output, records
from repro.core.plan import Request
from repro.launch import code, note, state
from repro.launch.note import About, Note, NoteError
from repro.launch.slurm import arrays, queue, submission
from repro.launch.slurm.cluster import Cluster, Notify
from repro.launch.slurm.submission import Submission

_LIMIT_MINUTES = 10
_MEMORY = "1G"
_SETTLE_SECONDS = 60.0  # for the last run to leave the queue
_POLL_SECONDS = 3.0


@dataclass
class Assignment:
    """What a note job needs to know."""

    about: About
    specs: list[str]
    mail: str | None
    command: Annotated[list[str], Meta(max_length=1000)]

    @property
    def notify(self) -> Notify:
        return Notify(mail=self.mail, command=tuple(self.command))


def submit(cluster: Cluster, notify: Notify, sent: Submission, request: Request, root: Path) -> str:
    """Submit the job for the runs of a submission; a line about it, or why there is none."""
    folder = submission.folder(root, sent.token)
    shape = cluster.resources[0]
    share = shape.nodes * (shape.gpus or shape.tasks_per_node) / shape.per_gpu
    about = About.of(request, share, bool(shape.gpus))
    lines = [spec.to_line(run) for run in request.runs]
    assignment = Assignment(about, lines, notify.mail, list(notify.command))
    script, name = folder / "note.sh", f"repro-{sent.token}-note"
    try:
        results.write(folder / submission.NOTE, records.encode(asdict(assignment), indent=1) + "\n")
        script.write_text("".join(f"{line}\n" for line in _script(cluster, notify, sent, root)))
        arrays.submit_script(script, name)
    except (queue.QueueError, results.ResultsError, OSError) as error:
        if not isinstance(error, queue.NoAnswer):
            (folder / submission.NOTE).unlink(missing_ok=True)
        return f"no note at the end: {error}; the runs are not affected"
    return f"a note at the end to {notify.recipients}"


def _script(cluster: Cluster, notify: Notify, sent: Submission, root: Path) -> Iterator[str]:
    """The lines of the job's script."""
    jobs = ":".join(array.job for array in sent.arrays)
    options = {
        "job-name": f"repro-{sent.token}-note",
        "dependency": f"afterany:{jobs}",
        "partition": notify.partition or cluster.resources[0].partition or cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "reservation": cluster.reservation,
        "chdir": str(submission.folder(root, sent.token)),
        "output": "note.log",
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": "1",
        "mem": _MEMORY,
        "time": str(_LIMIT_MINUTES),
    }
    yield "#!/bin/bash"
    yield from (
        f"#SBATCH --{name}={shlex.quote(value)}" for name, value in options.items() if value
    )
    snapshot = root / results.SNAPSHOTS / sent.code
    yield f"export PYTHONPATH={shlex.quote(str(snapshot))} PYTHONSAFEPATH=1"
    if paper_location := code.paper_for_jobs(snapshot):
        yield f"export {paper.VARIABLE}={shlex.quote(paper_location)}"
    yield from (f"export {name}={shlex.quote(v)}" for name, v in cluster.environment.items())
    python = cluster.python or shlex.quote(sys.executable)
    if cluster.setup:  # they may copy a dataset, so only where Python needs them
        yield f"if ! {python} -c 'import repro.results' 2>/dev/null; then"
        yield from cluster.setup
        yield "fi"
    yield f"exec {python} -m repro.launch.slurm.note_job {shlex.quote(str(root))} {sent.token}"


# --- on the node ---------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    root, token = Path(arguments[0]), arguments[1]
    folder = submission.folder(root, token)
    paper.current()  # its kinds of run can be read from here
    assignment = records.read(folder / submission.NOTE, Assignment)
    runs = [spec.from_json(line) for line in assignment.specs]
    deadline = time.monotonic() + _SETTLE_SECONDS
    states = state.query(root, runs)
    while any(each.is_under_way for each in states) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        states = state.query(root, runs)
    written = note.write(assignment.about, states, root)
    for problem in _deliver(assignment.notify, written):
        print(output.line(problem), flush=True)
    results.write(folder / submission.SENT, written.text)
    return 0


def _deliver(notify: Notify, written: Note) -> list[str]:
    """Deliver a note; a mail by SLURM itself where the node cannot send one."""
    problems = note.deliver(Notify(command=notify.command), written) if notify.command else []
    if notify.mail:
        try:
            note.mail(notify.mail, written)
        except NoteError as error:
            problems.append(f"no note to {notify.mail} from this node: {error}")
            problems += _mail_by_slurm(notify.mail, written)
    return problems


def _mail_by_slurm(address: str, written: Note) -> list[str]:
    """Let SLURM's controller send its mail about the end of this job, whose subject has its name:
    the subject of the note."""
    job = os.environ.get("SLURM_JOB_ID", "")
    try:
        queue.call("scontrol", "update", f"JobId={job}", f"JobName={written.subject}")
        queue.call("scontrol", "update", f"JobId={job}", f"MailUser={address}", "MailType=END")
    except queue.QueueError as error:
        return [f"nor by SLURM: {error}"]
    return ["SLURM mails its subject"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
