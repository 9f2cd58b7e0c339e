"""What SLURM reports about a cluster, and a first site file derived from it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from repro import results
from repro.core import records
from repro.launch.slurm import cluster, queue
from repro.launch.slurm.cluster import Cluster, ClusterError, Gpus, Resources

MEMORY_GB = 4.0  # per task: at most for the probe, at least for a run
_ANSWER_SECONDS = 20.0  # for commands that are merely informative
_CPUS_PER_TASK = 12  # at most, in a first site file

ReportLine = tuple[str, str]  # 'ok', '--' (a note) or 'MISS' (runs would fail), and the text


def system() -> Iterator[ReportLine]:
    """SLURM's version, accounts, limits and policies. QueueError if it does not respond."""
    config = queue.config()
    version = re.search(r"^slurm\S* (\d\S*)$", query("sbatch", "--version"), re.MULTILINE)
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
        yield "--", "jobs are requeued only on request (JobRequeue=0), which ours make"


def _accounting() -> ReportLine:
    """The user's accounts and QOS."""
    user = pwd.getpwuid(os.getuid()).pw_name
    command = ("sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account,qos")
    answer = query(*command, otherwise="none")
    if answer == "none":
        return "--", "no accounting; not required"
    rows = sorted({tuple(line.split("|")) for line in answer.splitlines() if line.count("|") == 1})
    if not rows:
        return "--", f"accounting has no account of {user}"
    accounts = [f"{account} (qos {qos or 'of the site'})" for account, qos in rows]
    return "ok", f"accounts: {', '.join(accounts)}"


def _preemption(config: Mapping[str, str]) -> ReportLine:
    if config.get("PreemptType", "preempt/none") == "preempt/none":
        return "ok", "jobs are not preempted"
    mode = config.get("PreemptMode", "?")
    after = "resumes by itself" if "REQUEUE" in mode else "resumes when it is relaunched"
    warned = "send_user_signal" in " ".join(
        config.get(name, "") for name in ("SlurmctldParameters", "PreemptParameters")
    )
    if not warned:  # TERM works as well
        return "--", f"jobs may be preempted ({mode}) with TERM as the only warning; a run {after}"
    return (
        "ok",
        f"jobs may be preempted ({mode}) with a warning; a run saves its state and {after}",
    )


def partitions(by_name: Mapping[str, queue.Partition]) -> Iterator[ReportLine]:
    """The limits and nodes of each partition."""
    if not by_name:
        yield "MISS", "SLURM shows no partition; ask the site for access to one"
    for name, part in by_name.items():
        label = f"{name} (default)" if part.is_default else name
        limit = f"at most {_time(part.minutes)}" if part.minutes < float("inf") else "no time limit"
        gpus = [f"{count} {kind}".rstrip() for kind, count in part.gpus.items()]
        features = f"; features {', '.join(sorted(part.features))}" if part.features else ""
        only = f"; for {', '.join(sorted(part.accounts))} only" if part.accounts else ""
        yield (
            "ok",
            f"partition {label}: {limit}; nodes: {part.nodes}, each with CPUs: {part.cpus}, "
            f"memory: {part.memory_gb:.0f} GiB, GPUs: {' or '.join(gpus) or 'none'}"
            f"{features}{only}",
        )


def query(*command: str, otherwise: str = "") -> str:
    """The output of a command, or `otherwise` if it is missing, refuses, or does not respond."""
    try:
        return queue.call(*command, seconds=_ANSWER_SECONDS)
    except queue.QueueError:
        return otherwise


# --- a first site file ---------------------------------------------------------------------------


def first_site(by_name: Mapping[str, queue.Partition]) -> Cluster:
    """A site with one GPU per run, in the default partition or else in the one with most GPUs."""
    if not by_name:
        raise ClusterError("no partition to write a site file for")
    default = next((part for part in by_name.values() if part.is_default), None)
    open_to_all = [part for part in by_name.values() if not part.accounts]
    richest = max(open_to_all or by_name.values(), key=lambda part: part.nodes * _gpus(part))
    partition = default if default and (_gpus(default) or not _gpus(richest)) else richest
    gpus, kinds = _gpus(partition), [kind for kind in partition.gpus if kind]
    cpus = max(1, min(_CPUS_PER_TASK, partition.cpus // max(1, gpus)))
    minutes = int(min(24 * 60, partition.minutes))
    few = gpus and queue.config().get("SelectType", "") != "select/cons_tres"
    by_default = _default_memory_gb(partition.name, cpus)
    enough = max(1, min(4 * MEMORY_GB, partition.memory_gb / max(1, gpus)) // 1)
    return Cluster(
        partition=None if partition is default else partition.name,
        gpus=Gpus(
            request="gres" if few else "gpus-per-node",
            type=kinds[0] if len(partition.gpus) == 1 and kinds else None,
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
    """GPUs per node. With several types, a node usually has one of them."""
    return max(part.gpus.values(), default=0)


def _time(minutes: float) -> str:
    """Format a time limit as site files write it.

    >>> _time(1440), _time(720), _time(90)
    ('1d', '12h', '90m')
    """
    for unit, length in (("d", 24 * 60), ("h", 60)):
        if minutes % length == 0:
            return f"{minutes / length:.0f}{unit}"
    return f"{int(minutes)}m"


def _default_memory_gb(partition: str, cpus: int) -> float:
    """GiB that a task with this many CPUs gets by default; inf if there is no default."""
    for command in (("partition", partition), ("config",)):
        output = query("scontrol", "show", *command)
        if rule := re.search(r"DefMemPer(CPU|GPU|Node)\s*=\s*([1-9]\d*)", output):
            return int(rule[2]) / 1024 * (cpus if rule[1] == "CPU" else 1)
    return float("inf")


def write_site_file(file: Path, site: Cluster) -> ReportLine:
    """Write a first site file. ClusterError or ResultsError if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(
            f"cannot create {file.parent}: {error.strerror}; name another"
        ) from error
    results.write(file, cluster.dump(site))
    shape = site.resources[0]
    request = f"GPUs: {shape.gpus}, CPUs: {shape.cpus}, {shape.time} per attempt"
    where = f"partition {site.partition}" if site.partition else "the default partition"
    return "ok", f"wrote {file}, a first guess: runs in {where}, each with {request}; check it"


def _content(file: Path) -> bytes:
    try:
        return records.read_bytes(file)
    except (OSError, records.Damaged):
        return b""


def record_shared(file: Path, first: Cluster | None, root: Path) -> ReportLine:
    """Add the shared folder that was verified, if the user has not changed the file."""
    if first and _content(file) == cluster.dump(first).encode():
        results.write(file, cluster.dump(replace(first, shared=(str(root),))))
        return "ok", f"added shared: [{root}] to {file}"
    return "--", f"{file} lists no shared folders; it could have shared: [{root}]"
