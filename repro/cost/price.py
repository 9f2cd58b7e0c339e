"""The price of runs: GPU-hours, hours and disk, as ranges with their origin.

Sources, the best first: finished seeds; finished runs that cost the same; a measured rate of the
model; its multiply-adds with an assumption about the GPU. Without any, the price is unknown, and
names the run that would show it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from repro import results
from repro.core.work import FixedWork, ModelWork, UnknownWork
from repro.cost import gpus, steps
from repro.cost.gpus import is_device
from repro.kinds.profiling import costing
from repro.spec import Profiling, Run

Range = tuple[float, float]  # low, high

UTILISATION = (0.06, 0.30)  # our assumption: fraction of the peak, of eager and of good code
ALLOWANCE = 1.25  # our assumption: factor on a measured rate for loading, evaluation and saving
LAUNCH_SECONDS = 6e-6  # our assumption: time to launch an operation eagerly, 5 to 8 µs


@dataclass(frozen=True)
class Price:
    """The price of a run; zero if it has finished."""

    run: Run
    gpu_hours: Range | None  # None: unknown. On CPUs, hours of a process
    origin: str  # the source of the price; if it is unknown, how to measure it
    disk_bytes: int | None  # of the weights, which stay
    peak_bytes: int | None = None  # while it trains, with its two newest checkpoints
    gpus: int = 1  # per run
    useful_gpus: int | None = None  # more are no faster, since the host launches no sooner
    launch_hours: float = 0.0  # GPU-hours that the host takes to launch the operations

    @property
    def bound_by_host(self) -> bool:
        return self.useful_gpus is not None and self.gpus > self.useful_gpus

    @property
    def reaches_launches(self) -> bool:
        """Whether launches by the host, not computation, determine the lower end."""
        return self.gpu_hours is not None and 0 < self.launch_hours >= self.gpu_hours[0]

    @property
    def hours(self) -> Range | None:
        """Wall-clock hours."""
        low, high = self.gpu_hours or (0, 0)
        return (low / self.gpus, high / self.gpus) if self.gpu_hours else None


def price(root: Path, run: Run, gpu: str, count: int = 1) -> Price:
    """The price of one run on `count` GPUs: see `prices`."""
    return prices(root, [run], gpu, lambda _: count)[run]


def prices(
    root: Path, runs: Iterable[Run], gpu: str, count: Callable[[Run], int] = lambda _: 1
) -> dict[Run, Price]:
    """The price of each run on `count` GPUs of this name.

    `gpu` is a site's name or NVIDIA's, such as 'a100' or 'NVIDIA H100 80GB HBM3'; 'cpu'; or '' for
    any, which only finished runs can price.
    """
    measurements = _read(root)
    return {run: _price(measurements, run, gpu, count(run)) for run in runs}


def _price(measurements: _Measurements, run: Run, gpu: str, count: int) -> Price:
    if run.id in measurements.ids and results.outcome(measurements.root, run).result:
        return Price(run, (0.0, 0.0), "done", 0, 0)
    if isinstance(work := run.work, FixedWork):
        return Price(run, (work.hours,) * 2, work.origin, 0, 0)
    hours, origin = _hours(measurements, run, work, gpu)
    weights, peak = _disk_bytes(measurements, run)
    if hours is None or gpu == "cpu" or not (floor := host_hours(run)):
        return Price(run, hours, origin, weights, peak, count)
    useful, launches = math.ceil(hours[1] / floor), 0.0
    if count > 1 or origin == "multiply-adds":  # measured times include the host's
        launches = count * floor
        hours = max(hours[0], launches), max(hours[1], launches)
    return Price(run, hours, origin, weights, peak, count, useful, launches)


def host_hours(run: Run) -> float:
    """The minimum hours of a training on any number of GPUs, as operations are launched one after
    another. 0 if it is not a training, or unknown."""
    training = run.training_steps
    step = steps.table().get(training.key) if training else None
    if not training or not step:
        return 0.0
    launches = step["launches"] + training.augmentation_launches
    return training.count * launches * LAUNCH_SECONDS / 3600


# --- GPU-hours -----------------------------------------------------------------------------------


def _hours(
    measurements: _Measurements, run: Run, work: ModelWork | UnknownWork, gpu: str
) -> tuple[Range | None, str]:
    """The hours of an unfinished run, and their origin."""
    for origin, finished in measurements.finished(run).items():
        facts = [f for f in finished if is_device(gpu, f["device"])]
        if facts:
            hours = [f["seconds"] * f.get("ranks", 1) / 3600 for f in facts]
            return (min(hours), max(hours)), origin
    if isinstance(work, UnknownWork):
        return None, work.reason
    return (
        _hours_by_rate(measurements, work, gpu)
        or _hours_by_macs(measurements, work, gpu)
        or (None, _missing(measurements, work, gpu))
    )


def _hours_by_rate(
    measurements: _Measurements, work: ModelWork, gpu: str
) -> tuple[Range, str] | None:
    """The hours from the images per second of a profile on this GPU."""
    if work.images is None or not (rate := measurements.rate(work.passes[0][0], gpu)):
        return None
    (trained, tested), (profile, metrics) = work.images, rate
    seconds = trained / metrics["train_images_per_second"]
    seconds += tested / metrics["forward_images_per_second"]
    origin = f"rate measured in {profile.precision}, batch {profile.batch_size}"
    return (seconds / 3600, ALLOWANCE * seconds / 3600), origin


def _hours_by_macs(
    measurements: _Measurements, work: ModelWork, gpu: str
) -> tuple[Range, str] | None:
    """The hours from the multiply-adds of all passes, at an assumed utilisation of the GPU."""
    peak, _ = gpus.PEAKS.get(gpus.canonical_name(gpu), (None, ""))
    if not peak or any(model not in measurements.counts for model, _ in work.passes):
        return None
    flop = 2 * sum(measurements.counts[model]["macs"] * count for model, count in work.passes)
    best = flop / (peak * 1e12 * UTILISATION[1]) / 3600
    return (best, best * UTILISATION[1] / UTILISATION[0]), "multiply-adds"


def _missing(measurements: _Measurements, work: ModelWork, gpu: str) -> str:
    """How to make the hours of this work on this GPU known."""
    if not gpu:
        return "name a GPU"
    if work.images is not None:
        return f"run {_profile_needed(work.passes[0][0], gpu).id} to measure it"
    if gpus.canonical_name(gpu) not in gpus.PEAKS:
        return f"finish a seed on {gpu} to measure it"
    return next(
        f"run {model.id} to measure it"
        for model, _ in work.passes
        if model not in measurements.counts
    )


def _profile_needed(model: Profiling, gpu: str) -> Profiling:
    """The profile that prices runs of this model on this GPU."""
    if gpu == "cpu":
        return replace(model, device="cpu", batch_size=64)
    if gpus.canonical_name(gpu) in gpus.PEAKS:
        return model
    return replace(model, device=gpu, precision="bf16", batch_size=128)


# --- finished runs in results/ -------------------------------------------------------------------


@dataclass
class _Measurements:
    """The finished profiles and seeds, read once."""

    root: Path
    ids: frozenset[str]
    counts: dict[Profiling, dict[str, Any]] = field(default_factory=dict)
    rates: dict[Profiling, list[tuple[Profiling, dict[str, Any]]]] = field(default_factory=dict)
    _finished: dict[str, tuple[Run, dict[str, Any]] | None] = field(default_factory=dict)

    def rate(self, model: Profiling, gpu: str) -> tuple[Profiling, dict[str, Any]] | None:
        """The measurement on this GPU that is closest to training: bf16 if any, largest batch."""
        on_gpu = [rate for rate in self.rates.get(model, []) if is_device(gpu, rate[0].device)]
        best = max(on_gpu, key=lambda f: (f[0].precision == "bf16", f[0].batch_size), default=None)
        return best if gpu else None

    def finished(self, run: Run) -> dict[str, list[dict[str, Any]]]:
        """Provenances with time and device by origin: of the run's seeds, of runs that cost the
        same."""
        equal, seeds = self.equal(run), replace(run, seed=0)
        return {
            "seeds done here": [f for other, f in equal if replace(other, seed=0) == seeds],
            "runs of equal cost done here": [facts for _, facts in equal],
        }

    def equal(self, run: Run) -> list[tuple[Run, dict[str, Any]]]:
        """The finished runs that cost the same, with their provenances."""
        names = self.by_slug.get(_without_seed(run.slug), ())
        return [
            (other, facts)
            for other, facts in filter(None, map(self._provenance, names))
            if other.cost_class == run.cost_class and {"seconds", "device"} <= facts.keys()
        ]

    def _provenance(self, name: str) -> tuple[Run, dict[str, Any]] | None:
        """A finished run and its provenance; None for unfinished and damaged runs."""
        if name not in self._finished:
            self._finished[name] = None
            with suppress(results.ResultsError):
                run = results.stored_run(self.root / name)
                outcome = results.outcome(self.root, run)
                if outcome.result and outcome.state == "done":
                    self._finished[name] = run, outcome.result.get("provenance", {})
        return self._finished[name]

    @cached_property
    def by_slug(self) -> dict[str, list[str]]:
        """The ids of all results by slug, whatever their seed."""
        by_slug = dict[str, list[str]]()
        for name in sorted(self.ids):
            by_slug.setdefault(_without_seed(name.rpartition("-")[0]), []).append(name)
        return by_slug


def _without_seed(slug: str) -> str:
    return re.sub(r"-s\d+$", "", slug)


def _read(root: Path) -> _Measurements:
    """Read the ids of all results, and the profiles among them."""
    measurements = _Measurements(root, frozenset(results.run_ids(root)))
    for name in sorted(measurements.ids):
        if re.search(r"-\d+px-\d+-", name) and (profile := _profile(root, name)):
            run, metrics = profile
            model = Profiling(
                model=costing(run.model), classes=run.classes, image_size=run.image_size
            )
            measurements.counts.setdefault(model, metrics)
            if "train_images_per_second" in metrics:
                measurements.rates.setdefault(model, []).append(profile)
    return measurements


def _profile(root: Path, name: str) -> tuple[Profiling, dict[str, Any]] | None:
    """A finished profile and its metrics; None for other, unfinished and damaged runs."""
    with suppress(results.ResultsError):
        run = results.stored_run(root / name)
        outcome = results.outcome(root, run)
        if run.as_profile and outcome.result and outcome.state == "done":
            return run.as_profile, outcome.result["metrics"]
    return None


def _disk_bytes(measurements: _Measurements, run: Run) -> tuple[int | None, int | None]:
    """Bytes of the trained weights in fp32, without and with the two newest checkpoints."""
    if (footprint := run.footprint) is None:
        return 0, 0
    counts = [f["parameters"] for _, f in measurements.equal(run) if "parameters" in f]
    counts += _parameters(measurements, footprint.model)
    if not counts:
        return None, None
    weights = 4 * int(counts[0])
    checkpoint = footprint.copies * weights
    checkpoint += sum(3 * 4 * count for count in _parameters(measurements, footprint.partner))
    return weights, weights + 2 * checkpoint


def _parameters(measurements: _Measurements, model: Profiling | None) -> list[int]:
    """A list with a model's parameter count; empty if it is unknown."""
    return [int(measurements.counts[model]["parameters"])] if model in measurements.counts else []


# --- of many runs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Total:
    """Sums over the runs with known prices, and the numbers of such runs and of others."""

    gpu_hours: Range
    priced: int
    unpriced: int
    disk_bytes: int  # after training
    peak_bytes: int  # during training
    unsized: int  # runs of unknown size on disk


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
    """The runs that decide many claims within a budget, and how many claims they decide.

    A claim needs all of its runs, including those that they start from. Greedy: repeatedly the
    claim with the least additional cost, by upper bounds, until none fits. If claims share no runs,
    this is optimal. A larger budget only adds runs. Finished runs are free; a claim with a run of
    unknown price is not chosen.
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


# --- text ----------------------------------------------------------------------------------------


def describe(price: Price, gpu: str) -> str:
    """The price of a run: '13 to 63 GPU-hours by multiply-adds, 1.6 to 7.8 h on 8'."""
    if price.gpu_hours is None:
        return f"unknown; {price.origin}"
    together = f", {_span(price.hours)} h on {price.gpus}" if price.gpus > 1 else ""
    bound = f", bound by the host: {_no_faster([price])}" if price.bound_by_host else ""
    return f"{_span(price.gpu_hours)} {_unit(gpu)} by {price.origin}{together}{bound}"


def _no_faster(bound: Sequence[Price]) -> str:
    """'no faster than on 2 to 4 GPUs'."""
    counts = [p.useful_gpus for p in bound if p.useful_gpus]
    least, most = min(counts), max(counts)
    number = f"{most}" if least == most else f"{least} to {most}"
    return f"no faster than on {number} GPU{'s' * (most > 1)}"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def line(prices: Sequence[Price], gpu: str) -> str:
    """The sum in a line."""
    sums = total(prices)
    amount = f"about {_span(sums.gpu_hours)} {_unit(gpu)}"
    if sums.unpriced:
        amount += f" for {_runs(sums.priced)}"
    missing = f"{_runs(sums.unpriced)} unpriced: no finished seed or profile"
    return "; ".join([amount] * bool(sums.priced) + [missing] * bool(sums.unpriced))


def brief(prices: Sequence[Price], gpu: str) -> str:
    """The sum in a few words: '12 to 63 GPU-hours', 'price unknown'."""
    sums = total(prices)
    amount = f"{_span(sums.gpu_hours)} {_unit(gpu)}" if sums.priced else ""
    unknown = f"{sums.unpriced} unknown" if sums.priced else "price unknown"
    return ", ".join([amount] * bool(amount) + [unknown] * bool(sums.unpriced))


def summary(prices: Sequence[Price], gpu: str) -> list[str]:
    """The sums, and explanations of their origins."""
    return [f"price: {line(prices, gpu)}", _disk(total(prices)), *_notes(prices, gpu)]


def _notes(prices: Sequence[Price], gpu: str) -> list[str]:
    """An explanation of each origin among the prices."""
    origins = {p.origin.split(" in ")[0] for p in prices}
    notes = []
    if "rate measured" in origins:
        more = f"{ALLOWANCE - 1:.0%}"
        notes.append(
            f"rate measured: up to {more} more is our allowance for loading and evaluation"
        )
    if "multiply-adds" in origins:
        name = gpus.canonical_name(gpu)
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


def _disk(sums: Total) -> str:
    stay, peak = (f"{size / 1e9:.3g} GB" for size in (sums.disk_bytes, sums.peak_bytes))
    text = f"disk: {stay} stay; at most {peak}, if all train at the same time"
    return f"{text}; unknown for {sums.unsized}" if sums.unsized else text


def _unit(gpu: str) -> str:
    return "CPU-hours" if gpu == "cpu" else "GPU-hours"


def _span(hours: Range | None) -> str:
    if hours is None:
        return "unknown"
    low, high = (f"{h:,.0f}" if h >= 100 else f"{h:.2g}" for h in hours)
    return low if low == high else f"{low} to {high}"
