"""Verbs about items: which there are, what they need, and what was decided for them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from repro import experiments, records
from repro.options import (
    UsageError,
    absence_of,
    add_budget,
    add_places,
    add_rows,
    add_scale,
    add_seeds,
    chosen,
    cluster_file,
    data_folder,
    parse,
    parse_items,
    parser_of,
    path_of,
)


def list_(words: Sequence[str]) -> int:
    """what there is: items and their runs"""
    parser = parser_of("list", "What there is to reproduce.")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parse(parser, words)
    found = [experiments.get(name) for name in experiments.names()]
    if given.json:
        rows = [{"name": e.name, "place": e.place, "title": e.title, "rows": e.rows} for e in found]
        print(records.encode(rows, indent=1))
        return 0
    width = max(len(experiment.name) for experiment in found)
    for experiment in found:
        _print_beside(f"{experiment.name:{width}}  ", f"{experiment.place}. {experiment.title}")
        _print_beside(" " * (width + 2), "; ".join(experiment.rows))
    return 0


def _print_beside(margin: str, text: str) -> None:
    """Print a text in a column of its own, as wide as the terminal leaves it."""
    width = max(40, shutil.get_terminal_size().columns)
    indent = " " * len(margin)
    print(textwrap.fill(text, width, initial_indent=margin, subsequent_indent=indent,
                        break_on_hyphens=False, break_long_words=False))  # fmt: skip


def plan_(words: Sequence[str]) -> int:
    """which runs an item needs, what there is of them, and the price of what is missing"""
    parser = parser_of("plan ITEM...", "Which runs the items need, what there is, and the price.")
    add_scale(parser, "paper")
    add_rows(parser)
    add_seeds(parser)
    add_budget(parser)
    parser.add_argument("--gpu", metavar="NAME",
                        help="put the price on these (default: the site file's; H100)")  # fmt: skip
    parser.add_argument("--cluster", type=path_of, metavar="FILE",
                        help="the site's file (REPRO_CLUSTER)")  # fmt: skip
    add_places(parser)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--runs", action="store_true", help="a line a run, with its id")
    shown.add_argument("--json", action="store_true", help="for programs: every run")
    items, given = parse_items(parser, words, "plan")
    if line := absence_of(given.results):
        print(f"repro: {line}", file=sys.stderr)

    from repro import gpus, overview, peaks, plan, price
    from repro.launch import cluster, data, start, state
    from repro.reproduce import seeds_to_train

    given.data = given.data or data_folder()
    site_file = given.cluster or cluster_file()
    site = cluster.load(site_file) if site_file else None
    found = chosen(items, given)
    request = plan.request(found, [given.scale], seeds_to_train(given.seeds), given.only)
    states, about = state.look(given.results, request.runs), ""
    to_do = request.only(s.run for s in states if not s.settled)
    prices = start.prices(given, to_do, site, given.gpu or "")
    if given.budget is not None:
        request, about = start.affordable(request, states, given, prices)
        states = [s for s in states if s.run in request.runs]
        prices = {run: cost for run, cost in prices.items() if run in request.runs}
    absent = data.missing(prices, given.data)
    gpu = given.gpu or start.gpu_of(site, given.scale)
    sizes = start.micro_batches(site, prices)
    found_peaks = {run: peaks.peak(run, gpu, p.gpus, sizes.get(run)) for run, p in prices.items()}
    if given.json:
        rows = [_plan_row(s, prices.get(s.run), found_peaks.get(s.run), given.data) for s in states]
        print(records.encode(rows, indent=1))
        return 0
    lines = overview.plan_lines(request, states, prices, {given.scale: gpu}, given.runs)
    print(*lines, sep="\n")
    if prices:
        print(*price.summary([*prices.values()], gpu), sep="\n")
    notes = (gpus.unknown(gpu), *peaks.lines(found_peaks.values(), gpu), *absent, about)
    for line in filter(None, notes):
        print(line)
    return 0


def _plan_row(found: Any, cost: Any, peak: Any, root: Any) -> dict[str, Any]:
    from repro.launch import data

    row = {"run": found.run.id, "state": found.name, "note": found.note}
    if not cost:
        return row
    known = {"gpu_hours": cost.gpu_hours, "by": cost.origin, "disk_bytes": cost.disk_bytes}
    if peak:
        known |= {"memory_bytes": peak.bytes, "micro_batch": peak.micro_batch}
    return row | known | {"missing_data": data.missing([found.run], root)}


def why(words: Sequence[str]) -> int:
    """what the paper leaves open, and what was chosen from where: why --decisions [ITEM...]"""
    about = "The ledger: what the paper does not fix, what was chosen, instead of what, and why."
    parser = parser_of("why --decisions [ITEM...]", about)
    parser.add_argument("--decisions", action="store_true", help="what was decided, and why")
    parser.add_argument("--json", action="store_true", help="for programs")
    items, given = parse_items(parser, words)
    if not given.decisions:
        raise UsageError("why what? `repro why --decisions [ITEM...]` lists the decisions")

    from repro import ledger

    found = [experiments.get(name) for name in items or experiments.names()]
    if given.json:
        print(records.encode([ledger.as_json(experiment) for experiment in found], indent=1))
        return 0
    for experiment in found:
        print(*ledger.lines(experiment), "", sep="\n")
    print(*ledger.common_lines(found), sep="\n")
    return 0
