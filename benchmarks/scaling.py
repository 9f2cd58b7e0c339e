"""Aggregation, rendering and `repro verify` of 100 to 10,000 synthetic runs: seconds and memory.

    python benchmarks/scaling.py [--runs 100 1000 10000] [--out benchmarks/scaling.txt]

A synthetic paper has tables of 20 rows, with five seeds each. Each run has a curve of ten epochs
and the predictions for 1,000 images. Every step is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS, SEEDS, EPOCHS, IMAGES = 20, 5, 10, 1_000

PAPER = """
from functools import partial
from repro.paper import NoVersion, Paper
from repro.spec import Cell, Classification, Experiment, Model, PaperValue, Recipe

def experiment(number):
    cells = tuple(
        Cell(row=f"method {row}", column="C", paper=PaperValue(90.0, "Table 1"), run=Classification(
            model=Model.of("synthetic", table=number, row=row), dataset="cifar10",
            recipe=Recipe(epochs=%(epochs)d, batch_size=500, lr=1e-3)))
        for row in range(%(rows)d)
    )
    return Experiment(name=f"table{number}", place=f"Table {number}", title="Synthetic",
                      caption="Synthetic.", cells=cells)

def at_scale(run, scale):
    if scale != "paper":
        raise NoVersion(run.id)
    return run

PAPER = Paper(name="Synthetic", title="synthetic", at_scale=at_scale,
              experiments={f"table{number}": partial(experiment, number)
                           for number in range(%(tables)d)})
"""
STEPS = {
    "make": """
import io, json, numpy
from repro import paper, results
from repro.core import plan
rng = numpy.random.default_rng(0)
for name in paper.current().names():
    for run in plan.runs(paper.current().get(name).cells, "paper", SEEDS):
        classes = numpy.tile(numpy.arange(10, dtype="int16"), (IMAGES, 1))
        top5 = rng.permuted(classes, axis=1)[:, :5]
        label = numpy.where(rng.random(IMAGES) < 0.9, top5[:, 0], 9 - top5[:, 0]).astype("int64")
        buffer = io.BytesIO()
        numpy.savez_compressed(buffer, label=label, top5=top5)
        metrics = {"top1": 100 * int((top5[:, 0] == label).sum()) / IMAGES,
                   "top5": 100 * int((top5 == label[:, None]).any(1).sum()) / IMAGES,
                   "loss": 1.0, "test_images": IMAGES}
        folder = results.begin(root, run)
        steps = [*run.evaluations]
        results.write_metrics(folder, [{**metrics, "step": step} for step in steps])
        results.finish(folder, {"status": "done", "metrics": metrics, "provenance":
                       {"device": "CPU", "precision": "fp32", "seconds": 1.0}},
                       {results.PREDICTIONS: buffer.getvalue()})
""",
    "aggregate": """
from repro import paper
from repro.render.frame import tidy
for name in paper.current().names():
    frame, warnings = tidy(paper.current().get(name), "paper", root, SEEDS)
    assert not warnings, warnings[0]
    assert (frame["n"] == SEEDS).all()
""",
    "render": """
from repro import paper, results
from repro.render.item import render
for name in paper.current().names():
    for path, content in render(paper.current().get(name), "paper", root, SEEDS).files.items():
        (root.parent / path).parent.mkdir(exist_ok=True)
        results.write(root.parent / path, content)
""",
    "verify": """
from repro.verify import verify
if __name__ == "__main__":
    found = verify(root, root.parent)
    assert not found.differences, found.differences[:3]
    assert found.num_runs >= RUNS
""",
}


def measure(folder: Path, step: str, runs: int) -> tuple[float, float, float]:
    """Seconds, those of CPU with all children, and the largest memory of a process in GiB."""
    names = {"SEEDS": SEEDS, "IMAGES": IMAGES, "RUNS": runs}
    head = "".join(f"{name} = {value}\n" for name, value in names.items())
    script = folder / f"{step}.py"
    script.write_text(
        f"from pathlib import Path\n{head}root = Path({str(folder / 'results')!r})\n{STEPS[step]}"
    )
    environment = {**os.environ, "REPRO_PAPER": str(folder / "synthetic.py")}
    started = time.monotonic()
    with subprocess.Popen([sys.executable, script], env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{step} failed")
    cpu = usage.ru_utime + usage.ru_stime
    return time.monotonic() - started, cpu, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
             f"Python {platform.python_version()}",
             f"{'runs':>7}  {'step':<9}  {'s':>6}  {'CPU s':>6}  {'GiB':>5}"]  # fmt: skip
    for runs in args.runs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            options = {"rows": ROWS, "epochs": EPOCHS, "tables": max(1, runs // (ROWS * SEEDS))}
            (folder / "synthetic.py").write_text(PAPER % options)
            measure(folder, "make", runs)
            for step in ("aggregate", "render", "verify"):
                seconds, cpu, memory = measure(folder, step, runs)
                lines.append(f"{runs:>7,}  {step:<9}  {seconds:>6.2f}  {cpu:>6.2f}  {memory:>5.2f}")
                print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
