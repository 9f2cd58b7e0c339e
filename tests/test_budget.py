"""The price and the budget on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro import experiments, gpus, plan
from repro.spec import Profiling
from tests.finished import finish
from tests.test_cli import Capture, refused, works

MACS = 5_807_000_000  # of NesT-T at 224


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results in which every architecture of the paper is counted, as if all were NesT-T."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("REPRO_CLUSTER", raising=False)
    cells = [*experiments.get("table_a1").cells, *experiments.get("table_a6").cells]
    for run in plan.runs(cells, "paper", 1):
        assert isinstance(run, Profiling)
        finish(Path("results"), run, {"parameters": 17_057_608, "macs": MACS})
    return tmp_path


def test_the_price_of_every_run_is_known(capsys: Capture) -> None:
    """Once architectures are counted, nothing of the paper is without a price."""
    rows = json.loads(works(capsys, "plan all --json"))
    assert len(rows) > 300
    to_do = [row for row in rows if row["state"] == "missing"]
    assert all(row["gpu_hours"] for row in to_do)
    run = next(row for row in rows if row["run"].startswith("nest-tiny-imagenet-imagenet-300ep-s0"))
    images = 300 * 1_281_167 * 3 + 30 * 50_000  # backward is twice the forward pass
    flop, peak = 2 * MACS * images, gpus.PEAKS["H100"][0] * 1e12 * 3600
    assert run["gpu_hours"] == pytest.approx([flop / peak / 0.30, flop / peak / 0.06], rel=1e-3)


def test_the_site_s_gpus_are_priced(capsys: Capture, here: Path) -> None:
    site = here / "site.yaml"
    site.write_text("gpus: {type: a100}\nresources:\n- gpus: 4\n")
    told = works(capsys, f"plan table2 --only NesT-T --seeds 1 --cluster {site}")
    assert "312 TFLOP/s of one A100" in told
    told = works(capsys, f"plan table2 --only NesT-T --seeds 1 --cluster {site} --runs")
    assert "h on 4" in told
    assert "989 TFLOP/s of one H100" in works(capsys, "plan table2 --only NesT-T --seeds 1")
    assert "362 TFLOP/s of one L40S" in works(capsys, "plan table2 --only NesT-T --gpu l40s")
    assert "disk: " in told


def test_a_budget_chooses_whole_claims(capsys: Capture) -> None:
    told = works(capsys, "plan table1 figure7 --budget 60gpuh --json")
    rows = [row for row in json.loads(told) if row["state"] == "missing"]
    assert rows
    assert sum(row["gpu_hours"][1] for row in rows) <= 60
    chosen = {row["run"] for row in rows}
    claims = [
        {run.id for run in claim}
        for name in ("table1", "figure7")
        for claim in plan.claimed(experiments.get(name), "paper", 3)
    ]
    decided = sum(claim <= chosen for claim in claims)
    assert decided
    assert chosen == set().union(*(claim for claim in claims if claim <= chosen))
    about = works(capsys, "plan table1 figure7 --budget 60gpuh").splitlines()[-1]
    assert about.startswith(f"within 60 GPU-hours: {decided} of {len(claims)} claims are decided")
    more = works(capsys, "plan table1 figure7 --budget 600").splitlines()[-1]
    assert int(more.split(": ")[1].split()[0]) > decided


def test_a_launch_does_not_go_beyond_its_budget(capsys: Capture) -> None:
    told = works(capsys, "table1 --launch local --dry-run --budget 60gpuh")
    rows = json.loads(works(capsys, "plan table1 --budget 60gpuh --json"))
    assert 0 < sum(row["gpu_hours"][1] for row in rows) <= 60
    assert f"{len(rows)} runs: {len(rows)} missing" in told
    assert "others are not launched\n" in told
    nothing = works(capsys, "table1 --launch local --dry-run --budget 0.01gpuh")
    assert "0 runs" in nothing
    assert "missing " not in nothing


def test_what_a_budget_leaves_out_for_want_of_a_price_is_said(capsys: Capture, here: Path) -> None:
    (here / "results").rename(here / "away")
    told = works(capsys, "plan table1 --budget 60gpuh").splitlines()[-1]
    assert (
        "90 others are not launched, of which 90 for want of a price; `repro plan --runs`" in told
    )
    (here / "site.yaml").write_text("limit_gpu_hours: 50\n")
    line = refused(capsys, "table1 --launch slurm --cluster site.yaml")
    assert "--budget 50gpuh, which leaves out what has no price" in line
    assert "a run without a known price is left out" in " ".join(
        works(capsys, "plan --help").split()
    )


@pytest.mark.parametrize(
    "budget", ["much", "-3", "0", "inf", "nan", "1e300", "9" * 400, "", "500cpuh"]
)
def test_what_is_no_budget(capsys: Capture, budget: str) -> None:
    assert "such as 500gpuh" in refused(capsys, f"plan table1 --budget={budget}")
