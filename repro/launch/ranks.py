"""The rank of this process, whether started by SLURM, torchrun, or our own launcher.

All cases set torchrun's variables: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
MASTER_PORT, which `repro.train.distributed` and `repro.data.loading.loader` read.
"""

from __future__ import annotations

import os
import re
import socket
import zlib

_PORTS = range(15000, 32000)  # below the ephemeral ports


def from_slurm() -> None:
    """Set torchrun's variables from those of an srun task. No effect outside one, or under
    torchrun."""
    env = os.environ
    if "RANK" in env or "SLURM_PROCID" not in env or "SLURM_STEP_NUM_TASKS" not in env:
        return
    env["RANK"] = env["SLURM_PROCID"]
    env["WORLD_SIZE"] = env["SLURM_STEP_NUM_TASKS"]
    env["LOCAL_RANK"] = env["SLURM_LOCALID"]
    tasks = _tasks_per_node(env["SLURM_STEP_TASKS_PER_NODE"])
    env["LOCAL_WORLD_SIZE"] = str(tasks[int(env["SLURM_NODEID"])])
    env["MASTER_ADDR"] = _first_host()
    # Each attempt gets a different port, in case one is in use.
    env["MASTER_PORT"] = str(_PORTS[zlib.crc32(attempt_id().encode()) % len(_PORTS)])


def as_single_rank() -> int:
    """Make this srun task the only rank of its own run; the number of the task."""
    env = os.environ
    env |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    env["LOCAL_WORLD_SIZE"] = env["SLURM_STEP_NUM_TASKS"]  # the tasks share the cores
    return int(env["SLURM_PROCID"])


def _tasks_per_node(text: str) -> list[int]:
    """Parse SLURM's list of tasks per node.

    >>> _tasks_per_node("4(x2),1")
    [4, 4, 1]
    """
    matches = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in matches for _ in range(int(nodes or 1))]


def _first_host() -> str:
    """An address of the first node that the other nodes can reach."""
    if os.environ.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    first = _first_name(os.environ["SLURM_STEP_NODELIST"])
    try:
        return socket.gethostbyname(first)
    except OSError:  # nodes may not resolve each other's names; srun runs on the first
        return os.environ.get("SLURM_LAUNCH_NODE_IPADDR", first)


def _first_name(nodes: str) -> str:
    """The first node of a SLURM node list such as 'n[01-03,7],m1'.

    >>> _first_name("n[01-03,7],m1"), _first_name("gpu7,m1"), _first_name("r[1-2]n[3-4]")
    ('n01', 'gpu7', 'r1n3')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def spawn_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment of one of `count` ranks on this machine."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    values["MASTER_PORT"] = port
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}}


def free_port() -> int:
    """A port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job_id() -> str:
    """SLURM's ID of the current job, as squeue lists it: 55, or 55_3 for an array element."""
    env = os.environ
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]


def attempt_id() -> str:
    """Identifies this start of the job in all of its ranks: a requeued job keeps its ID."""
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
