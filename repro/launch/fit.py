"""Whether what a site file asks for fits what the cluster offers, before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from repro.launch import queue
from repro.launch.cluster import Cluster, ClusterError, Resources


def check(cluster: Cluster, shapes: Iterable[Resources], root: Path) -> None:
    """Refuse what SLURM would refuse, or accept and never start; ClusterError in one line."""
    if cluster.shared and not any(root.is_relative_to(folder) for folder in cluster.shared):
        raise ClusterError(
            f"{root} is in none of the folders that the nodes share ({', '.join(cluster.shared)}); "
            "choose --results DIR there"
        )
    offered = queue.partitions()
    for shape in shapes:
        asked = shape.partition or cluster.partition
        names = asked.split(",") if asked else [p.name for p in offered.values() if p.is_default]
        for name in names:
            if name not in offered:
                raise ClusterError(
                    f"there is no partition {name!r}; there are {', '.join(offered)}"
                )
        refusals = [_misfit(cluster, shape, offered[name]) for name in names]
        if refusals and all(refusals):  # SLURM takes any of several partitions
            raise ClusterError(refusals[0])


def _misfit(cluster: Cluster, shape: Resources, offered: queue.Partition) -> str:
    """Why a shape never starts in a partition; '' if it may."""
    name = f"partition {offered.name}"
    if offered.accounts and cluster.account not in offered.accounts:
        known = ", ".join(sorted(offered.accounts))
        if cluster.account:
            return f"account: {name} is for {known}, not for {cluster.account}"
        if not queue.has_accounts():  # else our default account may be one of them
            return f"account: {name} is for {known}; write which of them pays"
    if shape.minutes > offered.minutes:
        return f"time: {shape.time} is beyond the limit of {name}, {offered.minutes:.0f} minutes"
    if shape.nodes > offered.nodes:
        return f"nodes: {shape.nodes} asked for, {name} has {offered.nodes}"
    kind = cluster.gpus.type
    if shape.gpus and kind and kind not in offered.gpus:
        return f"gpus: {name} has no {kind}; it has {', '.join(offered.gpus) or 'no GPUs'}"
    most = offered.gpus.get(kind, 0) if kind else sum(offered.gpus.values())
    if shape.gpus > most:
        return f"gpus: {shape.gpus} a node asked for, no node of {name} has more than {most}"
    cpus = shape.cpus * shape.tasks_per_node
    if cpus > offered.cpus:
        return f"cpus: {cpus} a node asked for, no node of {name} has more than {offered.cpus}"
    memory = (shape.memory_gb or 0) * shape.tasks_per_node
    if memory > offered.memory_gb:
        return (
            f"memory_gb: {memory:g} GiB a node asked for, no node of {name} has more than "
            f"{offered.memory_gb:.0f}"
        )
    return ""
