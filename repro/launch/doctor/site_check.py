"""Check that the cluster offers what a site file requests, before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from repro.launch.slurm import queue
from repro.launch.slurm.cluster import Cluster, ClusterError, Resources


def check(cluster: Cluster, shapes: Iterable[Resources], root: Path) -> None:
    """Refuse what SLURM would refuse, or accept and never start; ClusterError in one line."""
    if cluster.shared and not any(root.is_relative_to(folder) for folder in cluster.shared):
        raise ClusterError(
            f"{root} is not in a folder shared with the nodes ({', '.join(cluster.shared)}); "
            "choose --results DIR there"
        )
    partitions = queue.partitions()
    for shape in shapes:
        partition = shape.partition or cluster.partition
        names = (
            partition.split(",")
            if partition
            else [p.name for p in partitions.values() if p.is_default]
        )
        for name in names:
            if name not in partitions:
                raise ClusterError(
                    f"there is no partition {name!r}; there are {', '.join(partitions)}"
                )
        refusals = [_misfit(cluster, shape, partitions[name]) for name in names]
        if refusals and all(refusals):  # SLURM uses any of several partitions
            raise ClusterError(refusals[0])


def _misfit(cluster: Cluster, shape: Resources, partition: queue.Partition) -> str:
    """Why a shape can never start in a partition; '' if it can."""
    name = f"partition {partition.name}"
    if partition.accounts and cluster.account not in partition.accounts:
        accounts = ", ".join(sorted(partition.accounts))
        if cluster.account:
            return f"account: {name} is for {accounts}, not for {cluster.account}"
        if not queue.has_accounts():  # else the default account may be one of them
            return f"account: {name} is for {accounts}; set one of them"
    if shape.minutes > partition.minutes:
        return f"time: {shape.time} exceeds the limit of {name}, {partition.minutes:.0f} minutes"
    if shape.nodes > partition.nodes:
        return f"nodes: {shape.nodes} requested, {name} has {partition.nodes}"
    kind = cluster.gpus.type
    if shape.gpus and kind and kind not in partition.gpus:
        return f"gpus: {name} has no {kind}; it has {', '.join(partition.gpus) or 'no GPUs'}"
    most = partition.gpus.get(kind, 0) if kind else sum(partition.gpus.values())
    if shape.gpus > most:
        return f"gpus: {shape.gpus} per node requested, {name} has at most {most}"
    cpus = shape.cpus * shape.tasks_per_node
    if cpus > partition.cpus:
        return f"cpus: {cpus} per node requested, {name} has at most {partition.cpus}"
    memory = (shape.memory_gb or 0) * shape.tasks_per_node
    if memory > partition.memory_gb:
        return (
            f"memory_gb: {memory:g} GiB per node requested, {name} has at most "
            f"{partition.memory_gb:.0f}"
        )
    return ""
