"""The price of a launch, and the runs that a budget includes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.core.plan import Request
from repro.launch import state
from repro.launch.state import RunState
from repro.spec import Run, Scale

if TYPE_CHECKING:
    from repro.cost.price import Price
    from repro.launch.slurm.cluster import Cluster

_PRICED_ON = "H100"  # unless a site names its GPU
_UNPRICED = "`repro plan --runs` names the profile that each of them needs"


def prices(
    root: Path, request: Request, cluster: Cluster | None = None, gpu: str = ""
) -> dict[Run, Price]:
    """The price of each run, on GPUs of this name or else the site's."""
    from repro.cost import price

    price_by_run: dict[Run, Price] = {}
    for scale in request.scales:
        runs = [run for run, its_scale in request.runs.items() if its_scale == scale]
        price_by_run |= price.prices(root, runs, gpu or gpu_of(cluster, scale), _count_of(cluster))
    return price_by_run


def price_lines(root: Path, request: Request, cluster: Cluster) -> Iterator[str]:
    """A line per scale with the price of its runs on the site's GPUs."""
    from repro.cost import price

    for scale in request.scales:
        gpu = gpu_of(cluster, scale)
        runs = [run for run, its_scale in request.runs.items() if its_scale == scale]
        price_by_run = price.prices(root, runs, gpu, _count_of(cluster))
        yield f"price: {price.line([*price_by_run.values()], gpu)}"


def gpu_of(cluster: Cluster | None, scale: Scale) -> str:
    """The GPU for which a scale is priced: the site's; else an H100, or a CPU for small scales."""
    if cluster and cluster.gpus.type and cluster.resources[0].gpus:
        return cluster.gpus.type
    return _PRICED_ON if scale == "paper" else "cpu"


def _count_of(cluster: Cluster | None) -> Callable[[Run], int]:
    """A function that returns how many GPUs of a site train a run."""

    def count(run: Run) -> int:
        shape = cluster.resources_for(run.id) if cluster else None
        return max(1, shape.nodes * shape.gpus) if shape else 1

    return count


def micro_batches(cluster: Cluster | None, runs: Iterable[Run]) -> dict[Run, int]:
    """The micro-batches that a site's file sets."""
    sizes = {run: cluster.resources_for(run.id).micro_batch for run in runs} if cluster else {}
    return {run: size for run, size in sizes.items() if size}


def within_budget(
    request: Request,
    states: Sequence[RunState],
    root: Path,
    gpu_hours: float,
    price_by_run: Mapping[Run, Price],
) -> tuple[Request, str]:
    """The request without the unfinished runs that a budget excludes, and a line about it.

    Keeps finished runs, and the runs that decide the most claims within `gpu_hours`.
    """
    from repro.cost import price

    to_do = {s.run for s in states if not s.is_settled}
    claims = [[run for run in claim if run in to_do] for claim in request.claims]
    affordable, _ = price.within(gpu_hours, [claim for claim in claims if claim], price_by_run)
    others = {run for claim in request.claims for run in claim} - request.runs.keys()
    unfinished = {s.run for s in state.query(root, others) if not s.is_settled} | to_do
    decided = sum(not (set(claim) & unfinished) - set(affordable) for claim in request.claims)
    about = f"within {gpu_hours:g} GPU-hours: {decided} of {len(claims)} claims are decided"
    included = request.only(run for run in request.runs if run not in to_do or run in affordable)
    excluded = _describe_excluded(to_do - {*affordable}, price_by_run)
    return included, f"{about}, with {len(affordable)} runs; {excluded}"


def _describe_excluded(runs: Iterable[Run], price_by_run: Mapping[Run, Price]) -> str:
    """How many runs a budget excludes, and how many of them have no price."""
    runs = list(runs)
    if not runs:
        return "no other is open"
    others = f"{len(runs)} other{'s are' if len(runs) > 1 else ' is'} not launched"
    unknown = sum(not (run in price_by_run and price_by_run[run].gpu_hours) for run in runs)
    why = f", of which {unknown} without a price; {_UNPRICED}" if unknown else ""
    return f"{others}{why}"


def above_limit(request: Request, root: Path, cluster: Cluster) -> str:
    """Why these runs need the user's consent to their price; '' if they do not.

    They do above the site's `limit_gpu_hours`, or if a price is unknown. Only runs at paper scale
    count: the others take minutes of a CPU.
    """
    from repro.cost import price

    runs = request.only(run for run, scale in request.runs.items() if scale == "paper")
    total = price.total(prices(root, runs, cluster).values())
    most, limit = total.gpu_hours[1], cluster.limit_gpu_hours
    if most <= limit and not total.unpriced:
        return ""
    number = f"{len(runs.runs)} run{'s' * (len(runs.runs) > 1)}"
    cost = f"up to {most:,.0f} GPU-hours"
    if total.unpriced:
        cost = f"{cost} and {total.unpriced} of unknown price" if total.priced else "unknown price"
    line = (
        f"{number}: {cost}; this site's limit_gpu_hours is {limit:,g}. Add --yes, or --budget "
        f"{limit:g}gpuh"
    )
    return f"{line}, which skips runs without a price; {_UNPRICED}" if total.unpriced else line
