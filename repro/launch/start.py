"""Launch runs: `local` trains them on this machine, `submit` submits them to SLURM.

The library behind `repro ITEM --launch` and `repro retry`. Both skip runs that are finished or
under way: repeating a call is a no-op, and repeating an interrupted call completes it.

    options = ExecutionOptions(data=Path("data"))
    start.local(request, Path("results"), options, jobs=2)
    start.submit(request, Path("results"), options, start.load_site(Path("slurm/mysite.yaml")))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from repro.core import output
from repro.core.plan import Request
from repro.execution import ExecutionOptions
from repro.launch import budget, data, state, trained_models
from repro.launch.state import RunState

if TYPE_CHECKING:
    from repro.launch.local import Event
    from repro.launch.slurm.cluster import Cluster, Notify

Report = Callable[[str], object]


class LaunchError(Exception):
    """An impossible launch; one line with the reason and the next step."""


@dataclass(frozen=True)
class Site:
    """A SLURM site: its parameters, and the text of its file, which a submission records."""

    cluster: Cluster
    text: str

    @property
    def has_data(self) -> bool:
        """Whether the nodes read datasets from a folder of their own."""
        return "REPRO_DATA" in self.cluster.environment


def load_site(path: Path, per_gpu: int | None = None) -> Site:
    """The site in a file, with `per_gpu` runs per GPU. Raises ClusterError if it is invalid."""
    from repro.launch.slurm import cluster

    config = cluster.load(path)
    text = path.read_text()
    return Site(cluster.shared(config, per_gpu) if per_gpu else config, text)


def with_notify(site: Site, notify: Notify) -> Site:
    """The site with someone else who gets the note; the partition of its job stays."""
    own = site.cluster.notify
    notify = replace(notify, partition=own.partition if own else None)
    return replace(site, cluster=replace(site.cluster, notify=notify))


def check_repaired(states: Sequence[RunState]) -> None:
    """Raise LaunchError if a run has damaged files, or another spec under its id."""
    for each in states:
        if each.needs_repair:
            raise LaunchError(each.note)


def pending(request: Request, root: Path) -> Request:
    """The runs that are neither finished nor under way."""
    return _pending(request, state.query(root, request.runs))


def _pending(request: Request, states: Sequence[RunState]) -> Request:
    return request.only(s.run for s in states if not (s.is_settled or s.is_under_way))


# --- on this machine -----------------------------------------------------------------------------


def local(
    request: Request,
    root: Path,
    options: ExecutionOptions,
    *,
    jobs: int | None = None,
    ranks: int = 1,
    per_gpu: int | None = None,
    report: Callable[[Event], None] | None = None,
    notify: Notify | None = None,
) -> bool:
    """Train the runs without a result on this machine; returns whether every run has one.

    Args:
        jobs: runs at a time; None: one per GPU or core.
        ranks: processes per run, with one GPU each.
        per_gpu: runs that share a GPU.
        report: called with every event; None: progress is shown on standard error.
        notify: who gets a note when the runs have ended, if there were any.

    Raises LaunchError, and the errors of `repro.launch.local.launch`.
    """
    from repro.launch import local as processes
    from repro.launch.progress import Progress

    check_per_gpu(jobs, ranks, per_gpu)
    states = state.query(root, request.runs)
    check_repaired(states)
    runs = [s.run for s in states if not s.is_settled]
    if not runs:
        return True
    trained_models.require_released(runs, options.weights)
    at_once = min(jobs or processes.default_jobs(ranks, per_gpu or 1), len(runs))
    with ExitStack() as stack:
        show = report or stack.enter_context(Progress(len(runs), at_once)).show
        succeeded = processes.launch(runs, root, options.absolute(), at_once, show, ranks)
    if notify:
        _notify(notify, request.only(runs), root.absolute(), ranks, per_gpu or 1)
    return succeeded


def _notify(notify: Notify, request: Request, root: Path, ranks: int, per_gpu: int) -> None:
    """Send the note about runs that have ended here; a warning if it fails."""
    from repro.launch import local as processes
    from repro.launch import note

    about = note.About.of(request, ranks / per_gpu, bool(processes.gpus()))
    for line in note.send(notify, about, request, root):
        output.warn(line)


def check_per_gpu(jobs: int | None, ranks: int, per_gpu: int | None) -> None:
    """Raise LaunchError if --per-gpu has no effect, or would put two ranks on a GPU (NCCL)."""
    from repro.launch import local as processes

    if per_gpu is None:
        return
    if jobs or ranks > 1:
        other = "--jobs" if jobs else "--ranks"
        raise LaunchError(f"--per-gpu and {other} exclude each other; remove one of them")
    if not processes.gpus():
        raise LaunchError("--per-gpu: there is no GPU here; --jobs N trains N runs at a time")


# --- on SLURM ------------------------------------------------------------------------------------


def preview(request: Request, root: Path, options: ExecutionOptions, site: Site) -> Iterator[str]:
    """What `submit` would submit: the arrays, their sbatch scripts, the price, missing data.

    Writes nothing and does not call SLURM.
    """
    from repro.launch.slurm import arrays

    root = root.absolute()
    to_do = pending(request, root)
    yield from arrays.describe(site.cluster, list(to_do.runs))
    yield from arrays.scripts(site.cluster, list(to_do.runs), root)
    yield from budget.price_lines(root, to_do, site.cluster)
    if not site.has_data:
        yield from data.missing(to_do.runs, options.data)
    if to_do.runs and site.cluster.notify:
        yield f"a note at the end to {site.cluster.notify.recipients}"
    yield f"would submit {len(to_do.runs)} of {len(request.runs)} runs"


def submit(
    request: Request,
    root: Path,
    options: ExecutionOptions,
    site: Site,
    report: Report = print,
) -> bool:
    """Submit the runs that are neither finished nor under way; returns whether any is under way.

    Raises LaunchError, and the errors of `repro.launch.slurm.arrays.submit`.
    """
    from repro.launch.slurm import arrays, note_job, queue, submission

    root = root.absolute()
    with arrays.submission_lock(root):  # no other launch submits between query and submission
        submission.prune(root)
        states = state.query(root, request.runs)
        check_repaired(states)
        under_way = {s.run: s.job for s in states if s.is_under_way}
        to_do = list(_pending(request, states).runs)
        # SLURM cannot wait for a run outside of SLURM.
        blocked = [r for r in to_do if r.starts_from in under_way and not under_way[r.starts_from]]
        to_do = [run for run in to_do if run not in blocked]
        if to_do:
            queue.require()
            submission.check_unreadable(root)
            if not site.has_data:
                data.check_once(data.of(to_do), options.data)
            trained_models.require_released(to_do, options.weights)
            for line in arrays.describe(site.cluster, to_do):
                report(line)
            for line in budget.price_lines(root, request.only(to_do), site.cluster):
                report(line)
            new_submission = arrays.submit(
                site.cluster, site.text, to_do, root, options.absolute(), under_way
            )
            numbers = ", ".join(array.job for array in new_submission.arrays)
            number = f"{len(to_do)} run{'s' * (len(to_do) > 1)}"
            report(f"submitted {number}: SLURM job {numbers}")
            if notify := site.cluster.notify:
                report(
                    note_job.submit(site.cluster, notify, new_submission, request.only(to_do), root)
                )
            # Jobs that can never start have been replaced.
            stuck = [s.job for s in states if s.name == "never started" and s.run in to_do]
            queue.cancel([job for job in stuck if job])
    if blocked:
        report(
            f"{len(blocked)} start from runs that are trained outside SLURM: repeat the launch "
            "after those"
        )
    if under_way:
        report(f"{len(under_way)} under way already")
    return bool(to_do or under_way)


def wait(
    request: Request,
    root: Path,
    options: ExecutionOptions,
    site: Site,
    report: Report = print,
) -> None:
    """Show the states of submitted runs until none is under way; KeyboardInterrupt keeps the jobs.

    A stopped run that its node could not requeue is submitted again.
    """
    from repro.launch.slurm import watch

    root = root.absolute()
    watch.watch_until_settled(
        root,
        list(request.runs),
        lambda runs: submit(request.only(runs), root, options, site, report),
    )


def are_settled(request: Request, root: Path) -> bool:
    """Whether every run has a result."""
    return all(s.is_settled for s in state.query(root, request.runs))
