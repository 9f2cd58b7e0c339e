"""`--launch slurm`: runs as job arrays, one a resource shape. The only file that knows submitit.

The code is copied and the submission is on file before SLURM is asked. The jobs then need nothing
from whoever submitted them. An element's own script starts the ranks, and looks at how they ended
(`repro.launch.after`).
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

from repro import spec
from repro.launch import clients, code, fit, lease, queue, ranks, submission
from repro.launch.cluster import Cluster, Resources
from repro.launch.job import How
from repro.launch.submission import Submission
from repro.results import ResultsError
from repro.spec import Run

# Variables of a surrounding job's ranks, which a new job must not inherit.
_OF_RANKS = ("PMI", "MASTER_", "TORCHELASTIC_", "CUDA_VISIBLE_")  # by prefix
_OF_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_LEAVING = "trap repro_leave"
_SBATCH_SECONDS = 120.0  # for SLURM to take a job
_LOOK_SECONDS = 10.0  # until a job that was taken is in the queue; some sites' squeue lags behind
_INTERRUPTED_SECONDS = 1.0  # until a job shows that was taken while sbatch was cut off
_CANCEL_SECONDS = 45.0  # until a cancelled job is gone; SLURM's KillWait is 30 s by default
_SUBMITTING_SECONDS = 20.0  # for another launch to be done with submitting
_LIMIT_SLACK = 60.0  # seconds: SLURM looks at time limits now and then, and Python takes a moment


@dataclass(frozen=True)
class Attempt:
    """What submitit carries to the node: plain values.

    Of several runs each task of the job carries out its own; else all of them the only one.
    """

    specs: tuple[str, ...]
    root: str
    how: How
    minutes: int
    warning_seconds: int

    def __call__(self) -> None:
        from repro.launch import attempt

        began = time.monotonic()
        logging.getLogger("submitit").setLevel(logging.ERROR)  # its word on signals is not ours
        task = ranks.alone_in_task() if self.how.per_gpu > 1 else 0
        if task >= len(self.specs):  # of the last element, which has fewer runs
            return
        ranks.from_slurm()
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        how = replace(
            self.how,
            attempt=f"{self.how.submission}.{ranks.attempt()}",
            job=ranks.job(),
            warned_at=began + 60 * self.minutes - self.warning_seconds - _LIMIT_SLACK,
        )
        status = attempt.carry_out(spec.from_json(self.specs[task]), Path(self.root), how)
        sys.stdout.flush()
        os._exit(status)  # submitit would write a pickle of a result, and torch's threads linger


@dataclass(frozen=True)
class Batch:
    """Runs of one shape that go into one array."""

    resources: Resources
    runs: tuple[Run, ...]
    after: Run | None = None  # not before this one is done

    @property
    def array(self) -> submission.Array:
        return submission.Array([run.id for run in self.runs], each=self.resources.per_gpu)


def batches(
    cluster: Cluster, runs: Iterable[Run], most: int, waits: Container[Run] = ()
) -> list[Batch]:
    """The runs by what they ask for and wait for, at most `most` elements in an array, in such an
    order that a run comes after the one from which it starts. `waits`: runs under way already."""
    runs = dict.fromkeys(runs)
    shapes: dict[tuple[int, Resources, Run | None], list[Run]] = {}
    for run in runs:
        first = run.starts_from if run.starts_from in runs or run.starts_from in waits else None
        key = (_generation(run), cluster.resources_for(run.id), first)
        shapes.setdefault(key, []).append(run)
    return [
        Batch(shape, tuple(members[start : start + most * shape.per_gpu]), after)
        for (_, shape, after), members in sorted(shapes.items(), key=lambda item: item[0][0])
        for start in range(0, len(members), most * shape.per_gpu)
    ]


def _generation(run: Run) -> int:
    """How many runs come before it."""
    return 1 + _generation(run.starts_from) if run.starts_from else 0


# --- submitting, one at a time --------------------------------------------------------------------


@contextmanager
def submitting(root: Path) -> Iterator[None]:
    """Nobody else submits into these results meanwhile; ResultsError if somebody is at it."""
    home = root / submission.FOLDER
    try:
        home.mkdir(parents=True, exist_ok=True)
        held = _acquire(home)
    except OSError as error:
        raise _unwritable(home, error) from error
    try:
        held.keep_beating()
        yield
    finally:
        held.release()


def _unwritable(home: Path, error: OSError) -> ResultsError:
    return ResultsError(f"cannot write to {home}: {error.strerror}; choose --results DIR")


def _acquire(home: Path) -> lease.Lease:
    patience = time.monotonic() + _SUBMITTING_SECONDS
    while True:
        try:
            return lease.acquire(home, {}, _SUBMITTING_SECONDS)
        except lease.Held as held:
            if time.monotonic() > patience:
                holder = held.holder
                raise ResultsError(
                    f"process {holder.get('pid')} on {holder.get('host')} is submitting into "
                    f"{home.parent}; wait until it is done, or end it"
                ) from None
            time.sleep(0.5)


# --- the scripts ---------------------------------------------------------------------------------


def describe(cluster: Cluster, runs: Sequence[Run]) -> Iterator[str]:
    """What is going to be submitted, a line an array."""
    for part in batches(cluster, runs, _DEFAULT_ARRAY):
        shape = part.resources
        nodes = f"{shape.nodes} nodes × " if shape.nodes > 1 else ""
        kind = f" {cluster.gpus.type}" if cluster.gpus.type else ""
        gpus = f"{shape.gpus} GPU{'s' * (shape.gpus > 1)}{kind}, " if shape.gpus else ""
        count = shape.cpus * shape.tasks_per_node
        cpus = f"{count} CPU{'s' * (count > 1)}, "
        where = shape.partition or cluster.partition or "the default partition"
        number = f"{len(part.runs)} run{'s' * (len(part.runs) > 1)}"
        if shape.per_gpu > 1:
            number = f"{number}, {shape.per_gpu} a job: {len(part.array.elements)}"
        yield f"{number} × {nodes}{gpus}{cpus}{shape.time} at a time, in {where}"


def scripts(cluster: Cluster, runs: Sequence[Run], root: Path) -> list[str]:
    """The sbatch scripts of a launch, exact but for the token and the code's digest.

    Nothing is written and SLURM is not asked.
    """
    parts = batches(cluster, runs, _DEFAULT_ARRAY)
    planned = submission.new(code.digest(), "", None, [part.array for part in parts])
    snapshot = root / submission.FOLDER / "code" / planned.code
    jobs = submission.folder(root, planned.token) / "jobs"
    texts = []
    for number, part in enumerate(parts):
        after = "JOB" if part.after else ""
        settings = _settings(cluster, part, planned, number, root, snapshot, after)
        elements = len(part.array.elements)
        texts.append(_script(jobs, _python(cluster, snapshot), settings, elements))
    return texts


def _script(jobs: Path, python: str, settings: Mapping[str, Any], count: int) -> str:
    """The sbatch script of `count` elements, an array if they are several.

    `jobs` is submitit's folder.
    """
    from submitit.slurm import slurm

    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(jobs))}"
    map_count = count if count > 1 else None
    return slurm._make_sbatch_string(command, jobs, map_count=map_count, **settings)


_DEFAULT_ARRAY = 1000  # elements; SLURM's own default allows 1,001


def _settings(
    cluster: Cluster,
    part: Batch,
    planned: Submission,
    number: int,
    root: Path,
    snapshot: Path,
    after: str = "",
) -> dict[str, Any]:
    """submitit's parameters of one array. `after`: the job for which it waits."""
    shape = part.resources
    options: dict[str, Any] = {
        "requeue": True,
        "chdir": str(submission.folder(root, planned.token)),
    }
    options |= cluster.gpus.option(shape.gpus)
    if cluster.reservation:
        options["reservation"] = cluster.reservation
    if shape.memory_gb:
        options["mem"] = f"{round(shape.memory_gb * shape.tasks_per_node * 1024)}M"
    if after:
        options |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    settings = {
        "job_name": planned.name(number),
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
        "setup": _setup(cluster, planned, number, root, snapshot, shape.per_gpu > 1),
        "additional_parameters": options | cluster.sbatch_options,
        "srun_args": [
            # One dead rank ends the job; where runs share it, the others go on.
            f"--kill-on-bad-exit={int(shape.per_gpu == 1)}",
            *["--wait=0"] * (shape.per_gpu > 1),  # however long after the first to end
            "--export=ALL",  # even where the site's default is NONE
            f"--cpus-per-task={shape.cpus}",  # srun of 22.05 and later does not inherit it
            *cluster.srun,
        ],
    }
    return {name: value for name, value in settings.items() if value is not None} | {"wckey": None}


def _python(cluster: Cluster, snapshot: Path) -> str:
    """The command that starts Python on a node, signals held back."""
    interpreter = cluster.python or shlex.quote(sys.executable)
    return f"{interpreter} {shlex.quote(str(snapshot / 'repro/launch/node.py'))}"


def _setup(
    cluster: Cluster, planned: Submission, number: int, root: Path, snapshot: Path, shared: bool
) -> list[str]:
    """The lines of an element's script before its srun.

    Its end is handled on the way out, whatever led there. TERM, which a preemption sends to the
    script as well, must not end it before the ranks have.
    """
    interpreter = cluster.python or shlex.quote(sys.executable)
    after = f"{interpreter} -m repro.launch.after {shlex.quote(str(root))} {planned.token} {number}"
    follow = f'{after} "${{SLURM_ARRAY_TASK_ID:-0}}" "$repro_attempt" $repro_status'
    return [
        f"export PYTHONPATH={shlex.quote(str(snapshot))} PYTHONSAFEPATH=1",
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        *clients.IN_SCRIPT,
        'repro_attempt="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
        # Of an array's last element SLURM_JOB_ID is the number of the whole array.
        'repro_job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        'repro_job="${repro_job:-$SLURM_JOB_ID}"',
        'echo "--- attempt $repro_attempt on $SLURM_JOB_NODELIST" >&2',
        "repro_runs() {",
        '  repro_client squeue --noheader --job "$repro_job" --format "state %T" |',
        '    grep -qx "state RUNNING"',
        "}",
        "repro_leave() {",
        "  repro_status=$?; trap - EXIT; set +e",
        # Done, or a run that saved and asks to go on; of runs that share a job one may have failed.
        f"  case $repro_status in {'0' if shared else '0|85'}) ;; *)",
        f"    {follow}; repro_status=$? ;;",
        "  esac",
        "  if [ $repro_status = 85 ]; then",
        '    if repro_runs; then repro_client scontrol requeue "$repro_job"',
        f"    else {follow}; fi",  # SLURM ends it: to requeue it, or because somebody cancelled it
        "  fi",
        "  exit $repro_status",
        "}",
        f"{_LEAVING} EXIT; trap : TERM",
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
    how: How,
    under_way: Mapping[Run, str] | None = None,
) -> Submission:
    """Hand the runs to SLURM; all of them, or none. `site`: the text of the site's file.

    `under_way` has the jobs of runs that are in SLURM already, for those that start from them.
    Raises QueueError if there is no SLURM or it refuses, with its own words; ClusterError for what
    it would refuse; ResultsError if the results folder cannot be written.
    """
    jobs = dict(under_way or {})
    queue.require()
    largest = int(queue.config().get("MaxArraySize", _DEFAULT_ARRAY + 1))
    most = max(1, min(_DEFAULT_ARRAY, largest - 1))
    parts = batches(cluster, runs, most, jobs)
    fit.check(cluster, [part.resources for part in parts], root)
    home = root / submission.FOLDER
    try:
        snapshot = code.snapshot(home / "code")
    except OSError as error:
        raise _unwritable(home, error) from error
    budget = cluster.budget_hours and 3600 * cluster.budget_hours
    planned = submission.new(snapshot.name, site, budget, [part.array for part in parts])
    for run in runs:
        lease.allow(root / run.id)
    submission.record(root, planned)
    how = replace(how, submission=planned.token, budget_seconds=budget)
    jobs_folder = submission.folder(root, planned.token) / "jobs"
    python = _python(cluster, snapshot)
    try:
        for number, part in enumerate(parts):
            after = jobs[part.after] if part.after else ""
            settings = _settings(cluster, part, planned, number, root, snapshot, after)
            array = planned.arrays[number]
            works = _attempts(cluster, part, root, how)
            array.job = _sbatch(jobs_folder, python, settings, works)
            jobs |= {run: array.element(index) for index, run in enumerate(part.runs)}
    except BaseException as error:
        clean = _take_back(root, planned, isinstance(error, queue.NoAnswer))
        if isinstance(error, OSError):
            raise _unwritable(home, error) from error
        if not isinstance(error, queue.QueueError):
            raise
        end = "nothing was submitted" if clean else "`repro status` tells what it has; ask again"
        raise type(error)(f"{error}; {end}") from error
    submission.record(root, planned)
    return planned


def _take_back(root: Path, planned: Submission, late: bool) -> bool:
    """Cancel what SLURM has of a submission, and forget it; whether nothing of it is left.

    It stays on file where SLURM may have jobs of it: they are found by their names. `late`: SLURM
    may take one yet.
    """
    names = [planned.name(number) for number in range(len(planned.arrays))]
    try:
        gone = queue.cancel_named(names, _CANCEL_SECONDS) and not late
    except queue.QueueError:
        gone = False
    if gone:
        submission.withdraw(root, planned)
    return gone


def _attempts(cluster: Cluster, part: Batch, root: Path, how: How) -> list[Attempt]:
    """What the elements of an array are to do."""
    shape = part.resources
    how = replace(
        how,
        data=Path(cluster.environment.get("REPRO_DATA", how.data)),  # where the site stages it
        micro_batch=shape.micro_batch or how.micro_batch,
        per_gpu=shape.per_gpu,
        silence_seconds=cluster.silence_seconds,
    )
    lines, each = [spec.to_line(run) for run in part.runs], shape.per_gpu
    return [
        Attempt(
            tuple(lines[at : at + each]), str(root), how, shape.minutes, cluster.warning_seconds
        )
        for at in range(0, len(lines), each)
    ]


def _sbatch(
    jobs: Path, python: str, settings: Mapping[str, Any], works: Sequence[Callable[[], None]]
) -> str:
    """Submit `works` as one array, or as one job; its number.

    `jobs` is submitit's folder. Raises QueueError with SLURM's words if it refuses.
    """
    from submitit.core.utils import DelayedSubmission, JobPaths

    name = settings["job_name"]
    script = jobs / f"{name}_submission.sh"
    carried = [jobs / f"{name}_{index}.pkl" for index in range(len(works))]
    jobs.mkdir(parents=True, exist_ok=True)
    script.write_text(_script(jobs, python, settings, len(works)))
    for work, path in zip(works, carried, strict=True):
        DelayedSubmission(work).dump(path)
    job = _hand_over(script, name)
    for index, path in enumerate(carried):
        element = f"{job}_{index}" if len(works) > 1 else job
        path.rename(JobPaths(jobs, element).submitted_pickle)  # the job waits a minute for it
    return job


def _hand_over(script: Path, name: str) -> str:
    """Give a script to sbatch; the job's number.

    If sbatch does not say the number of a job of this name and nothing else, as behind a site's
    wrapper, the queue is searched for the name: whatever it says, SLURM may have taken the job.
    """
    variables = _submission_environment()
    command = ("sbatch", "--parsable", str(script))
    try:
        done = clients.run(*command, seconds=_SBATCH_SECONDS, variables=variables)
    except subprocess.TimeoutExpired:
        error: queue.QueueError = queue.NoAnswer("SLURM: sbatch did not answer")
        seconds = _LOOK_SECONDS
    except OSError as failure:
        raise queue.QueueError(f"no SLURM here: sbatch: {failure.strerror}") from failure
    except BaseException:
        time.sleep(_INTERRUPTED_SECONDS)  # SLURM may be taking the job at this moment
        raise
    else:
        number = re.fullmatch(r"(\d+)(;\S+)?", done.stdout.strip())  # 55, or 55;cluster
        if number and not done.returncode and queue.is_named(number[1], name):
            return number[1]
        error, seconds = _no_number(done)
    return _number_of(name, seconds, error)


def _no_number(done: subprocess.CompletedProcess[str]) -> tuple[queue.QueueError, float]:
    """What it means that sbatch gave no number, and how many seconds to search the queue."""
    words = " ".join((done.stderr or done.stdout).split())
    refusal = words.partition("sbatch: error: ")[2]
    if not (done.returncode or refusal):
        return queue.NoAnswer(f"SLURM: sbatch gave no number of our job ({words})"), _LOOK_SECONDS
    # Behind a wrapper a refusal may have status 0, and a job that was taken errors beside it.
    seconds = 0.0 if done.returncode else _LOOK_SECONDS
    return queue.QueueError(f"SLURM refused: {refusal or words}"), seconds


def _number_of(name: str, seconds: float, otherwise: queue.QueueError) -> str:
    """The number of our job of this name; raises `otherwise` if the queue has none by then."""
    patience = time.monotonic() + seconds
    while True:
        with suppress(queue.QueueError):  # it may answer again
            # A job that SLURM refused may be listed as well, as one that failed without a node.
            if found := [job for job in queue.named([name]) if job.waits or job.nodes]:
                return found[0].id.partition("_")[0]
        if time.monotonic() >= patience:
            raise otherwise
        time.sleep(0.5)


def submit_probe(
    cluster: Cluster, shape: Resources, root: Path, work: Callable[[], None]
) -> tuple[str, Path]:
    """Submit `work` as runs are, in `root`, a folder for it alone, by whose name squeue lists it.

    Returns its job number and the folder of what its ranks print. They live on when one dies, and
    nothing follows their end. Raises QueueError with SLURM's words if it refuses; OSError if the
    folder cannot be written.
    """
    shape = replace(shape, per_gpu=1)
    snapshot = code.snapshot(root / submission.FOLDER / "code")
    planned = submission.new(snapshot.name, "", None, [submission.Array(["probe"])])
    settings = _settings(cluster, Batch(shape, ()), planned, 0, root, snapshot)
    settings["job_name"] = root.name
    settings["setup"] = [line for line in settings["setup"] if not line.startswith(_LEAVING)]
    settings["srun_args"].append("--kill-on-bad-exit=0")  # the last one counts
    jobs = submission.folder(root, planned.token) / "jobs"
    return _sbatch(jobs, _python(cluster, snapshot), settings, [work]), jobs


def _submission_environment() -> dict[str, str]:
    """As of a fresh login: sbatch hands its environment on to the job, a surrounding job's too."""
    ours = clients.environment().items()
    return {n: value for n, value in ours if not (n.startswith(_OF_RANKS) or n in _OF_RANK)}
