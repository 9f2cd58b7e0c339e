"""How long it takes to plan and submit 1,020 runs, and to be told how they are, on a real SLURM.

    python benchmarks/submission.py

The cluster is a testbed of this machine that has no free CPU, so that nothing starts meanwhile. The
peer is submitit by itself: as many calls of a function as one array, without records, without a
copy of the code, without a look at what is done, and the states of its jobs by its own means.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from repro.launch.testbed import Testbed

SEEDS = 34
RUNS = 30 * SEEDS
ROUNDS = 3
REPRO = [sys.executable, "-m", "repro"]
BOUNDS = {"submit": 2.0, "status": 1.0}

PEER = """
import sys, submitit
executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(time=60, cpus_per_task=1)
for start in range(0, int(sys.argv[2]), 1000):  # as many as an array holds
    executor.map_array(abs, range(min(1000, int(sys.argv[2]) - start)))
"""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Testbed(nodes=1, cpus=1) as bed:
        os.environ.update(bed.environment)
        bed.ask("sbatch", "--exclusive", "--output=/dev/null", "--wrap=sleep infinity")
        site = Path(folder) / "site.yaml"
        site.write_text("resources:\n- cpus: 1\n  time: 1h\n")
        os.environ["REPRO_DATA"] = f"{folder}/data"
        smoke = ["table1", "--scale", "smoke"]
        seconds([*REPRO, *smoke, "--launch", "slurm", "--cluster", str(site), "--dry-run",
                 "--results", f"{folder}/first"])  # fmt: skip

        def ours(number: int) -> float:
            root = ["--results", f"{folder}/{number}", "--seeds", str(SEEDS)]
            return seconds([*REPRO, *smoke, *root, "--launch", "slurm", "--cluster", str(site)])

        def status(number: int) -> float:
            return seconds([*REPRO, "status", "--results", f"{folder}/{number}"])

        def peer(number: int) -> float:
            return seconds([sys.executable, "-c", PEER, f"{folder}/peer{number}", str(RUNS)])

        ways: dict[str, Callable[[int], float]] = {"submit": ours, "status": status, "peer": peer}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            for name, way in ways.items():  # in turn, so that a busy moment hits all alike
                times[name].append(way(number))
            bed.ask("scancel", "--state=PENDING", f"--user={os.geteuid()}")
    print(f"{RUNS} runs{'':22} {'median s':>8} {'bound':>6}")
    shown = {"submit": "repro table1 --launch slurm", "status": "repro status",
             "peer": "(submitit.map_array alone)"}  # fmt: skip
    for name, measured in times.items():
        bound = f"{BOUNDS[name]:6.1f}" if name in BOUNDS else ""
        print(f"{shown[name]:32} {statistics.median(measured):5.2f} {bound:>6}")
    ratio = statistics.median(times["submit"]) / statistics.median(times["peer"])
    print(f"submitting takes {ratio:.1f} times as long as with submitit alone")


if __name__ == "__main__":
    main()
