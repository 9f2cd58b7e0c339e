"""SLURM's clients squeue, sinfo, scontrol and scancel; never sacct.

One squeue call lists all of our jobs; older jobs are known from our own files.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from repro.launch.slurm import clients

_SECONDS = 60.0  # clients give up on a dead controller sooner

# Reasons for which a pending job never starts (squeue(1), JOB REASON CODES).
NEVER_STARTS = (
    "AccountNotAllowed",
    "AssocGrpCPUMinutesLimit",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionTimeLimit",
    "QOSTimeLimit",
    "QOSNotAllowed",
    "ReservationDeleted",
    "launch failed requeued held",
)
# And as a sentence: "Job's account not permitted to use this partition (...)".
_NEVER_STARTS_PATTERN = re.compile("not permitted to use this partition|account not known")


class QueueError(Exception):
    """SLURM is not installed, does not respond, or refuses; one line with its message."""


class NoAnswer(QueueError):
    """SLURM did not respond in time; it may have carried out the command."""


@dataclass(frozen=True)
class QueuedJob:
    """A job, or one element of an array, as squeue lists it."""

    id: str  # 55 or 55_3
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, CANCELLED ...
    reason: str
    nodes: str

    @property
    def is_pending(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING")

    @property
    def is_running(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING",
                              "STAGE_OUT", "RESIZING")  # fmt: skip

    @property
    def never_starts(self) -> bool:
        never = self.reason.strip("()") in NEVER_STARTS or bool(
            _NEVER_STARTS_PATTERN.search(self.reason)
        )
        return self.is_pending and never


def require() -> None:
    """QueueError unless SLURM's clients are installed and its controller responds."""
    missing_clients = [name for name in ("sbatch", "squeue", "scontrol") if not shutil.which(name)]
    if missing_clients:
        raise QueueError(
            f"no SLURM here: looked for {', '.join(missing_clients)} on PATH; train here with "
            "`--launch local`, or try a one-machine cluster: `repro testbed -- repro ...`"
        )
    if not is_responding():
        conf = os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf, or the site's default")
        raise QueueError(
            f"SLURM's controller does not respond (configuration: {conf}); nothing was submitted, "
            "try again when `scontrol ping` says UP"
        )


def is_responding() -> bool:
    """Whether the controller responds."""
    try:
        ping = call("scontrol", "ping")
    except QueueError:
        return False
    return bool(re.search(r"^Slurmctld.*\bUP\b", ping, re.MULTILINE))


def jobs(users: Iterable[str]) -> list[QueuedJob]:
    """All jobs of these users that the controller knows. QueueError if it does not respond."""
    text = call(
        "squeue", "--noheader", "--all", "--array", "--states=all",
        f"--user={','.join(sorted(users))}", "--format=%i|%j|%T|%r|%N",
    )  # fmt: skip
    entries = [QueuedJob(*row) for row in _rows(text, 5)]
    return [job for job in entries if re.fullmatch(r"\d+(_\d+)?", job.id)]


def jobs_named(names: Collection[str]) -> list[QueuedJob]:
    """Our jobs with these names."""
    return [job for job in jobs([str(os.getuid())]) if job.name in names]


def has_name(job: str, name: str) -> bool:
    """Whether the job with this ID has this name; False if SLURM does not say."""
    try:
        output = call("scontrol", "show", "job", "--oneliner", job)
    except QueueError:
        return False
    return f"JobName={name}" in output.split()


def cancel_and_wait(names: Collection[str], seconds: float) -> bool:
    """Cancel our jobs with these names; whether all have left the nodes within `seconds`."""
    deadline = time.monotonic() + seconds
    while active := [job.id for job in jobs_named(names) if job.is_pending or job.is_running]:
        if time.monotonic() > deadline:
            return False
        cancel(active)
        time.sleep(0.2)
    return True


def _rows(text: str, columns: int) -> list[list[str]]:
    """The lines with this many columns; a site's wrapper may print other lines."""
    rows = ([part.strip() for part in line.split("|")] for line in text.splitlines())
    return [row for row in rows if len(row) == columns]


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs or array elements. A finished one is not an error."""
    for start in range(0, len(ids), 500):  # a command line has a maximum length
        call("scancel", "--quiet", *ids[start : start + 500])


def config() -> Mapping[str, str]:
    """The controller's settings."""
    lines = (line.partition("=") for line in call("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, sign, value in lines if sign}


@dataclass(frozen=True)
class Partition:
    """What a partition offers, over its nodes: the most of each."""

    name: str
    is_default: bool
    minutes: float  # time limit; inf if there is none
    nodes: int
    cpus: int  # of a node
    memory_gb: float  # GiB, of a node
    gpus: Mapping[str, int]  # of a node, by type; '' for GPUs without one
    features: frozenset[str]
    accounts: frozenset[str] = frozenset()  # that may use it; empty: all


def partitions() -> dict[str, Partition]:
    """Every partition, by name."""
    text = call("sinfo", "--noheader", "--exact", "--format=%P|%l|%D|%c|%m|%G|%f")
    accounts = _accounts()
    by_name: dict[str, Partition] = {}
    for label, limit, nodes, cpus, memory, gres, features in _rows(text, 7):
        name = label.rstrip("*")
        earlier = by_name.get(name)
        gpus = dict(earlier.gpus) if earlier else {}
        for kind, count in _gpus(gres):
            gpus[kind] = max(gpus.get(kind, 0), count)
        node_features = set() if features == "(null)" else set(features.split(","))
        by_name[name] = Partition(
            name,
            label.endswith("*"),
            _minutes(limit),
            int(nodes) + (earlier.nodes if earlier else 0),
            max(int(cpus.rstrip("+")), earlier.cpus if earlier else 0),
            max(int(memory.rstrip("+")) / 1024, earlier.memory_gb if earlier else 0),
            gpus,
            frozenset(node_features) | (earlier.features if earlier else frozenset()),
            accounts.get(name, frozenset()),
        )
    return by_name


def _accounts() -> dict[str, frozenset[str]]:
    """The accounts allowed in each partition that is restricted to some."""
    accounts = {}
    for line in call("scontrol", "show", "--oneliner", "partition").splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split())
        if (allowed := fields.get("AllowAccounts", "ALL")) != "ALL":
            accounts[fields["PartitionName"]] = frozenset(allowed.split(","))
    return accounts


def has_accounts() -> bool:
    """Whether SLURM has accounting, and so may know our default account."""
    return not config().get("AccountingStorageType", "").endswith("none")


def _gpus(gres: str) -> list[tuple[str, int]]:
    """The GPUs in a list of generic resources.

    >>> _gpus("gpu:a100:4(S:0-1),gpu:2,shard:8"), _gpus("(null)")
    ([('a100', 4), ('', 2)], [])
    """
    matches = re.findall(r"(?:^|,)gpu(?::([A-Za-z][^:,()]*))?(?::(\d+))?(?=[(,]|$)", gres)
    return [(kind, int(count or 1)) for kind, count in matches]


def _minutes(limit: str) -> float:
    """A time limit of SLURM in minutes.

    >>> _minutes("1-02:00:00"), _minutes("5:00"), _minutes("infinite")
    (1560.0, 5.0, inf)
    """
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not match:
        return float("inf")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60


def call(*command: str, seconds: float = _SECONDS) -> str:
    """The output of a client. QueueError with its message if it fails."""
    try:
        process = clients.run(*command, seconds=seconds)
    except OSError as error:
        raise QueueError(f"no SLURM here: {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"SLURM: {command[0]} did not respond within {seconds:.0f} s") from None
    if process.returncode:
        words = " ".join((process.stderr or process.stdout).split())
        raise QueueError(f"SLURM: {words or f'{command[0]} failed ({process.returncode})'}")
    return process.stdout
