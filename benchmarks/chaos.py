"""Fault injection: real runs on a real SLURM cluster on this machine.

    python benchmarks/chaos.py [--faults N] [--seed S] [--out benchmarks/chaos.txt]

Four small runs are first trained undisturbed. Then the same runs are trained in rounds while faults
drawn from the seed are injected: processes and nodes are killed and frozen, jobs cancelled,
requeued and preempted, launchers killed or started twice, disks filled, checkpoints corrupted. This
script plays the user, who repeats the launch whenever a run is neither done nor under way, and the
administrator, who releases jobs that SLURM has held. After every round each run must have exactly
one result, equal byte for byte to the undisturbed one.

The kinds of faults, their order and details come from the seed; their targets depend on what is
running at that moment. About ten seconds per fault on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from repro import results, spec
from repro.core import records
from repro.launch import lease, state
from repro.launch.attempt import log_path
from repro.launch.slurm import queue, submission
from repro.launch.slurm.cluster import Cluster, Resources, dump
from repro.launch.state import RunState
from repro.spec import Classification, Model, Recipe, Run
from repro.testbed.cluster import Testbed, TestbedError

# 150 steps on 1,000 images: some 4 s of work on one core, after as much to start Python.
RUN = Classification(
    model=Model.of(
        "nest_tiny_cifar", patch_size=4, embed_dims=(24, 24), depths=(1, 1), num_heads=(1, 1)
    ),
    dataset="fashion-mnist-6k",
    recipe=Recipe(epochs=15, batch_size=100, lr=1e-3, drop_path=0.1, crop_padding=2, mixup_alpha=1),
    train_split="validation",
    test_split="validation",
)
PAIR = replace(RUN, seed=2)  # trained by two ranks on two nodes
LATER = replace(RUN, pretrained=RUN, seed=3)
RUNS = (RUN, replace(RUN, seed=1), PAIR, LATER)
SITE = Cluster(
    resources=(
        Resources(runs=PAIR.id, nodes=2, gpus=1, cpus=1, time="30m"),
        Resources(gpus=1, cpus=1, time="30m"),
    ),
    silence_seconds=4,
)
NODES = 3
CHECKPOINT_SECONDS = 1.0
DISK_MIB = 96
PACE_STEPS = (0, 45)  # training steps over all runs between two faults
PACE_SECONDS = 12.0  # at most; faults may also hit runs that have not started
STUCK_SECONDS = 300.0  # without any change; generous: only a hang fails
POLL_SECONDS = 0.2

# Like `repro ITEM --launch slurm`, after a line on its standard input.
LAUNCHER = """
import sys
from pathlib import Path
import submitit
from repro import cli, spec
from repro.core import plan
from repro.execution import ExecutionOptions
from repro.launch import data, start, state
from repro.launch.slurm import arrays, cluster, watch

site, root, seconds, *texts = sys.argv[1:]
options = ExecutionOptions(Path("data"), checkpoint_seconds=float(seconds))
print("ready", flush=True)
sys.stdin.readline()
try:
    request = plan.Request({spec.from_json(text): "smoke" for text in texts})
    start.submit(request, Path(root), options, start.load_site(Path(site)))
except Exception as error:
    if not (line := cli.line_for_user(error)):
        raise
    print(line, flush=True)
    sys.exit(2)
"""

# Like `repro ITEM --launch local`.
LOCAL = """
import sys
from pathlib import Path
from repro import spec
from repro.launch import local
from repro.execution import ExecutionOptions

root, seconds, silence, ranks, text = sys.argv[1:]
tell = lambda event: event.kind == "running" or print(event.kind, flush=True)
how = ExecutionOptions(Path("data"), float(seconds), silence_seconds=float(silence))
local.launch([spec.from_json(text)], Path(root), how, 1, tell, int(ranks))
"""

Condition = Callable[[], bool]


class NotPossible(Exception):
    """A fault that cannot be injected now."""


class InvariantError(Exception):
    """A violated invariant: a wrong result, a hanging run, something left behind."""


@dataclass(frozen=True)
class Process:
    """A process of the cluster."""

    pid: int
    command: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def is_rank(self) -> bool:
        return "submitit.core._submit" in self.command and "SLURM_STEP_ID" in self.environment

    @property
    def is_first(self) -> bool:
        return self.environment.get("SLURM_PROCID") == "0"

    @property
    def node(self) -> str:
        return self.environment["SLURMD_NODENAME"]

    @property
    def job(self) -> str:
        """The job ID, as squeue lists it."""
        environment = self.environment
        if "SLURM_ARRAY_TASK_ID" in environment:
            return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
        return environment.get("SLURM_JOB_ID", "")


@dataclass
class World:
    """A round: the runs under `root`, and the state needed to inject faults into them."""

    bed: Testbed
    site: Path
    disk: Path
    root: Path
    states: list[RunState] = field(default_factory=list)
    reserved: set[str] = field(default_factory=set)  # what an active fault has reserved
    unreachable: set[str] = field(default_factory=set)  # dead or frozen nodes
    helpers: list[subprocess.Popen[str]] = field(default_factory=list)
    attempts: dict[tuple[str, int], str] = field(default_factory=dict)  # how each ended
    notes: Counter[str] = field(default_factory=Counter)  # notable events
    steps: int = 0  # over all attempts, including lost steps
    launches: int = 0
    _reached: dict[tuple[str, int], int] = field(default_factory=dict)
    _launched: float = 0.0
    _administered: float = 0.0

    # --- observing

    def look(self) -> None:
        """Update the states of the runs, and how attempts ended."""
        self.states = state.query(self.root, RUNS)
        for run in RUNS:
            for path in results.folder(self.root, run).glob("lease-*.json"):
                with suppress(OSError, ValueError):
                    self._record_attempt(run, records.read(path, dict[str, object]))

    def _record_attempt(self, run: Run, content: Mapping[str, object]) -> None:
        key = run.id, int(str(content["generation"]))
        ended = "finished" if content.get("released") else "without a word"
        self.attempts[key] = str(content.get("cause", ended))
        reached = int(str(content.get("step", 0)))
        self.steps += max(0, reached - self._reached.get(key, 0)) if key in self._reached else 0
        self._reached[key] = reached

    @property
    def done(self) -> bool:
        return all(s.is_settled for s in self.states)

    @property
    def is_settled(self) -> bool:
        return all(s.is_settled or s.is_under_way for s in self.states)

    def summary(self) -> str:
        """Each run's state, with the generation and step of its attempt."""
        return ", ".join(
            f"{s.name} {s.facts.get('generation', 0)}:{s.facts.get('step', 0)}"
            + (f" ({s.note})" if s.note else "")
            for s in self.states
        )

    def processes(self) -> list[Process]:
        return processes(self.bed.root)

    def state_of(self, job: str) -> RunState:
        """The state of a job's run; NotPossible if the job is not its run's current one."""
        for found in self.states:
            if found.job == job and not found.is_settled:
                return found
        raise NotPossible

    def pick_run(self, chance: random.Random, *names: str) -> RunState:
        """A submitted run in one of these states; NotPossible if there is none."""
        found = [s for s in self.states if s.name in names and s.job]
        if not found:
            raise NotPossible
        return chance.choice(found)

    def pick_rank(self, chance: random.Random, first: bool = True) -> tuple[Process, RunState]:
        """A process that trains or starts; NotPossible if there is none."""
        ranks = [p for p in self.processes() if p.is_rank and p.is_first == first]
        ranks = [p for p in ranks if p.node not in self.unreachable]
        if not ranks:
            raise NotPossible
        chosen = chance.choice(sorted(ranks, key=lambda p: p.pid))
        return chosen, self.state_of(chosen.job)

    def pick_training(self, chance: random.Random) -> RunState:
        """The run of a job that trains or starts; NotPossible if there is none."""
        return self.pick_rank(chance)[1]

    # --- acting

    @contextmanager
    def reserve(self, *things: str) -> Iterator[None]:
        """Reserve things for one fault; NotPossible if another fault has reserved one."""
        if self.reserved & {*things}:
            raise NotPossible
        self.reserved |= {*things}
        try:
            yield
        finally:
            self.reserved -= {*things}

    @contextmanager
    def mark_unreachable(self, node: str) -> Iterator[None]:
        """Mark the node as dead or frozen."""
        self.unreachable.add(node)
        try:
            yield
        finally:
            self.unreachable.discard(node)

    def slurm(self, *command: str) -> str:
        """Call a client of SLURM; '' if it fails, e.g. because a job has just ended. NotPossible
        while the controller is down."""
        if "controller" in self.reserved:
            raise NotPossible
        try:
            return self.bed.ask(*command).strip()
        except TestbedError as error:
            self.notes[f"refused: {re.sub(r'[0-9_]{4,}', 'JOB', str(error))}"] += 1
            return ""

    def launcher(self) -> subprocess.Popen[str]:
        """Start a launcher that waits for a line before it submits."""
        words = [str(self.site), str(self.root), str(CHECKPOINT_SECONDS)]
        process = self.start(LAUNCHER, *words, *map(spec.to_json, RUNS))
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        self.launches += 1
        return process

    def start(self, code: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def launch(self) -> None:
        """Launch again if a run is neither done nor under way, as a user would."""
        if self.is_settled or "launch" in self.reserved or time.monotonic() < self._launched + 2:
            return
        self.finish_launcher(self.launcher())
        self._launched = time.monotonic()

    def finish_launcher(self, process: subprocess.Popen[str]) -> str:
        """Let a launcher submit, and return its output. InvariantError if it crashes."""
        output, _ = process.communicate("\n")
        if process.returncode not in (0, 2):
            raise InvariantError(f"a launcher ended with {process.returncode}:\n{output}")
        if process.returncode:
            words = re.sub(r"[0-9_]{4,}|/\S+|[0-9a-f]{8}", "...", output.strip().splitlines()[-1])
            self.notes[f"a launch was refused: {words}"] += 1
        return output

    def administer(self) -> None:
        """Release held jobs and resume drained nodes, as an administrator would."""
        if "controller" in self.reserved or time.monotonic() < self._administered + 1:
            return
        self._administered = time.monotonic()
        for line in self.slurm("squeue", "-h", "-o", "%i|%r", "--states=PD").splitlines():
            job, reason = line.split("|")
            if "held" in reason.lower():
                self._release(job, reason)
        for name in self.bed.names:
            if self.bed.state(name).startswith("drained"):
                self.slurm("scontrol", "update", f"NodeName={name}", "State=RESUME")
                self.notes["the administrator took a drained node into service"] += 1

    def _release(self, job: str, reason: str) -> None:
        found = next((s for s in state.query(self.root, RUNS) if s.job == job), None)
        if found and not found.is_settled and found.name != "never started":
            raise InvariantError(
                f"{job} is held ({reason}), but its run is {found.name}: {found.note}"
            )
        self.slurm("scontrol", "release", job)
        self.notes[f"the administrator released a job held for: {reason}"] += 1

    # --- what counts as recovered

    def state_of_run(self, run: Run) -> RunState:
        return next(s for s in self.states if s.run == run)

    def until_resumed(self, found: RunState, attempt: str | None = None) -> Condition:
        """Until another attempt trains the run, or it is done."""
        began, before = time.time(), attempt or found.facts.get("attempt", "")

        def condition() -> bool:
            state_of_run = self.state_of_run(found.run)
            facts = state_of_run.facts
            later = facts.get("attempt") != before and facts.get("beat", 0) > began
            return state_of_run.is_settled or (
                state_of_run.name == "running" and later and "step" in facts
            )

        return condition

    def until_training(self, found: RunState) -> Condition:
        """Until any attempt trains the run again, or it is done."""
        return self.until_resumed(found, "any other")

    def until_resubmitted(self, found: RunState) -> Condition:
        """Until SLURM has another job for the run, or it is done."""
        forgotten = timeout(15)  # a killed controller may not have cancelled the old job

        def condition() -> bool:
            state_of_run = self.state_of_run(found.run)
            return state_of_run.is_settled or (
                state_of_run.is_under_way and (state_of_run.job != found.job or forgotten())
            )

        return condition


def timeout(seconds: float) -> Condition:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def processes(root: Path) -> list[Process]:
    """All processes of the cluster with its files under `root`."""
    mark, found = f"{root}/slurm.conf", []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            entries = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(entry.partition("=")[::2] for entry in entries)
            if environment.get("SLURM_CONF") == mark and int(path.name) != os.getpid():
                command = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found.append(Process(int(path.name), tuple(command), environment))
    return found


def kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


# --- the faults: each injects one, and yields conditions to wait for before it continues ---------

Fault = Callable[[World, random.Random], Iterator[Condition]]


def _kill_rank(world: World, chance: random.Random) -> Iterator[Condition]:
    process, found = world.pick_rank(chance)
    kill(process.pid, signal.SIGKILL)
    yield world.until_resumed(found)


def _kill_other_rank(world: World, chance: random.Random) -> Iterator[Condition]:
    process, found = world.pick_rank(chance, first=False)
    kill(process.pid, signal.SIGKILL)
    yield world.until_resumed(found)


def _kill_step_daemon(world: World, chance: random.Random) -> Iterator[Condition]:
    """The slurmstepd of one of the job's steps, or of its script."""
    rank, found = world.pick_rank(chance)
    name = f"slurmstepd: [{rank.environment['SLURM_JOB_ID']}."
    daemons = [p for p in world.processes() if p.command[0].startswith(name)]
    if not daemons:
        raise NotPossible
    chosen = chance.choice(sorted(daemons, key=lambda p: p.command))
    world.notes[f"killed slurmstepd of {chosen.command[0].removeprefix(name).rstrip(']')}"] += 1
    kill(chosen.pid, signal.SIGKILL)
    yield world.until_resumed(found)


def _kill_node(world: World, chance: random.Random) -> Iterator[Condition]:
    rank, found = world.pick_rank(chance)
    with world.reserve("nodes"), world.mark_unreachable(rank.node):
        world.bed.kill_node(rank.node)
        yield lambda: world.bed.state(rank.node).startswith("down")
        yield timeout(chance.uniform(0, 5))
        world.bed.start_node(rank.node)
    yield world.until_resumed(found)


def _freeze_node(world: World, chance: random.Random) -> Iterator[Condition]:
    """For longer than the heartbeat timeout, so that another process takes over."""
    rank, found = world.pick_rank(chance)
    with world.reserve("nodes"):
        with world.mark_unreachable(rank.node):
            world.bed.freeze_node(rank.node)
            yield timeout(SITE.silence_seconds + chance.uniform(1, 12))
            world.bed.thaw_node(rank.node)
        up = ("idle", "mixed", "allocated", "completing")
        yield lambda: world.bed.state(rank.node) in up
    yield world.until_training(found)


def _requeue(world: World, chance: random.Random) -> Iterator[Condition]:
    found = world.pick_training(chance)
    world.slurm("scontrol", "requeue", found.job)
    yield world.until_resumed(found)


def _warn(world: World, chance: random.Random) -> Iterator[Condition]:
    found = world.pick_training(chance)
    world.slurm("scancel", "--signal=USR2", found.job)
    yield world.until_resumed(found)


def _terminate(world: World, chance: random.Random) -> Iterator[Condition]:
    found = world.pick_training(chance)
    world.slurm("scancel", "--signal=TERM", *chance.choice([[], ["--full"]]), found.job)
    yield world.until_resumed(found)


def _preempt(world: World, chance: random.Random) -> Iterator[Condition]:
    rank, found = world.pick_rank(chance)
    with world.reserve("nodes"):  # on a dead node it would stay pending
        job = world.slurm(
            "sbatch", "--parsable", "--partition=urgent", f"--nodelist={rank.node}",
            "--output=/dev/null", "--wrap", f"sleep {chance.uniform(0, 3):.1f}",
        )  # fmt: skip
        if not job:
            raise NotPossible
        yield lambda: not world.slurm("squeue", "-h", f"--jobs={job}", "--states=PD,R")
    yield world.until_resumed(found)


def _cancel(world: World, chance: random.Random) -> Iterator[Condition]:
    found = world.pick_training(chance)
    world.slurm("scancel", found.job)
    yield world.until_resubmitted(found)


def _cancel_waiting(world: World, chance: random.Random) -> Iterator[Condition]:
    found = world.pick_run(chance, "queued")
    world.slurm("scancel", found.job)
    yield world.until_resubmitted(found)


def _cancel_as_user(world: World, chance: random.Random) -> Iterator[Condition]:
    """Like `repro cancel`; then the user launches again."""
    found = world.pick_run(chance, "running", "queued")
    world.slurm("scontrol", "ping")  # NotPossible while it is down
    lease.request_cancel(results.folder(world.root, found.run))
    with suppress(queue.QueueError):
        queue.cancel([found.job])
    yield world.until_resubmitted(found)


def _kill_controller(world: World, chance: random.Random) -> Iterator[Condition]:
    with world.reserve("nodes", "controller"):
        world.bed.kill_controller()
        yield timeout(chance.uniform(0, 4))
        world.bed.start_controller()
    yield lambda: world.is_settled


def _kill_launcher(world: World, chance: random.Random) -> Iterator[Condition]:
    """At a random moment while it submits."""
    found = world.pick_run(chance, "running", "queued")
    with world.reserve("launch"):
        world.slurm("scancel", found.job)
        yield (
            lambda: (
                not world.state_of_run(found.run).is_under_way
                or world.state_of_run(found.run).job != found.job
            )
        )
        launcher = world.launcher()
        assert launcher.stdin
        launcher.stdin.write("\n")
        launcher.stdin.flush()
        time.sleep(chance.uniform(0, 0.8))
        launcher.kill()
        launcher.communicate()
    yield world.until_resubmitted(found)


def _two_launchers(world: World, chance: random.Random) -> Iterator[Condition]:
    """At the same moment: only one of them may submit."""
    found = world.pick_run(chance, "running", "queued")
    with world.reserve("launch", "nodes"):
        world.slurm("scancel", found.job)
        yield lambda: not world.state_of_run(found.run).is_under_way
        before = {s.token for s in submission.read_all(world.root)}
        both = [world.launcher(), world.launcher()]
        for launcher in both:
            assert launcher.stdin
            launcher.stdin.write("\n")
            launcher.stdin.flush()
        output = [world.finish_launcher(launcher) for launcher in both]
        new = [s for s in submission.read_all(world.root) if s.token not in before]
        if sum(found.run.id in a.runs for s in new for a in s.arrays) > 1:
            raise InvariantError(f"{found.run.id} was submitted twice: {output}")
    yield world.until_resubmitted(found)


def _train_here_too(world: World, chance: random.Random) -> Iterator[Condition]:
    """Locally, while SLURM trains or starts it: one is refused, or comes later."""
    unfinished = [s for s in world.states if not s.is_settled and not s.run.starts_from]
    if not unfinished:
        raise NotPossible
    found = chance.choice(unfinished)
    ranks = 2 if found.run == PAIR else 1  # the same number, for the same order of summation
    words = [str(world.root), str(CHECKPOINT_SECONDS), str(SITE.silence_seconds), str(ranks)]
    helper = world.start(LOCAL, *words, spec.to_json(found.run))
    world.helpers.append(helper)
    enough = timeout(chance.uniform(6, 25))
    yield lambda: helper.poll() is not None or enough()
    helper.kill()
    output = helper.communicate()[0].split()
    world.notes[f"trained locally as well: {' '.join(output) or 'killed at its start'}"] += 1
    world.helpers.remove(helper)
    yield lambda: world.is_settled


def _fill_disk(world: World, chance: random.Random) -> Iterator[Condition]:
    with world.reserve("disk"):
        filler = world.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield timeout(chance.uniform(2, 6))
        filler.unlink()
    yield lambda: world.is_settled


def _damage_checkpoint(world: World, chance: random.Random) -> Iterator[Condition]:
    process, found = world.pick_rank(chance)
    folder = results.folder(world.root, found.run) / "checkpoints"
    kill(process.pid, signal.SIGSTOP)  # or it would write a new one
    try:
        whole = sorted(folder.glob("step*.pt"))
        if not whole:
            raise NotPossible
        data = bytearray(whole[-1].read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        whole[-1].write_bytes(data)
        kill(process.pid, signal.SIGKILL)
    finally:
        kill(process.pid, signal.SIGCONT)
    yield world.until_resumed(found)
    log = log_path(results.folder(world.root, found.run)).read_text(errors="replace")
    recorded = f"{whole[-1].name} is damaged" in log
    world.notes[f"a damaged checkpoint was {'told of' if recorded else 'not needed any more'}"] += 1


FAULTS: Mapping[str, tuple[Fault, int]] = {  # and how often per cycle
    "kill -9 the first rank": (_kill_rank, 2),
    "kill -9 another rank": (_kill_other_rank, 1),
    "kill -9 slurmstepd": (_kill_step_daemon, 1),
    "kill a node": (_kill_node, 1),
    "freeze a node, and thaw it": (_freeze_node, 1),
    "scontrol requeue": (_requeue, 1),
    "scancel --signal=USR2": (_warn, 1),
    "scancel --signal=TERM": (_terminate, 1),
    "preempted by an urgent job": (_preempt, 1),
    "scancel": (_cancel, 1),
    "scancel a job that waits": (_cancel_waiting, 1),
    "repro cancel": (_cancel_as_user, 1),
    "kill -9 slurmctld": (_kill_controller, 1),
    "kill -9 a launcher": (_kill_launcher, 1),
    "two launchers at once": (_two_launchers, 1),
    "a local training of the same run": (_train_here_too, 1),
    "disk full": (_fill_disk, 1),
    "a bit of a checkpoint flips": (_damage_checkpoint, 1),
}


def draw_faults(faults: int, seed: int, without: Sequence[str] = ()) -> list[tuple[int, str]]:
    """The numbered faults of a seed: every kind once before any is repeated."""
    chance, drawn = random.Random(seed), list[str]()
    while len(drawn) < faults:
        kinds = [n for n, (_, times) in FAULTS.items() for _ in range(times) if n not in without]
        drawn += chance.sample(kinds, len(kinds))
    return list(enumerate(drawn[:faults]))


# --- a round -------------------------------------------------------------------------------------


@dataclass
class ActiveFault:
    """An injected fault that the runs have not recovered from yet."""

    name: str
    steps: Iterator[Condition]
    condition: Condition
    began: float = field(default_factory=time.monotonic)

    def advance(self) -> bool:
        """Advance the fault as far as possible; whether it is over."""
        with suppress(NotPossible):  # the controller is down
            while self.condition():
                try:
                    self.condition = next(self.steps)
                except StopIteration:
                    return True
        return False


@dataclass
class StallDetector:
    """Detects that nothing changes."""

    last: str = ""
    moved: float = field(default_factory=time.monotonic)

    def is_stuck(self, state_of_run: str) -> bool:
        """Whether the summary has not changed for too long."""
        if state_of_run != self.last:
            self.last, self.moved = state_of_run, time.monotonic()
        return time.monotonic() > self.moved + STUCK_SECONDS


def run_round(
    world: World, faults: list[tuple[int, str]], seed: int, log: Callable[[str], None]
) -> list[tuple[str, float]]:
    """Train the runs, and inject faults from the list, until all are done.

    Returns the faults with the seconds until recovery. InvariantError if nothing changes.
    """
    chance, watch = random.Random(f"{seed} {len(faults)}"), StallDetector()
    active, recovered = list[ActiveFault](), list[tuple[str, float]]()
    steps, due = chance.randint(*PACE_STEPS), time.monotonic() + PACE_SECONDS
    while True:
        world.look()
        world.administer()
        world.launch()
        for fault in [fault for fault in active if fault.advance()]:
            active.remove(fault)
            recovered.append((fault.name, time.monotonic() - fault.began))
            log(f"  recovered from {fault.name} in {recovered[-1][1]:.1f} s")
        if world.done and not active and not world.slurm("squeue", "-h"):
            return recovered
        if faults and not world.done and (world.steps >= steps or time.monotonic() > due):
            if injected := _inject(world, faults, seed):
                log(f"{len(faults)} to go: {injected.name}; {world.summary()}")
                active.append(injected)
            steps = world.steps + chance.randint(*PACE_STEPS)
            due = time.monotonic() + PACE_SECONDS
        if watch.is_stuck(f"{world.summary()}; not recovered from: {[f.name for f in active]}"):
            raise InvariantError(f"nothing moves: {watch.last}\n{world.slurm('squeue', '--array')}")
        time.sleep(POLL_SECONDS)


def _inject(world: World, faults: list[tuple[int, str]], seed: int) -> ActiveFault | None:
    """Inject the first of the next faults that is possible now."""
    for number, name in faults[:8]:
        steps = FAULTS[name][0](world, random.Random(f"{seed} {number} {name}"))
        with suppress(NotPossible):
            condition = next(steps)
            faults.remove((number, name))
            return ActiveFault(name, steps, condition)
    return None


# --- what must be true ---------------------------------------------------------------------------


def outputs(root: Path, run: Run) -> dict[str, str]:
    """What a run computed: its metrics, and the digests of its files."""
    folder = results.folder(root, run)
    result = records.read(folder / results.RESULT, results.Result)
    digests = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (results.METRICS, results.PREDICTIONS, results.WEIGHTS)
    }
    recorded = result["files"]
    if any(recorded.get(name, digests[name]) != digests[name] for name in digests):
        raise InvariantError(f"{folder}: a file is not the one that its result names")
    return {"metrics": json.dumps(result["metrics"], sort_keys=True), **digests}


def check(root: Path, expected: Mapping[Classification, Mapping[str, str]]) -> None:
    """InvariantError unless every run has one result, as expected, and nothing is left behind."""
    for run in RUNS:
        folder = results.folder(root, run)
        found = sorted(path.name for path in folder.glob("*result.json*"))
        if found != [results.RESULT]:
            raise InvariantError(f"{folder}: results are {found}")
        state_of_run = outputs(root, run)
        if differing := [
            name for name in state_of_run if state_of_run[name] != expected[run][name]
        ]:
            raise InvariantError(f"{folder}: not as undisturbed: {', '.join(differing)}")
        if leftovers := [
            str(p) for p in folder.rglob("*") if ".tmp" in p.name or ".whole" in p.name
        ]:
            raise InvariantError(f"left behind: {', '.join(leftovers)}")
        if (folder / "checkpoints").exists():
            raise InvariantError(f"{folder}: done, but its checkpoints are still there")


# --- the whole -----------------------------------------------------------------------------------


@dataclass
class Report:
    """The outcome of all rounds."""

    seed: int
    undisturbed_seconds: float
    rounds: list[float] = field(default_factory=list)  # seconds
    recovered: list[tuple[str, float]] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    attempts: list[int] = field(default_factory=list)  # of each run of each round
    notes: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    without: tuple[str, ...] = ()

    def add_round(
        self, world: World, seconds: float, recovered: Sequence[tuple[str, float]]
    ) -> None:
        """Add a round."""
        self.rounds.append(seconds)
        self.recovered += recovered
        self.endings.update(world.attempts.values())
        self.attempts += [sum(key[0] == run.id for key in world.attempts) for run in RUNS]
        self.notes.update(world.notes)
        self.launches += world.launches

    def __str__(self) -> str:
        count, total = len(self.recovered), sum(self.rounds)
        lost = total - len(self.rounds) * self.undisturbed_seconds
        by_name = defaultdict[str, list[float]](list)
        for name, seconds in self.recovered:
            by_name[name].append(seconds)
        lines = [
            f"{count} faults from seed {self.seed}, in {len(self.rounds)} rounds of {len(RUNS)} "
            f"runs on {NODES} nodes of a SLURM cluster, {os.cpu_count()} cores",
            "every run has one result, equal byte for byte to the undisturbed one",
            "",
            f"{'fault':34} {'times':>5} {'seconds to recover: median':>27} {'worst':>6}",
            *(
                f"{name:34} {len(by_name[name]):5} {statistics.median(by_name[name]):27.1f} "
                f"{max(by_name[name]):6.1f}"
                for name in FAULTS
                if name in by_name
            ),
            *(f"{name:34}   not on this machine" for name in self.without),
            "",
            f"seconds of a round, undisturbed    {self.undisturbed_seconds:8.1f}",
            f"seconds of a round, mean           {total / max(1, len(self.rounds)):8.1f}",
            f"seconds lost to a fault, mean      {lost / max(1, count):8.1f}",
            f"attempts of a run, mean and most   {statistics.mean(self.attempts):8.1f} "
            f"{max(self.attempts):6}",
            f"launches                           {self.launches:8}",
            "",
            "how attempts ended",
            *(f"  {number:5} {name}" for name, number in self.endings.most_common()),
            "seen on the way",
            *(f"  {number:5} {name}" for name, number in sorted(self.notes.items())),
        ]
        return "\n".join(lines) + "\n"


def run_chaos(
    faults: int,
    seed: int,
    work: Path,
    log: Callable[[str], None] = lambda line: None,
    keep: bool = False,
) -> Report:
    """Train the runs in `work`, undisturbed and then with this many faults; the report.

    InvariantError if a result differs from the undisturbed one, or if anything is left behind.
    """
    disk = work / "disk"
    with ExitStack() as stack:
        may_fill = _mount(disk, stack)
        bed = stack.enter_context(Testbed(NODES, 1, 1))
        stack.enter_context(_environment(bed.whole_environment() | {"PYTHONPATH": _ROOT}))
        stack.push(partial(_save_evidence, bed, disk, work, keep))
        site = work / "site.yaml"
        site.write_text(dump(replace(SITE, environment={"REPRO_DATA": str(work / "data")})))

        def round_of(name: str, pending: list[tuple[int, str]]) -> tuple[World, float]:
            world = World(bed, site, disk, disk / name)
            began = time.monotonic()
            report.recovered += run_round(world, pending, seed, log)
            return world, time.monotonic() - began

        report = Report(seed, 0.0, without=() if may_fill else ("disk full",))
        _, report.undisturbed_seconds = round_of("quiet", [])
        log(f"undisturbed: {report.undisturbed_seconds:.1f} s")
        expected = {run: outputs(disk / "quiet", run) for run in RUNS}
        check(disk / "quiet", expected)
        pending = draw_faults(faults, seed, report.without)
        while pending:
            name = f"round-{len(report.rounds) + 1}"
            world, seconds = round_of(name, pending)
            report.add_round(world, seconds, [])
            log(f"{name}: {seconds:.1f} s")
            check(disk / name, expected)
            if keep:
                shutil.copytree(disk / name, work / name)
            shutil.rmtree(disk / name)
        root = bed.root
    if leftovers := processes(root):
        raise InvariantError(f"left behind: {', '.join(' '.join(p.command) for p in leftovers)}")
    return report


_ROOT = str(Path(results.__file__).parents[2])


def _mount(disk: Path, stack: ExitStack) -> bool:
    """Mount a file system for the results that can be filled, if permitted."""
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return False
    stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    return True


def _save_evidence(
    bed: Testbed, disk: Path, work: Path, always: bool, kind: type[BaseException] | None, *_: object
) -> None:
    """Save results and logs after a failure."""
    if kind or always:
        shutil.copytree(disk, work / "left", dirs_exist_ok=True)
        shutil.copytree(bed.root / "log", work / "left/log")


@contextmanager
def _environment(overrides: Mapping[str, str]) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(overrides)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the report there as well")
    parser.add_argument("--work", type=Path, help="a new folder, kept if this fails")
    parser.add_argument("--keep", action="store_true", help="keep it if all is well, too")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f}  {line}", file=sys.stderr, flush=True)

    try:
        report = run_chaos(args.faults, args.seed, work, log, args.keep)
    except BaseException:
        print(f"what there was is kept in {work}", file=sys.stderr)
        raise
    if not args.keep:
        shutil.rmtree(work)
    print(report, end="")
    if args.out:
        args.out.write_text(str(report))


if __name__ == "__main__":
    main()
