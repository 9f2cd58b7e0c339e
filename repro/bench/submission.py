"""Wall time to submit 1,020 runs to a real SLURM, and to query their states.

The cluster is a testbed on this machine without a free CPU, so no job starts meanwhile. The peer is
submitit alone: as many calls of a function in as many arrays, without records, a copy of the code,
or a check for existing results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from repro.bench import BenchError, BenchOptions
from repro.bench.measure import command_seconds, interleave
from repro.bench.record import Comparison
from repro.testbed.cluster import Testbed, TestbedError

SEEDS = 34
METHODS = 30  # of Table 1, on both datasets
PEER = """
import sys, submitit
executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=60, cpus_per_task=1)
for start in range(0, int(sys.argv[2]), 1000):  # the size of an array
    executor.map_array(abs, range(min(1000, int(sys.argv[2]) - start)))
"""


def measure(options: BenchOptions) -> Iterator[Comparison]:
    try:
        with TemporaryDirectory() as folder, Testbed(nodes=1, cpus=1) as bed:
            bed.ask("sbatch", "--exclusive", "--output=/dev/null", "--wrap=sleep infinity")
            yield from _measured(Path(folder), bed, options.rounds)
    except TestbedError as error:
        raise BenchError(str(error)) from error


def _measured(folder: Path, bed: Testbed, rounds: int) -> Iterator[Comparison]:
    site, runs = folder / "site.yaml", METHODS * SEEDS
    site.write_text("resources:\n- cpus: 1\n  time: 1h\n")
    environment = {**os.environ, **bed.environment, "REPRO_DATA": f"{folder}/data"}

    def seconds(*command: str) -> float:
        return command_seconds([sys.executable, *command], environment)

    def cancel_jobs(times: float) -> float:
        bed.ask("scancel", "--state=PENDING", f"--user={os.geteuid()}")
        return times

    repro = ("-m", "repro")
    launch = (*repro, "table1", "--scale", "smoke", "--launch", "slurm", "--cluster", str(site))
    roots = (f"{folder}/results-{number}" for number in count())
    latest_root = [""]

    def submit() -> float:
        latest_root[0] = next(roots)
        return cancel_jobs(seconds(*launch, "--seeds", str(SEEDS), "--results", latest_root[0]))

    timers = {
        "submit": submit,
        "peer": lambda: cancel_jobs(seconds("-c", PEER, next(roots), str(runs))),
        "status": lambda: seconds(*repro, "status", "--results", latest_root[0]),
    }
    seconds(*launch, "--seeds", "1", "--results", next(roots))  # creates the data
    times = interleave(timers, rounds)
    yield Comparison(
        name=f"repro table1 --launch slurm, {runs:,} runs",
        unit="s",
        ours=times["submit"],
        peer="submitit.map_array alone",
        theirs=times["peer"],
        per_second=1,
    )
    yield Comparison(
        name=f"repro status, {runs:,} runs", unit="s", ours=times["status"], per_second=1
    )
