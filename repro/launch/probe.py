"""`repro doctor --cluster FILE`: what a SLURM cluster has, and whether `--launch slurm` works.

A job is submitted as runs are, with the site's own partition, account, setup lines and interpreter.
Its ranks say what they see from their nodes, and meet. If there is no site file, a first one is
written. Nothing else is left behind.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from repro import results
from repro.launch import cluster, fit, queue, ranks, slurm
from repro.launch.cluster import Cluster, ClusterError, Gpus, Resources

QUEUE_SECONDS = 600.0  # for the job to start
_TELL_SECONDS = 5.0  # in the queue, then it is said why
RUN_SECONDS = 420.0  # for it to end: loading torch from a busy disk can take minutes
_END_SECONDS = 45.0  # for a cancelled job to be gone; SLURM's KillWait is 30 s by default
_VISIBLE_SECONDS = 5.0  # for files of the nodes to be seen here; NFS is not always prompt
_ANSWER_SECONDS = 20.0  # for commands of SLURM that are asked out of curiosity
_MEMORY_GB = 4.0  # of a task: what the probe asks for at most, and what a run needs at least
_CPUS_PER_TASK = 12  # of a first site file, at most
_LIMIT_MINUTES = 10

Line = tuple[str, str]  # 'ok', '--' (worth knowing) or 'MISS' (keeps runs from working), and words


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
        yield from _system()
        offered = queue.partitions()
        yield from _partitions(offered)
        first = None if file.exists() else guess(offered)
        if first:
            yield _written(file, first)
        site = cluster.load(file)
        try:
            fit.check(site, site.resources, root)
        except ClusterError as error:
            raise ClusterError(f"{error}; change {file}") from None
        yield "ok", f"{file} fits the partitions"
        proven = yield from _probe(site, file, offered, root)
        if proven and not site.shared:
            yield _shared(file, first, root)
    except queue.QueueError as error:
        yield "MISS", f"{error}; ask the site's support, or try again later"
    except (ClusterError, results.ResultsError) as error:
        yield "MISS", str(error)


# --- what SLURM says of itself -------------------------------------------------------------------


def _system() -> Iterator[Line]:
    config = queue.config()
    version = _ask("sbatch", "--version").split()
    name = config.get("ClusterName", "without a name")
    yield "ok", f"SLURM {version[-1] if version else '?'}; the controller of {name} answers"
    yield _accounting()
    most = int(config.get("MaxArraySize", 1001)) - 1
    if most < 1:
        yield "MISS", "SLURM takes no job arrays here (MaxArraySize); ask the site to allow them"
    else:
        yield "ok", f"arrays of at most {most} runs"
    yield _preemption(config)
    if config.get("JobRequeue", "1") == "1":
        yield "ok", "jobs may be requeued"
    else:
        yield "--", "jobs are requeued only if they ask for it (JobRequeue=0); ours do"


def _accounting() -> Line:
    """The accounts and qualities of service that are ours."""
    user = getpass.getuser()
    command = ("sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos")
    answer = _ask(*command, otherwise="none")
    if answer == "none":
        return "--", "no accounting: not needed"
    rows = sorted({tuple(line.split("|")) for line in answer.split() if line.count("|") == 1})
    if not rows:
        return "--", f"accounting knows no account of {user}"
    told = [f"{account} (qos {qos or 'of the site'})" for account, qos in rows]
    return "ok", f"accounts: {', '.join(told)}"


def _preemption(config: Mapping[str, str]) -> Line:
    if config.get("PreemptType", "preempt/none") == "preempt/none":
        return "ok", "jobs are not preempted"
    mode = config.get("PreemptMode", "?")
    after = "goes on by itself" if "REQUEUE" in mode else "goes on when it is launched again"
    warned = "send_user_signal" in " ".join(
        config.get(name, "") for name in ("SlurmctldParameters", "PreemptParameters")
    )
    if not warned:  # TERM is heeded as well
        return "--", f"jobs may be preempted ({mode}), warned by TERM alone; a run {after}"
    return (
        "ok",
        f"jobs may be preempted ({mode}), and are warned; a run saves its state and {after}",
    )


def _partitions(offered: Mapping[str, queue.Partition]) -> Iterator[Line]:
    if not offered:
        yield "MISS", "SLURM shows us no partition; ask the site for access to one"
    for name, part in offered.items():
        label = f"{name} (default)" if part.is_default else name
        limit = f"{_time(part.minutes)} at most" if part.minutes < float("inf") else "no time limit"
        gpus = [f"{count} {kind}".rstrip() for kind, count in part.gpus.items()]
        features = f"; features {', '.join(sorted(part.features))}" if part.features else ""
        only = f"; for {', '.join(sorted(part.accounts))} only" if part.accounts else ""
        yield (
            "ok",
            f"partition {label}: {limit}; nodes: {part.nodes}, each with CPUs: {part.cpus}, "
            f"memory: {part.memory_gb:.0f} GiB, GPUs: {' or '.join(gpus) or 'none'}"
            f"{features}{only}",
        )


def _ask(*command: str, otherwise: str = "") -> str:
    """What a command prints, or else this if it is not there, refuses, or is silent."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return otherwise
    return done.stdout


# --- a first site file ---------------------------------------------------------------------------


def guess(offered: Mapping[str, queue.Partition]) -> Cluster:
    """A site in the default partition, or else in the one with most GPUs; one GPU a run."""
    if not offered:
        raise ClusterError("without a partition there is nothing to write a site file from")
    default = next((part for part in offered.values() if part.is_default), None)
    open_to_all = [part for part in offered.values() if not part.accounts]
    richest = max(open_to_all or offered.values(), key=lambda part: part.nodes * _gpus(part))
    chosen = default if default and (_gpus(default) or not _gpus(richest)) else richest
    gpus, kinds = _gpus(chosen), [kind for kind in chosen.gpus if kind]
    cpus = max(1, min(_CPUS_PER_TASK, chosen.cpus // max(1, gpus)))
    minutes = int(min(24 * 60, chosen.minutes))
    few = gpus and queue.config().get("SelectType", "") != "select/cons_tres"
    by_default = _default_memory_gb(chosen.name, cpus)
    enough = max(1, min(4 * _MEMORY_GB, chosen.memory_gb / max(1, gpus)) // 1)
    return Cluster(
        partition=None if chosen is default else chosen.name,
        gpus=Gpus(
            request="gres" if few else "gpus-per-node",
            type=kinds[0] if len(chosen.gpus) == 1 and kinds else None,
        ),
        resources=(
            Resources(
                gpus=min(1, gpus),
                cpus=cpus,
                memory_gb=enough if by_default < min(_MEMORY_GB, enough) else None,
                time=_time(minutes),
            ),
        ),
        warning_seconds=min(Cluster().warning_seconds, 30 * minutes),
    )


def _gpus(part: queue.Partition) -> int:
    """GPUs of a node. Of several types each node has one, as a rule."""
    return max(part.gpus.values(), default=0)


def _time(minutes: float) -> str:
    """A time limit as site files write it.

    >>> _time(1440), _time(720), _time(90)
    ('1d', '12h', '90m')
    """
    for unit, length in (("d", 24 * 60), ("h", 60)):
        if minutes % length == 0:
            return f"{minutes / length:.0f}{unit}"
    return f"{int(minutes)}m"


def _default_memory_gb(partition: str, cpus: int) -> float:
    """GiB that a task of so many CPUs gets if it asks for none; inf if there is no such rule."""
    for command in (("partition", partition), ("config",)):
        said = _ask("scontrol", "show", *command)
        if rule := re.search(r"DefMemPer(CPU|GPU|Node)\s*=\s*([1-9]\d*)", said):
            return int(rule[2]) / 1024 * (cpus if rule[1] == "CPU" else 1)
    return float("inf")


def _written(file: Path, site: Cluster) -> Line:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(f"cannot make {file.parent}: {error.strerror}; name another") from error
    results.write(file, cluster.dump(site))
    shape = site.resources[0]
    asks = f"GPUs: {shape.gpus}, CPUs: {shape.cpus}, {shape.time} at a time"
    where = f"partition {site.partition}" if site.partition else "the default partition"
    return "ok", f"wrote {file}, a first guess: runs in {where}, each with {asks}; look at it"


def _shared(file: Path, first: Cluster | None, root: Path) -> Line:
    """Keep what was proven, if the file is still the one that we wrote."""
    if first and file.read_text() == cluster.dump(first):
        results.write(file, cluster.dump(replace(first, shared=(str(root),))))
        return "ok", f"wrote into {file} that the nodes share {root}"
    return "--", f"{file} names no folders that the nodes share; it could: shared: [{root}]"


# --- on the nodes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """What submitit carries to the nodes: a rank says what it sees, and meets the others."""

    folder: str
    token: str

    def __call__(self) -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # of a time limit
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
        ranks.from_slurm()
        folder, rank = Path(self.folder), os.environ.get("RANK", "0")
        said: dict[str, Any] = {
            "node": os.environ.get("SLURMD_NODENAME", platform.node()),
            "python": platform.python_version(),
            "sees": _read(folder / "token") == self.token,
            "scontrol": queue.answers(),
        }
        status = 0
        results.write(folder / f"answer-{rank}", json.dumps(said))
        try:
            said |= _torch()
        except Exception as error:
            said["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            status = 1
        results.write(folder / f"answer-{rank}", json.dumps(said))
        os._exit(status)  # submitit would write a pickle of a result


def _torch() -> dict[str, Any]:
    """What torch sees on this node, and whether the ranks find each other. Apart if not."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    from repro.train import distributed

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    began = time.monotonic()
    with distributed.join(torch.device("cpu")) as ours:
        met = int(ours.sum(torch.ones(1)).item())
    return {
        "torch": metadata.version("torch"),
        "cuda": torch.version.cuda,
        "gpus": gpus,
        "ranks": met,
        "seconds": time.monotonic() - began,
    }


def _read(path: Path) -> str:
    """What a file says; '' if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# --- the job, from here --------------------------------------------------------------------------


@dataclass
class _Job:
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
        lines = [line.strip() for line in _read(file).splitlines()]
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
            visit = Visit(str(home), secrets.token_hex(8))
            results.write(home / "token", visit.token)
            try:
                with redirect_stderr(io.StringIO()):  # submitit repeats there what sbatch says
                    submitted = slurm.submit_probe(site, shape, home, visit)
            except queue.QueueError as error:
                refusal = str(error)
                continue
            except OSError as error:
                raise _unwritable(root, error) from error
            job = _Job(home, *submitted, shape)
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
            return (yield from _judge(job, file, root))
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
        memory_gb=run.memory_gb and min(run.memory_gb, _MEMORY_GB),
        time=f"{limit}m",
        partition=run.partition,
    )
    for nodes in range(little.nodes, 0, -1):
        yield replace(little, nodes=nodes)
        if run.gpus:  # some sites let nobody onto their nodes without GPUs
            yield replace(run, nodes=nodes, time=little.time)


def _asked(job: _Job) -> str:
    shape = job.shape
    return f"{shape.nodes} node{'s' * (shape.nodes > 1)} with {shape.gpus or 'no'} GPUs each"


def _follow(job: _Job) -> Generator[Line, None, str]:
    """Wait for the job's end: ''; 'never' if it cannot start; what to say if patience is over."""
    began, started, silence, told = time.monotonic(), 0.0, "", ""
    while True:
        now = time.monotonic()
        try:
            entry = next((entry for entry in _entries(job.home) if entry.id == job.id), None)
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


def _entries(home: Path) -> list[queue.Entry]:
    """The jobs of this probe that SLURM remembers."""
    return [entry for entry in queue.jobs([getpass.getuser()]) if entry.name == home.name]


def _end(home: Path) -> None:
    """Cancel what there is of the probe, and wait until it is gone from the nodes."""
    patience = time.monotonic() + _END_SECONDS
    with suppress(queue.QueueError):
        while alive := [entry.id for entry in _entries(home) if entry.waits or entry.runs]:
            queue.cancel(alive)
            if time.monotonic() > patience:
                break
            time.sleep(0.2)


# --- what came of it -----------------------------------------------------------------------------


def _judge(job: _Job, file: Path, root: Path) -> Generator[Line, None, bool]:
    """What the ranks say; whether the nodes share the results folder."""
    answers, nodes = _answers(job), _nodes(job)
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
    if blind := [each["node"] for each in said if not each["sees"]]:
        yield "MISS", _not_shared(root, blind)
    else:
        yield "ok", f"results folder {root} is shared and writable from the nodes"
    yield _scontrol([each["node"] for each in said if not each["scontrol"]])
    yield from _software(job, said, file)
    return not blind


def _software(job: _Job, said: Sequence[Mapping[str, Any]], file: Path) -> Iterator[Line]:
    pythons = {".".join(each["python"].split(".")[:2]) for each in said}
    here = ".".join(platform.python_version_tuple()[:2])
    there = f"Python {_list(pythons)} on the nodes"
    if pythons != {here}:
        yield "MISS", f"{there}, {here} here; name the same as `python` in {file}"
        return
    for rank, each in enumerate(said):
        if "error" in each or "torch" not in each:
            yield "MISS", _apart(rank, each.get("error") or job.words(rank) or "", file)
            return
    torches = {each["torch"] for each in said}
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
    elif any(each["ranks"] != len(said) for each in said):
        counts = _list({str(each["ranks"]) for each in said})
        yield "MISS", f"{len(said)} ranks counted {counts}; ask the site about its network"
    else:
        seconds = max(each["seconds"] for each in said)
        where = f"{len(said)} ranks on {job.shape.nodes} nodes"
        yield "ok", f"{where} met in {seconds:.1f} s"
    yield _graphics(job, said)


def _apart(rank: int, error: str, file: Path) -> str:
    words = error.partition("; can the nodes")[0].removeprefix("Apart: ")
    if words.startswith("ModuleNotFoundError"):
        return f"{words}, on the nodes; name a `python` in {file} that has it"
    return (
        f"the ranks did not meet: rank {rank}: {words}; name the network between nodes in {file}, "
        "as environment: {GLOO_SOCKET_IFNAME: eth0, NCCL_SOCKET_IFNAME: eth0}"
    )


def _graphics(job: _Job, said: Sequence[Mapping[str, Any]]) -> Line:
    seen = [f"{len(each['gpus'])} × {each['gpus'][0]} on {each['node']}"
            for each in said if each["gpus"]]  # fmt: skip
    if seen:
        return "ok", f"GPUs: {_list(seen)}"
    if not said[0]["cuda"]:
        return "--", f"torch {said[0]['torch']} is built without CUDA: it would train on CPUs"
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


def _answers(job: _Job) -> dict[int, dict[str, Any]]:
    """What the ranks wrote, by rank, once it can be seen here."""
    patience = time.monotonic() + _VISIBLE_SECONDS
    while True:
        (job.home / "look").touch()  # makes an NFS client look at the folder anew
        found = {
            rank: json.loads(text)
            for rank in range(job.count)
            if (text := _read(job.home / f"answer-{rank}"))
        }
        if len(found) == job.count or time.monotonic() > patience:
            return found
        time.sleep(0.2)


def _nodes(job: _Job) -> list[str]:
    """The node of each rank."""
    names = _ask("scontrol", "show", "hostnames", job.nodes).split() if job.nodes else []
    names += [f"node {i + 1}" for i in range(len(names), job.shape.nodes)]
    return [name for name in names for _ in range(job.shape.tasks_per_node)]


def _list(names: Iterable[str]) -> str:
    """a, b, c; each once."""
    return ", ".join(dict.fromkeys(names))
