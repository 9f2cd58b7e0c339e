"""The ledger: every recipe value that the paper does not state is in it, with its source."""

from __future__ import annotations

import json

import pytest

from repro import experiments
from repro.cli import main
from repro.core import ledger
from repro.spec import Classification

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("name", experiments.names())
def test_nothing_open_is_left_out(name: str) -> None:
    """Against a count from the cells: each value of each row, and of the run before it."""
    experiment = experiments.get(name)
    listed = {
        (row, value_name)
        for entry in ledger.values(experiment)
        for value_name in entry.values
        for row in entry.rows
    }
    for cell in experiment.cells:
        assert set(cell.choices) <= {n for row, n in listed if row == cell.row} | {
            n for n in cell.choices if n.startswith("pretrained.")
        }
    for entry in ledger.values(experiment):
        assert entry.source
        assert not entry.source.startswith("paper")


def test_values_are_those_of_the_runs() -> None:
    for entry in ledger.values(experiments.get("table3")):
        for row in entry.rows:
            (cell,) = (c for c in experiments.get("table3").cells if c.row == row and c.sources)
            for name, value in entry.values.items():
                run = cell.training
                if name.startswith("pretrained."):
                    assert isinstance(run.pretrained, Classification)
                    run = run.pretrained
                assert getattr(run.recipe, name.removeprefix("pretrained.")) == value


def test_values_the_paper_does_not_state_are_listed(capsys: Capture) -> None:
    """The questions of a re-implementer: each is answered, with what was not chosen."""
    assert main(["why", "--decisions"]) == 0
    out = capsys.readouterr().out
    for question in (
        "activation of the FFN: GELU",
        "attention on CIFAR: multi-query",
        "batch_size = 1024",
        "RandAugment: the authors' sixteen",
        "weights of Mixup and CutMix",
        "colour jitter: SimCLR v2's",
        "label smoothing where CutMix and Mixup are removed",
        "colour jitter where RandAugment is removed",
        "warm-up of the short trainings",
        "border of the block plane",
        "PVT-B: the official Large",
        "the fourth design of Figure 7: PatchMerge",
        "content of Figure A4",
        "DeiT-B without RandomErasing, 4.3",
        "CCT's dropout of 0.1 on attention: none",
        "initial weights of the new head: zero",
        "clip_norm = 5.0",
        "parameters without weight decay in the compared transformers",
        "PyramidNet's weight decay: 1e-4",
        "batch sizes: the official per-device batches",
        "the choice between Mixup and CutMix: one per pair",
        "posterize to 0 bits",
        "random crops on ImageNet: each method's own",
        "grey levels after resizing",
    ):
        assert question in out, question
    assert "instead of: " in out


def test_one_item_and_for_programs(capsys: Capture) -> None:
    assert main(["why", "--decisions", "figure6", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["item"] for item in found] == ["figure6_top", "figure6_bottom"]
    assert any(v["is_ours"] and v["values"].get("repeats") == 3 for v in found[0]["values"])
    assert {"question", "chosen", "instead", "why"} == found[0]["decisions"][0].keys()


def test_an_unknown_item_is_named(capsys: Capture) -> None:
    assert main(["why", "--decisions", "tabel3"]) == 2
    assert "did you mean table3?" in capsys.readouterr().err
