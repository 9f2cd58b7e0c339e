"""`repro ITEM...`: train what is missing, if asked to and where, then draw the items."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.launch.state import State
from repro.options import (
    UsageError,
    add_budget,
    add_places,
    add_selection,
    cells_of,
    chosen,
    parser_of,
    path_of,
    require_item,
    seeds_of,
    split_items,
)
from repro.spec import Experiment, Run, Scale

if TYPE_CHECKING:
    from repro.launch.cluster import Cluster
    from repro.launch.job import How
    from repro.price import Price

_SITE = "slurm/default.yaml"
_PRICED_ON = "H100"  # where no site says what it has


def reproduce(words: Sequence[str]) -> int:
    """Train what is missing, if asked to, then draw the items."""
    from repro.launch import state

    items, given = _parse(words, "reproduce")
    runs = _within_budget(items, given, wanted(items, given))
    well = True
    if given.launch == "slurm":
        status = _submit(runs, given)
        if status is not None:
            return status
        well = all(s.settled for s in state.look(given.results, runs))
    elif given.launch == "local":
        states = state.look(given.results, runs)
        _refuse_trouble(states)
        to_do = [s.run for s in states if not s.settled]
        if given.dry_run:
            print_plan([s for s in states if not s.settled])
        elif to_do:
            well = _train_here(to_do, given)
    for experiment in chosen(items, given):
        _draw(experiment, given)
    return 0 if well else 1


def wanted(items: Sequence[str], given: Any) -> list[Run]:
    """The runs that the items need, at the scale and with the seeds that were asked for."""
    from repro import plan

    given.seeds = seeds_of(given.seeds, given.scale)
    return plan.runs(cells_of(chosen(items, given), given.only), given.scale, given.seeds)


def affordable(
    items: Sequence[str], given: Any, prices: Mapping[Run, Price]
) -> tuple[set[Run] | None, str]:
    """Of the runs with these prices those within the budget, and a line about them; None: all."""
    from repro import plan, price

    if given.budget is None:
        return None, ""
    found = chosen(items, given)
    claims = [c for e in found for c in plan.claimed(e, given.scale, given.seeds)]
    open_claims = [[run for run in claim if run in prices] for claim in claims]
    runs, decided = price.within(given.budget, open_claims, prices)
    about = f"within {given.budget:g} GPU-hours: {decided} of {len(claims)} claims are decided"
    return set(runs), f"{about}, with {len(runs)} runs; the others are not launched\n"


def _within_budget(items: Sequence[str], given: Any, runs: Sequence[Run]) -> list[Run]:
    """The runs that may be launched: all, or with a budget those that are within it."""
    from repro import price
    from repro.launch import cluster, state

    if given.budget is None or given.launch == "none":
        return list(runs)
    site = cluster.load(given.cluster) if given.launch == "slurm" else None
    to_do = [s.run for s in state.look(given.results, runs) if not s.settled]
    prices = price.prices(given.results, to_do, gpu_of(site, given.scale), count_of(site))
    within, about = affordable(items, given, prices)
    print(about, end="", flush=True)
    return [run for run in runs if run not in prices or run in (within or ())]


def gpu_of(site: Cluster | None, scale: Scale) -> str:
    """The GPUs on which a scale is priced: the site's; else an H100, or a CPU for small scales."""
    if site and site.gpus.type and site.resources[0].gpus:
        return site.gpus.type
    return _PRICED_ON if scale == "paper" else "cpu"


def count_of(site: Cluster | None) -> Callable[[Run], int]:
    """How many GPUs of a site work on a run."""

    def count(run: Run) -> int:
        asked = site.resources_for(run.id) if site else None
        return max(1, asked.nodes * asked.gpus) if asked else 1

    return count


def retry(words: Sequence[str]) -> int:
    """start again the runs of an item that failed, were lost or cancelled"""
    from repro.launch import state

    items, given = _parse(words, "retry", launch="slurm")
    states = state.look(given.results, wanted(items, given))
    runs = [s.run for s in states if s.ended_badly and not s.is_under_way]
    if not runs:
        print("nothing to retry: no run of these has failed, been lost or been cancelled")
        return 0
    if given.launch == "local":
        return 0 if _train_here(runs, given) else 1
    status = _submit(runs, given)
    if status is not None:
        return status
    return 0 if all(s.settled for s in state.look(given.results, runs)) else 1


def _parse(words: Sequence[str], verb: str, launch: str = "none") -> tuple[list[str], Any]:
    """The items of a command line, and its options."""
    from jsonargparse.typing import NonNegativeFloat, PositiveInt

    items, rest = split_items(words)
    require_item(items, rest, verb)
    command = " ".join(items) or "ITEM"
    about = "Draw items of the paper, training first what is missing."
    if verb == "retry":
        command, about = f"retry {command}", "Start again what ended without a result."
    parser = parser_of(command, about)
    parser.add_argument(
        "--launch",
        choices=("none", "local", "slurm"),
        default=launch,
        help="where to train what is missing; none: only draw (the default)"
        if launch == "none"
        else "where (default: slurm)",
    )
    add_selection(parser)
    add_budget(parser)
    add_places(parser)
    parser.add_argument("--out", type=path_of, default=Path(), metavar="DIR",
                        help="where tables/ and figures/ are written (default: here)")  # fmt: skip
    parser.add_argument("--checkpoint-seconds", type=NonNegativeFloat, default=60.0, metavar="S",
                        help="lose at most this much work to a kill (default: 60)")  # fmt: skip
    weights = os.environ.get("REPRO_WEIGHTS")
    parser.add_argument("--weights", type=path_of, metavar="DIR",
                        default=path_of(weights) if weights else None,
                        help="released weights, <tag>.safetensors (REPRO_WEIGHTS; default: the "
                        "hub's cache, or the hub)")  # fmt: skip
    parser.add_argument("--decode", choices=("cpu", "nvjpeg"), default="cpu",
                        help="who decodes photographs; nvJPEG's pixels differ by some grey levels "
                        "(default: cpu)")  # fmt: skip
    parser.add_argument(
        "--micro-batch",
        type=PositiveInt,
        metavar="N",
        help="images on a device at once; the result is that of the whole batch",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be trained, submitted and drawn"
    )
    here = parser.add_argument_group("--launch local")
    here.add_argument(
        "--jobs", type=PositiveInt, metavar="N", help="runs at a time (default: one a GPU or core)"
    )
    here.add_argument("--ranks", type=PositiveInt, default=1, metavar="N",
                      help="processes that train one run, a GPU each (default: 1)")  # fmt: skip
    there = parser.add_argument_group("--launch slurm")
    there.add_argument("--cluster", type=path_of, metavar="FILE",
                       default=path_of(os.environ.get("REPRO_CLUSTER", _SITE)),
                       help=f"the site's file (REPRO_CLUSTER; default: {_SITE})")  # fmt: skip
    there.add_argument(
        "--wait", action="store_true", help="stay until nothing is under way, then draw"
    )
    return items, parser.parse_args(rest)


def _refuse_trouble(states: Sequence[State]) -> None:
    """Runs under a known id with another spec, or with damaged files, are not touched."""
    for found in states:
        if found.name in ("stale", "damaged"):
            raise UsageError(found.note)


# --- training ------------------------------------------------------------------------------------


def _how(given: Any) -> How:
    from repro.launch.job import How

    weights = given.weights.absolute() if given.weights else None
    return How(
        given.data.absolute(), given.checkpoint_seconds, given.micro_batch, weights, given.decode
    )


def _train_here(runs: Sequence[Run], given: Any) -> bool:
    """Train here, showing progress; whether every run has a result now."""
    from repro.launch import local
    from repro.launch.progress import Progress

    how = _how(given)
    jobs = min(given.jobs or local.default_jobs(given.ranks), len(runs))
    progress = Progress(len(runs), jobs)
    return local.launch(runs, given.results, how, jobs, progress.tell, given.ranks)


def _submit(runs: Sequence[Run], given: Any) -> int | None:
    """Submit what is neither done nor under way. The exit status, or None if all is done now."""
    from repro.launch import cluster, slurm, state, watch

    site = cluster.load(given.cluster)
    root = given.results.absolute()
    how = _how(given)
    if given.dry_run:
        states = state.look(root, runs)
        _refuse_trouble(states)
        to_do = [s.run for s in states if not (s.settled or s.is_under_way)]
        print(*slurm.describe(site, to_do), *slurm.scripts(site, to_do, root), sep="\n")
        _tell_price(root, to_do, site, given.scale)
        print(f"would submit {len(to_do)} of {len(runs)} runs")
        return 0
    if not _hand_over(runs, given, site, how):
        return None
    if given.wait:
        try:
            watch.until_settled(root, runs, lambda lost: _hand_over(lost, given, site, how))
        except KeyboardInterrupt:
            print("\nrepro: the jobs go on; `repro status` tells how they are", file=sys.stderr)
            return 130
        return None
    print("`repro status` tells how they are; the same command draws when they are done")
    return 0


def _hand_over(runs: Sequence[Run], given: Any, site: Cluster, how: How) -> bool:
    """Submit those of the runs that nobody has; whether any is under way now."""
    from repro.launch import data, queue, slurm, state, submission

    root = given.results.absolute()
    with slurm.submitting(root):  # nobody else submits between our look and our submission
        submission.tidy(root)
        states = state.look(root, runs)
        _refuse_trouble(states)
        to_do = [s.run for s in states if not (s.settled or s.is_under_way)]
        under_way = {s.run: s.job for s in states if s.is_under_way}
        # SLURM cannot wait for what it does not run.
        held_up = [r for r in to_do if r.starts_from in under_way and not under_way[r.starts_from]]
        to_do = [run for run in to_do if run not in held_up]
        if to_do:
            queue.require()
            if "REPRO_DATA" not in site.environment:  # else the nodes have a place of their own
                data.check(data.of(to_do), given.data)
            print(*slurm.describe(site, to_do), sep="\n")
            _tell_price(root, to_do, site, given.scale)
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


def _tell_price(root: Path, runs: Sequence[Run], site: Cluster, scale: Scale) -> None:
    from repro import price

    gpu = gpu_of(site, scale)
    if runs:
        found = price.prices(root, runs, gpu, count_of(site))
        print(f"price: {price.line([*found.values()], gpu)}", flush=True)


# --- drawing -------------------------------------------------------------------------------------


def _draw(experiment: Experiment, given: Any) -> None:
    """Draw one item into tables/ and figures/, and the table onto the screen."""
    from repro.render import tables
    from repro.render.frame import tidy
    from repro.results import write

    frame, warnings = tidy(experiment, given.scale, given.results, given.seeds)
    for warning in warnings:
        print(f"repro: warning: {warning}", file=sys.stderr)
    drawn = {
        ("tables", "md"): tables.markdown(experiment, frame, given.scale),
        ("tables", "tex"): tables.latex(experiment, frame, given.scale),
        ("tables", "csv"): tables.csv(frame),
    }
    print(drawn["tables", "md"])
    if experiment.plot in ("trees", "maps"):
        from repro.render import pictures

        drawn["figures", "svg"] = pictures.svg(experiment, given.scale, given.results)
    elif experiment.plot:
        from repro.render import figures  # and with it matplotlib: only where there is a plot

        drawn["figures", "svg"] = figures.svg(experiment, frame, given.scale)
    scale = "" if given.scale == "paper" else given.scale
    paths = [given.out / kind / scale / f"{experiment.name}.{ending}" for kind, ending in drawn]
    if given.dry_run:
        print("would write " + " ".join(map(str, paths)))
        return
    for path, content in zip(paths, drawn.values(), strict=True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot write to {path.parent}: {error.strerror}; choose --out DIR"
            ) from error
        write(path, content)
        print(path)


def print_plan(states: Sequence[State], notes: Mapping[Run, str] | None = None) -> None:
    """A line a run, with what else is to be said of it; then how many are in which state."""
    from repro.launch.watch import tell

    width = max((len(found.run.id) for found in states), default=0)
    for found in states:
        note = tell(found) if found.name == "running" else found.note
        note = "  ".join(part for part in (note, (notes or {}).get(found.run)) if part)
        print(f"{found.name:9} {found.run.id:{width}}  {note}".rstrip())
    names = [found.name for found in states]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    print(f"{len(states)} runs" + (f": {counts}" if counts else ""))
