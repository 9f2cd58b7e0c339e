"""What runs will take: each number from a closed form, and never more than is known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import experiments, results
from repro.core import datasets, plan
from repro.cost import gpus, price, steps
from repro.cost.price import Price
from repro.data.atlas import EMBEDDED
from repro.data.cifar import CIFARS
from repro.kinds.classification import AUGMENTATION_LAUNCHES
from repro.spec import (
    SCALES,
    Classification,
    Evaluation,
    Generation,
    Model,
    Profiling,
    Recipe,
    Run,
)
from tests.finished import finish
from tests.launch import RUN

NEST = Classification(
    model=Model("nest_tiny_imagenet"),
    dataset="imagenet",
    recipe=Recipe(epochs=300, batch_size=1024, lr=1e-3, image_size=224, evaluate_every_epochs=10),
    evaluation=Evaluation(image_size=224),
)
COUNTED = Profiling(model=NEST.model, classes=1000, image_size=224)
ON_H100 = replace(COUNTED, device="H100", precision="bf16", batch_size=128)
COUNTS = {"parameters": 17_057_608, "macs": 5_807_152_128}
RATES = {"train_images_per_second": 2000.0, "forward_images_per_second": 6000.0}
TRAINED, TESTED = 300 * 1_281_167, 30 * 50_000  # after every tenth epoch, the last one included


def save_result(
    root: Path, run: Run, metrics: Mapping[str, float] | None = None, **facts: Any
) -> None:
    finish(root, run, metrics or {}, provenance=facts)


# --- hours, by what is known ---------------------------------------------------------------------


def test_price_without_results(tmp_path: Path) -> None:
    """Except for the profile that would measure it."""
    found = price.price(tmp_path, NEST, "H100")
    assert found == Price(NEST, None, f"run {COUNTED.id} to measure it", None)
    assert found.hours is None
    assert "-a30-bf16-" in price.price(tmp_path, NEST, "a30").origin  # no peak: to be measured
    assert "-cpu-fp32-" in price.price(tmp_path, NEST, "cpu").origin
    assert not (tmp_path / COUNTED.id).exists()


@pytest.mark.parametrize("gpu", ["H100", "a30", "cpu"])
def test_the_named_profile_gives_the_price(tmp_path: Path, gpu: str) -> None:
    _, name, *_ = price.price(tmp_path, NEST, gpu).origin.split()
    probes = [COUNTED, replace(COUNTED, device="cpu", batch_size=64),
              replace(COUNTED, device="a30", precision="bf16", batch_size=128)]  # fmt: skip
    (probe,) = (p for p in probes if p.id == name)
    save_result(tmp_path, probe, COUNTS | (RATES if probe.device else {}))
    assert price.price(tmp_path, NEST, gpu).gpu_hours


def test_multiply_adds_of_nest_tiny(tmp_path: Path) -> None:
    """300 epochs are 1.34e19 operations: 12.5 H100-hours at 30 % of the peak, 63 at 6 %."""
    save_result(tmp_path, COUNTED, COUNTS)
    found = price.price(tmp_path, NEST, "h100")
    assert found.gpu_hours is not None
    operations = 2 * COUNTS["macs"] * (3 * TRAINED + TESTED)
    assert found.gpu_hours == pytest.approx(
        [operations / (989e12 * share) / 3600 for share in (0.30, 0.06)]
    )
    assert found.gpu_hours == pytest.approx((12.5, 63), rel=0.02)
    assert price.price(tmp_path, NEST, "b200").gpu_hours == pytest.approx(
        [hours * 989 / 2250 for hours in found.gpu_hours]
    )


def test_a_measured_rate_comes_before_multiply_adds(tmp_path: Path) -> None:
    save_result(tmp_path, COUNTED, COUNTS)
    save_result(tmp_path, ON_H100, COUNTS | RATES)
    found = price.price(tmp_path, NEST, "nvidia_h100_80gb_hbm3")
    hours = (TRAINED / 2000 + TESTED / 6000) / 3600
    assert found.gpu_hours == pytest.approx((hours, 1.25 * hours))
    assert found.origin == "rate measured in bf16, batch 128"
    assert price.price(tmp_path, NEST, "a100").origin == "multiply-adds"
    assert price.price(tmp_path, NEST, "").gpu_hours is None  # it may not be an H100


CIFAR = next(
    run
    for run in plan.runs(experiments.get("table1").cells, "paper", 1)
    if isinstance(run, Classification) and run.model.name == "nest_tiny_cifar"
)


def test_more_gpus_are_no_faster_than_the_host(tmp_path: Path) -> None:
    """By the operations that it launches a step, each in six microseconds."""
    save_result(tmp_path, CIFAR.cost_profile, COUNTS | {"macs": 2_275_000_000})
    assert CIFAR.training_steps
    step = steps.table()[CIFAR.training_steps.key]
    launches = step["launches"] + AUGMENTATION_LAUNCHES
    floor = 300 * 50_000 / CIFAR.recipe.batch_size * launches * 6e-6 / 3600
    assert price.host_hours(CIFAR) == pytest.approx(floor)

    alone = price.price(tmp_path, CIFAR, "H100")
    assert alone.gpu_hours
    assert alone.useful_gpus
    assert not alone.bound_by_host
    for count in range(1, 20):
        found = price.price(tmp_path, CIFAR, "H100", count)
        assert found.hours == pytest.approx([max(h / count, floor) for h in alone.gpu_hours])
        assert found.bound_by_host == (count > alone.useful_gpus)
    many = price.price(tmp_path, CIFAR, "H100", 64)
    assert many.hours == pytest.approx((floor, floor))
    assert many.gpu_hours == pytest.approx((64 * floor, 64 * floor))
    last = price.price(tmp_path, CIFAR, "H100", alone.useful_gpus).hours
    assert last == pytest.approx((floor, floor))
    words = f"bound by the host: no faster than on {alone.useful_gpus} GPUs"
    assert price.describe(many, "H100").endswith(words)
    *_, counted, bound = price.summary([many, alone], "H100")
    assert counted == (
        "launches: 1 run priced by the time that the host takes to launch GPU operations, at 6 µs "
        "each, our assumption"
    )
    assert bound == f"bound by the host: 1 run, no faster than on {alone.useful_gpus} GPUs"


def test_the_host_is_in_what_was_measured_on_one_gpu(tmp_path: Path) -> None:
    """A rate on one GPU counts as it is; and a large batch is the GPU's affair."""
    fast = {"train_images_per_second": 1e9, "forward_images_per_second": 1e9}
    probe = replace(CIFAR.cost_profile, device="H100", precision="bf16", batch_size=128)
    save_result(tmp_path, probe, COUNTS | fast)
    alone, four = (price.price(tmp_path, CIFAR, "H100", count) for count in (1, 4))
    assert alone.hours
    assert alone.hours[1] < price.host_hours(CIFAR) / 100
    assert four.hours == pytest.approx([price.host_hours(CIFAR)] * 2)
    save_result(tmp_path, COUNTED, COUNTS)
    large = [price.price(tmp_path, NEST, "H100", count) for count in (1, 8)]
    assert large[0].gpu_hours == large[1].gpu_hours
    assert not large[1].bound_by_host


def test_of_several_rates_the_one_most_like_training(tmp_path: Path) -> None:
    slow = replace(ON_H100, precision="fp32", batch_size=1024)
    for probe in (slow, *(replace(ON_H100, batch_size=2**n) for n in range(10))):
        save_result(tmp_path, probe, COUNTS | RATES)
    assert price.price(tmp_path, NEST, "H100").origin == "rate measured in bf16, batch 512"


def test_done_seeds_come_before_everything(tmp_path: Path) -> None:
    """From the fastest to the slowest of them, over all of their GPUs."""
    save_result(tmp_path, ON_H100, COUNTS | RATES)
    h100: dict[str, Any] = {"device": "NVIDIA H100 80GB HBM3", "ranks": 8}
    save_result(tmp_path, replace(NEST, seed=1), seconds=3600.0, **h100)
    save_result(tmp_path, replace(NEST, seed=2), seconds=7200.0, **h100)
    for seed in (0, 5):
        found = price.price(tmp_path, replace(NEST, seed=seed), "h100")
        assert (found.gpu_hours, found.origin) == ((8.0, 16.0), "seeds done here")
    assert price.price(tmp_path, NEST, "").gpu_hours == (8.0, 16.0)  # whichever GPU there is
    assert price.price(tmp_path, NEST, "h200").origin == "multiply-adds"
    assert price.price(tmp_path, replace(NEST, seed=1), "h100").gpu_hours == (0.0, 0.0)


def test_a_run_that_costs_the_same_prices_another_rate(tmp_path: Path) -> None:
    """A search of rates is priced by its first run, another length is not; seeds come first."""
    recipe = RUN.recipe
    cpu: dict[str, Any] = {"device": "CPU x86_64 AVX2, 1 threads", "ranks": 1}
    save_result(tmp_path, RUN, seconds=1800.0, **cpu)
    rate = replace(RUN, seed=3, recipe=replace(recipe, lr=7 * recipe.lr))
    found = price.price(tmp_path, rate, "cpu")
    assert (found.gpu_hours, found.origin) == ((0.5, 0.5), "runs of equal cost done here")
    longer = replace(RUN, recipe=replace(recipe, epochs=recipe.epochs + 1))
    wider = replace(RUN, recipe=replace(recipe, batch_size=2 * recipe.batch_size))
    for other in (longer, wider):
        assert price.price(tmp_path, other, "cpu").gpu_hours is None
    save_result(tmp_path, replace(rate, seed=4), seconds=3600.0, **cpu)
    found = price.price(tmp_path, rate, "cpu")
    assert (found.gpu_hours, found.origin) == ((1.0, 1.0), "seeds done here")


def test_hours_of_a_cpu_are_not_those_of_a_gpu(tmp_path: Path) -> None:
    save_result(tmp_path, RUN, seconds=1800.0, ranks=1, device="CPU x86_64 AVX512, 1 threads")
    other = replace(RUN, seed=1)
    assert price.price(tmp_path, other, "").gpu_hours is None
    found = price.price(tmp_path, other, "cpu")
    assert found.gpu_hours == (0.5, 0.5)
    assert price.line([found], "cpu") == "about 0.5 CPU-hours"


def test_a_run_that_diverged_early_tells_nothing(tmp_path: Path) -> None:
    record = {"status": "diverged", "metrics": {"step": 10},
              "provenance": {"seconds": 60.0, "device": "NVIDIA H100"}}  # fmt: skip
    results.finish(results.begin(tmp_path, NEST), record)
    assert price.price(tmp_path, replace(NEST, seed=1), "h100").gpu_hours is None


def test_released_weights_cost_a_test_and_a_profile_a_minute(tmp_path: Path) -> None:
    save_result(tmp_path, replace(COUNTED, image_size=288), COUNTS)
    released = replace(
        NEST,
        recipe=Recipe(epochs=0, batch_size=0, lr=0.0),
        pretrained="timm:nest",
        evaluation=Evaluation(image_size=288),
    )
    found = price.price(tmp_path, released, "H100")
    assert found.gpu_hours is not None
    assert found.gpu_hours[0] == pytest.approx(2 * COUNTS["macs"] * 50_000 / 0.3 / 989e12 / 3600)
    assert found.peak_bytes == found.disk_bytes == 4 * COUNTS["parameters"]
    assert price.price(tmp_path, ON_H100, "H100").gpu_hours == (1 / 60, 1 / 60)


def test_options_that_cost_nothing_do_not_hide_a_profile(tmp_path: Path) -> None:
    save_result(tmp_path, COUNTED, COUNTS)
    same = replace(NEST, model=NEST.model.updated(gelu="erf", proj_drop_rate=0.1))
    assert price.price(tmp_path, same, "H100").gpu_hours
    other = replace(NEST, model=NEST.model.updated(depths=(2, 2, 20)))
    assert price.price(tmp_path, other, "H100").gpu_hours is None


def test_a_generator_and_its_discriminator(tmp_path: Path) -> None:
    """Of a step: the generator's pass and gradient, the discriminator's of both kinds, and R1's."""
    run = experiments.get("figure5_left").cells[0].run
    assert isinstance(run, Generation)
    sizes = [
        {"parameters": 3_000_000, "macs": 7 * 10**9},
        {"parameters": 1_000_000, "macs": 5 * 10**9},
    ]
    assert price.price(tmp_path, run, "H100").gpu_hours is None
    for model, counts in zip(run.profiles, sizes, strict=True):
        save_result(tmp_path, model, counts)
    found = price.price(tmp_path, run, "H100")
    flop = 2 * (3 * 7e9 + 9 * 5e9) * 256 * 1_000_000
    assert found.gpu_hours is not None
    assert found.gpu_hours[0] == pytest.approx(flop / (989e12 * 0.30) / 3600)
    assert found.gpu_hours[1] == pytest.approx(flop / (989e12 * 0.06) / 3600)
    assert found.disk_bytes == 12_000_000
    state = 4 * 3_000_000 + 3 * 1_000_000  # with the average, and two moments of every weight
    assert found.peak_bytes == 12_000_000 + 2 * 4 * state
    hinge = replace(run, recipe=replace(run.recipe, r1_weight=0.0))
    cheaper = price.price(tmp_path, hinge, "H100").gpu_hours
    assert cheaper is not None
    assert cheaper[0] / found.gpu_hours[0] == pytest.approx((21 + 30) / (21 + 45))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (TRAINED, TESTED)),
        ({"train_split": "fit", "test_split": "validation"}, (TRAINED * 5 / 6, TRAINED / 60)),
        ({"test_split": "none"}, (TRAINED, 0)),
        ({"dataset": "imagenet-smoke"}, (300 * 20, 30 * 20)),
        ({"recipe": replace(NEST.recipe, epochs=299)}, (299 * 1_281_167, 30 * 50_000)),
        ({"recipe": replace(NEST.recipe, evaluate_every_epochs=0)}, (TRAINED, 50_000)),
    ],
)
def test_images_of_a_run(changes: dict[str, object], expected: tuple[float, float]) -> None:
    changed = replace(NEST, **changes)  # type: ignore[arg-type]
    assert changed.images == pytest.approx(expected)


def test_the_sizes_of_datasets_are_those_of_their_files() -> None:
    for name, cifar in CIFARS.items():
        if not name.endswith("-smoke"):
            counts = (cifar.counts["train"], cifar.counts["test"], cifar.classes)
            assert datasets.DATASETS[name] == counts
        else:
            assert set(cifar.counts.values()) == {datasets.SMOKE_IMAGES}
    for name in ("fashion-mnist-6k", "glyphs"):
        about = json.loads((EMBEDDED / f"{name}.json").read_text(encoding="utf-8"))
        splits = about["splits"]
        assert datasets.DATASETS[name] == (
            splits["train"]["images"],
            splits["test"]["images"],
            len(about["classes"]),
        )


def everything() -> list[Run]:
    cells = [cell for name in experiments.names() for cell in experiments.get(name).cells]
    return list(dict.fromkeys(r for scale in SCALES for r in plan.runs(cells, scale, 3)))


def test_every_dataset_of_the_paper_has_a_size() -> None:
    runs = [run for run in everything() if isinstance(run, Classification)]
    assert not [run.dataset for run in runs if run.images is None]


def test_what_counts_the_model_of_a_run() -> None:
    """At the side of its training, and as one model whatever costs nothing."""
    assert NEST.cost_profile == COUNTED
    assert replace(NEST, evaluation=Evaluation(image_size=288)).cost_profile == COUNTED
    released = replace(
        NEST, recipe=replace(NEST.recipe, epochs=0), model=NEST.model.updated(gelu="erf")
    )
    assert released.cost_profile == COUNTED
    larger = replace(released, evaluation=Evaluation(image_size=288))
    assert larger.cost_profile.image_size == 288
    assert RUN.cost_profile.image_size == 32
    with pytest.raises(KeyError, match="nowhere"):
        replace(NEST, dataset="nowhere").cost_profile  # noqa: B018
    assert price.price(Path("none"), replace(NEST, dataset="nowhere"), "H100").gpu_hours is None


def test_a_damaged_profile_is_none(tmp_path: Path) -> None:
    save_result(tmp_path, COUNTED, COUNTS)
    (tmp_path / COUNTED.id / results.SPEC).write_text("{")
    assert price.price(tmp_path, NEST, "H100").gpu_hours is None


def test_files_are_read_once_however_many_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what has no folder none is looked for."""
    save_result(tmp_path, COUNTED, COUNTS)
    save_result(tmp_path, replace(NEST, seed=1), seconds=3600.0, device="NVIDIA H100")
    read, outcome = list[str](), results.outcome

    def counted(root: Path, run: Run) -> results.Outcome:
        read.append(run.id)
        return outcome(root, run)

    monkeypatch.setattr(results, "outcome", counted)
    runs = everything() + [replace(NEST, seed=seed) for seed in range(3)]
    assert price.prices(tmp_path, runs, "H100").keys() == set(runs)
    assert len(read) <= 4


# --- GPUs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a100", "A100"),
        ("nvidia_a100-pcie-40gb", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("rtx4090", "RTX 4090"),
        ("l40s", "L40S"),
        ("a40", "A40"),
        ("A4000", "A4000"),
        ("a10", "a10"),
        ("gh200", "gh200"),
        ("l40", "l40"),
        ("a100_3g.20gb", "a100_3g.20gb"),  # a slice of one
        ("", ""),
    ],
)
def test_names_of_gpus(text: str, name: str) -> None:
    assert gpus.canonical_name(text) == name


@pytest.mark.parametrize(
    ("gpu", "device", "is_it"),
    [
        ("a30", "NVIDIA A30", True),
        ("a3", "NVIDIA A30", False),
        ("a100_80gb", "NVIDIA A100-SXM4-40GB", True),  # as fast
        ("a100", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", False),
        ("", "CPU x86_64 AVX512, 1 threads", False),
        ("cpu", "NVIDIA A30", False),
        ("cpu", "cpu", True),
    ],
)
def test_what_was_computed_on_a_gpu(gpu: str, device: str, is_it: bool) -> None:
    assert gpus.is_device(gpu, device) == is_it


# --- disk and sums -------------------------------------------------------------------------------


def test_disk_of_a_run(tmp_path: Path) -> None:
    """fp32 weights; then, beside them, two checkpoints of three numbers a weight."""
    save_result(tmp_path, COUNTED, COUNTS)
    found = price.price(tmp_path, NEST, "H100")
    assert found.disk_bytes == 4 * 17_057_608
    assert found.peak_bytes == (4 + 2 * 12) * 17_057_608


def test_sums(tmp_path: Path) -> None:
    gib, none = 2**30, (0.0, 0.0)
    small = Price(NEST, (1.0, 2.0), "multiply-adds", gib, 7 * gib)
    large = Price(NEST, (3.0, 4.0), "multiply-adds", 2 * gib, 14 * gib)
    unknown = Price(NEST, None, "unknown", None)
    done = Price(NEST, none, "done", 0, 0)
    found = price.total([small, large, unknown, done])
    assert found == price.Total((4.0, 6.0), 3, 1, 3 * gib, 21 * gib, 1)
    assert price.total([small, large], at_once=1).peak_bytes == 15 * gib
    assert price.total([]) == price.Total(none, 0, 0, 0, 0, 0)


def test_in_words(tmp_path: Path) -> None:
    save_result(tmp_path, COUNTED, COUNTS)
    unknown = replace(NEST, model=Model("nest_base_imagenet"))
    found = price.prices(tmp_path, [NEST, unknown], "h100", lambda _: 8)
    assert price.describe(found[NEST], "h100") == (
        "13 to 63 GPU-hours by multiply-adds, 1.6 to 7.8 h on 8"
    )
    assert price.describe(found[unknown], "h100").endswith("to measure it")
    assert price.summary([*found.values()], "h100") == [
        "price: about 13 to 63 GPU-hours for 1 run; 1 run unpriced: no finished seed or profile",
        "disk: 0.0682 GB stay; at most 0.478 GB, if all train at the same time; unknown for 1",
        "multiply-adds: at 6% to 30%, our assumption, of the 989 TFLOP/s of one H100 (H100 data "
        "sheet, SXM, without sparsity)",
    ]
    assert price.line([found[unknown]], "h100").startswith("1 run unpriced: ")
    assert price.line([found[NEST]], "h100") == "about 13 to 63 GPU-hours"


# --- a budget ------------------------------------------------------------------------------------

RUNS = [replace(RUN, seed=seed) for seed in range(6)]
hours = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0, None])  # sums are exact; None: unknown
claims_ = st.lists(st.lists(st.sampled_from(RUNS), min_size=1, max_size=4), max_size=5)
budgets = st.sampled_from([0.0, 0.25, 1.0, 1.75, 3.0, 8.0])


def priced(costs: Sequence[float | None]) -> dict[Run, Price]:
    """The upper bounds are these; the lower ones would fit into any budget."""
    return {
        run: Price(run, None if cost is None else (0.0, cost), "", None)
        for run, cost in zip(RUNS, costs, strict=True)
    }


costs_ = st.lists(hours, min_size=6, max_size=6).map(priced)


def cost(runs: Sequence[Run], priced: dict[Run, Price]) -> float:
    found = [priced[run].gpu_hours for run in runs]
    return sum(h[1] if h else float("inf") for h in found)


@given(budgets, claims_, costs_)
def test_a_budget_is_kept_and_used(
    budget: float, claims: list[list[Run]], priced: dict[Run, Price]
) -> None:
    """Shared runs are paid once; what is counted is decided; no claim that still fits is left."""
    chosen, decided = price.within(budget, claims, priced)
    assert len(set(chosen)) == len(chosen)
    assert all(cost([run], priced) > 0 for run in chosen)  # what is done is not to be done
    assert cost(chosen, priced) <= budget
    left = [cost([*(set(claim) - set(chosen))], priced) for claim in claims]
    assert decided == left.count(0.0)
    assert all(extra > budget - cost(chosen, priced) for extra in left if extra)


@given(budgets, budgets, claims_, costs_)
def test_a_larger_budget_only_adds(
    a: float, b: float, claims: list[list[Run]], priced: dict[Run, Price]
) -> None:
    fewer, more = (price.within(budget, claims, priced) for budget in sorted((a, b)))
    assert more[0][: len(fewer[0])] == fewer[0]
    assert more[1] >= fewer[1]


@given(budgets, st.lists(st.integers(0, 4), min_size=6, max_size=6), costs_)
def test_claims_that_share_nothing_are_chosen_best(
    budget: float, claim_of: list[int], priced: dict[Run, Price]
) -> None:
    """Against all subsets."""
    groups = [[r for r, c in zip(RUNS, claim_of, strict=True) if c == n] for n in range(5)]
    claims = [claim for claim in groups if claim]
    best = max(
        size
        for size in range(len(claims) + 1)
        for some in itertools.combinations(claims, size)
        if cost([run for claim in some for run in claim], priced) <= budget
    )
    assert price.within(budget, claims, priced)[1] == best
