"""`repro doctor --cluster FILE`: what a SLURM cluster offers, and whether `--launch slurm` works.

A probe job is submitted as runs are, with the site's partition, account, setup lines and
interpreter. Its ranks report from their nodes and form a process group. A first site file is
written if there is none. Nothing else is left behind.
"""

from __future__ import annotations

import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from repro import results
from repro.core import records
from repro.launch import attempt
from repro.launch.doctor import cluster_info, site_check
from repro.launch.doctor.cluster_info import ReportLine
from repro.launch.doctor.probe_job import Answer, Probe, Torch
from repro.launch.slurm import arrays, cluster, queue
from repro.launch.slurm.cluster import Cluster, ClusterError, Resources

QUEUE_SECONDS = 600.0  # for the job to start
_REPORT_WAIT_SECONDS = 5.0  # pending, before the reason is reported
RUN_SECONDS = 420.0  # to finish: importing torch from a busy disk can take minutes
_END_SECONDS = 45.0  # for a cancelled job to end; KillWait is 30 s by default
_VISIBLE_SECONDS = 5.0  # until files from the nodes are visible here; NFS may lag
_LIMIT_MINUTES = 10


def examine(file: Path, root: Path) -> Iterator[ReportLine]:
    """What the cluster offers and whether runs would work, each line as soon as it is known.

    `file` is the site file, written if there is none; `root` is the results folder, absolute.
    """
    try:
        queue.require()
    except queue.QueueError as error:
        yield "MISS", str(error)
        return
    try:
        yield from cluster_info.system()
        partitions = queue.partitions()
        yield from cluster_info.partitions(partitions)
        first = None if file.exists() else cluster_info.first_site(partitions)
        if first:
            yield cluster_info.write_site_file(file, first)
        site = cluster.load(file)
        try:
            site_check.check(site, site.resources, root)
        except ClusterError as error:
            raise ClusterError(f"{error}; change {file}") from None
        yield "ok", f"{file} fits the partitions"
        nodes_share_folder = yield from _probe(site, file, partitions, root)
        if nodes_share_folder and not site.shared:
            yield cluster_info.record_shared(file, first, root)
    except queue.QueueError as error:
        yield "MISS", f"{error}; ask the site's support, or try again later"
    except (ClusterError, results.ResultsError) as error:
        yield "MISS", str(error)


# --- submitting and following the job -----------------------------------------------------------


@dataclass
class Job:
    """The state of a probe job."""

    home: Path  # its folder, named like the job
    id: str
    printed: Path
    shape: Resources
    state: str = ""
    reason: str = ""
    nodes: str = ""
    queued_seconds: float = 0.0

    @property
    def count(self) -> int:
        return self.shape.nodes * self.shape.tasks_per_node

    def last_output(self, rank: int = 0) -> str | None:
        """The last line that a rank printed; None if it never started."""
        file = self.printed / f"{self.id}_{rank}_log.err"
        if not file.exists():
            return None
        lines = [line.strip() for line in attempt.tail(file).splitlines()]
        printed_lines = [line for line in lines if line and not line.startswith("--- attempt")]
        own = [line for line in printed_lines if not line.startswith("srun: ")]
        last = (own or printed_lines or [f"SLURM says {self.state}, {self.reason}"])[-1]
        return re.sub(r"^\S*/slurm_script: (line \d+: )?", "", last)


def _probe(
    site: Cluster, file: Path, partitions: Mapping[str, queue.Partition], root: Path
) -> Generator[ReportLine, None, bool]:
    """Submit the job and report on it; whether the nodes share the results folder."""
    refusal = ""
    with _folder(root) as home:
        for shape in _shapes(site, partitions):
            payload = Probe(str(home), secrets.token_hex(8))
            results.write(home / "token", payload.token)
            try:
                job_id, outputs = arrays.submit_probe(site, shape, home, payload)
            except queue.QueueError as error:
                refusal = str(error)
                continue
            except OSError as error:
                raise _unwritable(root, error) from error
            job = Job(home, job_id, outputs, shape)
            problem = yield from _wait_for_end(job)
            if problem == "never":
                refusal = f"SLURM would never start it: {job.reason}"
                _end(home)
                continue
            if refusal:
                yield "--", f"{refusal}; the probe job requested {_shape_words(job)} instead"
            if problem:
                yield "MISS", f"the probe job {problem}"
                return False
            return (yield from report(job, file, root))
    yield "MISS", f"no probe job: {refusal}; change {file}, or ask the site"
    return False


@contextmanager
def _folder(root: Path) -> Iterator[Path]:
    """A temporary folder in the results, removed afterwards together with its job."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix="repro-doctor-", dir=root))
    except OSError as error:
        raise _unwritable(root, error) from error
    try:
        yield home
    finally:
        _end(home)
        for _ in range(10):  # a node may still write, and NFS keeps open files
            shutil.rmtree(home, ignore_errors=True)
            if not home.exists():
                break
            time.sleep(0.5)


def _unwritable(root: Path, error: OSError) -> results.ResultsError:
    return results.ResultsError(f"cannot write to {root}: {error.strerror}; choose --results DIR")


def _shapes(site: Cluster, partitions: Mapping[str, queue.Partition]) -> Iterator[Resources]:
    """Resources to request in turn: few, on two nodes; those of the site's runs; the same on one
    node."""
    run = site.resources[0]
    partition = run.partition or site.partition
    parts = [
        p
        for p in partitions.values()
        if (p.name in partition.split(",") if partition else p.is_default)
    ]
    limit = min([_LIMIT_MINUTES, *(max(1, int(part.minutes)) for part in parts)])
    small = Resources(
        nodes=min(2, max([part.nodes for part in parts], default=1)),
        gpus=0,
        cpus=1,
        memory_gb=run.memory_gb and min(run.memory_gb, cluster_info.MEMORY_GB),
        time=f"{limit}m",
        partition=run.partition,
    )
    for nodes in range(small.nodes, 0, -1):
        yield replace(small, nodes=nodes)
        if run.gpus:  # some sites require a GPU request
            yield replace(run, nodes=nodes, time=small.time)


def _shape_words(job: Job) -> str:
    shape = job.shape
    several = shape.nodes > 1
    return f"{shape.nodes} node{'s' * several} with {shape.gpus or 'no'} GPUs{' each' * several}"


def _wait_for_end(job: Job) -> Generator[ReportLine, None, str]:
    """Wait for the job: '' when it ended, 'never' if it cannot start, or a message after a
    timeout."""
    began, start_time, queue_error, last_reason = time.monotonic(), 0.0, "", ""
    while True:
        now = time.monotonic()
        try:
            queued = next(
                (queued for queued in queue.jobs_named([job.home.name]) if queued.id == job.id),
                None,
            )
            if not queued:
                return ""
            job.state, job.reason, job.nodes = queued.state, queued.reason, queued.nodes
            if queued.never_starts:
                return "never"
            if not queued.is_pending:
                start_time = start_time or now
                job.queued_seconds = start_time - began
                if not queued.is_running:
                    return ""
            queue_error = ""
        except queue.QueueError as error:  # it may respond again
            queue_error = str(error)
        if not start_time and now - began > _REPORT_WAIT_SECONDS and last_reason != job.reason:
            last_reason = job.reason
            yield "--", f"the probe job is pending: {last_reason}"
        if not start_time and now - began > QUEUE_SECONDS:
            return (
                f"was still pending after {QUEUE_SECONDS:.0f} s and was cancelled: "
                f"{queue_error or job.reason}; try again later, or choose another partition"
            )
        if start_time and now - start_time > RUN_SECONDS:
            return (
                f"did not end within {RUN_SECONDS:.0f} s on {job.nodes} and was cancelled: "
                f"{queue_error or job.last_output() or 'no output'}; check the site's `setup`"
            )
        time.sleep(min(5.0, 0.2 + (now - began) / 20))


def _end(home: Path) -> None:
    """Cancel the probe's jobs, and wait until they have left the nodes."""
    with suppress(queue.QueueError):
        queue.cancel_and_wait([home.name], _END_SECONDS)


# --- its results ---------------------------------------------------------------------------------


def report(job: Job, file: Path, root: Path) -> Generator[ReportLine, None, bool]:
    """Report on the ranks' answers; whether the nodes share the results folder."""
    (answers, damaged), nodes = _answers(job), _nodes(job)
    if damaged:
        for rank, why in damaged.items():
            answer = job.home / f"answer-{rank}"
            yield "MISS", f"cannot read the answer of {nodes[rank]}: {answer}: {why}; try again"
        return False
    missing_ranks = [rank for rank in range(job.count) if rank not in answers]
    # The job starts on its first node; without that one, nothing is known about the others.
    candidates = missing_ranks if answers else missing_ranks[:1]
    silent_nodes = [nodes[rank] for rank in candidates if job.last_output(rank) is None]
    if silent_nodes and job.state in ("COMPLETED", "FAILED", ""):
        yield "MISS", _not_shared(root, silent_nodes)
        return False
    if missing_ranks:
        rank = 0 if not answers else missing_ranks[0]
        message = job.last_output(rank) or f"SLURM says {job.state}, {job.reason}"
        yield "MISS", f"the probe job failed on {nodes[rank]}: {message}; change {file}"
        return False
    yield "ok", f"the probe job ran on {_list(nodes)} after {job.queued_seconds:.0f} s in the queue"
    reports = [answers[rank] for rank in sorted(answers)]
    if blind_nodes := [each.node for each in reports if not each.sees]:
        yield "MISS", _not_shared(root, blind_nodes)
    else:
        yield "ok", f"results folder {root} is shared and writable from the nodes"
    yield _scontrol([each.node for each in reports if not each.scontrol])
    yield from _software(job, reports, file)
    return not blind_nodes


def _software(job: Job, answers: Sequence[Answer], file: Path) -> Iterator[ReportLine]:
    python_versions = {".".join(each.python.split(".")[:2]) for each in answers}
    here = ".".join(platform.python_version_tuple()[:2])
    there = f"Python {_list(python_versions)} on the nodes"
    if python_versions != {here}:
        yield "MISS", f"{there}, {here} here; set `python` in {file} to the same version"
        return
    for rank, each in enumerate(answers):
        if each.error or not each.torch:
            yield "MISS", _rendezvous_problem(rank, each.error or job.last_output(rank) or "", file)
            return
    torches = [each.torch for each in answers if each.torch]
    versions = {torch.version for torch in torches}
    try:
        local_version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        local_version = "none"
    there += f", torch {_list(versions)}"
    if versions != {local_version}:
        yield "MISS", f"{there}; here Python {here}, torch {local_version}; set `python` in {file}"
    else:
        yield "ok", f"{there}, the same as here"
    if len(answers) == 1:
        yield "--", "one node only: communication between nodes was not tested"
    elif any(torch.ranks != len(answers) for torch in torches):
        counts = _list({str(torch.ranks) for torch in torches})
        yield "MISS", f"{len(answers)} ranks summed to {counts}; ask the site about its network"
    else:
        seconds = max(torch.seconds for torch in torches)
        where = f"{len(answers)} ranks on {job.shape.nodes} nodes"
        yield "ok", f"{where} connected in {seconds:.1f} s"
    yield _gpu_line(job, [each.node for each in answers], torches)


def _rendezvous_problem(rank: int, error: str, file: Path) -> str:
    message = error.partition("; can the nodes")[0].removeprefix("RendezvousError: ")
    if message.startswith("ModuleNotFoundError"):
        return f"{message}, on the nodes; set `python` in {file} to one that has it"
    return (
        f"the ranks could not connect: rank {rank}: {message}; "
        f"set the network interface in {file}, "
        "e.g. environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0}"
    )


def _gpu_line(job: Job, nodes: Sequence[str], torches: Sequence[Torch]) -> ReportLine:
    gpus = [f"{len(torch.gpus)} × {torch.gpus[0]} on {node}"
            for node, torch in zip(nodes, torches, strict=True) if torch.gpus]  # fmt: skip
    if gpus:
        return "ok", f"GPUs: {_list(gpus)}"
    if not torches[0].cuda:
        return "--", f"torch {torches[0].version} is built without CUDA; runs would train on CPUs"
    if job.shape.gpus:
        return "MISS", "torch sees no GPU on the nodes; compare their driver with torch's CUDA"
    return "--", "no GPU was requested"


def _scontrol(nodes: Sequence[str]) -> ReportLine:
    if not nodes:
        return "ok", "scontrol answers on the nodes: a run can requeue itself"
    return "--", f"no scontrol on {_list(nodes)}: runs resume only when they are relaunched"


def _not_shared(root: Path, nodes: Iterable[str]) -> str:
    where = f"on {_list(nodes)}, or cannot be written there"
    return f"results folder {root} is not the same folder {where}; choose --results DIR elsewhere"


def _answers(job: Job) -> tuple[dict[int, Answer], dict[int, str]]:
    """Each rank's answer once it is visible here, and the errors of unreadable ones."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        (job.home / "look").touch()  # makes an NFS client refresh the folder
        answers, damaged = dict[int, Answer](), dict[int, str]()
        for rank in range(job.count):
            try:
                answers[rank] = records.read(job.home / f"answer-{rank}", Answer)
            except FileNotFoundError:
                pass
            except (OSError, records.Damaged) as error:
                damaged[rank] = str(getattr(error, "strerror", None) or error)
        if len(answers) == job.count or time.monotonic() > deadline:
            return answers, damaged
        time.sleep(0.2)


def _nodes(job: Job) -> list[str]:
    """The node of each rank."""
    output = cluster_info.query("scontrol", "show", "hostnames", job.nodes) if job.nodes else ""
    names = re.findall(r"^[\w.-]+$", output, re.MULTILINE)  # a site's wrapper may print more
    names += [f"node {i + 1}" for i in range(len(names), job.shape.nodes)]
    return [name for name in names for _ in range(job.shape.tasks_per_node)]


def _list(names: Iterable[str]) -> str:
    """'a, b, c', without repetitions."""
    return ", ".join(dict.fromkeys(names))
