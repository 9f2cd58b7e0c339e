"""Choose the learning rate of the proxy scale: one for all methods, on held-out training images.

    python benchmarks/proxy_recipe.py [--results DIR]

Trains one method of each family on the fit part of both embedded sets at each rate, tests on the
validation part, and prints the mean accuracy over methods, in which each family counts once. The
rate with the best mean over both sets is taken; the test sets are not touched. About 25
core-minutes; what is in DIR already is not trained again.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from repro import experiments, results
from repro.experiments.scales import at_scale
from repro.launch import local
from repro.launch.job import How
from repro.launch.progress import Progress
from repro.spec import Classification

RATES = (1e-3, 2e-3, 4e-3)
METHODS = ("WRN28-10", "DeiT-T", "PVT-T", "CCT-7/3×1", "Swin-T", "NesT-T")


def trial(method: str, column: str, rate: float) -> Classification:
    cells = experiments.get("table1").cells
    cell = next(c for c in cells if (c.row, c.column) == (method, column))
    run = at_scale(cell.run, "proxy")
    recipe = replace(run.recipe, lr=rate)
    return replace(run, recipe=recipe, train_split="fit", test_split="validation")


def main(root: Path) -> None:
    grid = {(m, c, r): trial(m, c, r) for r in RATES for c in ("C10", "C100") for m in METHODS}
    missing = [run for run in grid.values() if results.outcome(root, run).result is None]
    if missing:
        jobs = local.default_jobs()
        local.launch(missing, root, How(), jobs, Progress(len(missing), jobs).tell)

    def top1(method: str, column: str, rate: float) -> float:
        result = results.outcome(root, grid[method, column, rate]).result
        return float(result["metrics"].get("top1", 0.0)) if result else float("nan")

    for column in ("C10", "C100"):
        dataset = grid[METHODS[0], column, RATES[0]].dataset
        print(
            f"\nvalidation top-1, {dataset}\n{'lr':>8} "
            + " ".join(f"{m:>10}" for m in METHODS)
            + f" {'mean':>10}"
        )
        for rate in RATES:
            row = [top1(method, column, rate) for method in METHODS]
            cells = " ".join(f"{value:10.1f}" for value in [*row, sum(row) / len(row)])
            print(f"{rate:8.0e} {cells}")


if __name__ == "__main__":
    main(Path(sys.argv[2] if sys.argv[1:2] == ["--results"] else "build/proxy-recipe"))
