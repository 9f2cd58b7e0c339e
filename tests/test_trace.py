"""`repro why ITEM/ROW/COLUMN`: from a number to its runs and to the command that makes it again."""

from __future__ import annotations

import csv
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from repro import cli, paper, results
from repro.core.scales import runs_at_scale
from repro.spec import SCALES
from repro.trace import addresses, command, trace

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def printed(capsys: Capture, *arguments: str) -> str:
    assert cli.main(["why", *arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys: Capture, *arguments: str) -> str:
    assert cli.main(["why", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    return found.err


@pytest.mark.parametrize("item", ["figure2", "figure4", "search_rates", "table_a1"])
def test_a_number_of_a_table_leads_to_its_runs(item: str) -> None:
    """Each row of the committed CSV is a run of the cell's trace, with the same number."""
    experiment = paper.current().get(item)
    known = addresses(experiment, "proxy")
    with Path(f"tables/proxy/{item}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sha256"]]
    assert rows
    for row in rows:
        names = (item, row["row"], row["panel"], row["column"])
        cell, run = known["/".join(filter(None, names))]
        found = trace(experiment, cell, run, "proxy", Path("results"), 5)
        (each,) = [each for each in found.runs if each.run == row["run"]]
        assert (each.status, each.sha256) == (row["status"], row["sha256"])
        assert each.value is not None
        assert each.value == pytest.approx(float(row["value"]), abs=5e-5)
        values = [each.value for each in found.runs if each.value is not None]
        assert found.mean == pytest.approx(statistics.fmean(values))


def test_every_cell_has_an_address_of_its_own() -> None:
    for name in paper.current().names():
        experiment = paper.current().get(name)
        for scale in SCALES:
            cells = runs_at_scale(experiment.cells, scale)
            assert [*addresses(experiment, scale).values()] == cells


def test_the_chain_is_printed(capsys: Capture) -> None:
    text = printed(capsys, "search_rates/NesT-T/0.004", "--scale", "proxy")
    assert text.startswith("search_rates/NesT-T/0.004, proxy scale: 60.07\n")
    assert "\n  nest-tiny-cifar-cifar10-validation-2ep-s0-" in text
    assert "commit 3c5f832d2483" in text
    assert "train_fingerprint" in text
    assert "result sha256 " in text
    again = text.strip().splitlines()[-1].strip()
    assert again == (
        "repro search_rates --only NesT-T --scale proxy --launch local --results again --out again"
    )
    assert cli.main([*shlex.split(again)[1:], "--dry-run"]) == 0


def test_only_what_needs_a_cluster_is_launched_on_one() -> None:
    def repeat(item: str, row: str) -> str:
        experiment = paper.current().get(item)
        cell = next(cell for cell in experiment.cells if cell.row.startswith(row))
        return command(experiment, cell, "paper", again=False)

    assert repeat("table_a1", "NesT-T").endswith("--launch local")
    assert repeat("table1", "NesT-T").endswith("--launch slurm")


def test_a_row_is_all_of_its_cells(capsys: Capture) -> None:
    every = json.loads(printed(capsys, "table1/nest-t", "--json"))
    assert [each["address"] for each in every] == ["table1/NesT-T/C10", "table1/NesT-T/C100"]
    (one,) = json.loads(printed(capsys, "table1/cct-7/3x1/C10", "--json"))
    assert one["address"] == "table1/CCT-7/3×1/C10"
    assert one["paper"] == 94.72
    assert [run["status"] for run in one["runs"]] == ["missing"] * 3
    assert one["mean"] is None
    assert any(value["is_ours"] for value in one["recipe"])
    assert any("CCT" in claim["tested"] for claim in one["claims"])


def test_a_classifier_behind_an_explanation_is_named(capsys: Capture) -> None:
    experiment = paper.current().get("figure2")
    address = next(iter(addresses(experiment, "proxy")))
    text = printed(capsys, address, "--scale", "proxy")
    assert "    starts from nest-small-imagenet-cues-local-plain-6ep-s0-" in text


def test_wrong_addresses_end_in_one_line(capsys: Capture) -> None:
    assert "it is a row of table1/NesT-T, " in refusal(capsys, "NesT-T")
    assert "did you mean table1/NesT-T/C10" in refusal(capsys, "table1/NesT-T/C11")
    assert "there are table1/Pyramid-164-48/C10, " in refusal(capsys, "table1")
    assert "did you mean table1?" in refusal(capsys, "tabel1/NesT-T/C10")
    assert "nothing at proxy scale" in refusal(capsys, "table2/NesT-T/Top-1", "--scale", "proxy")
    assert "`repro why ITEM/ROW/COLUMN`" in refusal(capsys)


def test_the_changes_of_a_dirty_tree_are_named(tmp_path: Path) -> None:
    experiment = paper.current().get("search_rates")
    cell, run = next(iter(addresses(experiment, "proxy").values()))
    folder = results.begin(tmp_path, run)
    metrics = {"top1": 50.0, "top5": 90.0, "test_images": 10}
    facts = {"code": "0123456789abcdef", "commit": "0123456789ab+"}
    results.finish(folder, {"status": "diverged", "metrics": metrics, "provenance": facts})
    patch = tmp_path / "submissions" / "code" / facts["code"] / "patch"
    patch.parent.mkdir(parents=True)
    for content, expected in (("", ""), ("--- a\n", str(patch))):
        patch.write_text(content)
        (found,) = trace(experiment, cell, run, "proxy", tmp_path, 1).runs
        assert (found.status, found.patch) == ("diverged", expected)


def test_neither_torch_nor_pandas_is_imported() -> None:
    """An answer comes at once."""
    code = (
        "import sys; from repro.cli import main; status = main(sys.argv[1:]);"
        "sys.exit(status or sorted({'torch', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "why", "search_rates/NesT-T", "--scale", "proxy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.strip() in ("", "[]")
