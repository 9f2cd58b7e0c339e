"""`--launch slurm`: submit runs as job arrays, one per resource shape, with scripts of submitit's.

The code is copied and the submission recorded before SLURM is called, so the jobs do not depend on
the process that submitted them. Each element's script starts the ranks and then runs
`repro.launch.slurm.epilogue`.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro import paper, spec
from repro.execution import ExecutionOptions
from repro.launch import code, lease, ranks
from repro.launch.doctor import site_check
from repro.launch.slurm import clients, queue, submission
from repro.launch.slurm.cluster import Cluster, Resources
from repro.launch.slurm.submission import Submission
from repro.results import SNAPSHOTS, ResultsError
from repro.spec import Run

# Variables of the ranks of a surrounding job, which a new job must not inherit.
_RANK_VARIABLE_PREFIXES = ("PMI", "MASTER_", "TORCHELASTIC_", "CUDA_VISIBLE_")
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_EXIT_TRAP = "trap repro_leave"
_SBATCH_SECONDS = 120.0  # for SLURM to accept a job
_QUEUE_LAG_SECONDS = 10.0  # until squeue shows an accepted job; at some sites it lags
_SBATCH_SETTLE_SECONDS = 1.0  # until squeue shows a job whose sbatch was interrupted
_CANCEL_SECONDS = 45.0  # for a cancelled job to end; KillWait is 30 s by default
_LOCK_SECONDS = 20.0  # for another launch to finish submitting
_LIMIT_SLACK = 60.0  # seconds: SLURM checks time limits only periodically


@dataclass(frozen=True)
class AttemptPayload:
    """What submitit carries to the node: plain values.

    With several runs, each task of the job trains its own; with one, all tasks are its ranks.
    """

    specs: tuple[str, ...]
    root: str
    options: ExecutionOptions
    minutes: int
    warning_seconds: int

    def __call__(self) -> None:
        from repro.launch import attempt

        began = time.monotonic()
        paper.current()  # its kinds of run can be read from here
        logging.getLogger("submitit").setLevel(logging.ERROR)  # hide its messages about signals
        task = ranks.as_single_rank() if self.options.per_gpu > 1 else 0
        if task >= len(self.specs):  # the last element may have fewer runs
            return
        ranks.from_slurm()
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        options = replace(
            self.options,
            attempt=f"{self.options.submission}.{ranks.attempt_id()}",
            job=ranks.job_id(),
            warned_at=began + 60 * self.minutes - self.warning_seconds - _LIMIT_SLACK,
        )
        status = attempt.run_attempt(spec.from_json(self.specs[task]), Path(self.root), options)
        sys.stdout.flush()
        os._exit(status)  # submitit would pickle a result; torch's threads linger


@dataclass(frozen=True)
class Batch:
    """Runs of one shape that go into one array."""

    resources: Resources
    runs: tuple[Run, ...]
    depends_on: Run | None = None  # the run that must be done first

    @property
    def array(self) -> submission.Array:
        return submission.Array([run.id for run in self.runs], each=self.resources.per_gpu)


def batches(
    cluster: Cluster, runs: Iterable[Run], max_elements: int, waits: Container[Run] = ()
) -> list[Batch]:
    """Group the runs by resource shape and dependency into arrays of at most `max_elements`.

    A run comes after the run it starts from. `waits`: runs that are already queued or running.
    """
    runs = dict.fromkeys(runs)
    shapes: dict[tuple[int, Resources, Run | None], list[Run]] = {}
    for run in runs:
        first = run.starts_from if run.starts_from in runs or run.starts_from in waits else None
        key = (_depth(run), cluster.resources_for(run.id), first)
        shapes.setdefault(key, []).append(run)
    return [
        Batch(shape, tuple(members[start : start + max_elements * shape.per_gpu]), depends_on)
        for (_, shape, depends_on), members in sorted(shapes.items(), key=lambda item: item[0][0])
        for start in range(0, len(members), max_elements * shape.per_gpu)
    ]


def _depth(run: Run) -> int:
    """How many pretrained runs precede it."""
    return 1 + _depth(run.starts_from) if run.starts_from else 0


# --- submitting, one at a time --------------------------------------------------------------------


@contextmanager
def submission_lock(root: Path) -> Iterator[None]:
    """Keep other launches from submitting into these results; ResultsError if one does."""
    home = root / submission.FOLDER
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = _acquire(home)
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        lock.start_heartbeat()
        yield
    finally:
        lock.release()


def _unwritable(home: Path, error: OSError) -> ResultsError:
    return ResultsError(f"cannot write to {home}: {error.strerror}; choose --results DIR")


def _acquire(home: Path) -> lease.Lease:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return lease.acquire(home, {}, _LOCK_SECONDS)
        except lease.RunLocked as locked:
            if time.monotonic() > deadline:
                holder = locked.holder
                raise ResultsError(
                    f"process {holder.get('pid')} on {holder.get('host')} is submitting into "
                    f"{home.parent}; wait for it, or kill it"
                ) from None
            time.sleep(0.5)


# --- the scripts ---------------------------------------------------------------------------------


def describe(cluster: Cluster, runs: Sequence[Run]) -> Iterator[str]:
    """A line about each array that would be submitted."""
    for batch in batches(cluster, runs, _DEFAULT_ARRAY):
        shape = batch.resources
        nodes = f"{shape.nodes} nodes × " if shape.nodes > 1 else ""
        kind = f" {cluster.gpus.type}" if cluster.gpus.type else ""
        gpus = f"{shape.gpus} GPU{'s' * (shape.gpus > 1)}{kind}, " if shape.gpus else ""
        count = shape.cpus * shape.tasks_per_node
        cpus = f"{count} CPU{'s' * (count > 1)}, "
        where = shape.partition or cluster.partition or "the default partition"
        number = f"{len(batch.runs)} run{'s' * (len(batch.runs) > 1)}"
        if shape.per_gpu > 1:
            number = f"{number}, {shape.per_gpu} per job: {len(batch.array.elements)}"
        yield f"{number} × {nodes}{gpus}{cpus}{shape.time} per attempt, in {where}"


def scripts(cluster: Cluster, runs: Sequence[Run], root: Path) -> list[str]:
    """The sbatch scripts of a launch, exact except for the token and the code's digest.

    Writes nothing and does not call SLURM.
    """
    all_batches = batches(cluster, runs, _DEFAULT_ARRAY)
    new_submission = submission.new(code.digest(), "", None, [batch.array for batch in all_batches])
    snapshot = root / SNAPSHOTS / new_submission.code
    jobs = submission.folder(root, new_submission.token) / "jobs"
    texts = []
    for number, batch in enumerate(all_batches):
        depends_on = "JOB" if batch.depends_on else ""
        settings = _settings(cluster, batch, new_submission, number, root, snapshot, depends_on)
        elements = len(batch.array.elements)
        texts.append(_script(jobs, _python(cluster, snapshot), settings, elements))
    return texts


def _script(jobs: Path, python: str, settings: Mapping[str, Any], count: int) -> str:
    """The sbatch script for `count` elements, an array if there are several.

    `jobs` is submitit's folder.
    """
    from repro.launch.slurm.executor import ScriptExecutor

    executor = ScriptExecutor(jobs, python=python)
    executor.update_parameters(**settings)
    return executor.script(count)


_DEFAULT_ARRAY = 1000  # elements; MaxArraySize is 1,001 by default


def _settings(
    cluster: Cluster,
    batch: Batch,
    new_submission: Submission,
    number: int,
    root: Path,
    snapshot: Path,
    depends_on: str = "",
) -> dict[str, Any]:
    """submitit's parameters of one array. `depends_on`: the ID of the job it waits for."""
    shape = batch.resources
    options: dict[str, Any] = {
        "requeue": True,
        "chdir": str(submission.folder(root, new_submission.token)),
    }
    options |= cluster.gpus.option(shape.gpus)
    if cluster.reservation:
        options["reservation"] = cluster.reservation
    if shape.memory_gb:
        options["mem"] = f"{round(shape.memory_gb * shape.tasks_per_node * 1024)}M"
    if depends_on:
        options |= {"dependency": f"afterok:{depends_on}", "kill-on-invalid-dep": "yes"}
    settings = {
        "job_name": new_submission.name(number),
        "partition": shape.partition or cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "exclude": cluster.exclude,
        "nodelist": cluster.nodelist,
        "time": shape.minutes,
        "nodes": shape.nodes,
        "ntasks_per_node": shape.tasks_per_node,
        "cpus_per_task": shape.cpus,
        "signal_delay_s": cluster.warning_seconds,
        "array_parallelism": cluster.parallel,
        "setup": _setup(cluster, new_submission, number, root, snapshot, shape.per_gpu > 1),
        "additional_parameters": options | cluster.sbatch_options,
        "srun_args": [
            # A dead rank ends the job; runs that share a job do not end each other.
            f"--kill-on-bad-exit={int(shape.per_gpu == 1)}",
            *["--wait=0"] * (shape.per_gpu > 1),  # no time limit after the first task ends
            "--export=ALL",  # the site's default may be NONE
            f"--cpus-per-task={shape.cpus}",  # not inherited since SLURM 22.05
            *cluster.srun,
        ],
    }
    return {name: value for name, value in settings.items() if value is not None} | {"wckey": None}


def _python(cluster: Cluster, snapshot: Path) -> str:
    """The command that starts Python on a node with signals blocked."""
    interpreter = cluster.python or shlex.quote(sys.executable)
    return f"{interpreter} {shlex.quote(str(snapshot / 'repro/launch/slurm/bootstrap.py'))}"


def _setup(
    cluster: Cluster,
    new_submission: Submission,
    number: int,
    root: Path,
    snapshot: Path,
    is_shared: bool,
) -> list[str]:
    """The lines of an element's script before its srun.

    An EXIT trap runs the epilogue, whatever ended the script. TERM, which a preemption sends to the
    script as well, must not end it before its ranks.
    """
    interpreter = cluster.python or shlex.quote(sys.executable)
    paper_location = code.paper_for_jobs(snapshot)
    epilogue = f"{interpreter} -m repro.launch.slurm.epilogue {shlex.quote(str(root))}"
    element = '"${SLURM_ARRAY_TASK_ID:-0}" "$repro_attempt" $repro_status'
    epilogue_command = f"{epilogue} {new_submission.token} {number} {element}"
    return [
        f"export PYTHONPATH={shlex.quote(str(snapshot))} PYTHONSAFEPATH=1",
        *([f"export {paper.VARIABLE}={shlex.quote(paper_location)}"] if paper_location else []),
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        *clients.IN_SCRIPT,
        'repro_attempt="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
        # For an array's last element SLURM_JOB_ID is the ID of the whole array.
        'repro_job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        'repro_job="${repro_job:-$SLURM_JOB_ID}"',
        'echo "--- attempt $repro_attempt on $SLURM_JOB_NODELIST" >&2',
        "repro_runs() {",
        '  repro_client squeue --noheader --job "$repro_job" --format "state %T" |',
        '    grep -qx "state RUNNING"',
        "}",
        "repro_leave() {",
        "  repro_status=$?; trap - EXIT; set +e",
        # Done, or saved and to be requeued; of runs that share a job one may have failed.
        f"  case $repro_status in {'0' if is_shared else '0|85'}) ;; *)",
        f"    {epilogue_command}; repro_status=$? ;;",
        "  esac",
        "  if [ $repro_status = 85 ]; then",
        '    if repro_runs; then repro_client scontrol requeue "$repro_job"',
        # Else SLURM ends the job: to requeue it, or because it was cancelled.
        f"    else {epilogue_command}; fi",
        "  fi",
        "  exit $repro_status",
        "}",
        f"{_EXIT_TRAP} EXIT; trap : TERM",
        "set -e",
        *cluster.setup,
        "set +e",
        clients.BEFORE_SRUN,
        'echo "--- attempt $repro_attempt starts its ranks" >&2',
    ]


# --- submitting ----------------------------------------------------------------------------------


def submit(
    cluster: Cluster,
    site: str,
    runs: Sequence[Run],
    root: Path,
    options: ExecutionOptions,
    under_way: Mapping[Run, str] | None = None,
) -> Submission:
    """Submit all of the runs to SLURM, or none. `site`: the text of the site file.

    `under_way` has the job IDs of queued and running runs, for runs that start from them. Raises
    QueueError with SLURM's message if there is no SLURM or it refuses; ClusterError for what it
    would refuse; ResultsError if the results folder cannot be written.
    """
    jobs = dict(under_way or {})
    queue.require()
    largest = int(queue.config().get("MaxArraySize", _DEFAULT_ARRAY + 1))
    max_elements = max(1, min(_DEFAULT_ARRAY, largest - 1))
    all_batches = batches(cluster, runs, max_elements, jobs)
    site_check.check(cluster, [batch.resources for batch in all_batches], root)
    home = root / submission.FOLDER
    try:
        snapshot = code.snapshot(root / SNAPSHOTS)
    except OSError as error:
        raise _unwritable(home, error) from error
    budget = cluster.budget_hours and 3600 * cluster.budget_hours
    new_submission = submission.new(
        snapshot.name, site, budget, [batch.array for batch in all_batches]
    )
    for run in runs:
        lease.clear_cancel(root / run.id)
    submission.record(root, new_submission)
    options = replace(options, submission=new_submission.token, budget_seconds=budget)
    jobs_folder = submission.folder(root, new_submission.token) / "jobs"
    python = _python(cluster, snapshot)
    try:
        for number, batch in enumerate(all_batches):
            depends_on = jobs[batch.depends_on] if batch.depends_on else ""
            settings = _settings(cluster, batch, new_submission, number, root, snapshot, depends_on)
            array = new_submission.arrays[number]
            payloads = _payloads(cluster, batch, root, options)
            array.job = _sbatch(jobs_folder, python, settings, payloads)
            jobs |= {run: array.element(index) for index, run in enumerate(batch.runs)}
    except BaseException as error:
        is_withdrawn = _roll_back(root, new_submission, isinstance(error, queue.NoAnswer))
        if isinstance(error, OSError):
            raise _unwritable(home, error) from error
        if not isinstance(error, queue.QueueError):
            raise
        end = (
            "nothing was submitted"
            if is_withdrawn
            else "`repro status` shows what SLURM has; try again"
        )
        raise type(error)(f"{error}; {end}") from error
    submission.record(root, new_submission)
    return new_submission


def _roll_back(root: Path, new_submission: Submission, may_appear: bool) -> bool:
    """Cancel the jobs of a failed submission and delete its record; whether nothing is left.

    The record stays if SLURM may have jobs of it, which are then found by name. `may_appear`: SLURM
    may still accept one.
    """
    names = [new_submission.name(number) for number in range(len(new_submission.arrays))]
    try:
        is_withdrawn = queue.cancel_and_wait(names, _CANCEL_SECONDS) and not may_appear
    except queue.QueueError:
        is_withdrawn = False
    if is_withdrawn:
        submission.delete(root, new_submission)
    return is_withdrawn


def _payloads(
    cluster: Cluster, batch: Batch, root: Path, options: ExecutionOptions
) -> list[AttemptPayload]:
    """The payload of each element of an array."""
    shape = batch.resources
    options = replace(
        options,
        data=Path(cluster.environment.get("REPRO_DATA", options.data)),  # a site may stage the data
        micro_batch=shape.micro_batch or options.micro_batch,
        per_gpu=shape.per_gpu,
        silence_seconds=cluster.silence_seconds,
    )
    lines, each = [spec.to_line(run) for run in batch.runs], shape.per_gpu
    return [
        AttemptPayload(
            tuple(lines[at : at + each]), str(root), options, shape.minutes, cluster.warning_seconds
        )
        for at in range(0, len(lines), each)
    ]


def _sbatch(
    jobs: Path, python: str, settings: Mapping[str, Any], payloads: Sequence[Callable[[], None]]
) -> str:
    """Submit the payloads as one array, or as one job; its ID.

    `jobs` is submitit's folder. Raises QueueError with SLURM's message if it refuses.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    name = settings["job_name"]
    script = jobs / f"{name}_submission.sh"
    pickles = [jobs / f"{name}_{index}.pkl" for index in range(len(payloads))]
    jobs.mkdir(parents=True, exist_ok=True)
    script.write_text(_script(jobs, python, settings, len(payloads)))
    for payload, path in zip(payloads, pickles, strict=True):
        DelayedSubmission(payload).dump(path)
    job = submit_script(script, name)
    for index, path in enumerate(pickles):
        element = f"{job}_{index}" if len(payloads) > 1 else job
        path.rename(JobPaths(jobs, element).submitted_pickle)  # the job waits up to a minute for it
    return job


def submit_script(script: Path, name: str) -> str:
    """Submit a script with sbatch; the ID of its job, which has this name.

    A site may wrap sbatch. If the output is not the ID of a job with this name, the queue is
    searched for the name: SLURM may have accepted the job, whatever the output says.
    """
    variables = _submission_environment()
    command = ("sbatch", "--parsable", str(script))
    try:
        process = clients.run(*command, seconds=_SBATCH_SECONDS, variables=variables)
    except subprocess.TimeoutExpired:
        error: queue.QueueError = queue.NoAnswer("SLURM: sbatch did not respond")
        seconds = _QUEUE_LAG_SECONDS
    except OSError as failure:
        raise queue.QueueError(f"no SLURM here: sbatch: {failure.strerror}") from failure
    except BaseException:
        time.sleep(_SBATCH_SETTLE_SECONDS)  # SLURM may be accepting the job right now
        raise
    else:
        number = re.fullmatch(r"(\d+)(;\S+)?", process.stdout.strip())  # 55, or 55;cluster
        if number and not process.returncode and queue.has_name(number[1], name):
            return number[1]
        error, seconds = _interpret_missing_number(process)
    return _find_job_number(name, seconds, error)


def _interpret_missing_number(
    process: subprocess.CompletedProcess[str],
) -> tuple[queue.QueueError, float]:
    """The error when sbatch printed no job ID, and for how many seconds to search the queue."""
    message = " ".join((process.stderr or process.stdout).split())
    refusal = message.partition("sbatch: error: ")[2]
    if not (process.returncode or refusal):
        return queue.NoAnswer(f"SLURM: sbatch printed no job ID ({message})"), _QUEUE_LAG_SECONDS
    # With a wrapper, a refusal may exit with 0, and an accepted job may print errors.
    seconds = 0.0 if process.returncode else _QUEUE_LAG_SECONDS
    return queue.QueueError(f"SLURM refused: {refusal or message}"), seconds


def _find_job_number(name: str, seconds: float, error: queue.QueueError) -> str:
    """The ID of our job with this name; raises `error` if the queue has none within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(queue.QueueError):  # it may respond again
            # squeue may list a refused job as well, as failed and without nodes.
            if jobs := [job for job in queue.jobs_named([name]) if job.is_pending or job.nodes]:
                return jobs[0].id.partition("_")[0]
        if time.monotonic() >= deadline:
            raise error
        time.sleep(0.5)


def submit_probe(
    cluster: Cluster, shape: Resources, root: Path, payload: Callable[[], None]
) -> tuple[str, Path]:
    """Submit `payload` in the same way as runs. `root` is its own folder, whose name is the job's.

    Returns the job ID and the folder of the ranks' output. The other ranks survive when one dies,
    and there is no epilogue. Raises QueueError with SLURM's message if it refuses; OSError if the
    folder cannot be written.
    """
    shape = replace(shape, per_gpu=1)
    snapshot = code.snapshot(root / SNAPSHOTS)
    new_submission = submission.new(snapshot.name, "", None, [submission.Array(["probe"])])
    settings = _settings(cluster, Batch(shape, ()), new_submission, 0, root, snapshot)
    settings["job_name"] = root.name
    settings["setup"] = [line for line in settings["setup"] if not line.startswith(_EXIT_TRAP)]
    settings["srun_args"].append("--kill-on-bad-exit=0")  # overrides the earlier value
    jobs = submission.folder(root, new_submission.token) / "jobs"
    return _sbatch(jobs, _python(cluster, snapshot), settings, [payload]), jobs


def _submission_environment() -> dict[str, str]:
    """A login environment: sbatch passes its own to the job, including that of a surrounding
    job."""
    ours = clients.environment().items()
    return {
        n: value
        for n, value in ours
        if not (n.startswith(_RANK_VARIABLE_PREFIXES) or n in _RANK_VARIABLES)
    }
