"""Where this process stands among those that train a run: from SLURM, torchrun, or our own spawn.

All of them end in the variables that torchrun sets: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR and MASTER_PORT, which `repro.train.distributed` and `repro.data.loader` read.
"""

from __future__ import annotations

import os
import re
import socket
import zlib

_PORTS = range(15000, 32000)  # below the ports that systems hand out for outgoing connections


def from_slurm() -> None:
    """Translate an srun task's place. Does nothing outside of one, or where torchrun was."""
    given = os.environ
    if "RANK" in given or "SLURM_PROCID" not in given or "SLURM_STEP_NUM_TASKS" not in given:
        return
    given["RANK"] = given["SLURM_PROCID"]
    given["WORLD_SIZE"] = given["SLURM_STEP_NUM_TASKS"]
    given["LOCAL_RANK"] = given["SLURM_LOCALID"]
    tasks = _tasks_per_node(given["SLURM_STEP_TASKS_PER_NODE"])
    given["LOCAL_WORLD_SIZE"] = str(tasks[int(given["SLURM_NODEID"])])
    given["MASTER_ADDR"] = _first_host()
    # Another attempt gets another port, in case this one is in use.
    given["MASTER_PORT"] = str(_PORTS[zlib.crc32(attempt().encode()) % len(_PORTS)])


def alone_in_task() -> int:
    """The number of this srun task, which is no rank of others but trains a run of its own."""
    given = os.environ
    given |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    given["LOCAL_WORLD_SIZE"] = given["SLURM_STEP_NUM_TASKS"]  # they share the cores
    return int(given["SLURM_PROCID"])


def _tasks_per_node(text: str) -> list[int]:
    """How many tasks each node of a step has, as SLURM writes it.

    >>> _tasks_per_node("4(x2),1")
    [4, 4, 1]
    """
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]


def _first_host() -> str:
    """An address of the first node that the others can reach."""
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    first = _first_name(os.environ["SLURM_STEP_NODELIST"])
    try:
        return socket.gethostbyname(first)
    except OSError:  # not every site's nodes know each other's names; srun starts on the first
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", first)


def _first_name(nodes: str) -> str:
    """The first of SLURM's list of nodes, such as 'n[01-03,7],m1'.

    >>> _first_name("n[01-03,7],m1"), _first_name("gpu7,m1"), _first_name("r[1-2]n[3-4]")
    ('n01', 'gpu7', 'r1n3')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def spawned(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment of one of `count` ranks on this machine."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    here["MASTER_PORT"] = port
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in here.items()}}


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job() -> str:
    """SLURM's name of the job that we are in, as squeue lists it: 55, or 55_3 of an array."""
    given = os.environ
    if "SLURM_ARRAY_TASK_ID" in given:
        return f"{given['SLURM_ARRAY_JOB_ID']}_{given['SLURM_ARRAY_TASK_ID']}"
    return given["SLURM_JOB_ID"]


def attempt() -> str:
    """Names this start of the job, in all of its ranks: a requeued job keeps its number."""
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
