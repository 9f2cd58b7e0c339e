"""What a launch will cost, as far as it can be known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repro import plan, results
from tests.launch import LONG, RUN


def finished(root: Path, seed: int, **provenance: object) -> None:
    folder = results.begin(root, replace(RUN, seed=seed))
    results.finish(folder, {"status": "done", "metrics": {}, "provenance": provenance})


def test_nothing_is_known_of_what_never_ran(tmp_path: Path) -> None:
    assert plan.price(tmp_path, [RUN, LONG]) == (
        "not known for 2, which no seed has been through here"
    )


def test_a_seed_tells_of_the_others(tmp_path: Path) -> None:
    finished(tmp_path, 1, seconds=3600.0, ranks=8, device="NVIDIA H100")
    finished(tmp_path, 2, seconds=7200.0, ranks=8, device="NVIDIA H100")
    said = plan.price(tmp_path, [RUN, replace(RUN, seed=5), LONG])
    assert said == (
        "about 24 GPU-hours for 2 of them, by seeds that are done; "
        "not known for 1, which no seed has been through here"
    )


def test_hours_of_a_cpu_are_not_those_of_a_gpu(tmp_path: Path) -> None:
    finished(tmp_path, 0, seconds=1800.0, ranks=1, device="CPU x86_64 AVX512, 1 threads")
    said = plan.price(tmp_path, [replace(RUN, seed=1)])
    assert said == "about 0.5 CPU-hours for 1 of them, by seeds that are done"


def test_seeds_that_were_asked_for_are_found(tmp_path: Path) -> None:
    from repro.experiments import get
    from repro.experiments.scales import at_scale

    cells = get("table1").cells
    known = {replace(at_scale(cells[3].run, "smoke"), seed=seed).id for seed in range(5)}
    assert plan.seeds_known(cells, "smoke", known, 1) == 5
    assert plan.seeds_known(cells, "proxy", known, 3) == 3
