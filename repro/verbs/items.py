"""Verbs about items: which there are, what they need, and what was decided for them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro import experiments
from repro.options import (
    add_budget,
    add_places,
    add_selection,
    parser_of,
    path_of,
    require_item,
    split_items,
)

if TYPE_CHECKING:
    from repro.launch.state import State


def list_(words: Sequence[str]) -> int:
    """what there is: items and their runs"""
    parser = parser_of("list", "What there is to reproduce.")
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(list(words))
    found = [experiments.get(name) for name in experiments.names()]
    if given.json:
        rows = [{"name": e.name, "place": e.place, "title": e.title, "rows": e.rows} for e in found]
        print(json.dumps(rows, indent=1))
        return 0
    for experiment in found:
        print(f"{experiment.name:18} {experiment.place}. {experiment.title}")
        print(f"{'':18} {'; '.join(experiment.rows)}")
    return 0


def plan_(words: Sequence[str]) -> int:
    """which runs an item needs, what there is of each, and the price of what is missing"""
    items, rest = split_items(words)
    require_item(items, rest, "plan")
    parser = parser_of("plan ITEM...", "Which runs the items need, what there is, and the price.")
    add_selection(parser)
    add_budget(parser)
    parser.add_argument("--gpu", metavar="NAME",
                        help="put the price on these (default: the site file's; H100)")  # fmt: skip
    parser.add_argument("--cluster", type=path_of, metavar="FILE",
                        default=os.environ.get("REPRO_CLUSTER"),
                        help="the site's file (REPRO_CLUSTER)")  # fmt: skip
    add_places(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(rest)

    from repro import price
    from repro.launch import state
    from repro.reproduce import affordable, count_of, gpu_of, print_plan, wanted

    site = _site(given.cluster)
    gpu, count = given.gpu or gpu_of(site, given.scale), count_of(site)
    states = state.look(given.results, wanted(items, given))
    to_do = [s.run for s in states if not s.settled]
    prices = price.prices(given.results, to_do, gpu, count)
    chosen, about = affordable(items, given, prices)
    if chosen is not None:
        states = [s for s in states if s.settled or s.run in chosen]
        prices = {run: found for run, found in prices.items() if run in chosen}
    if given.json:
        rows = [_plan_row(s, prices.get(s.run)) for s in states]
        print(json.dumps(rows, indent=1))
        return 0
    print_plan(states, {run: price.told(found, gpu) for run, found in prices.items()})
    if prices:
        print(*price.summary([*prices.values()], gpu), sep="\n")
    print(about, end="")
    return 0


def _site(file: Path | str | None) -> Any:
    from repro.launch import cluster

    return cluster.load(Path(file)) if file else None


def _plan_row(found: State, cost: Any) -> dict[str, Any]:
    row = {"run": found.run.id, "state": found.name, "note": found.note}
    if not cost:
        return row
    return row | {"gpu_hours": cost.gpu_hours, "by": cost.origin, "disk_bytes": cost.disk_bytes}


def why(words: Sequence[str]) -> int:
    """what the paper leaves open, and what was chosen from where: why --decisions [ITEM...]"""
    items, rest = split_items([word for word in words if word != "--decisions"])
    about = "The ledger: what the paper does not fix, what was chosen, instead of what, and why."
    parser = parser_of("why --decisions [ITEM...]", about)
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(rest)

    from repro import ledger

    chosen = [experiments.get(name) for name in items or experiments.names()]
    if given.json:
        print(json.dumps([ledger.as_json(experiment) for experiment in chosen], indent=1))
        return 0
    for experiment in chosen:
        print(*ledger.lines(experiment), "", sep="\n")
    print(*ledger.common_lines(chosen), sep="\n")
    return 0
