"""Choose the learning rate of the demo scale: one for all methods, on held-out training images.

    python benchmarks/demo_recipe.py [DIR]

Trains one method of each family on the fit part of Fashion-MNIST-6k at each rate, evaluates on the
validation part, and prints top-1 and its mean over the families. The rate with the best mean is
chosen. Test images are not used, and neither are the glyphs: after four epochs half of the methods
are barely above chance on them at any rate. About 20 core-minutes; runs with a result in DIR
(build/demo-recipe) are not repeated.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from repro import experiments, results
from repro.execution import ExecutionOptions
from repro.experiments.scales import at_scale
from repro.launch import local
from repro.launch.progress import Progress
from repro.spec import Classification

RATES = (1e-3, 2e-3, 4e-3)
METHODS = ("WRN28-10", "DeiT-T", "PVT-T", "CCT-7/3×1", "Swin-T", "NesT-T")


def trial(method: str, rate: float) -> Classification:
    """The demo run of a method at another rate, on the two parts of the training images."""
    cells = experiments.get("table1").cells
    run = at_scale(next(c.training for c in cells if (c.row, c.column) == (method, "C10")), "demo")
    recipe = replace(run.recipe, lr=rate)
    return replace(run, recipe=recipe, train_split="fit", test_split="validation")


def main(root: Path) -> None:
    grid = {(method, rate): trial(method, rate) for rate in RATES for method in METHODS}
    missing = [run for run in grid.values() if results.outcome(root, run).result is None]
    if missing:
        jobs = local.default_jobs()
        with Progress(len(missing), jobs) as progress:
            local.launch(missing, root, ExecutionOptions(), jobs, progress.show)

    print("validation top-1 (%) on Fashion-MNIST-6k by learning rate, one seed")
    print(f"{'lr':>7}" + "".join(f"{method:>11}" for method in METHODS) + f"{'mean':>8}")
    for rate in RATES:
        outcomes = [results.outcome(root, grid[method, rate]).result for method in METHODS]
        row = [
            result["metrics"].get("top1", 0.0) if result else float("nan") for result in outcomes
        ]
        print(f"{rate:7.0e}" + "".join(f"{v:11.1f}" for v in row) + f"{sum(row) / len(row):8.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo-recipe"))
