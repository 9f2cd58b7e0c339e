"""A SLURM cluster on this machine, for tests and for trying `--launch slurm`.

    with Testbed(nodes=2) as bed:
        subprocess.run(["sbatch", ...], env=bed.whole_environment())

Controller and nodes run SLURM's own daemons. Linux namespaces give each node its own host name,
process table and fake GPUs; where they are not allowed, all nodes have this machine's host name.
Root is not required. A private munged admits only our own user.

The cluster ends with its owner, whatever ends that: a shell in its own session waits for the end of
a pipe that the owner holds, kills every process with the cluster's SLURM_CONF in its environment,
and removes the folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from repro.core import signals
from repro.launch.slurm import clients

_DAEMONS = ("slurmctld", "slurmd", "munged")
_CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # of daemons; rarely on a user's PATH
_WAIT_SECONDS = 60.0  # usually less than one; more on a busy machine
_ATTEMPTS = 5  # another process may take a port between check and start
_POLL_SECONDS = 0.02

# Creates the folder, waits for a line from the owner or for its death, and removes everything.
_REAPER = """
trap '' PIPE
root=$(mktemp -d "$0/testbed-XXXXXX") && echo "$root" && read -r _
while pids=$(cd /proc && grep -lszxF "SLURM_CONF=$root/slurm.conf" [0-9]*/environ); [ "$pids" ]; do
    for pid in $pids; do kill -KILL "${pid%/environ}"; done
    sleep 0.02
done
rm -rf "$root"
"""

_UNSHARE = "unshare --uts --mount --pid --fork --mount-proc --kill-child --propagation private"
_UNSHARE_AS_USER = f"{_UNSHARE} --user --map-current-user --keep-caps"
# The shell is PID 1 of the node because slurmd does not reap orphans.
_NODE = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && { "$@" & wait $!; }'

# cred_expire is also the delay of a requeued job; 5 s is the minimum. A node is marked down after
# SlurmdTimeout, which is longer than the stalls of a busy machine.
_CONFIGURATION = """
ClusterName=testbed
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/controller.pid
SlurmdPidFile={root}/run/%n.pid
SlurmctldLogFile={root}/log/controller.log
SlurmdLogFile={root}/log/%n.log
{parameters}
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
FirstJobId={first_job}
JobRequeue=1
ReturnToService=2
SlurmdTimeout=15
MessageTimeout=5
KillWait=3
MinJobAge=3600
GresTypes=gpu
NodeName={names} NodeHostname={hosts} NodeAddr=127.0.0.1 Port=[{first}-{last}] {resources}
PartitionName=DEFAULT Nodes=ALL MaxTime=1-0 DefaultTime=10 GraceTime={grace} DefMemPerCPU={memory}
PartitionName=main Default=YES PriorityTier=1
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
PartitionName=short PriorityTier=1 MaxTime=5 DefaultTime=5
PartitionName=closed PriorityTier=1 AllowAccounts=nobody-here
"""


class TestbedError(Exception):
    """The cluster cannot run; one line that names the problem and the next step."""

    __test__ = False  # or pytest would collect it


class _PortTaken(TestbedError):
    pass


class Testbed:
    """A cluster of `nodes` nodes n1, n2, ..., which is up inside a `with` statement.

    Its partitions are main (the default; a preempted job gets the signal it requested, or only TERM
    without `user_signal`, and is requeued after `grace_seconds`), urgent (preempts the others),
    short (at most 5 minutes) and closed (for an account that nobody has).

    By default each node has its share of this machine's cores and memory, so that only as many runs
    start as the machine can carry. With `namespaces=False` nodes are plain processes, as where
    namespaces are forbidden.
    """

    __test__ = False

    def __init__(
        self,
        nodes: int = 2,
        cpus: int | None = None,
        gpus: int = 4,
        *,
        user_signal: bool = True,
        grace_seconds: int = 5,
        namespaces: bool = True,
    ) -> None:
        cpus = max(1, len(os.sched_getaffinity(0)) // max(1, nodes)) if cpus is None else cpus
        if nodes < 1 or cpus < 1 or gpus < 0:
            raise TestbedError(
                f"no testbed of {nodes} nodes with {cpus} CPUs and {gpus} GPUs each; "
                "at least one node and one CPU are required"
            )
        self.names = tuple(f"n{i + 1}" for i in range(nodes))
        self.cpus = cpus
        self.gpus = gpus
        self.user_signal = user_signal
        self.grace_seconds = grace_seconds
        self.namespaces = namespaces  # once it is up: whether they are in use
        self.root = Path()  # of all its files while it is up
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._reaper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Testbed:
        assert self._reaper is None, "it is up already"
        for name in (*_DAEMONS, *_CLIENTS):
            _find(name)
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._start()
                break
            except BaseException as error:
                self._stop()
                if not left or not isinstance(error, _PortTaken):
                    raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that direct clients to this cluster."""
        return {"SLURM_CONF": f"{self.root}/slurm.conf"}

    def whole_environment(self) -> dict[str, str]:
        """Our environment without other clusters' and jobs' variables, plus this cluster's."""
        return clients.environment(preserved=()) | self.environment

    def ask(self, *command: str) -> str:
        """The output of sbatch, squeue, ...; TestbedError with their message if they fail."""
        answer = self._ask(*command)
        if answer.returncode:
            raise TestbedError(
                f"{command[0]}: {' '.join((answer.stderr or answer.stdout).split())}"
            )
        return answer.stdout

    def kill_node(self, name: str) -> None:
        """Kill all processes of the node. Use `wait_down` to wait until the controller notices."""
        while _signal(self._processes(name), signal.SIGKILL):
            time.sleep(_POLL_SECONDS)
        self._daemons.pop(name).wait()

    def start_node(self, name: str) -> None:
        """Restart a killed node; returns when the controller knows that it is up."""
        before = datetime.now().isoformat(timespec="seconds")
        self._start_node(name)
        self._wait(f"{name} to register", lambda: self._start_time(name) >= before)
        self.wait_up()

    def freeze_node(self, name: str) -> None:
        """Stop all processes of the node with SIGSTOP, until it is thawed or killed."""
        _signal(self._processes(name), signal.SIGSTOP)

    def thaw_node(self, name: str) -> None:
        """Continue a frozen node; the controller may have marked it down meanwhile."""
        _signal(self._processes(name), signal.SIGCONT)

    def kill_controller(self) -> None:
        """Kill the controller. It may lose the events of the last five seconds."""
        controller = self._daemons.pop("controller")
        controller.kill()
        controller.wait()

    def start_controller(self) -> None:
        """Restart a killed controller from its saved state; returns when the nodes are up."""
        self._start_controller()
        self.wait_up()

    def wait_up(self) -> None:
        """Wait until the controller reports all running nodes as up."""
        names = [name for name in self.names if name in self._daemons]
        up = {"idle", "mixed", "allocated", "completing", "draining", "drained"}
        self._wait(f"{', '.join(names)} to be up", lambda: {*map(self.state, names)} <= up)

    def wait_down(self, name: str) -> None:
        """Wait until the controller reports that the node does not respond; about 10 s."""
        self._wait(f"{name} to be down", lambda: self.state(name).startswith("down"))

    def wait_empty(self, seconds: float = 600.0) -> None:
        """Wait until no job is pending or running."""
        self._wait("an empty queue", lambda: not self.ask("squeue", "--noheader").strip(), seconds)

    def state(self, name: str) -> str:
        """The node's state according to the controller: idle, down*, ...; '' if it does not
        respond."""
        # Query all nodes: `sinfo -n` for a single dead node keeps reporting 'mixed*'.
        output = self._ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").stdout
        return dict(line.split() for line in output.splitlines()).get(name, "")

    def _start(self) -> None:
        self._reaper = subprocess.Popen(
            ["sh", "-c", _REAPER, tempfile.gettempdir()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clients.environment(preserved=()),
            cwd="/",
            start_new_session=True,  # not reached by Ctrl-C
        )
        assert self._reaper.stdout
        self.root = Path(os.fsdecode(self._reaper.stdout.readline().rstrip(b"\n")))
        for folder in ("state", "spool", "run", "log", "munge", "gpu"):
            (self.root / folder).mkdir()
        hosts = Path("/etc/hosts").read_text()
        (self.root / "hosts").write_text(f"{hosts}\n127.0.0.1 {' '.join(self.names)}\n")
        self.namespaces = self.namespaces and self._may_unshare()
        self._write_configuration()
        self._start_munge()
        self._start_controller()
        for name in self.names:
            self._start_node(name)
        self.wait_up()

    def _stop(self) -> None:
        if self._reaper:
            self._reaper.communicate(b"\n")
        for daemon in self._daemons.values():
            daemon.wait()
        self._daemons, self._reaper = {}, None

    def _write_configuration(self) -> None:
        nodes, host = len(self.names), socket.gethostname().partition(".")[0]
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        memory = pages * page_bytes // 2**20 // nodes  # MiB
        resources = f"CPUs={self.cpus} RealMemory={memory}"
        devices = "AutoDetect=off\n"
        if self.gpus:
            resources += f" Gres=gpu:pretend:{self.gpus}"
            devices += f"Name=gpu Type=pretend File={self.root}/gpu/gpu[0-{self.gpus - 1}]\n"
        for i in range(self.gpus):
            (self.root / f"gpu/gpu{i}").symlink_to("/dev/null")  # SLURM requires a device file
        port = _free_ports(nodes + 1)
        configuration = _CONFIGURATION.format(
            root=self.root,
            user=os.getuid(),
            host=host,
            hosts=f"n[1-{nodes}]" if self.namespaces else host,
            names=f"n[1-{nodes}]",
            port=port,
            first=port + 1,
            last=port + nodes,
            parameters="SlurmctldParameters=preempt_send_user_signal" if self.user_signal else "",
            grace=self.grace_seconds,
            first_job=1000 + secrets.randbelow(60_000_000),  # differs from other testbeds' jobs
            memory=memory // self.cpus,
            resources=resources,
        )
        (self.root / "slurm.conf").write_text(configuration)
        (self.root / "gres.conf").write_text(devices)
        plugin = "cgroup/v1" if _version() < (23, 2) else "disabled"  # must load, though unused
        (self.root / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")

    def _start_munge(self) -> None:
        folder = self.root / "munge"
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(secrets.token_bytes(64))
        files = [f"--{file}-file={folder}/{file}" for file in ("key", "pid", "log", "seed")]
        # --force: munged expects a world-readable folder; ours is private
        command = [_find("munged"), "--foreground", "--force", f"--socket={folder}/socket", *files]
        self._start_daemon("munge", command)
        self._wait("munge", (folder / "socket").exists)

    def _start_controller(self) -> None:
        self._start_daemon("controller", [_find("slurmctld"), "-D"])
        self._wait("the controller", lambda: self._ask("scontrol", "ping").returncode == 0)

    def _start_node(self, name: str) -> None:
        command = [_find("slurmd"), "-D", "-N", name]
        if self.namespaces:
            command = [*self._in_namespaces(name), *command]
        self._start_daemon(name, command, {"SLURMD_NODENAME": name})

    def _in_namespaces(self, name: str) -> list[str]:
        unshare = _UNSHARE_AS_USER if os.getuid() else _UNSHARE
        return [*unshare.split(), "sh", "-c", _NODE, name, f"{self.root}/hosts"]

    def _may_unshare(self) -> bool:
        with suppress(FileNotFoundError):
            return self._ask(*self._in_namespaces("n1"), "true").returncode == 0
        return False

    def _start_daemon(
        self, name: str, command: Sequence[str], marks: dict[str, str] | None = None
    ) -> None:
        with (self.root / f"log/{name}.out").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.whole_environment() | (marks or {}),
                cwd=self.root,
                start_new_session=True,
            )

    def _wait(
        self, what: str, condition: Callable[[], bool], seconds: float = _WAIT_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    words = self._last_words(name)
                    kind = _PortTaken if "in use" in words else TestbedError
                    raise kind(f"{name} of the testbed died: {words}")
            if time.monotonic() > deadline:
                raise TestbedError(
                    f"timed out after {seconds:.0f} s waiting for {what} of the testbed"
                )
            time.sleep(_POLL_SECONDS)

    def _last_words(self, name: str) -> str:
        lines = (self.root / f"log/{name}.out").read_text(errors="replace").splitlines()
        errors = [line for line in lines if re.search("error|fatal", line, re.IGNORECASE)]
        return "; ".join((errors or lines)[-3:]) or "no output"

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = self.whole_environment()
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def _start_time(self, name: str) -> str:
        """When the node's slurmd started, according to the controller; '' if unknown."""
        output = re.search(r"SlurmdStartTime=(\d\S+)", self.ask("scontrol", "show", "node", name))
        return output[1] if output else ""

    def _processes(self, node: str) -> list[int]:
        """The PIDs in a node: those in its namespace, or else those with its name in their
        environment."""
        marks = {b"SLURMD_NODENAME=" + node.encode(), f"SLURM_CONF={self.root}/slurm.conf".encode()}
        space = Path(f"/proc/{self._daemons[node].pid}/ns/pid_for_children")
        pids = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended, or belongs to another user
                if self.namespaces:
                    is_inside = (process / "ns/pid").readlink() == space.readlink()
                else:
                    is_inside = marks <= {*(process / "environ").read_bytes().split(b"\0")}
                if is_inside:
                    pids.append(int(process.name))
        return pids


def run(command: Sequence[str], bed: Testbed) -> int:
    """Run a command on a running cluster; its exit status as a shell reports it.

    The command handles Ctrl-C itself; TERM, HUP and QUIT are forwarded to it. Returns when the
    command has ended.
    """
    process: subprocess.Popen[bytes] | None = None
    early = list[int]()  # signals before the command started

    def forward(number: int, _: object) -> None:
        if process:
            process.send_signal(number)
        else:
            early.append(number)

    handlers = {number: signal.signal(number, forward) for number in signals.unignored()}
    if signal.SIGINT in handlers:
        signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(command, env=bed.whole_environment())
        for number in early:
            process.send_signal(number)
        status = process.wait()
    except OSError as error:
        raise TestbedError(f"{command[0]} cannot be run: {error.strerror}") from None
    finally:
        for stop, handler in handlers.items():
            signal.signal(stop, handler)
    return 128 - status if status < 0 else status


def _find(name: str) -> str:
    """The path of one of SLURM's programs."""
    folders = os.environ.get("PATH", os.defpath)
    if name in _DAEMONS:
        folders = f"{folders}:{_SYSTEM_FOLDERS}"
    path = shutil.which(name, path=folders)
    if path is None:
        raise TestbedError(
            f"a testbed needs {name}, which is not in {folders}; install it with `apt-get install "
            "--no-install-recommends slurmctld slurmd slurm-client`, or with `make` as root"
        )
    return path


def _version() -> tuple[int, ...]:
    output = subprocess.run([_find("slurmd"), "-V"], capture_output=True, text=True, check=False)
    return tuple(int(part) for part in re.findall(r"\d+", output.stdout)[:2])


def _free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, below the ephemeral ports."""
    while True:
        first = 10_000 + secrets.randbelow(22_000 - count)
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            return first


def _signal(pids: Sequence[int], number: signal.Signals) -> int:
    """Send a signal to those still alive; the number of PIDs given."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(pids)
