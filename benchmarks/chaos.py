"""Real runs on a real SLURM cluster of this machine, disturbed on purpose until all are done.

    python benchmarks/chaos.py [--faults N] [--seed S] [--out benchmarks/chaos.txt]

Four small runs are trained once in peace. Then rounds of the same runs are trained while faults
are drawn from the seed: processes and nodes are killed and frozen, jobs are cancelled, requeued and
preempted, launchers die or come in twos, the disk fills up, checkpoints rot. We play the user, who
repeats the launch whenever something is neither done nor under way, and the administrator, who
releases what SLURM has put on hold. At the end of every round each run has exactly one result,
equal byte for byte to the undisturbed one, or this fails.

The kinds of the faults, their order and their details come from the seed; who is hit depends on
who is running at that moment. About ten seconds a fault on two cores.
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

from repro import records, results, spec
from repro.launch import lease, queue, state, submission
from repro.launch.attempt import log_path
from repro.launch.cluster import Cluster, Resources, dump
from repro.launch.state import State
from repro.launch.testbed import Testbed, TestbedError
from repro.spec import Classification, Model, Recipe, Run

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
PACE_STEPS = (0, 45)  # of training, over all runs, between two faults
PACE_SECONDS = 12.0  # and not more than this, for faults may hit those who have not begun
STUCK_SECONDS = 300.0  # without any change: generous, only a hang fails
POLL_SECONDS = 0.2

# As `repro ITEM --launch slurm` does it, at a word on its standard input.
LAUNCHER = """
import sys
from pathlib import Path
from types import SimpleNamespace
import submitit
from repro import cli, plan, spec
from repro.launch import cluster, data, slurm, start, state, watch

site, root, seconds, *texts = sys.argv[1:]
given = SimpleNamespace(cluster=Path(site), results=Path(root), data=Path("data"), micro_batch=None,
                        checkpoint_seconds=float(seconds), dry_run=False, wait=False,
                        weights=None, decode="cpu", speed="fast", per_gpu=None,
                        launch="slurm", budget=None, yes=True)
print("ready", flush=True)
sys.stdin.readline()
try:
    start.launch(plan.Request({spec.from_json(text): "smoke" for text in texts}), given)
except Exception as error:
    if not (line := cli.line_for_user(error)):
        raise
    print(line, flush=True)
    sys.exit(2)
"""

# As `repro ITEM --launch local` does it.
LOCAL = """
import sys
from pathlib import Path
from repro import spec
from repro.launch import local
from repro.launch.job import How

root, seconds, silence, ranks, text = sys.argv[1:]
tell = lambda event: event.kind == "running" or print(event.kind, flush=True)
how = How(Path("data"), float(seconds), silence_seconds=float(silence))
local.launch([spec.from_json(text)], Path(root), how, 1, tell, int(ranks))
"""

Until = Callable[[], bool]


class NotNow(Exception):
    """A fault that cannot be made at this moment."""


class Broken(Exception):
    """What must never be: a wrong result, a run that hangs, something left behind."""


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
        """As squeue lists it."""
        given = self.environment
        if "SLURM_ARRAY_TASK_ID" in given:
            return f"{given['SLURM_ARRAY_JOB_ID']}_{given['SLURM_ARRAY_TASK_ID']}"
        return given.get("SLURM_JOB_ID", "")


@dataclass
class World:
    """A round: the runs under `root`, and all that is to be known to disturb them."""

    bed: Testbed
    site: Path
    disk: Path
    root: Path
    states: list[State] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)  # what a fault has for itself
    silent: set[str] = field(default_factory=set)  # nodes that are dead or frozen
    helpers: list[subprocess.Popen[str]] = field(default_factory=list)
    attempts: dict[tuple[str, int], str] = field(default_factory=dict)  # how each ended
    seen: Counter[str] = field(default_factory=Counter)  # remarkable things
    steps: int = 0  # made by all attempts, lost ones too
    launches: int = 0
    _reached: dict[tuple[str, int], int] = field(default_factory=dict)
    _launched: float = 0.0
    _administered: float = 0.0

    # --- looking

    def look(self) -> None:
        """See how the runs are, and how attempts ended."""
        self.states = state.look(self.root, RUNS)
        for run in RUNS:
            for path in results.folder(self.root, run).glob("lease-*.json"):
                with suppress(OSError, ValueError):
                    self._note(run, records.read(path, dict[str, object]))

    def _note(self, run: Run, content: Mapping[str, object]) -> None:
        key = run.id, int(str(content["generation"]))
        ended = "finished" if content.get("released") else "without a word"
        self.attempts[key] = str(content.get("cause", ended))
        reached = int(str(content.get("step", 0)))
        self.steps += max(0, reached - self._reached.get(key, 0)) if key in self._reached else 0
        self._reached[key] = reached

    @property
    def done(self) -> bool:
        return all(s.settled for s in self.states)

    @property
    def in_order(self) -> bool:
        return all(s.settled or s.is_under_way for s in self.states)

    def glance(self) -> str:
        """A word on each run: its state, and how far which attempt is."""
        return ", ".join(
            f"{s.name} {s.facts.get('generation', 0)}:{s.facts.get('step', 0)}"
            + (f" ({s.note})" if s.note else "")
            for s in self.states
        )

    def processes(self) -> list[Process]:
        return processes(self.bed.root)

    def state_of(self, job: str) -> State:
        """The state of a job's run; NotNow if the job is no run's newest."""
        for found in self.states:
            if found.job == job and not found.settled:
                return found
        raise NotNow

    def some(self, chance: random.Random, *names: str) -> State:
        """A run in one of these states that SLURM has; NotNow if there is none."""
        found = [s for s in self.states if s.name in names and s.job]
        if not found:
            raise NotNow
        return chance.choice(found)

    def some_rank(self, chance: random.Random, first: bool = True) -> tuple[Process, State]:
        """A process that trains, or is about to; NotNow if there is none."""
        ranks = [p for p in self.processes() if p.is_rank and p.is_first == first]
        ranks = [p for p in ranks if p.node not in self.silent]
        if not ranks:
            raise NotNow
        chosen = chance.choice(sorted(ranks, key=lambda p: p.pid))
        return chosen, self.state_of(chosen.job)

    def some_training(self, chance: random.Random) -> State:
        """The run of a job that trains, or is about to; NotNow if there is none."""
        return self.some_rank(chance)[1]

    # --- acting

    @contextmanager
    def alone(self, *things: str) -> Iterator[None]:
        """Have something for oneself; NotNow if another fault has it."""
        if self.taken & {*things}:
            raise NotNow
        self.taken |= {*things}
        try:
            yield
        finally:
            self.taken -= {*things}

    @contextmanager
    def silence(self, node: str) -> Iterator[None]:
        """The node is dead or frozen."""
        self.silent.add(node)
        try:
            yield
        finally:
            self.silent.discard(node)

    def slurm(self, *command: str) -> str:
        """Ask SLURM; '' if it refuses, as it does if a job has just ended. NotNow if it is dead."""
        if "controller" in self.taken:
            raise NotNow
        try:
            return self.bed.ask(*command).strip()
        except TestbedError as error:
            self.seen[f"refused: {re.sub(r'[0-9_]{4,}', 'JOB', str(error))}"] += 1
            return ""

    def launcher(self) -> subprocess.Popen[str]:
        """A launcher that is ready to submit."""
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
        """What a user does who sees something neither done nor under way."""
        if self.in_order or "launch" in self.taken or time.monotonic() < self._launched + 2:
            return
        self.hear(self.launcher())
        self._launched = time.monotonic()

    def hear(self, process: subprocess.Popen[str]) -> str:
        """Let a launcher go, and take down what it says. Broken if it dies of it."""
        said, _ = process.communicate("\n")
        if process.returncode not in (0, 2):
            raise Broken(f"a launcher ended with {process.returncode}:\n{said}")
        if process.returncode:
            words = re.sub(r"[0-9_]{4,}|/\S+|[0-9a-f]{8}", "...", said.strip().splitlines()[-1])
            self.seen[f"a launch was refused: {words}"] += 1
        return said

    def administer(self) -> None:
        """What an administrator does: release held jobs, take drained nodes into service."""
        if "controller" in self.taken or time.monotonic() < self._administered + 1:
            return
        self._administered = time.monotonic()
        for line in self.slurm("squeue", "-h", "-o", "%i|%r", "--states=PD").splitlines():
            job, reason = line.split("|")
            if "held" in reason.lower():
                self._release(job, reason)
        for name in self.bed.names:
            if self.bed.state(name).startswith("drained"):
                self.slurm("scontrol", "update", f"NodeName={name}", "State=RESUME")
                self.seen["the administrator took a drained node into service"] += 1

    def _release(self, job: str, reason: str) -> None:
        found = next((s for s in state.look(self.root, RUNS) if s.job == job), None)
        if found and not found.settled and found.name != "never started":
            raise Broken(f"{job} is held ({reason}), but its run is {found.name}: {found.note}")
        self.slurm("scontrol", "release", job)
        self.seen[f"the administrator released a job held for: {reason}"] += 1

    # --- what counts as recovered

    def now(self, run: Run) -> State:
        return next(s for s in self.states if s.run == run)

    def goes_on(self, found: State, attempt: str | None = None) -> Until:
        """Until the run is trained by another attempt, or done."""
        began, before = time.time(), attempt or found.facts.get("attempt", "")

        def until() -> bool:
            now = self.now(found.run)
            facts = now.facts
            later = facts.get("attempt") != before and facts.get("beat", 0) > began
            return now.settled or (now.name == "running" and later and "step" in facts)

        return until

    def beats(self, found: State) -> Until:
        """Until the run is trained again, by whichever attempt, or done."""
        return self.goes_on(found, "any other")

    def taken_up(self, found: State) -> Until:
        """Until SLURM has another job for the run, or it is done."""
        forgotten = after(15)  # a controller that is killed now has not cancelled the old one

        def until() -> bool:
            now = self.now(found.run)
            return now.settled or (now.is_under_way and (now.job != found.job or forgotten()))

        return until


def after(seconds: float) -> Until:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def processes(root: Path) -> list[Process]:
    """All that belongs to the cluster with its files under `root`."""
    mark, found = f"{root}/slurm.conf", []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours
            entries = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(entry.partition("=")[::2] for entry in entries)
            if environment.get("SLURM_CONF") == mark and int(path.name) != os.getpid():
                command = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found.append(Process(int(path.name), tuple(command), environment))
    return found


def kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


# --- the faults: each does harm, and yields what has to come true before it goes on -------------

Fault = Callable[[World, random.Random], Iterator[Until]]


def _kill_rank(w: World, chance: random.Random) -> Iterator[Until]:
    process, found = w.some_rank(chance)
    kill(process.pid, signal.SIGKILL)
    yield w.goes_on(found)


def _kill_other_rank(w: World, chance: random.Random) -> Iterator[Until]:
    process, found = w.some_rank(chance, first=False)
    kill(process.pid, signal.SIGKILL)
    yield w.goes_on(found)


def _kill_step_daemon(w: World, chance: random.Random) -> Iterator[Until]:
    """What SLURM has beside each of a job's steps, and beside its script."""
    rank, found = w.some_rank(chance)
    name = f"slurmstepd: [{rank.environment['SLURM_JOB_ID']}."
    daemons = [p for p in w.processes() if p.command[0].startswith(name)]
    if not daemons:
        raise NotNow
    chosen = chance.choice(sorted(daemons, key=lambda p: p.command))
    w.seen[f"killed slurmstepd of {chosen.command[0].removeprefix(name).rstrip(']')}"] += 1
    kill(chosen.pid, signal.SIGKILL)
    yield w.goes_on(found)


def _kill_node(w: World, chance: random.Random) -> Iterator[Until]:
    rank, found = w.some_rank(chance)
    with w.alone("nodes"), w.silence(rank.node):
        w.bed.kill_node(rank.node)
        yield lambda: w.bed.state(rank.node).startswith("down")
        yield after(chance.uniform(0, 5))
        w.bed.start_node(rank.node)
    yield w.goes_on(found)


def _freeze_node(w: World, chance: random.Random) -> Iterator[Until]:
    """Longer than the silence after which others take over."""
    rank, found = w.some_rank(chance)
    with w.alone("nodes"):
        with w.silence(rank.node):
            w.bed.freeze_node(rank.node)
            yield after(SITE.silence_seconds + chance.uniform(1, 12))
            w.bed.thaw_node(rank.node)
        up = ("idle", "mixed", "allocated", "completing")
        yield lambda: w.bed.state(rank.node) in up
    yield w.beats(found)


def _requeue(w: World, chance: random.Random) -> Iterator[Until]:
    found = w.some_training(chance)
    w.slurm("scontrol", "requeue", found.job)
    yield w.goes_on(found)


def _warn(w: World, chance: random.Random) -> Iterator[Until]:
    found = w.some_training(chance)
    w.slurm("scancel", "--signal=USR2", found.job)
    yield w.goes_on(found)


def _terminate(w: World, chance: random.Random) -> Iterator[Until]:
    found = w.some_training(chance)
    w.slurm("scancel", "--signal=TERM", *chance.choice([[], ["--full"]]), found.job)
    yield w.goes_on(found)


def _preempt(w: World, chance: random.Random) -> Iterator[Until]:
    rank, found = w.some_rank(chance)
    with w.alone("nodes"):  # on a dead node it would wait
        job = w.slurm(
            "sbatch", "--parsable", "--partition=urgent", f"--nodelist={rank.node}",
            "--output=/dev/null", "--wrap", f"sleep {chance.uniform(0, 3):.1f}",
        )  # fmt: skip
        if not job:
            raise NotNow
        yield lambda: not w.slurm("squeue", "-h", f"--jobs={job}", "--states=PD,R")
    yield w.goes_on(found)


def _cancel(w: World, chance: random.Random) -> Iterator[Until]:
    found = w.some_training(chance)
    w.slurm("scancel", found.job)
    yield w.taken_up(found)


def _cancel_waiting(w: World, chance: random.Random) -> Iterator[Until]:
    found = w.some(chance, "queued")
    w.slurm("scancel", found.job)
    yield w.taken_up(found)


def _cancel_as_user(w: World, chance: random.Random) -> Iterator[Until]:
    """As `repro cancel` does it; then the user wants it after all."""
    found = w.some(chance, "running", "queued")
    w.slurm("scontrol", "ping")  # NotNow if it is dead
    lease.ask_to_stop(results.folder(w.root, found.run))
    with suppress(queue.QueueError):
        queue.cancel([found.job])
    yield w.taken_up(found)


def _kill_controller(w: World, chance: random.Random) -> Iterator[Until]:
    with w.alone("nodes", "controller"):
        w.bed.kill_controller()
        yield after(chance.uniform(0, 4))
        w.bed.start_controller()
    yield lambda: w.in_order


def _kill_launcher(w: World, chance: random.Random) -> Iterator[Until]:
    """At some moment of its submitting."""
    found = w.some(chance, "running", "queued")
    with w.alone("launch"):
        w.slurm("scancel", found.job)
        yield lambda: not w.now(found.run).is_under_way or w.now(found.run).job != found.job
        launcher = w.launcher()
        assert launcher.stdin
        launcher.stdin.write("\n")
        launcher.stdin.flush()
        time.sleep(chance.uniform(0, 0.8))
        launcher.kill()
        launcher.communicate()
    yield w.taken_up(found)


def _two_launchers(w: World, chance: random.Random) -> Iterator[Until]:
    """At the same moment: one of them submits."""
    found = w.some(chance, "running", "queued")
    with w.alone("launch", "nodes"):
        w.slurm("scancel", found.job)
        yield lambda: not w.now(found.run).is_under_way
        before = {s.token for s in submission.every(w.root)}
        both = [w.launcher(), w.launcher()]
        for launcher in both:
            assert launcher.stdin
            launcher.stdin.write("\n")
            launcher.stdin.flush()
        said = [w.hear(launcher) for launcher in both]
        new = [s for s in submission.every(w.root) if s.token not in before]
        if sum(found.run.id in a.runs for s in new for a in s.arrays) > 1:
            raise Broken(f"{found.run.id} was submitted twice: {said}")
    yield w.taken_up(found)


def _train_here_too(w: World, chance: random.Random) -> Iterator[Until]:
    """Locally, while SLURM trains it, or is about to: one of both is refused, or comes later."""
    unfinished = [s for s in w.states if not s.settled and not s.run.starts_from]
    if not unfinished:
        raise NotNow
    found = chance.choice(unfinished)
    ranks = 2 if found.run == PAIR else 1  # of as many, or its sums have another order
    words = [str(w.root), str(CHECKPOINT_SECONDS), str(SITE.silence_seconds), str(ranks)]
    helper = w.start(LOCAL, *words, spec.to_json(found.run))
    w.helpers.append(helper)
    enough = after(chance.uniform(6, 25))
    yield lambda: helper.poll() is not None or enough()
    helper.kill()
    said = helper.communicate()[0].split()
    w.seen[f"trained locally as well: {' '.join(said) or 'killed at its start'}"] += 1
    w.helpers.remove(helper)
    yield lambda: w.in_order


def _fill_disk(w: World, chance: random.Random) -> Iterator[Until]:
    with w.alone("disk"):
        filler = w.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield after(chance.uniform(2, 6))
        filler.unlink()
    yield lambda: w.in_order


def _damage_checkpoint(w: World, chance: random.Random) -> Iterator[Until]:
    process, found = w.some_rank(chance)
    folder = results.folder(w.root, found.run) / "checkpoints"
    kill(process.pid, signal.SIGSTOP)  # it would write a new one
    try:
        whole = sorted(folder.glob("step*.pt"))
        if not whole:
            raise NotNow
        data = bytearray(whole[-1].read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        whole[-1].write_bytes(data)
        kill(process.pid, signal.SIGKILL)
    finally:
        kill(process.pid, signal.SIGCONT)
    yield w.goes_on(found)
    log = log_path(results.folder(w.root, found.run)).read_text(errors="replace")
    told = f"{whole[-1].name} is damaged" in log
    w.seen[f"a damaged checkpoint was {'told of' if told else 'not needed any more'}"] += 1


FAULTS: Mapping[str, tuple[Fault, int]] = {  # and how often, of a deck
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


def deck(faults: int, seed: int, without: Sequence[str] = ()) -> list[tuple[int, str]]:
    """The faults of a seed, numbered: every kind before any comes again."""
    chance, drawn = random.Random(seed), list[str]()
    while len(drawn) < faults:
        kinds = [n for n, (_, times) in FAULTS.items() for _ in range(times) if n not in without]
        drawn += chance.sample(kinds, len(kinds))
    return list(enumerate(drawn[:faults]))


# --- a round -------------------------------------------------------------------------------------


@dataclass
class Active:
    """A fault that has been made, and from which the runs have not recovered yet."""

    name: str
    steps: Iterator[Until]
    until: Until
    began: float = field(default_factory=time.monotonic)

    def advance(self) -> bool:
        """Go on with it where it can; whether it is over."""
        with suppress(NotNow):  # the controller is dead at this moment
            while self.until():
                try:
                    self.until = next(self.steps)
                except StopIteration:
                    return True
        return False


@dataclass
class Watch:
    """Whether things go on."""

    last: str = ""
    moved: float = field(default_factory=time.monotonic)

    def is_stuck(self, now: str) -> bool:
        """Whether it has been as now for too long."""
        if now != self.last:
            self.last, self.moved = now, time.monotonic()
        return time.monotonic() > self.moved + STUCK_SECONDS


def play(
    w: World, faults: list[tuple[int, str]], seed: int, tell: Callable[[str], None]
) -> list[tuple[str, float]]:
    """Train the runs, and make faults, taken from the list, until all are done.

    Returns the faults with the seconds it took to recover from each. Broken if nothing moves.
    """
    chance, watch = random.Random(f"{seed} {len(faults)}"), Watch()
    active, recovered = list[Active](), list[tuple[str, float]]()
    steps, due = chance.randint(*PACE_STEPS), time.monotonic() + PACE_SECONDS
    while True:
        w.look()
        w.administer()
        w.launch()
        for fault in [fault for fault in active if fault.advance()]:
            active.remove(fault)
            recovered.append((fault.name, time.monotonic() - fault.began))
            tell(f"  recovered from {fault.name} in {recovered[-1][1]:.1f} s")
        if w.done and not active and not w.slurm("squeue", "-h"):
            return recovered
        if faults and not w.done and (w.steps >= steps or time.monotonic() > due):
            if made := _make(w, faults, seed):
                tell(f"{len(faults)} to go: {made.name}; {w.glance()}")
                active.append(made)
            steps = w.steps + chance.randint(*PACE_STEPS)
            due = time.monotonic() + PACE_SECONDS
        if watch.is_stuck(f"{w.glance()}; not recovered from: {[f.name for f in active]}"):
            raise Broken(f"nothing moves: {watch.last}\n{w.slurm('squeue', '--array')}")
        time.sleep(POLL_SECONDS)


def _make(w: World, faults: list[tuple[int, str]], seed: int) -> Active | None:
    """Make the first of the next faults that can be made now."""
    for number, name in faults[:8]:
        steps = FAULTS[name][0](w, random.Random(f"{seed} {number} {name}"))
        with suppress(NotNow):
            until = next(steps)
            faults.remove((number, name))
            return Active(name, steps, until)
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
    told = result["files"]
    if any(told.get(name, digests[name]) != digests[name] for name in digests):
        raise Broken(f"{folder}: a file is not the one that its result names")
    return {"metrics": json.dumps(result["metrics"], sort_keys=True), **digests}


def check(root: Path, expected: Mapping[Classification, Mapping[str, str]]) -> None:
    """Broken unless every run has its one result, as expected, and nothing else is left."""
    for run in RUNS:
        folder = results.folder(root, run)
        found = sorted(path.name for path in folder.glob("*result.json*"))
        if found != [results.RESULT]:
            raise Broken(f"{folder}: results are {found}")
        now = outputs(root, run)
        if differing := [name for name in now if now[name] != expected[run][name]]:
            raise Broken(f"{folder}: not as undisturbed: {', '.join(differing)}")
        if left := [str(p) for p in folder.rglob("*") if ".tmp" in p.name or ".whole" in p.name]:
            raise Broken(f"left behind: {', '.join(left)}")
        if (folder / "checkpoints").exists():
            raise Broken(f"{folder}: done, but its checkpoints are still there")


# --- the whole -----------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of it."""

    seed: int
    quiet_seconds: float
    rounds: list[float] = field(default_factory=list)  # seconds
    recovered: list[tuple[str, float]] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    attempts: list[int] = field(default_factory=list)  # of each run of each round
    seen: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    without: tuple[str, ...] = ()

    def take(self, w: World, seconds: float, recovered: Sequence[tuple[str, float]]) -> None:
        """Add a round."""
        self.rounds.append(seconds)
        self.recovered += recovered
        self.endings.update(w.attempts.values())
        self.attempts += [sum(key[0] == run.id for key in w.attempts) for run in RUNS]
        self.seen.update(w.seen)
        self.launches += w.launches

    def __str__(self) -> str:
        count, total = len(self.recovered), sum(self.rounds)
        lost = total - len(self.rounds) * self.quiet_seconds
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
            f"seconds of a round, undisturbed    {self.quiet_seconds:8.1f}",
            f"seconds of a round, mean           {total / max(1, len(self.rounds)):8.1f}",
            f"seconds lost to a fault, mean      {lost / max(1, count):8.1f}",
            f"attempts of a run, mean and most   {statistics.mean(self.attempts):8.1f} "
            f"{max(self.attempts):6}",
            f"launches                           {self.launches:8}",
            "",
            "how attempts ended",
            *(f"  {number:5} {name}" for name, number in self.endings.most_common()),
            "seen on the way",
            *(f"  {number:5} {name}" for name, number in sorted(self.seen.items())),
        ]
        return "\n".join(lines) + "\n"


def disturb(
    faults: int,
    seed: int,
    work: Path,
    tell: Callable[[str], None] = lambda line: None,
    keep: bool = False,
) -> Report:
    """Train the runs in `work`, in peace and then under so many faults; the report.

    Broken if a run has not exactly the result that it has undisturbed, or if anything is left.
    """
    disk = work / "disk"
    with ExitStack() as stack:
        may_fill = _mount(disk, stack)
        bed = stack.enter_context(Testbed(NODES, 1, 1))
        stack.enter_context(_environment(bed.whole_environment() | {"PYTHONPATH": _ROOT}))
        stack.push(partial(_keep, bed, disk, work, keep))
        site = work / "site.yaml"
        site.write_text(dump(replace(SITE, environment={"REPRO_DATA": str(work / "data")})))

        def round_of(name: str, pending: list[tuple[int, str]]) -> tuple[World, float]:
            world = World(bed, site, disk, disk / name)
            began = time.monotonic()
            report.recovered += play(world, pending, seed, tell)
            return world, time.monotonic() - began

        report = Report(seed, 0.0, without=() if may_fill else ("disk full",))
        _, report.quiet_seconds = round_of("quiet", [])
        tell(f"undisturbed: {report.quiet_seconds:.1f} s")
        expected = {run: outputs(disk / "quiet", run) for run in RUNS}
        check(disk / "quiet", expected)
        pending = deck(faults, seed, report.without)
        while pending:
            name = f"round-{len(report.rounds) + 1}"
            world, seconds = round_of(name, pending)
            report.take(world, seconds, [])
            tell(f"{name}: {seconds:.1f} s")
            check(disk / name, expected)
            if keep:
                shutil.copytree(disk / name, work / name)
            shutil.rmtree(disk / name)
        root = bed.root
    if left := processes(root):
        raise Broken(f"left behind: {', '.join(' '.join(p.command) for p in left)}")
    return report


_ROOT = str(Path(results.__file__).parents[1])


def _mount(disk: Path, stack: ExitStack) -> bool:
    """A file system for the results that can be filled, if we may have one."""
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return False
    stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    return True


def _keep(
    bed: Testbed, disk: Path, work: Path, always: bool, kind: type[BaseException] | None, *_: object
) -> None:
    """What tells, after a failure, how it came to that."""
    if kind or always:
        shutil.copytree(disk, work / "left", dirs_exist_ok=True)
        shutil.copytree(bed.root / "log", work / "left/log")


@contextmanager
def _environment(laid_over: Mapping[str, str]) -> Iterator[None]:
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(laid_over)
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
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f}  {line}", file=sys.stderr, flush=True)

    try:
        report = disturb(given.faults, given.seed, work, tell, given.keep)
    except BaseException:
        print(f"what there was is kept in {work}", file=sys.stderr)
        raise
    if not given.keep:
        shutil.rmtree(work)
    print(report, end="")
    if given.out:
        given.out.write_text(str(report))


if __name__ == "__main__":
    main()
