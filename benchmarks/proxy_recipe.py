"""Choose the learning rate of the proxy scale: one for all methods, on held-out training images.

    python benchmarks/proxy_recipe.py [DIR]

Trains one method of each family on the fit part of Fashion-MNIST-6k at each rate, tests on the
validation part, and prints top-1 and its mean over the families, in which each counts once. The
rate with the best mean is taken. No test image is touched, and the glyphs are not used: in four
epochs half of the methods hardly leave chance on them, at any rate. About 20 core-minutes; what is
in DIR (build/proxy-recipe) already is not trained again.
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


def trial(method: str, rate: float) -> Classification:
    """The proxy run of a method at another rate, on the two parts of the training images."""
    cells = experiments.get("table1").cells
    run = at_scale(next(c.training for c in cells if (c.row, c.column) == (method, "C10")), "proxy")
    recipe = replace(run.recipe, lr=rate)
    return replace(run, recipe=recipe, train_split="fit", test_split="validation")


def main(root: Path) -> None:
    grid = {(method, rate): trial(method, rate) for rate in RATES for method in METHODS}
    missing = [run for run in grid.values() if results.outcome(root, run).result is None]
    if missing:
        jobs = local.default_jobs()
        local.launch(missing, root, How(), jobs, Progress(len(missing), jobs).tell)

    print("validation top-1 (%) on Fashion-MNIST-6k by learning rate, one seed")
    print(f"{'lr':>7}" + "".join(f"{method:>11}" for method in METHODS) + f"{'mean':>8}")
    for rate in RATES:
        found = [results.outcome(root, grid[method, rate]).result for method in METHODS]
        row = [result["metrics"].get("top1", 0.0) if result else float("nan") for result in found]
        print(f"{rate:7.0e}" + "".join(f"{v:11.1f}" for v in row) + f"{sum(row) / len(row):8.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/proxy-recipe"))
