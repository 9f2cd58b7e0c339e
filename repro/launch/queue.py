"""What SLURM itself says, by its own commands: squeue, sinfo, scontrol, scancel. Never sacct.

One call of squeue tells of every job of ours; what it forgets, our files know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from repro.launch import clients

_SECONDS = 60.0  # for SLURM to answer; it gives up on a dead controller by itself sooner

# Reasons for which a pending job never starts (squeue(1), JOB REASON CODES).
NEVER = (
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
# And in words of its own: "Job's account not permitted to use this partition (...)".
_NEVER_WORDS = re.compile("not permitted to use this partition|account not known")


class QueueError(Exception):
    """SLURM is not here, does not answer, or refuses; one line, with its own words."""


class NoAnswer(QueueError):
    """SLURM did not answer in time; it may have done what it was asked to do."""


@dataclass(frozen=True)
class Entry:
    """One job, or one element of an array, as squeue lists it."""

    id: str  # 55 or 55_3
    name: str
    state: str  # PENDING, RUNNING, COMPLETING, CANCELLED ...
    reason: str
    nodes: str

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "CONFIGURING")

    @property
    def runs(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING",
                              "STAGE_OUT", "RESIZING")  # fmt: skip

    @property
    def never_starts(self) -> bool:
        never = self.reason.strip("()") in NEVER or bool(_NEVER_WORDS.search(self.reason))
        return self.waits and never


def require() -> None:
    """QueueError unless SLURM's commands are here and its controller answers."""
    missing = [name for name in ("sbatch", "squeue", "scontrol") if not shutil.which(name)]
    if missing:
        raise QueueError(
            f"no SLURM here: looked for {', '.join(missing)} on PATH; train here with "
            "`--launch local`, or try a one-machine cluster: `repro testbed -- repro ...`"
        )
    if not answers():
        conf = os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf, or the site's own way")
        raise QueueError(
            f"SLURM's controller does not answer (configuration: {conf}); nothing was submitted, "
            "ask again when `scontrol ping` says UP"
        )


def answers() -> bool:
    """Whether a controller answers; quick in either case."""
    try:
        ping = call("scontrol", "ping")
    except QueueError:
        return False
    return bool(re.search(r"^Slurmctld.*\bUP\b", ping, re.MULTILINE))


def jobs(users: Iterable[str]) -> list[Entry]:
    """Every job of these users that the controller remembers. QueueError if it does not answer."""
    text = call(
        "squeue", "--noheader", "--all", "--array", "--states=all",
        f"--user={','.join(sorted(users))}", "--format=%i|%j|%T|%r|%N",
    )  # fmt: skip
    entries = [Entry(*row) for row in _rows(text, 5)]
    return [entry for entry in entries if re.fullmatch(r"\d+(_\d+)?", entry.id)]


def named(names: Collection[str]) -> list[Entry]:
    """Our jobs with these names."""
    return [entry for entry in jobs([str(os.getuid())]) if entry.name in names]


def is_named(job: str, name: str) -> bool:
    """Whether the job of this number has this name; not if SLURM does not say so."""
    try:
        said = call("scontrol", "show", "job", "--oneliner", job)
    except QueueError:
        return False
    return f"JobName={name}" in said.split()


def cancel_named(names: Collection[str], seconds: float) -> bool:
    """Cancel our jobs with these names; whether all have left the nodes within `seconds`."""
    patience = time.monotonic() + seconds
    while alive := [entry.id for entry in named(names) if entry.waits or entry.runs]:
        if time.monotonic() > patience:
            return False
        cancel(alive)
        time.sleep(0.2)
    return True


def _rows(text: str, columns: int) -> list[list[str]]:
    """The lines with so many columns; a site's wrapper may print others."""
    rows = ([part.strip() for part in line.split("|")] for line in text.splitlines())
    return [row for row in rows if len(row) == columns]


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs or elements. One that is over is no error."""
    for start in range(0, len(ids), 500):  # the length of a command line
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
    found: dict[str, Partition] = {}
    for label, limit, nodes, cpus, memory, gres, features in _rows(text, 7):
        name = label.rstrip("*")
        have = found.get(name)
        gpus = dict(have.gpus) if have else {}
        for kind, count in _gpus(gres):
            gpus[kind] = max(gpus.get(kind, 0), count)
        here = set() if features == "(null)" else set(features.split(","))
        found[name] = Partition(
            name,
            label.endswith("*"),
            _minutes(limit),
            int(nodes) + (have.nodes if have else 0),
            max(int(cpus.rstrip("+")), have.cpus if have else 0),
            max(int(memory.rstrip("+")) / 1024, have.memory_gb if have else 0),
            gpus,
            frozenset(here) | (have.features if have else frozenset()),
            accounts.get(name, frozenset()),
        )
    return found


def _accounts() -> dict[str, frozenset[str]]:
    """The accounts that a partition is for, of those that are not for all."""
    found = {}
    for line in call("scontrol", "show", "--oneliner", "partition").splitlines():
        said = dict(word.partition("=")[::2] for word in line.split())
        if (allowed := said.get("AllowAccounts", "ALL")) != "ALL":
            found[said["PartitionName"]] = frozenset(allowed.split(","))
    return found


def has_accounts() -> bool:
    """Whether this SLURM keeps accounts, and so may know our default one."""
    return not config().get("AccountingStorageType", "").endswith("none")


def _gpus(gres: str) -> list[tuple[str, int]]:
    """The GPUs in a list of generic resources.

    >>> _gpus("gpu:a100:4(S:0-1),gpu:2,shard:8"), _gpus("(null)")
    ([('a100', 4), ('', 2)], [])
    """
    found = re.findall(r"(?:^|,)gpu(?::([A-Za-z][^:,()]*))?(?::(\d+))?(?=[(,]|$)", gres)
    return [(kind, int(count or 1)) for kind, count in found]


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
    """What a client prints. QueueError with its own words if it fails."""
    try:
        done = clients.run(*command, seconds=seconds)
    except OSError as error:
        raise QueueError(f"no SLURM here: {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"SLURM: {command[0]} did not answer in {seconds:.0f} s") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split())
        raise QueueError(f"SLURM: {words or f'{command[0]} failed ({done.returncode})'}")
    return done.stdout
