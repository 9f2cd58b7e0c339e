"""Commands about items: the list, the plan, and the decisions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro import paper
from repro.commands.launching import BUDGET, ONLY
from repro.commands.parsing import option, repeated, switch
from repro.commands.selection import (
    absence_of,
    item_names,
    seeds_to_train,
    selected_experiments,
)
from repro.commands.shared import WithData, WithItems, WithRows
from repro.commands.values import cluster_file, data_folder, gpu_hours, path_of
from repro.core import records, terminal
from repro.spec import Experiment

if TYPE_CHECKING:
    from repro.cost.peaks import Peak
    from repro.cost.price import Price
    from repro.launch.state import RunState


@dataclass(frozen=True, kw_only=True)
class List(WithItems):
    """the items; list ITEM...: their methods

    What there is to reproduce: every item in a line, or the rows of some items.
    """

    json: bool = switch("for programs")

    def execute(self) -> int:
        names = item_names(self.items)
        experiments = [paper.current().get(name) for name in names or paper.current().names()]
        if self.json:
            rows = [{"name": e.name, "place": e.place, "title": e.title, "rows": e.rows}
                    for e in experiments]  # fmt: skip
            print(records.encode(rows, indent=1))
        elif names:
            for experiment in experiments:
                terminal.show(*_rows_of(experiment))
        else:
            terminal.show(_items_table(experiments))
        return 0


def _items_table(experiments: Sequence[Experiment]) -> terminal.Table:
    rows = [(e.name, str(len(e.rows)), f"{e.place}. {e.title}") for e in experiments]
    return terminal.Table(("item", "rows", "in the paper"), rows, numbers=(1,))


def _rows_of(experiment: Experiment) -> Iterator[terminal.Part]:
    """A heading, and a line for each row."""
    yield terminal.Prose(f"{experiment.name}  {experiment.place}. {experiment.title}")
    yield from (f"  {row}" for row in experiment.rows)


@dataclass(frozen=True, kw_only=True)
class Plan(WithRows, WithData):
    """the runs that an item needs, which of them exist, and the price of the rest

    List the runs that the items need, which exist, and the price of the rest.
    """

    only: tuple[str, ...] = repeated(ONLY, metavar="METHOD")
    budget: float | None = option(BUDGET, read=gpu_hours, metavar="500gpuh")
    gpu: str = option("GPU type for the price (default: the site file's; H100)", default="",
                      metavar="NAME")  # fmt: skip
    cluster: Path | None = option("the site's file (REPRO_CLUSTER)", read=path_of, metavar="FILE")
    runs: bool = switch("one line per run, with its id", exclusive="shown")
    json: bool = switch("for programs: every run", exclusive="shown")

    def execute(self) -> int:
        items = item_names(self.items, "plan")
        if line := absence_of(self.results):
            print(f"repro: {line}", file=sys.stderr)

        from repro.commands import overview
        from repro.core import plan
        from repro.cost import gpus, peaks, price
        from repro.launch import budget, data, state
        from repro.launch.slurm import cluster

        root = self.data or data_folder()
        site_file = self.cluster or cluster_file()
        site = cluster.load(site_file) if site_file else None
        experiments = selected_experiments(items, self.scale, self.only, self.images)
        request = plan.request(experiments, [self.scale], seeds_to_train(self.seeds), self.only)
        states, about = state.query(self.results, request.runs), ""
        to_do = request.only(s.run for s in states if not s.is_settled)
        prices = budget.prices(self.results, to_do, site, self.gpu)
        if self.budget is not None:
            request, about = budget.within_budget(
                request, states, self.results, self.budget, prices
            )
            states = [s for s in states if s.run in request.runs]
            prices = {run: cost for run, cost in prices.items() if run in request.runs}
        gpu = self.gpu or budget.gpu_of(site, self.scale)
        sizes = budget.micro_batches(site, prices)
        memory_peaks = {
            run: peaks.peak(run, gpu, cost.gpus, sizes.get(run)) for run, cost in prices.items()
        }
        if self.json:
            rows = [_plan_row(s, prices.get(s.run), memory_peaks.get(s.run), root) for s in states]
            print(records.encode(rows, indent=1))
            return 0
        parts = overview.plan_parts(request, states, prices, {self.scale: gpu}, self.runs)
        notes = (*(price.summary([*prices.values()], gpu) if prices else ()), gpus.unknown(gpu),
                 *peaks.lines(memory_peaks.values(), gpu), *data.missing(prices, root),
                 about)  # fmt: skip
        terminal.show(*parts, *filter(None, notes))
        return 0


def _plan_row(
    run_state: RunState, cost: Price | None, peak: Peak | None, root: Path
) -> dict[str, object]:
    from repro.launch import data

    row: dict[str, object] = {
        "run": run_state.run.id,
        "state": run_state.name,
        "note": run_state.note,
    }
    if not cost:
        return row
    estimate: dict[str, object] = {
        "gpu_hours": cost.gpu_hours,
        "by": cost.origin,
        "disk_bytes": cost.disk_bytes,
    }
    if peak:
        estimate |= {"memory_bytes": peak.bytes, "micro_batch": peak.micro_batch}
    return row | estimate | {"missing_data": data.missing([run_state.run], root)}
