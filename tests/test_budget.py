"""The price and the budget on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro import experiments
from repro.core import plan
from repro.cost import gpus
from repro.spec import Profiling
from tests.command_line import Capture, error_of, stdout_of
from tests.finished import finish

MACS = 5_807_000_000  # of NesT-T at 224


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results in which every architecture of the paper has the counts of NesT-T."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("REPRO_CLUSTER", raising=False)
    cells = [*experiments.get("table_a1").cells, *experiments.get("table_a6").cells]
    for run in plan.runs(cells, "paper", 1):
        assert isinstance(run, Profiling)
        finish(Path("results"), run, {"parameters": 17_057_608, "macs": MACS})
    return tmp_path


def test_every_run_has_a_price(capsys: Capture) -> None:
    """If all architectures are counted."""
    rows = json.loads(stdout_of(capsys, "plan all --json"))
    assert len(rows) > 300
    to_do = [row for row in rows if row["state"] == "missing"]
    assert all(row["gpu_hours"] for row in to_do)
    run = next(row for row in rows if row["run"].startswith("nest-tiny-imagenet-imagenet-300ep-s0"))
    images = 300 * 1_281_167 * 3 + 30 * 50_000  # backward is twice the forward pass
    flop, peak = 2 * MACS * images, gpus.PEAKS["H100"][0] * 1e12 * 3600
    assert run["gpu_hours"] == pytest.approx([flop / peak / 0.30, flop / peak / 0.06], rel=1e-3)


def test_prices_for_the_gpus_of_the_site(capsys: Capture, here: Path) -> None:
    site = here / "site.yaml"
    site.write_text("gpus: {type: a100}\nresources:\n- gpus: 4\n")
    out = stdout_of(capsys, f"plan table2 --only NesT-T --seeds 1 --cluster {site}")
    assert "312 TFLOP/s of one A100" in out
    out = stdout_of(capsys, f"plan table2 --only NesT-T --seeds 1 --cluster {site} --runs")
    assert "h on 4" in out
    assert "989 TFLOP/s of one H100" in stdout_of(capsys, "plan table2 --only NesT-T --seeds 1")
    assert "362 TFLOP/s of one L40S" in stdout_of(capsys, "plan table2 --only NesT-T --gpu l40s")
    assert "disk: " in out


def test_a_budget_chooses_whole_claims(capsys: Capture) -> None:
    out = stdout_of(capsys, "plan table1 figure7 --budget 60gpuh --json")
    rows = [row for row in json.loads(out) if row["state"] == "missing"]
    assert rows
    assert sum(row["gpu_hours"][1] for row in rows) <= 60
    chosen = {row["run"] for row in rows}
    claims = [
        {run.id for run in claim}
        for name in ("table1", "figure7")
        for claim in plan.runs_of_claims(experiments.get(name), "paper", 3)
    ]
    decided = sum(claim <= chosen for claim in claims)
    assert decided
    assert chosen == set().union(*(claim for claim in claims if claim <= chosen))
    about = stdout_of(capsys, "plan table1 figure7 --budget 60gpuh").splitlines()[-1]
    assert about.startswith(f"within 60 GPU-hours: {decided} of {len(claims)} claims are decided")
    more = stdout_of(capsys, "plan table1 figure7 --budget 600").splitlines()[-1]
    assert int(more.split(": ")[1].split()[0]) > decided


def test_a_launch_stays_within_its_budget(capsys: Capture) -> None:
    out = stdout_of(capsys, "table1 --launch local --dry-run --budget 60gpuh")
    rows = json.loads(stdout_of(capsys, "plan table1 --budget 60gpuh --json"))
    assert 0 < sum(row["gpu_hours"][1] for row in rows) <= 60
    assert f"{len(rows)} runs: {len(rows)} missing" in out
    assert "others are not launched\n" in out
    nothing = stdout_of(capsys, "table1 --launch local --dry-run --budget 0.01gpuh")
    assert "0 runs" in nothing
    assert "missing " not in nothing


def test_a_budget_counts_runs_without_a_price(capsys: Capture, here: Path) -> None:
    (here / "results").rename(here / "away")
    out = stdout_of(capsys, "plan table1 --budget 60gpuh").splitlines()[-1]
    assert "96 others are not launched, of which 96 without a price; `repro plan --runs`" in out
    (here / "site.yaml").write_text("limit_gpu_hours: 50\n")
    line = error_of(capsys, "table1 --launch slurm --cluster site.yaml")
    assert "--budget 50gpuh, which skips runs without a price" in line
    assert "a run without a known price is left out" in " ".join(
        stdout_of(capsys, "plan --help").split()
    )


@pytest.mark.parametrize(
    "budget", ["much", "-3", "0", "inf", "nan", "1e300", "9" * 400, "", "500cpuh"]
)
def test_invalid_budgets(capsys: Capture, budget: str) -> None:
    assert "such as 500gpuh" in error_of(capsys, f"plan table1 --budget={budget}")
