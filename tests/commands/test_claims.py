"""`repro claims`: every claim of the paper, what is tested of it, and the verdict."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from repro import cli, experiments, results
from repro.core.claims import VERDICTS, full
from repro.core.scales import runs_at_scale
from repro.spec import Claim, Scale, with_seeds
from tests import finished
from tests.command_line import Capture, error_of, stdout_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def claims_at_scale(name: str, scale: Scale) -> list[Claim]:
    """The claims of an item whose cells exist at the scale."""
    experiment = experiments.get(name)
    existing = {
        (cell.row, cell.column, cell.panel) for cell, _ in runs_at_scale(experiment.cells, scale)
    }
    claims = [claim for claim in experiment.claims if scale in claim.scales]
    return [claim for claim in claims if {full(p) for p in claim.places} <= existing]


def test_every_claim_is_listed_with_its_test(capsys: Capture) -> None:
    rows = json.loads(stdout_of(capsys, "claims --json"))
    known = [
        (name, claim) for name in experiments.names() for claim in claims_at_scale(name, "paper")
    ]
    assert len(known) > 80
    assert [(row["item"], row["quote"], row["place"], row["tested"]) for row in rows] == [
        (name, claim.quote, claim.place, claim.tested) for name, claim in known
    ]
    for row in rows:
        assert row["verdict"] == "not run"
        sides = 2 if row["below"] else 1
        assert (row["effect"], row["interval"], row["n"]) == (None, None, [0] * sides)
    assert all(row["quote"] and row["place"] and row["tested"] for row in rows)
    small = json.loads(stdout_of(capsys, "claims --scale proxy --json"))
    assert (
        len(small) == sum(len(claims_at_scale(name, "proxy")) for name in experiments.names()) > 15
    )
    text = stdout_of(capsys, "claims table1 figure2")
    assert "  “PVT-T seems to perform better than DeiT-T when model size is small”" in text
    assert "    - Not run: PVT-T above DeiT-T on C10. PVT-T: not run." in text
    assert text.endswith("39 claims; none tested yet.\n")


def finish_runs(rows: tuple[str, ...], hits: tuple[int, ...]) -> None:
    """Finish three seeds of each row at paper scale, with `hits` + seed of 1,000 images correct."""
    for cell, run in runs_at_scale(experiments.get("table1").cells, "paper"):
        if cell.column != "C10" or cell.row not in rows:
            continue
        for seed, each in enumerate(with_seeds(run, 3)):
            right = np.arange(1000) < hits[rows.index(cell.row)] + seed
            guesses = np.where(right, 0, 1).astype(np.uint16)[:, None] + np.arange(
                5, dtype=np.uint16
            )
            predictions = finished.npz(label=np.zeros(1000, np.uint16), top5=guesses)
            measured = {"top1": float(right.mean() * 100), "top5": float(right.mean() * 100)}
            finished.finish(
                Path("results"), each, measured, extra_files={results.PREDICTIONS: predictions}
            )


def test_a_verdict_has_an_effect_and_an_interval(capsys: Capture) -> None:
    finish_runs(("NesT-T", "Swin-T"), (960, 940))
    rows = json.loads(stdout_of(capsys, "claims table1 --json"))
    (row,) = (row for row in rows if row["tested"] == "NesT-T above Swin-T on C10")
    assert row["verdict"] == "holds"
    assert row["effect"] == pytest.approx(2.0)
    assert row["interval"][0] == pytest.approx(4.0 - row["interval"][1])
    assert 0 < row["interval"][0] < 2
    assert row["n"] == [3, 3]
    assert row["trained"] == ["300 epochs of 50,000 images"]
    assert {row["verdict"] for row in rows} <= set(VERDICTS)
    text = stdout_of(capsys, "claims table1")
    assert "- Holds: NesT-T above Swin-T on C10. NesT-T: 96.00, 96.10, 96.20 against" in text
    heading = "Claims of the paper (rules: docs/verdicts.md)."
    assert f"\n{heading}\n{len(rows)} claims, 2 tested: " in text


@pytest.mark.parametrize("scale", ["demo", "smoke"])
def test_scales_without_verdicts_are_refused(capsys: Capture, scale: str) -> None:
    assert f"--scale: invalid choice: '{scale}'" in error_of(capsys, f"claims --scale {scale}")


def test_a_damaged_result_is_named(capsys: Capture) -> None:
    finish_runs(("NesT-T",), (960,))
    (next(Path("results").iterdir()) / results.RESULT).write_text("{")
    assert cli.main(["claims", "table1"]) == 0
    assert "is damaged" in capsys.readouterr().err


def test_claims_have_quotes_tests_and_reasons() -> None:
    """A size has a reason, and a control cells of the same item."""
    for name in experiments.names():
        experiment = experiments.get(name)
        for claim in experiment.claims:
            assert {field.name for field in fields(claim)} >= {"quote", "tested"}
            assert not claim.min_effect or len(claim.min_effect.why) > 10
            assert len(claim.quote.split()) > 3
