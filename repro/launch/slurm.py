"""`--launch slurm`: runs as job arrays, one a resource shape. The only file that knows submitit.

The code is copied and the submission is on file before SLURM is asked. The jobs then need nothing
from whoever submitted them. An element's own script starts the ranks, and looks at how they ended
(`repro.launch.after`).
"""

from __future__ import annotations

import io
import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repro import spec
from repro.launch import code, fit, lease, queue, ranks, submission
from repro.launch.cluster import Cluster, Resources
from repro.launch.job import How
from repro.launch.submission import Submission
from repro.results import ResultsError
from repro.spec import Run

_SCRUBBED = (
    "SLURM_",
    "SBATCH_",
    "SRUN_",
    "PMI",
    "PMIX_",
    "MASTER_",
    "TORCHELASTIC_",
    "CUDA_VISIBLE_",
)
_SCRUBBED_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_LEAVING = "trap leave"
_SUBMITTING_SECONDS = 20.0  # for another launch to be done with submitting
_LIMIT_SLACK = 60.0  # seconds: SLURM looks at time limits now and then, and Python takes a moment


@dataclass(frozen=True)
class Attempt:
    """What submitit carries to the node: plain values."""

    spec: str
    root: str
    how: How
    minutes: int
    warning_seconds: int

    def __call__(self) -> None:
        from repro.launch import attempt

        began = time.monotonic()
        logging.getLogger("submitit").setLevel(logging.ERROR)  # its word on signals is not ours
        ranks.from_slurm()
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        how = replace(
            self.how,
            attempt=f"{self.how.submission}.{ranks.attempt()}",
            job=ranks.job(),
            warned_at=began + 60 * self.minutes - self.warning_seconds - _LIMIT_SLACK,
        )
        status = attempt.carry_out(spec.from_json(self.spec), Path(self.root), how)
        sys.stdout.flush()
        os._exit(status)  # submitit would write a pickle of a result, and torch's threads linger


@dataclass(frozen=True)
class Batch:
    """Runs of one shape that go into one array."""

    resources: Resources
    runs: tuple[Run, ...]
    after: Run | None = None  # not before this one is done


def batches(
    cluster: Cluster, runs: Iterable[Run], most: int, waits: Container[Run] = ()
) -> list[Batch]:
    """The runs by what they ask for and wait for, at most `most` in an array, in such an order
    that a run comes after the one from which it starts. `waits`: runs under way already."""
    runs = dict.fromkeys(runs)
    shapes: dict[tuple[int, Resources, Run | None], list[Run]] = {}
    for run in runs:
        first = run.starts_from if run.starts_from in runs or run.starts_from in waits else None
        key = (_generation(run), cluster.resources_for(run.id), first)
        shapes.setdefault(key, []).append(run)
    return [
        Batch(shape, tuple(members[start : start + most]), after)
        for (_, shape, after), members in sorted(shapes.items(), key=lambda item: item[0][0])
        for start in range(0, len(members), most)
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
        raise ResultsError(
            f"cannot write to {home}: {error.strerror}; choose --results DIR"
        ) from error
    try:
        held.keep_beating()
        yield
    finally:
        held.release()


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
        yield f"{number} × {nodes}{gpus}{cpus}{shape.time} at a time, in {where}"


def scripts(cluster: Cluster, runs: Sequence[Run], root: Path) -> list[str]:
    """The sbatch scripts of a launch, exact but for the token and the code's digest.

    Nothing is written and SLURM is not asked.
    """
    from submitit.slurm import slurm

    parts = batches(cluster, runs, _DEFAULT_ARRAY)
    planned = submission.new(code.digest(), "", None, [[run.id for run in p.runs] for p in parts])
    snapshot = root / submission.FOLDER / "code" / planned.code
    texts = []
    for number, part in enumerate(parts):
        jobs = submission.folder(root, planned.token) / "jobs"
        after = "JOB" if part.after else ""
        settings = _settings(cluster, part, planned, number, root, snapshot, after)
        settings["map_count"] = len(part.runs) if len(part.runs) > 1 else None
        command = (
            f"{_python(cluster, snapshot)} -u -m submitit.core._submit {shlex.quote(str(jobs))}"
        )
        texts.append(slurm._make_sbatch_string(command, jobs, **settings))
    return texts


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
        "setup": _setup(cluster, planned, number, root, snapshot),
        "additional_parameters": options | cluster.sbatch_options,
        "srun_args": [
            "--kill-on-bad-exit=1",  # one dead rank ends the job
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
    cluster: Cluster, planned: Submission, number: int, root: Path, snapshot: Path
) -> list[str]:
    """The lines of an element's script before its srun.

    Its end is handled on the way out, whatever led there. TERM, which a preemption sends to the
    script as well, must not end it before the ranks have.
    """
    interpreter = cluster.python or shlex.quote(sys.executable)
    after = f"{interpreter} -m repro.launch.after {shlex.quote(str(root))} {planned.token} {number}"
    follow = f'{after} "${{SLURM_ARRAY_TASK_ID:-0}}" "$attempt" $status'
    return [
        f"export PYTHONPATH={shlex.quote(str(snapshot))} PYTHONSAFEPATH=1",
        *(f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()),
        'attempt="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
        # Of an array's last element SLURM_JOB_ID is the number of the whole array.
        'job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"',
        'job="${job:-$SLURM_JOB_ID}"',
        'echo "--- attempt $attempt on $SLURM_JOB_NODELIST" >&2',
        "leave() {",
        "  status=$?; trap - EXIT",
        "  case $status in 0|85) ;; *)",  # done, or a run that saved its state and asks to go on
        f"    {follow}; status=$? ;;",
        "  esac",
        "  if [ $status = 85 ]; then",
        '    case "$(squeue --noheader --job "$job" --format %T)" in',
        '      RUNNING) scontrol requeue "$job" ;;',
        f"      *) {follow} ;;",  # SLURM ends it: to requeue it, or because somebody cancelled it
        "    esac",
        "  fi",
        "  exit $status",
        "}",
        f"{_LEAVING} EXIT; trap : TERM",
        "set -e",
        *cluster.setup,
        "set +e",
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
        raise ResultsError(
            f"cannot write to {home}: {error.strerror}; choose --results DIR"
        ) from error
    budget = cluster.budget_hours and 3600 * cluster.budget_hours
    listed = [[run.id for run in part.runs] for part in parts]
    planned = submission.new(snapshot.name, site, budget, listed)
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
    except BaseException:
        with suppress(queue.QueueError):
            queue.cancel([array.job for array in planned.arrays if array.job])
        submission.withdraw(root, planned)
        raise
    submission.record(root, planned)
    return planned


def _attempts(cluster: Cluster, part: Batch, root: Path, how: How) -> list[Attempt]:
    """What the elements of an array are to do."""
    shape = part.resources
    how = replace(
        how,
        data=Path(cluster.environment.get("REPRO_DATA", how.data)),  # where the site stages it
        micro_batch=shape.micro_batch or how.micro_batch,
        silence_seconds=cluster.silence_seconds,
    )
    return [
        Attempt(spec.to_json(run), str(root), how, shape.minutes, cluster.warning_seconds)
        for run in part.runs
    ]


def _sbatch(
    jobs: Path, python: str, settings: Mapping[str, Any], works: Sequence[Callable[[], None]]
) -> str:
    """Submit `works` as one array, or as one job; its number.

    `jobs` is submitit's folder. Raises QueueError with SLURM's words if it refuses.
    """
    from submitit.core.utils import FailedJobError
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(jobs, python=python)
    executor.update_parameters(**settings)
    try:
        with _clean_environment(), executor.batch():
            found = [executor.submit(work) for work in works]
    except (FailedJobError, subprocess.CalledProcessError) as error:
        words = " ".join(str(error).split())
        words = words.partition("sbatch: error: ")[2] or words
        raise queue.QueueError(f"SLURM refused: {words}; nothing was submitted") from error
    return str(found[0].job_id).partition("_")[0]


def submit_probe(
    cluster: Cluster, shape: Resources, root: Path, work: Callable[[], None]
) -> tuple[str, Path]:
    """Submit `work` as runs are, in `root`, a folder for it alone, by whose name squeue lists it.

    Returns its job number and the folder of what its ranks print. They live on when one dies, and
    nothing follows their end. Raises QueueError with SLURM's words if it refuses; OSError if the
    folder cannot be written.
    """
    snapshot = code.snapshot(root / submission.FOLDER / "code")
    planned = submission.new(snapshot.name, "", None, [["probe"]])
    settings = _settings(cluster, Batch(shape, ()), planned, 0, root, snapshot)
    settings["job_name"] = root.name
    settings["setup"] = [line for line in settings["setup"] if not line.startswith(_LEAVING)]
    settings["srun_args"].append("--kill-on-bad-exit=0")  # the last one counts
    jobs = submission.folder(root, planned.token) / "jobs"
    return _sbatch(jobs, _python(cluster, snapshot), settings, [work]), jobs


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Submit as from a fresh login: sbatch hands its environment on, a surrounding job's too.

    What sbatch complains of is not shown: submitit raises it as well.
    """
    kept = dict(os.environ)
    for name in kept:
        scrubbed = name.startswith(_SCRUBBED) or name in _SCRUBBED_NAMES
        if scrubbed and name != "SLURM_CONF":
            del os.environ[name]
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
