"""Figures 2 to 4 at proxy scale: what docs/protocol.md says of them is what is run."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments
from repro.commands.selection import seeds_of
from repro.core import datasets, plan
from repro.core.scales import runs_at_scale
from repro.data import cues as pictures
from repro.experiments import cues, figure2, figure3_right
from repro.interpret.cam import cam
from repro.interpret.rollout import rollout
from repro.render import tables
from repro.render.frame import tidy
from repro.spec import Classification, Explanation, Localization, Traversal

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
SECTION = PAGE.partition("## Figures 2 to 4")[2].partition("\n## ")[0]
TREES = {"figure2": 4, "figure3_left": 1}


def runs(name: str, seeds: int = 1) -> list[Explanation]:
    found = plan.runs(experiments.get(name).cells, "proxy", seeds)
    return [run for run in found if isinstance(run, Explanation)]


def test_the_page_says_what_is_trained() -> None:
    trained, early = cues.EPOCHS[cues.TRAINED], cues.EPOCHS[cues.EARLY]
    assert f"*Trained*: {set(trained.values()).pop()} epochs" in SECTION
    assert len(set(trained.values())) == 1
    short = {name: {early[d] for d in cues.DATASETS if name in d} for name in ("local", "shape")}
    assert short == {"local": {1}, "shape": {3}}
    assert re.search(r"\*Early\*: 1\s+epoch for local cues, 3 for shapes", SECTION)
    recipe, model = cues.RECIPE.recipe, dict(cues.MODELS["NesT-S"].options)
    assert f"width {model['embed_dims']}" in SECTION
    assert (model["num_heads"], model["patch_size"], model["depths"]) == (3, 2, (1, 1, 1))
    assert (recipe.lr, recipe.weight_decay, recipe.batch_size) == (2e-3, 0.05, 64)
    assert recipe.warmup_epochs == 0.5
    assert f"on {cues.PICTURES} pictures of four objects" in SECTION
    assert f"on {cues.ABLATED} of the pictures" in SECTION
    train, test = pictures.COUNTS.values()
    assert f"{train:,} training pictures" in SECTION
    assert f"{test:,} test pictures" in SECTION
    for name in cues.DATASETS:
        assert datasets.DATASETS[name] == (train, test, 8)


@pytest.mark.parametrize("name", TREES)
def test_every_variant_is_tested_under_every_condition(name: str) -> None:
    found = runs(name, cues.SEEDS)
    assert all(isinstance(run, Traversal) and run.objects == TREES[name] for run in found)
    readings = {(r.sign, r.top_tap) for r in found if isinstance(r, Traversal)}
    assert readings == set(figure2.VARIANTS.values())
    asked_of = Counter((run.trained, run.method) for run in found)
    assert len(asked_of) == len(found) == 4 * 8 * cues.SEEDS
    assert {run.dataset for run in found} == set(pictures.NAMES)
    for run in found:
        assert run.classifier is not None
        assert run.classifier.dataset == run.dataset
        assert run.classifier.train_split == "fit"


@pytest.mark.parametrize("name", TREES)
def test_every_condition_has_a_claim_and_its_control(name: str) -> None:
    experiment = experiments.get(name)
    cells = {(c.row, c.column, c.panel): run for c, run in runs_at_scale(experiment.cells, "proxy")}
    of_conditions = [claim for claim in experiment.claims if len(claim.above[0]) == 3]
    assert len(of_conditions) == len(cues.conditions()) == 8
    for claim, condition in zip(of_conditions, cues.conditions(), strict=True):
        ((control, chance),) = cues.controls(*condition)
        assert claim.below == (chance,)
        (above,) = claim.above
        assert above[0] == figure2.DEFAULT
        of_claim = [cells[place] for place in (above, control, chance)]  # type: ignore[index]
        assert len(set(of_claim)) == 1  # chance and ablation of the very pictures
        assert isinstance(of_claim[0], Traversal)
        assert of_claim[0].ablated
        assert of_claim[0].keeps_trees  # which are drawn


@pytest.mark.parametrize("name", TREES)
def test_five_seeds_at_proxy_scale_alone(name: str) -> None:
    experiment = experiments.get(name)
    assert seeds_of(None, "proxy", experiment) == cues.SEEDS == 5
    assert seeds_of(None, "paper", experiment) == 3
    assert seeds_of(None, "demo", experiment) == 1
    assert seeds_of(2, "proxy", experiment) == 2


def test_a_table_has_the_best_reading_in_bold_and_its_own_note() -> None:
    """Neither ablation nor accuracy, which are larger, is a rival of the readings."""
    experiment = experiments.get("figure2")
    frame, _ = tidy(experiment, "proxy", Path("/nonexistent"), 5)
    rows = (*figure2.VARIANTS, cues.ABLATION, cues.CHANCE, cues.ACCURACY)
    for row, mean in zip(rows, (81.0, 2.0, 83.0, 30.0, 97.0, 25.0, 99.0), strict=True):
        frame.loc[frame["row"] == row, ["mean", "n"]] = [mean, 5]
    text = tables.markdown(experiment, frame, "proxy")
    bold = [line for line in text.splitlines() if line.startswith("|") and "**" in line]
    assert len(bold) == 1
    assert bold[0].startswith("| + gradient, after the norm")
    assert bold[0].count("**83.0") == 8
    assert "Bold: best." in text
    assert cues.OF_TREES in text
    assert "at the learning rate that was best" not in text
    assert text.count("Patterns on plain grounds: trained, here") == 1


def test_all_maps_have_as_many_cells() -> None:
    x = torch.randn(1, 3, 32, 32)
    for method, model in cues.MODELS.items():
        net = timm.create_model(model.name, num_classes=8, **dict(model.options)).eval()
        found = rollout(net, x) if method == "DeiT-S" else cam(net, x, 0)
        assert found.shape[1:] == (cues.GRID, cues.GRID)
    grids = {run.grid for run in runs("figure3_right") if isinstance(run, Localization)}
    assert grids == {0, cues.GRID}


def test_methods_and_ceilings_have_the_same_pictures_and_thresholds() -> None:
    for name in ("figure3_right", "figure4", "figure3_right_iou"):
        for run in runs(name):
            assert isinstance(run, Localization)
            assert (run.dataset, run.split) == (cues.MAPS_DATASET, "test")
            assert (run.tuning, run.tuning_split) == (cues.MAPS_DATASET, "validation")
            assert run.trained is None or run.trained.train_split == "fit"
    ceilings = [run for run in runs("figure3_right") if run.method.startswith("ceiling")]
    assert len(ceilings) == 1  # of one resolution
    assert not ceilings[0].is_stochastic


def test_a_classifier_is_shared_by_trees_and_maps() -> None:
    of_trees = {run.trained for run in runs("figure2", 5)}
    (nest,) = {r.trained for r in runs("figure4") if r.trained and "nest" in r.trained.model.name}
    assert nest in of_trees
    assert isinstance(nest, Classification)


def test_ceilings_at_paper_scale_have_the_cells_of_the_methods() -> None:
    """14 of 16 px in NesT-S and DeiT-S, 7 of 32 px in ResNet-50; and they divide the maps' side."""
    cells = [cell for cell in figure3_right.EXPERIMENT.cells if cell.row in figure3_right.CEILINGS]
    grids = {cell.row: cell.run.grid for cell in cells if isinstance(cell.run, Localization)}
    assert grids == figure3_right.CEILINGS
    assert sorted(grids.values()) == [224 // 32, 224 // 16]
    assert all(math.gcd(224, grid) == grid for grid in (*grids.values(), cues.GRID))
