"""How long it takes to submit 1,020 runs to a real SLURM, and to be told how they are; wall time.

The cluster is a testbed of this machine that has no free CPU, so that nothing starts meanwhile. The
peer is submitit by itself: as many calls of a function in as many arrays, without records, without
a copy of the code, without a look at what is done.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from repro.bench import BenchError, How
from repro.bench.measure import in_turns, wall_seconds
from repro.bench.record import Comparison
from repro.launch.testbed import Testbed, TestbedError

SEEDS = 34
METHODS = 30  # of Table 1, on both datasets
PEER = """
import sys, submitit
executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=60, cpus_per_task=1)
for start in range(0, int(sys.argv[2]), 1000):  # as many as an array holds
    executor.map_array(abs, range(min(1000, int(sys.argv[2]) - start)))
"""


def measure(how: How) -> Iterator[Comparison]:
    try:
        with TemporaryDirectory() as folder, Testbed(nodes=1, cpus=1) as bed:
            bed.ask("sbatch", "--exclusive", "--output=/dev/null", "--wrap=sleep infinity")
            yield from _measured(Path(folder), bed, how.rounds)
    except TestbedError as error:
        raise BenchError(str(error)) from error


def _measured(folder: Path, bed: Testbed, rounds: int) -> Iterator[Comparison]:
    site, runs = folder / "site.yaml", METHODS * SEEDS
    site.write_text("resources:\n- cpus: 1\n  time: 1h\n")
    environment = {**os.environ, **bed.environment, "REPRO_DATA": f"{folder}/data"}

    def seconds(*command: str) -> float:
        def work() -> None:
            done = subprocess.run(
                [sys.executable, *command], capture_output=True, text=True, env=environment
            )
            if done.returncode:
                raise BenchError(f"{' '.join(command)[:80]} failed: {done.stderr[-300:]}")

        return wall_seconds(work)

    def after(taken: float) -> float:
        bed.ask("scancel", "--state=PENDING", f"--user={os.geteuid()}")
        return taken

    repro = ("-m", "repro")
    launch = (*repro, "table1", "--scale", "smoke", "--launch", "slurm", "--cluster", str(site))
    roots = (f"{folder}/results-{number}" for number in count())
    last = [""]

    def submit() -> float:
        last[0] = next(roots)
        return after(seconds(*launch, "--seeds", str(SEEDS), "--results", last[0]))

    ways = {
        "submit": submit,
        "peer": lambda: after(seconds("-c", PEER, next(roots), str(runs))),
        "status": lambda: seconds(*repro, "status", "--results", last[0]),
    }
    seconds(*launch, "--seeds", "1", "--results", next(roots))  # makes the data
    taken = in_turns(ways, rounds)
    yield Comparison(
        name=f"repro table1 --launch slurm, {runs:,} runs",
        unit="s",
        ours=taken["submit"],
        peer="submitit.map_array alone",
        theirs=taken["peer"],
        per_second=1,
    )
    yield Comparison(
        name=f"repro status, {runs:,} runs", unit="s", ours=taken["status"], per_second=1
    )
