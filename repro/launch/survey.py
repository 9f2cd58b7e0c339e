"""What a SLURM cluster says of itself, and a first site file that follows from it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from repro import records, results
from repro.launch import cluster, queue
from repro.launch.cluster import Cluster, ClusterError, Gpus, Resources

MEMORY_GB = 4.0  # of a task: what the probe asks for at most, and what a run needs at least
_ANSWER_SECONDS = 20.0  # for commands of SLURM that are asked out of curiosity
_CPUS_PER_TASK = 12  # of a first site file, at most

Line = tuple[str, str]  # 'ok', '--' (worth knowing) or 'MISS' (keeps runs from working), and words


def system() -> Iterator[Line]:
    """Its version, accounts, limits and customs. QueueError if it does not answer."""
    config = queue.config()
    version = re.search(r"^slurm\S* (\d\S*)$", ask("sbatch", "--version"), re.MULTILINE)
    name = config.get("ClusterName", "without a name")
    yield "ok", f"SLURM {version[1] if version else '?'}; the controller of {name} answers"
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
    user = pwd.getpwuid(os.getuid()).pw_name
    command = ("sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos")
    answer = ask(*command, otherwise="none")
    if answer == "none":
        return "--", "no accounting: not needed"
    rows = sorted({tuple(line.split("|")) for line in answer.splitlines() if line.count("|") == 1})
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


def partitions(offered: Mapping[str, queue.Partition]) -> Iterator[Line]:
    """What each partition offers."""
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


def ask(*command: str, otherwise: str = "") -> str:
    """What a command prints, or else this if it is not there, refuses, or is silent."""
    try:
        return queue.call(*command, seconds=_ANSWER_SECONDS)
    except queue.QueueError:
        return otherwise


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
    enough = max(1, min(4 * MEMORY_GB, chosen.memory_gb / max(1, gpus)) // 1)
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
                memory_gb=enough if by_default < min(MEMORY_GB, enough) else None,
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
        said = ask("scontrol", "show", *command)
        if rule := re.search(r"DefMemPer(CPU|GPU|Node)\s*=\s*([1-9]\d*)", said):
            return int(rule[2]) / 1024 * (cpus if rule[1] == "CPU" else 1)
    return float("inf")


def written(file: Path, site: Cluster) -> Line:
    """Write a first site file. ClusterError or ResultsError if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(f"cannot make {file.parent}: {error.strerror}; name another") from error
    results.write(file, cluster.dump(site))
    shape = site.resources[0]
    asks = f"GPUs: {shape.gpus}, CPUs: {shape.cpus}, {shape.time} at a time"
    where = f"partition {site.partition}" if site.partition else "the default partition"
    return "ok", f"wrote {file}, a first guess: runs in {where}, each with {asks}; look at it"


def _content(file: Path) -> bytes:
    try:
        return records.content(file)
    except (OSError, records.Damaged):
        return b""


def keep_shared(file: Path, first: Cluster | None, root: Path) -> Line:
    """Keep what was proven, if the file is still the one that we wrote."""
    if first and _content(file) == cluster.dump(first).encode():
        results.write(file, cluster.dump(replace(first, shared=(str(root),))))
        return "ok", f"wrote into {file} that the nodes share {root}"
    return "--", f"{file} names no folders that the nodes share; it could: shared: [{root}]"
