"""The one way to launch: train runs here, or submit them to SLURM.

`repro ITEM --launch` hands it what the items need, `repro retry` what ended badly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repro import overview
from repro.launch import data, state, trained
from repro.launch.state import State
from repro.options import (
    MAX_CHECKPOINT_SECONDS,
    MAX_RANKS,
    UsageError,
    add_budget,
    add_data,
    cluster_file,
    data_folder,
    folder_of,
    number,
    path_of,
    real,
    weights_folder,
)
from repro.plan import Request
from repro.spec import Run, Scale

if TYPE_CHECKING:
    from repro.launch.cluster import Cluster
    from repro.launch.job import How
    from repro.price import Price

_SITE = "slurm/default.yaml"
_TELLING = "`repro plan --runs` names what would tell it"
_PRICED_ON = "H100"  # where no site says what it has


class Outcome(NamedTuple):
    """An exit status, and whether nothing is under way any more, so that it is time to draw."""

    status: int
    is_over: bool


# --- options -------------------------------------------------------------------------------------

# Options that only a launch heeds, by where it trains, and their defaults.
_DEFAULTS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "local": {"jobs": lambda: None, "ranks": lambda: 1},
    "slurm": {
        "cluster": lambda: cluster_file() or Path(_SITE),
        "wait": lambda: False,
        "yes": lambda: False,
    },
    "local or slurm": {
        "only": list,
        "budget": lambda: None,
        "data": data_folder,
        "checkpoint_seconds": lambda: 60.0,
        "micro_batch": lambda: None,
        "weights": weights_folder,
        "decode": lambda: "cpu",
        "per_gpu": lambda: None,
        "speed": lambda: "fast",
    },
}


def add_options(parser: Any) -> None:
    """The options of a launch. They have no defaults before `settle`."""
    spending = parser.add_mutually_exclusive_group()
    add_budget(spending)
    spending.add_argument("--yes", action="store_true",
                          help="submit more GPU-hours than the site's limit_gpu_hours")  # fmt: skip
    add_data(parser)
    parser.add_argument("--checkpoint-seconds", metavar="S",
                        type=real("--checkpoint-seconds", MAX_CHECKPOINT_SECONDS),
                        help="lose at most this much work to a kill (default: 60)")  # fmt: skip
    parser.add_argument("--weights", type=folder_of, metavar="DIR",
                        help="released weights, <tag>.safetensors (REPRO_WEIGHTS; default: the "
                        "hub's cache, or the hub)")  # fmt: skip
    parser.add_argument("--decode", choices=("cpu", "nvjpeg"),
                        help="who decodes photographs; nvJPEG's pixels differ by some grey levels "
                        "(default: cpu)")  # fmt: skip
    parser.add_argument("--speed", choices=("plain", "fast", "compiled"),
                        help="of a training. plain: models as torch makes them; fast: in "
                        "faster layouts, with a fused optimizer on a GPU; compiled: classifiers "
                        "by torch.compile as well, which takes minutes at the start, for long "
                        "runs on a GPU (default: fast)")  # fmt: skip
    parser.add_argument("--micro-batch", type=number("--micro-batch", 2**20), metavar="N",
                        help="images on a device at once; the result is that of the whole "
                        "batch (default: as many as fit)")  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be trained, submitted and drawn"
    )
    here = parser.add_argument_group("--launch local")
    here.add_argument("--jobs", type=number("--jobs", MAX_RANKS), metavar="N",
                      help="runs at a time (default: one a GPU or core)")  # fmt: skip
    here.add_argument("--ranks", type=number("--ranks", MAX_RANKS), metavar="N",
                      help="processes that train one run, a GPU each (default: 1)")  # fmt: skip
    parser.add_argument("--per-gpu", type=number("--per-gpu", MAX_RANKS), metavar="N",
                      help="runs that share a GPU, for models that do not fill one "
                        "(default: 1)")  # fmt: skip
    there = parser.add_argument_group("--launch slurm")
    there.add_argument("--cluster", type=path_of, metavar="FILE",
                       help=f"the site's file (REPRO_CLUSTER; default: {_SITE})")  # fmt: skip
    there.add_argument(
        "--wait", action="store_true", help="stay until nothing is under way, then draw"
    )


def settle(given: Any) -> None:
    """Fill in the defaults of a launch. UsageError for an option that it would ignore.

    The defaults of other launches stay out: a variable that names their folders may be wrong.
    """
    for launch, defaults in _DEFAULTS.items():
        is_heeded = given.launch in launch.split(" or ")
        for name, default in defaults.items():
            value = getattr(given, name)
            is_given = not (value is None or value is False or value == [])  # 0.0 is
            if is_given and not is_heeded:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is for --launch {launch}; take it out or add that")
            if is_heeded and not is_given:
                setattr(given, name, default())


def launch_of(option: str) -> str:
    """The launch that an option is for, of commands that do not have it; '' if it is for none."""
    if option == "--launch":
        return "`repro ITEM` and `repro retry`"
    name = option.lstrip("-").replace("-", "_")
    return next((f"--launch {launch}" for launch, d in _DEFAULTS.items() if name in d), "")


# --- launching -----------------------------------------------------------------------------------


def launch(request: Request, given: Any) -> Outcome:
    """Train or submit those of the runs that have no result, as the settled options say.

    KeyboardInterrupt says that the same command goes on.
    """
    try:
        return _launch(request, given)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where it stopped") from None


def _launch(request: Request, given: Any) -> Outcome:
    from repro.launch import cluster

    site = cluster.load(given.cluster) if given.launch == "slurm" else None
    if site and given.per_gpu:
        site = cluster.shared(site, given.per_gpu)
    states = state.look(given.results, request.runs)
    refuse_trouble(states)
    request = _within_budget(request, states, given, site)
    if site:
        _check_limit(request, states, given, site)
        return _submit(request, given, site)
    return _train_here(request.only(s.run for s in states if not s.settled), given)


def refuse_trouble(states: Sequence[State]) -> None:
    """Runs under a known id with another spec, or with damaged files, are not touched."""
    for found in states:
        if found.in_trouble:
            raise UsageError(found.note)


def _how(given: Any) -> How:
    from repro.launch.job import How

    weights = given.weights.absolute() if given.weights else None
    return How(
        given.data.absolute(),
        given.checkpoint_seconds,
        given.micro_batch,
        weights,
        given.decode,
        speed=given.speed,
    )


def _train_here(request: Request, given: Any) -> Outcome:
    """Train here, showing progress."""
    from repro.launch import local
    from repro.launch.progress import Progress

    runs = list(request.runs)
    _check_per_gpu(given)
    if given.dry_run:
        print(*overview.plan_lines(request, state.look(given.results, runs)), sep="\n")
        _print_each(data.missing(runs, given.data))
        return Outcome(0, True)
    if not runs:
        return Outcome(0, True)
    trained.require_released(runs, given.weights)
    jobs = min(given.jobs or local.default_jobs(given.ranks, given.per_gpu or 1), len(runs))
    progress = Progress(len(runs), jobs)
    well = local.launch(runs, given.results, _how(given), jobs, progress.tell, given.ranks)
    return Outcome(0 if well else 1, True)


def _check_per_gpu(given: Any) -> None:
    """UsageError where --per-gpu would do nothing, or what NCCL refuses: two ranks on a GPU."""
    from repro.launch import local

    if given.per_gpu is None:
        return
    if given.jobs or given.ranks > 1:
        other = "--jobs" if given.jobs else "--ranks"
        raise UsageError(f"--per-gpu and {other} exclude each other; take one of them out")
    if not local.gpus():
        raise UsageError("--per-gpu: there is no GPU here; --jobs N trains N runs at a time")


def _submit(request: Request, given: Any, site: Cluster) -> Outcome:
    """Submit what is neither done nor under way, and with --wait stay until all is over."""
    from repro.launch import slurm, watch

    root, runs = given.results.absolute(), list(request.runs)
    if given.dry_run:
        to_do = _pending(request, state.look(root, runs))
        _print_each(slurm.describe(site, list(to_do.runs)))
        _print_each(slurm.scripts(site, list(to_do.runs), root))
        _print_prices(root, to_do, site)
        if "REPRO_DATA" not in site.environment:
            _print_each(data.missing(to_do.runs, given.data))
        print(f"would submit {len(to_do.runs)} of {len(runs)} runs")
        return Outcome(0, False)
    how = _how(given)
    if _hand_over(request, given, site, how):
        if not given.wait:
            print("`repro status` tells how they are; the same command draws when they are done")
            return Outcome(0, False)
        try:
            watch.until_settled(
                root, runs, lambda lost: _hand_over(request.only(lost), given, site, how)
            )
        except KeyboardInterrupt:
            print("\nrepro: the jobs go on; `repro status` tells how they are", file=sys.stderr)
            return Outcome(130, False)
    return Outcome(0 if all(s.settled for s in state.look(root, runs)) else 1, True)


def _print_each(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _pending(request: Request, states: Sequence[State]) -> Request:
    """What nobody has done or is doing."""
    return request.only(s.run for s in states if not (s.settled or s.is_under_way))


def _hand_over(request: Request, given: Any, site: Cluster, how: How) -> bool:
    """Submit those of the runs that nobody has; whether any is under way now."""
    from repro.launch import queue, slurm, submission

    root = given.results.absolute()
    with slurm.submitting(root):  # nobody else submits between our look and our submission
        submission.tidy(root)
        states = state.look(root, request.runs)
        refuse_trouble(states)
        under_way = {s.run: s.job for s in states if s.is_under_way}
        to_do = list(_pending(request, states).runs)
        # SLURM cannot wait for what it does not run.
        held_up = [r for r in to_do if r.starts_from in under_way and not under_way[r.starts_from]]
        to_do = [run for run in to_do if run not in held_up]
        if to_do:
            queue.require()
            submission.refuse_unreadable(root)
            if "REPRO_DATA" not in site.environment:  # else the nodes have a place of their own
                data.check_once(data.of(to_do), given.data)
            trained.require_released(to_do, given.weights)
            print(*slurm.describe(site, to_do), sep="\n")
            _print_prices(root, request.only(to_do), site)
            planned = slurm.submit(site, given.cluster.read_text(), to_do, root, how, under_way)
            numbers = ", ".join(array.job for array in planned.arrays)
            number = f"{len(to_do)} run{'s' * (len(to_do) > 1)}"
            print(f"submitted {number}: SLURM job {numbers}", flush=True)
            # What SLURM has and never starts has been replaced.
            stuck = [s.job for s in states if s.name == "never started" and s.run in to_do]
            queue.cancel([job for job in stuck if job])
    if held_up:
        print(
            f"{len(held_up)} start from runs that are trained outside SLURM: ask again after those"
        )
    if under_way:
        print(f"{len(under_way)} under way already")
    return bool(to_do or under_way)


# --- what it costs -------------------------------------------------------------------------------


def prices(given: Any, request: Request, site: Cluster | None, gpu: str = "") -> dict[Run, Price]:
    """The price of each run, on GPUs of this name or else the site's."""
    from repro import price

    found: dict[Run, Price] = {}
    for scale in request.scales:
        runs = [run for run, of in request.runs.items() if of == scale]
        found |= price.prices(given.results, runs, gpu or gpu_of(site, scale), _count_of(site))
    return found


def gpu_of(site: Cluster | None, scale: Scale) -> str:
    """The GPUs on which a scale is priced: the site's; else an H100, or a CPU for small scales."""
    if site and site.gpus.type and site.resources[0].gpus:
        return site.gpus.type
    return _PRICED_ON if scale == "paper" else "cpu"


def _count_of(site: Cluster | None) -> Callable[[Run], int]:
    """How many GPUs of a site work on a run."""

    def count(run: Run) -> int:
        shape = site.resources_for(run.id) if site else None
        return max(1, shape.nodes * shape.gpus) if shape else 1

    return count


def micro_batches(site: Cluster | None, runs: Iterable[Run]) -> dict[Run, int]:
    """The micro-batches that a site's file sets."""
    sizes = {run: site.resources_for(run.id).micro_batch for run in runs} if site else {}
    return {run: size for run, size in sizes.items() if size}


def affordable(
    request: Request, states: Sequence[State], given: Any, priced: Mapping[Run, Price]
) -> tuple[Request, str]:
    """The request without the open runs that a budget of GPU-hours excludes; a line about it."""
    from repro import price

    to_do = {s.run for s in states if not s.settled}
    claims = [[run for run in claim if run in to_do] for claim in request.claims]
    chosen, _ = price.within(given.budget, [claim for claim in claims if claim], priced)
    others = {run for claim in request.claims for run in claim} - request.runs.keys()
    lacking = {s.run for s in state.look(given.results, others) if not s.settled} | to_do
    decided = sum(not (set(claim) & lacking) - set(chosen) for claim in request.claims)
    about = f"within {given.budget:g} GPU-hours: {decided} of {len(claims)} claims are decided"
    kept = request.only(run for run in request.runs if run not in to_do or run in chosen)
    return kept, f"{about}, with {len(chosen)} runs; {_left_out(to_do - {*chosen}, priced)}"


def _left_out(runs: Iterable[Run], priced: Mapping[Run, Price]) -> str:
    """How many runs a budget excludes, and why those without a price."""
    runs = list(runs)
    if not runs:
        return "no other is open"
    others = f"{len(runs)} other{'s are' if len(runs) > 1 else ' is'} not launched"
    unknown = sum(not (run in priced and priced[run].gpu_hours) for run in runs)
    why = f", of which {unknown} for want of a price; {_TELLING}" if unknown else ""
    return f"{others}{why}"


def _within_budget(
    request: Request, states: Sequence[State], given: Any, site: Cluster | None
) -> Request:
    if given.budget is None:
        return request
    to_do = request.only(s.run for s in states if not s.settled)
    kept, about = affordable(request, states, given, prices(given, to_do, site))
    print(about, flush=True)
    return kept


def _check_limit(request: Request, states: Sequence[State], given: Any, site: Cluster) -> None:
    """UsageError for more GPU-hours than a site lets pass without --yes. Of paper scale alone: the
    other scales are minutes of a CPU."""
    from repro import price

    pending = _pending(request, states)
    runs = pending.only(run for run, scale in pending.runs.items() if scale == "paper")
    total = price.total(prices(given, runs, site).values())
    most, limit = total.gpu_hours[1], site.limit_gpu_hours
    if given.yes or given.budget is not None or (most <= limit and not total.unpriced):
        return
    number = f"{len(runs.runs)} run{'s' * (len(runs.runs) > 1)}"
    cost = f"up to {most:,.0f} GPU-hours"
    if total.unpriced:
        cost = f"{cost} and {total.unpriced} of unknown price" if total.priced else "unknown price"
    line = (
        f"{number}: {cost}; this site's limit_gpu_hours is {limit:,g}. Add --yes, or --budget "
        f"{limit:g}gpuh"
    )
    if total.unpriced:
        line = f"{line}, which leaves out what has no price; {_TELLING}"
    if not given.dry_run:
        raise UsageError(line)
    print(line)


def _print_prices(root: Any, request: Request, site: Cluster) -> None:
    from repro import price

    for scale in request.scales:
        gpu = gpu_of(site, scale)
        runs = [run for run, of in request.runs.items() if of == scale]
        found = price.prices(root, runs, gpu, _count_of(site))
        print(f"price: {price.line([*found.values()], gpu)}", flush=True)
