"""The proxy scale: what docs/protocol.md says of models and recipe is what is trained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import repro.models  # noqa: F401  (registers our architectures with timm)
from repro import experiments, results
from repro.commands.selection import awaited_search
from repro.core.scales import runs_at_scale
from repro.experiments import (
    adversarial_recipes,
    figure6_bottom,
    figure6_top,
    figure_a1,
    proxy,
    search_rates,
)
from repro.experiments.table1 import METHODS
from repro.render.text import heading
from repro.spec import SCALES, Classification, Generation, Model, Profiling, Scale, dataset_of
from repro.tasks.profiling import count

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
PAGE = (ROOT / "docs" / "protocol.md").read_text()
MODELS = {method: model for _, method, model, *_ in METHODS}
COUNTS = {
    method: count(Profiling(model=proxy.MODELS[model.name], classes=10, image_size=32))
    for method, model in MODELS.items()
}


def trainings(item: str, scale: Scale = "proxy") -> list[tuple[str, Classification]]:
    """The runs of an item, each with its row."""
    found = runs_at_scale(experiments.get(item).cells, scale)
    return [(cell.row, run) for cell, run in found if isinstance(run, Classification)]


@pytest.mark.parametrize("method", MODELS)
def test_the_page_prints_what_is_trained(method: str) -> None:
    found = re.search(
        rf"^\| {re.escape(method)} +\| +([\d,]+) \| +(\d+) \| +([\d.]+) M \|$", PAGE, re.MULTILINE
    )
    assert found
    parameters, layers, macs = found.groups()
    assert int(parameters.replace(",", "")) == COUNTS[method]["parameters"]
    assert float(macs) == round(COUNTS[method]["macs"] / 1e6, 1)
    assert int(layers) == layers_of(MODELS[method])


def layers_of(model: Model) -> int:
    """A transformer layer has one MLP; a convnet is said to be as deep as its option."""
    small = proxy.MODELS[model.name]
    if model.name in proxy.CONVNETS:
        depth = dict(small.options)["depth"]
        assert isinstance(depth, int)
        return depth
    net: nn.Module = timm.create_model(small.name, num_classes=10, **dict(small.options))
    return sum(type(module).__name__ == "Mlp" for module in net.modules())


@pytest.mark.parametrize("method", MODELS)
def test_sizes_are_equal(method: str) -> None:
    size = method.rpartition("-")[2]
    nest = COUNTS[f"NesT-{size if size in 'TSB' else 'T'}"]["parameters"]
    assert COUNTS[method]["parameters"] == pytest.approx(nest, rel=0.12)


def test_every_method_has_the_same_number_of_trials() -> None:
    found = trainings("search_rates")
    for method, model in MODELS.items():
        rates = [run.recipe.lr for row, run in found if row == method]
        assert tuple(rates) == proxy.rates_of(model)
    sgd = tuple(100 * float(column) for column in search_rates.COLUMNS)
    assert sgd[: len(proxy.SGD_RATES)] == proxy.SGD_RATES


@pytest.mark.parametrize("name", ["search_rates", "search_augmentation"])
def test_no_search_looks_at_test_images(name: str) -> None:
    for scale in SCALES:
        runs = [run for _, run in trainings(name, scale)]
        assert bool(runs) == (scale == "proxy")
        assert all((r.train_split, r.test_split) == ("fit", "validation") for r in runs)


def test_a_method_is_trained_at_the_rate_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CHOSEN", {"nest_tiny_cifar": 1e-3})
    (row, run), (_, hundred) = trainings("table1")
    assert (row, run.recipe.lr) == ("NesT-T", 1e-3)
    assert (run.dataset, hundred.dataset) == ("cifar10", "cifar100")
    assert run.model == proxy.MODELS["nest_tiny_cifar"]


def unsupported(chosen: Mapping[str, float]) -> list[str]:
    """The models whose rate is not the best of all of its committed trials."""
    frame = results.frame("search_rates", scale="proxy", root=RESULTS)
    found = []
    for name, rate in chosen.items():
        method = next(method for method, model in MODELS.items() if model.name == name)
        trials = frame[frame["method"] == method]
        rates = zip(trials["top1"].astype(float), trials["recipe.lr"], strict=True)
        _, best = max(rates, key=lambda trial: (trial[0], -trial[1]))  # of equals, the lower rate
        if trials["top1"].isna().any() or best != rate:
            found.append(name)
    return found


def test_rates_are_chosen_for_models_that_exist() -> None:
    assert proxy.CHOSEN.keys() <= proxy.MODELS.keys()
    generators = {model.name for model in adversarial_recipes.GENERATORS.values()}
    assert proxy.GENERATOR_CHOSEN.keys() <= generators


def test_chosen_rates_are_the_best_of_all_trials() -> None:
    assert unsupported(proxy.CHOSEN) == []
    assert unsupported({"nest_tiny_cifar": 4e-3, "swin_tiny_patch4_window7_224": 4e-3}) == []
    assert unsupported({"nest_tiny_cifar": 2e-3}) == ["nest_tiny_cifar"]
    chosen = dict.fromkeys(proxy.MODELS, 1.0)
    assert unsupported(chosen) == [*chosen]


def test_planes_differ_in_three_aggregations() -> None:
    """A plane of blocks ends where an image does only at the top."""
    (whole, parts) = (
        timm.create_model(m.name, num_classes=10, **dict(m.options)).eval()
        for m in (
            proxy.AGGREGATING,
            proxy.AGGREGATING.updated(aggregation_plane="block"),
        )
    )
    sides = (32, 16, 8, 4)
    assert len(whole.aggregations) == len(parts.aggregations) == len(sides)
    differ = []
    for image, block, side in zip(whole.aggregations, parts.aggregations, sides, strict=True):
        block.operator.load_state_dict(image.state_dict())
        tokens = torch.randn(1, side, side, 24)
        differ.append(not torch.allclose(image(tokens), block(tokens), atol=1e-5))
    assert differ == [True, True, True, False]


def test_imagenet_items_at_proxy_scale_use_cifar_and_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proxy, "CHOSEN", dict.fromkeys(proxy.MODELS, 1e-3))
    top = [figure6_top._cell("NesT-T", 30), figure6_top._cell("DeiT-S", 300)]
    bottom = [figure6_bottom._cell(m, "RandAugment", 0.0) for m in figure6_bottom.METHODS]
    for item, cells in ((figure6_top, top), (figure6_bottom, bottom)):
        experiment = replace(item.EXPERIMENT, cells=tuple(cells))
        runs = [run for _, run in runs_at_scale(experiment.cells, "proxy")]
        assert len(runs) == len(cells)
        assert {dataset_of(run) for run in runs} == {"cifar10"}
        assert "on CIFAR-10, not ImageNet" in heading(experiment, "proxy")


def test_variants_have_blocks_as_in_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "CHOSEN", dict.fromkeys(proxy.MODELS, 1e-3))
    for hierarchies, patch in ((3, 1), (3, 2), (4, 1), (4, 2)):
        accuracy, speed = figure_a1._variant("T", hierarchies, patch)
        assert isinstance(accuracy.proxy, Classification)
        assert isinstance(speed.proxy, Profiling)
        assert accuracy.proxy.model == speed.proxy.model
        paper, small = (
            timm.create_model(m.name, num_classes=10, **dict(m.options))
            for m in (accuracy.training.model, accuracy.proxy.model)
        )
        assert small.block_side == paper.block_side
        assert len(small.transformers) == len(paper.transformers) - 1
        assert sum(map(len, small.transformers)) == 6


def test_a_generator_is_trained_at_the_rate_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the losses of the paper's recipe, and the un-sampling that is asked about."""
    monkeypatch.setattr(proxy, "GENERATOR_CHOSEN", {"transposed_nest_64": 1e-3})
    cells = experiments.get("figure5_middle").cells
    runs = [run for _, run in runs_at_scale(cells, "proxy") if isinstance(run, Generation)]
    assert len({run.generator for run in runs}) == len(runs) == 5
    for run in runs:
        assert (run.dataset, run.features) == ("cifar10", proxy.FEATURES)
        assert run.recipe.lr == run.recipe.discriminator_lr == 1e-3
        assert run.recipe.r1_weight == 10.0
    waiting = experiments.get("figure5_left").cells[:1]  # the convnet
    assert not runs_at_scale(waiting, "proxy")


ALL_CHOSEN = """
import json
from repro.experiments import proxy
proxy.CHOSEN = dict.fromkeys(proxy.MODELS, 1e-3) if {} else {{}}
proxy.GENERATOR_CHOSEN = dict.fromkeys(
    ("sagan_decoder_64", "transgan_64", "transposed_nest_64"), 1e-3) if {} else {{}}
from repro import experiments, results
from repro.core.scales import runs_at_scale
found = {{n: runs_at_scale(experiments.get(n).cells, "proxy") for n in experiments.names()}}
print(json.dumps([name for name, runs in found.items() if runs]))
"""


def items_at_proxy(rates: bool, generator_rates: bool) -> set[str]:
    """The items that have runs, in a process that has these rates from the start."""
    program = ALL_CHOSEN.format(rates, generator_rates)
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return set(json.loads(said.stdout))


def test_an_item_without_rates_names_the_search_that_it_waits_for() -> None:
    at_once = items_at_proxy(False, False)
    for search, has in (("search_rates", (True, False)), ("search_generators", (False, True))):
        later = items_at_proxy(*has) - at_once
        assert later
        assert later == {name for name in experiments.names() if proxy.search_of(name) == search}
    assert all(not proxy.search_of(name) for name in at_once)


def test_what_is_said_of_an_item_that_waits() -> None:
    said = awaited_search(["table1", "table2", "figure_a6"], "proxy")
    assert said.startswith("table1, figure_a6: not at proxy scale until search_rates and search_g")
    assert said.endswith("see `repro plan search_rates search_generators --scale proxy`")
    assert awaited_search(["table2"], "proxy") == awaited_search(["table1"], "demo") == ""
