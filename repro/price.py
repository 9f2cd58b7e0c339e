"""What runs will take: GPU-hours, hours and disk, each as a range with what it is known from.

In this order: other seeds that are done here; a measured rate of the model; its multiply-adds and
an assumption about the GPU. Where nothing is known it is said so, and which run would tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro import gpus, results, steps
from repro.gpus import is_device
from repro.spec import (
    Classification,
    Explanation,
    Generation,
    Localization,
    Model,
    Profiling,
    Run,
    Traversal,
)

Range = tuple[float, float]  # low, high

UTILISATION = (0.06, 0.30)  # our assumption: of the peak, eager code and a good one
ALLOWANCE = 1.25  # ours, on a measured rate: for loading, evaluation in between, and saving
PROFILING_HOURS = 1 / 60
LAUNCH_SECONDS = 6e-6  # our assumption, of an operation that the host launches eagerly: 5 to 8 µs
AUGMENTATION_LAUNCHES = 250  # of a batch by the authors' policy, as tests/test_gpu.py bounds them
SEEDS_LOOKED_AT = 8

# Train images, test images, classes. A smoke set has a handful of images, in the same classes.
DATASETS: Mapping[str, tuple[int, int, int]] = {
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "imagenet": (1_281_167, 50_000, 1000),
    "imagenet22k": (14_197_122, 0, 21_841),
    "fashion-mnist": (60_000, 10_000, 10),
    "fashion-mnist-6k": (6_000, 2_000, 10),
    "glyphs": (6_000, 2_000, 100),
    "fashion-singles": (6_000, 2_000, 10),
    "imagenetv2": (0, 10_000, 1000),
}
SMOKE_IMAGES = 20
GENERATED_SIDE = 64  # px, of a generator that says nothing else
STORED_SIDE = 32  # px, where neither recipe nor evaluation says
STORED_SIDES = {"fashion-singles": 64}
PART = {"fit": 5 / 6, "validation": 1 / 6}  # of 'train'


@dataclass(frozen=True)
class Price:
    """What a run will take; nothing if it is done."""

    run: Run
    gpu_hours: Range | None  # None: unknown. On CPUs, hours of a process
    origin: str  # what it is known from; where it is unknown, what would tell
    disk_bytes: int | None  # of weights, which stay
    peak_bytes: int | None = None  # while it trains, with its two newest checkpoints
    gpus: int = 1  # that work on it together
    useful_gpus: int | None = None  # with more it takes as long: the host launches no sooner
    launch_hours: float = 0.0  # GPU-hours that the host takes to launch what it computes

    @property
    def bound_by_host(self) -> bool:
        return self.useful_gpus is not None and self.gpus > self.useful_gpus

    @property
    def reaches_launches(self) -> bool:
        """Whether the lower end is the host's launches, not the GPU's computation."""
        return self.gpu_hours is not None and 0 < self.launch_hours >= self.gpu_hours[0]

    @property
    def hours(self) -> Range | None:
        """Of the wall clock."""
        low, high = self.gpu_hours or (0, 0)
        return (low / self.gpus, high / self.gpus) if self.gpu_hours else None


def price(root: Path, run: Run, gpu: str, count: int = 1) -> Price:
    """What the run will take on so many of these GPUs: see `prices`."""
    return prices(root, [run], gpu, lambda _: count)[run]


def prices(
    root: Path, runs: Iterable[Run], gpu: str, count: Callable[[Run], int] = lambda _: 1
) -> dict[Run, Price]:
    """What each of the runs will take on GPUs of this name, and on how many of them.

    `gpu` is a site's name or NVIDIA's, such as 'a100' or 'NVIDIA H100 80GB HBM3'; 'cpu'; or '' for
    whichever there is, of which only finished seeds tell.
    """
    known = _read(root)
    return {run: _price(known, run, gpu, count(run)) for run in runs}


def _price(known: _Known, run: Run, gpu: str, count: int) -> Price:
    if run.id in known.ids and results.outcome(known.root, run).result:
        return Price(run, (0.0, 0.0), "done", 0, 0)
    if isinstance(run, Profiling):
        return Price(run, (PROFILING_HOURS,) * 2, "about a minute", 0, 0)
    hours, origin = _hours(known, run, gpu)
    weights = _weights(known, run)
    peak = weights + 2 * _checkpoint(known, run, weights) if weights is not None else None
    if hours is None or gpu == "cpu" or not (floor := host_hours(run)):
        return Price(run, hours, origin, weights, peak, count)
    useful, launches = math.ceil(hours[1] / floor), 0.0
    if count > 1 or origin == "multiply-adds":  # what was measured has the host in it
        launches = count * floor
        hours = max(hours[0], launches), max(hours[1], launches)
    return Price(run, hours, origin, weights, peak, count, useful, launches)


def host_hours(run: Run) -> float:
    """The least hours of a training, on however many GPUs: each step's operations are launched one
    after another. 0 for what is none, or not known."""
    if isinstance(run, Classification) and run.recipe.epochs and (work := images(run)):
        steps_, augmented = work[0] / run.recipe.batch_size, AUGMENTATION_LAUNCHES
    elif isinstance(run, Generation):
        steps_, augmented = run.recipe.steps, 0
    else:
        return 0.0
    step = steps.measured().get(key(run))
    return steps_ * (step["launches"] + augmented) * LAUNCH_SECONDS / 3600 if step else 0.0


# --- GPU-hours -----------------------------------------------------------------------------------


def _hours(known: _Known, run: Run, gpu: str) -> tuple[Range | None, str]:
    """The hours of a run that is not done, and their origin."""
    done = [f for f in known.seeds(run) if is_device(gpu, f["device"])]
    if done:
        taken = [f["seconds"] * f.get("ranks", 1) / 3600 for f in done]
        return (min(taken), max(taken)), "seeds done here"
    if isinstance(run, Generation):
        return _generation_hours(known, run, gpu)
    if isinstance(run, Explanation):
        return _explanation_hours(known, run, gpu)
    if not isinstance(run, Classification):
        return None, "a seed that is done would tell"
    if (work := images(run)) is None:
        return None, f"not known how many images {run.dataset} has"
    (trained, tested), model = work, counted(run)
    if rate := known.rate(model, gpu):
        probe, found = rate
        seconds = trained / found["train_images_per_second"]
        seconds += tested / found["forward_images_per_second"]
        origin = f"rate measured in {probe.precision}, batch {probe.batch_size}"
        return (seconds / 3600, ALLOWANCE * seconds / 3600), origin
    peak, _ = gpus.PEAKS.get(gpus.named(gpu), (None, ""))
    if peak and (counts := known.counts.get(model)):
        flop = 2 * counts["macs"] * (3 * trained + tested)  # backward is twice the forward pass
        best = flop / (peak * 1e12 * UTILISATION[1]) / 3600
        return (best, best * UTILISATION[1] / UTILISATION[0]), "multiply-adds"
    return None, f"{_telling(model, gpu).id} would tell" if gpu else "the name of a GPU would tell"


def _generation_hours(known: _Known, run: Generation, gpu: str) -> tuple[Range | None, str]:
    """By multiply-adds: of an image, the generator's pass and its gradient (3); the
    discriminator's of a real and a generated one (6), and R1's second gradient (our estimate: 3).
    Evaluations, a few in a hundred thousand steps, are left out."""
    peak, _ = gpus.PEAKS.get(gpus.named(gpu), (None, ""))
    models = pair(run)
    if missing := [model for model in models if model not in known.counts]:
        return None, f"{missing[0].id} would tell"
    if not peak:
        return None, f"a seed done on {gpu} would tell" if gpu else "the name of a GPU would tell"
    of_generator, of_discriminator = (known.counts[model]["macs"] for model in models)
    macs = 3 * of_generator + (9 if run.recipe.r1_weight else 6) * of_discriminator
    flop = 2 * macs * run.recipe.steps * run.recipe.batch_size
    best = flop / (peak * 1e12 * UTILISATION[1]) / 3600
    return (best, best * UTILISATION[1] / UTILISATION[0]), "multiply-adds"


def _explanation_hours(known: _Known, run: Explanation, gpu: str) -> tuple[Range | None, str]:
    """By multiply-adds: of a map, or a path, two passes and a gradient (4 forward passes); of a
    leaf that is taken away, and of a step of insertion or deletion, one. Boxes are the CPU's."""
    classifier, facts = run.trained, _facts(run.dataset)
    if classifier is None:
        return (0.0, 0.0), "boxes alone"
    if facts is None:
        return None, f"not known how many images {run.dataset} has"
    tested = facts[1]
    if isinstance(run, Localization):
        tuning = _facts(run.tuning) or facts
        passes = 4 * (tested + tuning[1]) + 66 * run.probed
    else:
        assert isinstance(run, Traversal)
        passes = 4 * run.objects * (run.pictures or tested) + 17 * run.objects * run.ablated
    peak, _ = gpus.PEAKS.get(gpus.named(gpu), (None, ""))
    model = counted(classifier)
    if not peak or model not in known.counts:
        return None, "a seed that is done would tell"
    best = 2 * known.counts[model]["macs"] * passes / (peak * 1e12 * UTILISATION[1]) / 3600
    return (best, best * UTILISATION[1] / UTILISATION[0]), "multiply-adds"


def pair(run: Generation) -> tuple[Profiling, Profiling]:
    """The profiles that count a run's generator and its discriminator."""
    side = dict(run.generator.options).get("img_size", GENERATED_SIDE)
    assert isinstance(side, int)
    return (
        Profiling(model=run.generator, classes=0, image_size=side),
        Profiling(model=run.discriminator, classes=1, image_size=side),
    )


def counted(run: Classification) -> Profiling:
    """The profile that counts the run's model, at its classes and image side.

    Options that cost nothing are left out, so that a model is counted once. KeyError for a dataset
    that is not in `DATASETS`.
    """
    facts, tested = _facts(run.dataset), run.evaluation.image_size if run.evaluation else 0
    if facts is None:
        raise KeyError(run.dataset)
    trained = run.recipe.image_size if run.recipe.epochs else 0
    side = trained or tested or STORED_SIDES.get(run.dataset, STORED_SIDE)
    return Profiling(model=_costing(run.model), classes=facts[2], image_size=side)


def profile(run: Classification) -> Profiling:
    """The profile of the run's model, with all of its options."""
    return replace(counted(run), model=run.model)


def key(run: Classification | Generation) -> str:
    """Of a training in `steps`: what a step depends on, and for a GAN more than that."""
    return profile(run).id if isinstance(run, Classification) else replace(run, seed=0).id


def _costing(model: Model) -> Model:
    """The model without options that change no cost, as the rates of dropout."""
    kept = {k: v for k, v in model.options if "drop" not in k and k != "gelu"}
    return Model.of(model.name, **kept)


def _telling(model: Profiling, gpu: str) -> Profiling:
    """The profile that would tell what runs of this model cost on this GPU."""
    if gpu == "cpu":
        return replace(model, device="cpu", batch_size=64)
    if gpus.named(gpu) in gpus.PEAKS:
        return model
    return replace(model, device=gpu, precision="bf16", batch_size=128)


def images(run: Classification) -> tuple[float, float] | None:
    """How many images a run trains on and tests, each as often as it does; None if not known."""
    if (facts := _facts(run.dataset)) is None:
        return None
    train, test, _ = facts
    tested = test if run.test_split == "test" else train * PART.get(run.test_split, 1)
    epochs, every = run.recipe.epochs, run.recipe.evaluate_every_epochs
    tests = 1 + (epochs - 1) // every if every and epochs else 1
    tests = 0 if run.test_split == "none" else tests
    return train * PART.get(run.train_split, 1) * epochs, tested * tests


def _facts(dataset: str) -> tuple[int, int, int] | None:
    dataset = dataset.removesuffix("-256px").removesuffix("-64px")
    facts = DATASETS.get(dataset.removesuffix("-smoke"))
    if facts and dataset.endswith("-smoke"):
        return SMOKE_IMAGES, SMOKE_IMAGES, facts[2]
    return facts


# --- what results/ has of it ---------------------------------------------------------------------


@dataclass
class _Known:
    """What there is that tells of prices, read once."""

    root: Path
    ids: frozenset[str]
    counts: dict[Profiling, dict[str, Any]] = field(default_factory=dict)
    rates: dict[Profiling, list[tuple[Profiling, dict[str, Any]]]] = field(default_factory=dict)
    _seeds: dict[Run, list[dict[str, Any]]] = field(default_factory=dict)

    def rate(self, model: Profiling, gpu: str) -> tuple[Profiling, dict[str, Any]] | None:
        """The measurement on this GPU that is most like training: bf16 if any, largest batch."""
        there = [found for found in self.rates.get(model, []) if is_device(gpu, found[0].device)]
        best = max(there, key=lambda f: (f[0].precision == "bf16", f[0].batch_size), default=None)
        return best if gpu else None

    def seeds(self, run: Run) -> list[dict[str, Any]]:
        """The provenance of the run's seeds that are done, where it tells time and device."""
        base = replace(run, seed=0)
        if base not in self._seeds:
            seeds = (replace(run, seed=seed) for seed in range(SEEDS_LOOKED_AT))
            found = [results.outcome(self.root, s) for s in seeds if s.id in self.ids]
            facts = [
                o.result.get("provenance", {}) for o in found if o.result and o.state == "done"
            ]
            self._seeds[base] = [f for f in facts if {"seconds", "device"} <= f.keys()]
        return self._seeds[base]


def _read(root: Path) -> _Known:
    """The names of all results, and the profiles among them."""
    known = _Known(root, frozenset(p.name for p in root.glob("*")))
    for name in sorted(known.ids):
        if re.search(r"-\d+px-\d+-", name) and (found := _profile(root, name)):
            run, metrics = found
            model = Profiling(
                model=_costing(run.model), classes=run.classes, image_size=run.image_size
            )
            known.counts.setdefault(model, metrics)
            if "train_images_per_second" in metrics:
                known.rates.setdefault(model, []).append(found)
    return known


def _profile(root: Path, name: str) -> tuple[Profiling, dict[str, Any]] | None:
    """A finished profile and its metrics; None for what is none, or is damaged."""
    with suppress(results.ResultsError):
        run = results.stored_run(root / name)
        found = results.outcome(root, run)
        if isinstance(run, Profiling) and found.result and found.state == "done":
            return run, found.result["metrics"]
    return None


def _weights(known: _Known, run: Run) -> int | None:
    """Bytes of the trained weights, in fp32."""
    if isinstance(run, Generation):
        found = known.counts.get(pair(run)[0])
        return 4 * int(found["parameters"]) if found else None
    if isinstance(run, Explanation):
        return 0  # it leaves none
    told = [f["parameters"] for f in known.seeds(run) if "parameters" in f]
    if isinstance(run, Classification) and _facts(run.dataset):
        told += [c["parameters"] for c in [known.counts.get(counted(run))] if c]
    return 4 * int(told[0]) if told else None


def _checkpoint(known: _Known, run: Run, weights: int) -> int:
    """Bytes of the state of a training: three numbers a weight, itself and Adam's two moments."""
    if isinstance(run, Generation):  # with the average of the generator and with a discriminator
        found = known.counts.get(pair(run)[1], {"parameters": 0})
        return 4 * weights + 3 * 4 * int(found["parameters"])
    trains = not isinstance(run, Classification) or run.recipe.epochs > 0
    return 3 * weights * trains


# --- of many runs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Total:
    """Sums over those runs of which something is known, and how many these are."""

    gpu_hours: Range
    priced: int
    unpriced: int
    disk_bytes: int  # that stay
    peak_bytes: int  # while runs train
    unsized: int  # runs whose disk is not in the sums


def total(prices: Iterable[Price], at_once: int | None = None) -> Total:
    """The sum of prices; `at_once`: how many runs train at a time, for the peak; None: all."""
    prices = list(prices)
    hours = [p.gpu_hours for p in prices if p.gpu_hours]
    sized = [(p.disk_bytes, p.peak_bytes or 0) for p in prices if p.disk_bytes is not None]
    stay = sum(disk for disk, _ in sized)
    in_flight = sorted((peak - disk for disk, peak in sized), reverse=True)
    return Total(
        (sum(low for low, _ in hours), sum(high for _, high in hours)),
        len(hours),
        len(prices) - len(hours),
        stay,
        stay + sum(in_flight[:at_once]),
        len(prices) - len(sized),
    )


def within(
    budget_gpu_hours: float, claims: Sequence[Sequence[Run]], priced: Mapping[Run, Price]
) -> tuple[list[Run], int]:
    """The runs to do with so many GPU-hours to decide many claims, and how many are decided then.

    A claim is decided by all of its runs, those that they start from among them. Greedy: always the
    claim that costs least on top of what is chosen, by the upper bounds, until none fits. So where
    claims share no runs no choice decides more, and a larger budget only adds to a smaller one's.
    What is done is free; a claim with a run of unknown price cannot be chosen.
    """
    cost = {r.id: p.gpu_hours[1] for r, p in priced.items() if p.gpu_hours}
    run_of = {run.id: run for claim in claims for run in claim}
    open_claims = [dict.fromkeys(run.id for run in claim) for claim in claims]
    open_claims = [claim for claim in open_claims if claim.keys() <= cost.keys()]
    chosen, left, decided = dict[str, None](), budget_gpu_hours, 0
    while open_claims:
        prices = [sum(cost[i] for i in c if i not in chosen) for c in open_claims]
        if min(prices) > left:
            break
        left -= min(prices)
        chosen |= open_claims.pop(prices.index(min(prices)))
        decided += 1
    return [run_of[i] for i in chosen if cost[i]], decided


# --- in words ------------------------------------------------------------------------------------


def told(found: Price, gpu: str) -> str:
    """The price of a run: '13 to 63 GPU-hours by multiply-adds, 1.6 to 7.8 h on 8'."""
    if found.gpu_hours is None:
        return f"unknown: {found.origin}"
    together = f", {_span(found.hours)} h on {found.gpus}" if found.gpus > 1 else ""
    bound = f", bound by the host: {_no_faster([found])}" if found.bound_by_host else ""
    return f"{_span(found.gpu_hours)} {_unit(gpu)} by {found.origin}{together}{bound}"


def _no_faster(bound: Sequence[Price]) -> str:
    """'no faster than on 2 to 4 GPUs'."""
    counts = [p.useful_gpus for p in bound if p.useful_gpus]
    least, most = min(counts), max(counts)
    number = f"{most}" if least == most else f"{least} to {most}"
    return f"no faster than on {number} GPU{'s' * (most > 1)}"


def line(prices: Sequence[Price], gpu: str) -> str:
    """The sum in a line."""
    found = total(prices)
    known = f"about {_span(found.gpu_hours)} {_unit(gpu)} for {found.priced} of them"
    missing = f"not known for {found.unpriced}, of which neither a seed is done here nor a profile"
    return "; ".join([known] * bool(found.priced) + [missing] * bool(found.unpriced))


def brief(prices: Sequence[Price], gpu: str) -> str:
    """The sum in a few words: '12 to 63 GPU-hours', 'price unknown'."""
    found = total(prices)
    known = f"{_span(found.gpu_hours)} {_unit(gpu)}" if found.priced else ""
    unknown = f"{found.unpriced} unknown" if found.priced else "price unknown"
    return ", ".join([known] * bool(known) + [unknown] * bool(found.unpriced))


def summary(prices: Sequence[Price], gpu: str) -> list[str]:
    """The sums, and what their origins mean."""
    return [f"price: {line(prices, gpu)}", _disk(total(prices)), *_notes(prices, gpu)]


def _notes(prices: Sequence[Price], gpu: str) -> list[str]:
    """What the origins that occur mean."""
    origins = {p.origin.split(" in ")[0] for p in prices}
    notes = []
    if "rate measured" in origins:
        more = f"{ALLOWANCE - 1:.0%}"
        notes.append(
            f"rate measured: up to {more} more is our allowance for loading and evaluation"
        )
    if "multiply-adds" in origins:
        name = gpus.named(gpu)
        peak, source = gpus.PEAKS[name]
        low, high = UTILISATION
        notes.append(
            f"multiply-adds: at {low:.0%} to {high:.0%}, our assumption, of the {peak:g} TFLOP/s "
            f"of one {name} ({source})"
        )
    if launching := sum(p.reaches_launches for p in prices):
        notes.append(
            f"launches: {launching} run{'s' * (launching > 1)} priced by the time that the host "
            f"takes to launch GPU operations, at {1e6 * LAUNCH_SECONDS:g} µs each, our assumption"
        )
    if bound := [p for p in prices if p.bound_by_host]:
        text = f"{len(bound)} run{'s' * (len(bound) > 1)}, {_no_faster(bound)}"
        notes.append(f"bound by the host: {text}")
    return notes


def _disk(found: Total) -> str:
    stay, peak = (f"{size / 1e9:.3g} GB" for size in (found.disk_bytes, found.peak_bytes))
    text = f"disk: {stay} stay; at most {peak}, if all train at the same time"
    return f"{text}; not known for {found.unsized}" if found.unsized else text


def _unit(gpu: str) -> str:
    return "CPU-hours" if gpu == "cpu" else "GPU-hours"


def _span(hours: Range | None) -> str:
    if hours is None:
        return "unknown"
    low, high = (f"{h:,.0f}" if h >= 100 else f"{h:.2g}" for h in hours)
    return low if low == high else f"{low} to {high}"
