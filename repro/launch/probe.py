"""`repro doctor --cluster FILE`: what a SLURM cluster has, and whether `--launch slurm` works.

A job is submitted as runs are, with the site's own partition, account, setup lines and interpreter.
Its ranks say what they see from their nodes, and meet. If there is no site file, a first one is
written. Nothing else is left behind.
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

from repro import records, results
from repro.launch import attempt, cluster, fit, queue, slurm, survey
from repro.launch.cluster import Cluster, ClusterError, Resources
from repro.launch.survey import Line
from repro.launch.visit import Answer, Torch, Visit

QUEUE_SECONDS = 600.0  # for the job to start
_TELL_SECONDS = 5.0  # in the queue, then it is said why
RUN_SECONDS = 420.0  # for it to end: loading torch from a busy disk can take minutes
_END_SECONDS = 45.0  # for a cancelled job to be gone; SLURM's KillWait is 30 s by default
_VISIBLE_SECONDS = 5.0  # for files of the nodes to be seen here; NFS is not always prompt
_LIMIT_MINUTES = 10


def examine(file: Path, root: Path) -> Iterator[Line]:
    """What the cluster has and whether runs would work, each line as soon as it is known.

    `file` is the site file, written if there is none; `root` the results folder, absolute.
    """
    try:
        queue.require()
    except queue.QueueError as error:
        yield "MISS", str(error)
        return
    try:
        yield from survey.system()
        offered = queue.partitions()
        yield from survey.partitions(offered)
        first = None if file.exists() else survey.guess(offered)
        if first:
            yield survey.written(file, first)
        site = cluster.load(file)
        try:
            fit.check(site, site.resources, root)
        except ClusterError as error:
            raise ClusterError(f"{error}; change {file}") from None
        yield "ok", f"{file} fits the partitions"
        proven = yield from _probe(site, file, offered, root)
        if proven and not site.shared:
            yield survey.keep_shared(file, first, root)
    except queue.QueueError as error:
        yield "MISS", f"{error}; ask the site's support, or try again later"
    except (ClusterError, results.ResultsError) as error:
        yield "MISS", str(error)


# --- the job, from here --------------------------------------------------------------------------


@dataclass
class Job:
    """A probe job, as far as we have followed it."""

    home: Path  # its folder, whose name is the job's
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

    def words(self, rank: int = 0) -> str | None:
        """The last line of what a rank printed; None if it could not even begin to."""
        file = self.printed / f"{self.id}_{rank}_log.err"
        if not file.exists():
            return None
        lines = [line.strip() for line in attempt.tail(file).splitlines()]
        told = [line for line in lines if line and not line.startswith("--- attempt")]
        own = [line for line in told if not line.startswith("srun: ")]
        last = (own or told or [f"SLURM says {self.state}, {self.reason}"])[-1]
        return re.sub(r"^\S*/slurm_script: (line \d+: )?", "", last)


def _probe(
    site: Cluster, file: Path, offered: Mapping[str, queue.Partition], root: Path
) -> Generator[Line, None, bool]:
    """Submit the job and tell how it went; whether the nodes share the results folder."""
    refusal = ""
    with _folder(root) as home:
        for shape in _shapes(site, offered):
            carried = Visit(str(home), secrets.token_hex(8))
            results.write(home / "token", carried.token)
            try:
                submitted = slurm.submit_probe(site, shape, home, carried)
            except queue.QueueError as error:
                refusal = str(error)
                continue
            except OSError as error:
                raise _unwritable(root, error) from error
            job = Job(home, *submitted, shape)
            ended = yield from _follow(job)
            if ended == "never":
                refusal = f"SLURM would never start it: {job.reason}"
                _end(home)
                continue
            if refusal:
                yield "--", f"{refusal}; so the probe job asked for {_asked(job)}"
            if ended:
                yield "MISS", f"the probe job {ended}"
                return False
            return (yield from judge(job, file, root))
    yield "MISS", f"no probe job: {refusal}; change {file}, or ask the site"
    return False


@contextmanager
def _folder(root: Path) -> Iterator[Path]:
    """A folder of our own in the results, gone afterwards with its job."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        home = Path(tempfile.mkdtemp(prefix="repro-doctor-", dir=root))
    except OSError as error:
        raise _unwritable(root, error) from error
    try:
        yield home
    finally:
        _end(home)
        for _ in range(10):  # a node may still be writing, and NFS keeps what is open
            shutil.rmtree(home, ignore_errors=True)
            if not home.exists():
                break
            time.sleep(0.5)


def _unwritable(root: Path, error: OSError) -> results.ResultsError:
    return results.ResultsError(f"cannot write to {root}: {error.strerror}; choose --results DIR")


def _shapes(site: Cluster, offered: Mapping[str, queue.Partition]) -> Iterator[Resources]:
    """What to ask for: little, on two nodes; else what the site's runs ask for; else one node."""
    run = site.resources[0]
    asked = run.partition or site.partition
    parts = [p for p in offered.values() if (p.name in asked.split(",") if asked else p.is_default)]
    limit = min([_LIMIT_MINUTES, *(max(1, int(part.minutes)) for part in parts)])
    little = Resources(
        nodes=min(2, max([part.nodes for part in parts], default=1)),
        gpus=0,
        cpus=1,
        memory_gb=run.memory_gb and min(run.memory_gb, survey.MEMORY_GB),
        time=f"{limit}m",
        partition=run.partition,
    )
    for nodes in range(little.nodes, 0, -1):
        yield replace(little, nodes=nodes)
        if run.gpus:  # some sites let nobody onto their nodes without GPUs
            yield replace(run, nodes=nodes, time=little.time)


def _asked(job: Job) -> str:
    shape = job.shape
    return f"{shape.nodes} node{'s' * (shape.nodes > 1)} with {shape.gpus or 'no'} GPUs each"


def _follow(job: Job) -> Generator[Line, None, str]:
    """Wait for the job's end: ''; 'never' if it cannot start; what to say if patience is over."""
    began, started, silence, told = time.monotonic(), 0.0, "", ""
    while True:
        now = time.monotonic()
        try:
            entry = next(
                (entry for entry in queue.named([job.home.name]) if entry.id == job.id), None
            )
            if not entry:
                return ""
            job.state, job.reason, job.nodes = entry.state, entry.reason, entry.nodes
            if entry.never_starts:
                return "never"
            if not entry.waits:
                started = started or now
                job.queued_seconds = started - began
                if not entry.runs:
                    return ""
            silence = ""
        except queue.QueueError as error:  # it may answer again
            silence = str(error)
        if not started and now - began > _TELL_SECONDS and told != job.reason:
            told = job.reason
            yield "--", f"the probe job waits: {told}"
        if not started and now - began > QUEUE_SECONDS:
            return (
                f"still waits after {QUEUE_SECONDS:.0f} s and is cancelled: "
                f"{silence or job.reason}; ask again later, or choose another partition"
            )
        if started and now - started > RUN_SECONDS:
            return (
                f"did not end within {RUN_SECONDS:.0f} s on {job.nodes} and is cancelled: "
                f"{silence or job.words() or 'it printed nothing'}; look at the site's `setup`"
            )
        time.sleep(min(5.0, 0.2 + (now - began) / 20))


def _end(home: Path) -> None:
    """Cancel what there is of the probe, and wait until it is gone from the nodes."""
    with suppress(queue.QueueError):
        queue.cancel_named([home.name], _END_SECONDS)


# --- what came of it -----------------------------------------------------------------------------


def judge(job: Job, file: Path, root: Path) -> Generator[Line, None, bool]:
    """What the ranks say; whether the nodes share the results folder."""
    (answers, damaged), nodes = _answers(job), _nodes(job)
    if damaged:
        for rank, why in damaged.items():
            answer = job.home / f"answer-{rank}"
            yield "MISS", f"what {nodes[rank]} answered cannot be read: {answer}: {why}; try again"
        return False
    missing = [rank for rank in range(job.count) if rank not in answers]
    # The job does not begin without its first node: then nothing is known of the others.
    candidates = missing if answers else missing[:1]
    unseen = [nodes[rank] for rank in candidates if job.words(rank) is None]
    if unseen and job.state in ("COMPLETED", "FAILED", ""):
        yield "MISS", _not_shared(root, unseen)
        return False
    if missing:
        rank = 0 if not answers else missing[0]
        words = job.words(rank) or f"SLURM says {job.state}, {job.reason}"
        yield "MISS", f"the probe job failed on {nodes[rank]}: {words}; change {file}"
        return False
    yield "ok", f"the probe job ran on {_list(nodes)} after {job.queued_seconds:.0f} s in the queue"
    said = [answers[rank] for rank in sorted(answers)]
    if blind := [each.node for each in said if not each.sees]:
        yield "MISS", _not_shared(root, blind)
    else:
        yield "ok", f"results folder {root} is shared and writable from the nodes"
    yield _scontrol([each.node for each in said if not each.scontrol])
    yield from _software(job, said, file)
    return not blind


def _software(job: Job, said: Sequence[Answer], file: Path) -> Iterator[Line]:
    pythons = {".".join(each.python.split(".")[:2]) for each in said}
    here = ".".join(platform.python_version_tuple()[:2])
    there = f"Python {_list(pythons)} on the nodes"
    if pythons != {here}:
        yield "MISS", f"{there}, {here} here; name the same as `python` in {file}"
        return
    for rank, each in enumerate(said):
        if each.error or not each.torch:
            yield "MISS", _apart(rank, each.error or job.words(rank) or "", file)
            return
    seen = [each.torch for each in said if each.torch]
    torches = {torch.version for torch in seen}
    try:
        ours = metadata.version("torch")
    except metadata.PackageNotFoundError:
        ours = "none"
    there += f", torch {_list(torches)}"
    if torches != {ours}:
        yield "MISS", f"{there}; here Python {here}, torch {ours}; name `python` in {file}"
    else:
        yield "ok", f"{there}, the same as here"
    if len(said) == 1:
        yield "--", "one node alone: whether nodes reach each other was not tried"
    elif any(torch.ranks != len(said) for torch in seen):
        counts = _list({str(torch.ranks) for torch in seen})
        yield "MISS", f"{len(said)} ranks counted {counts}; ask the site about its network"
    else:
        seconds = max(torch.seconds for torch in seen)
        where = f"{len(said)} ranks on {job.shape.nodes} nodes"
        yield "ok", f"{where} met in {seconds:.1f} s"
    yield _graphics(job, [each.node for each in said], seen)


def _apart(rank: int, error: str, file: Path) -> str:
    words = error.partition("; can the nodes")[0].removeprefix("Apart: ")
    if words.startswith("ModuleNotFoundError"):
        return f"{words}, on the nodes; name a `python` in {file} that has it"
    return (
        f"the ranks did not meet: rank {rank}: {words}; name the network between nodes in {file}, "
        "as environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0}"
    )


def _graphics(job: Job, nodes: Sequence[str], seen: Sequence[Torch]) -> Line:
    gpus = [f"{len(torch.gpus)} × {torch.gpus[0]} on {node}"
            for node, torch in zip(nodes, seen, strict=True) if torch.gpus]  # fmt: skip
    if gpus:
        return "ok", f"GPUs: {_list(gpus)}"
    if not seen[0].cuda:
        return "--", f"torch {seen[0].version} is built without CUDA: it would train on CPUs"
    if job.shape.gpus:
        return "MISS", "torch sees no GPU on the nodes; compare their driver with torch's CUDA"
    return "--", "no GPU was asked for, and none was seen"


def _scontrol(without: Sequence[str]) -> Line:
    if not without:
        return "ok", "scontrol answers on the nodes: a run can requeue itself"
    return "--", f"no scontrol on {_list(without)}: runs go on only when they are launched again"


def _not_shared(root: Path, nodes: Iterable[str]) -> str:
    where = f"on {_list(nodes)}, or cannot be written there"
    return f"results folder {root} is not the same folder {where}; choose --results DIR elsewhere"


def _answers(job: Job) -> tuple[dict[int, Answer], dict[int, str]]:
    """What each rank wrote, once it can be seen here; or what is wrong with it."""
    patience = time.monotonic() + _VISIBLE_SECONDS
    while True:
        (job.home / "look").touch()  # makes an NFS client look at the folder anew
        found, damaged = dict[int, Answer](), dict[int, str]()
        for rank in range(job.count):
            try:
                found[rank] = records.read(job.home / f"answer-{rank}", Answer)
            except FileNotFoundError:
                pass
            except (OSError, records.Damaged) as error:
                damaged[rank] = str(getattr(error, "strerror", None) or error)
        if len(found) == job.count or time.monotonic() > patience:
            return found, damaged
        time.sleep(0.2)


def _nodes(job: Job) -> list[str]:
    """The node of each rank."""
    said = survey.ask("scontrol", "show", "hostnames", job.nodes) if job.nodes else ""
    names = re.findall(r"^[\w.-]+$", said, re.MULTILINE)  # a site's wrapper may say more
    names += [f"node {i + 1}" for i in range(len(names), job.shape.nodes)]
    return [name for name in names for _ in range(job.shape.tasks_per_node)]


def _list(names: Iterable[str]) -> str:
    """a, b, c; each once."""
    return ", ".join(dict.fromkeys(names))
