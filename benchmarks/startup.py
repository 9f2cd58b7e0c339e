"""How long the commands that only look take, in wall seconds: the median of repeated processes.

    python benchmarks/startup.py

The bounds are those a user feels: 0.2 s to be told what there is, 0.3 s to plan an item
and 1 s to plan everything, 1.2 s to draw.
For comparison, what importing torch and timm alone takes in the same run.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = 11
PYTHON = [sys.executable, "-m", "repro"]

COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "repro --help": ([*PYTHON, "--help"], 0.2),
    "repro list": ([*PYTHON, "list"], 0.2),
    "repro plan table1": ([*PYTHON, "plan", "table1"], 0.3),
    "repro plan all": ([*PYTHON, "plan", "all"], 1.0),
    "repro table1": ([*PYTHON, "table1", "--out", "{out}"], 1.2),
    "repro table1 --scale proxy": ([*PYTHON, "table1", "--scale", "proxy", "--out", "{out}"], 1.2),
    "(import torch)": ([sys.executable, "-c", "import torch"], None),
    "(import timm)": ([sys.executable, "-c", "import timm"], None),
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as out:
        commands = {n: [word.format(out=out) for word in c] for n, (c, _) in COMMANDS.items()}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):  # in turn, so that a busy moment hits all alike
            for name, command in commands.items():
                times[name].append(seconds(command))
    print(f"{'command':28} {'median':>8} {'bound':>6}")
    for name, measured in times.items():
        bound = COMMANDS[name][1]
        shown = "" if bound is None else f"{bound:6.1f}"
        print(f"{name:28} {statistics.median(measured):8.3f} {shown:>6}")


if __name__ == "__main__":
    main()
