"""The items, rows and seeds that a command selects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from repro import paper
from repro.commands.names import NAMES
from repro.commands.usage import UsageError, hint
from repro.commands.values import RESULTS
from repro.spec import SCALES, Experiment, Run, Scale


def seeds_of(number: int | None, scale: Scale, experiment: Experiment) -> int:
    """The given number of seeds, or else the item's default at a scale."""
    from repro.core import plan

    return number or plan.default_seeds(experiment, scale)


def seeds_to_train(number: int | None) -> Callable[[Experiment, Scale], int]:
    """A function for the number of seeds to train; `number`: the value of --seeds."""
    return lambda item, scale: seeds_of(number, scale, item)


def seeds_to_show(number: int | None, results: Path) -> Callable[[Experiment, Scale], int]:
    """A function for the number of seeds to show: without --seeds, all that have any files."""
    from repro.core import plan
    from repro.launch import state

    if number is not None:
        return lambda item, scale: seeds_of(number, scale, item)
    run_ids = state.known_runs(results)
    return lambda item, scale: plan.seeds_shown(item, scale, run_ids)


def item_names(words: Sequence[str], command: str = "") -> list[str]:
    """The items with these names or patterns. Raises UsageError for an unknown one.

    With a `command`, at least one item is required.
    """
    items = list(dict.fromkeys(name for word in words for name in _items_of(word)))
    if command and not items:
        raise UsageError(f"{command} which item? Name one: {', '.join(paper.current().names())}")
    return items


def absence_of(results: Path) -> str:
    """A message if a results folder was named and does not exist; otherwise ''."""
    if results == RESULTS or results.exists():
        return ""
    return f"there is no folder {results}, so no run in it; --results DIR names another"


def selected_experiments(
    items: Sequence[str], scale: Scale, only: Sequence[str], images: str
) -> list[Experiment]:
    """The items with these names; with --images 256px, their versions on 256-px crops.

    Skips items without runs at the scale. Raises UsageError if --images has no effect, if --only
    names an unknown row, or if no item is left.
    """
    experiments = _at_scale([paper.current().get(name) for name in items], scale)
    if images != "original":
        experiments = _on_256px_crops(experiments, scale)
    check_rows(experiments, only)
    return experiments


def _at_scale(items: list[Experiment], scale: Scale | None) -> list[Experiment]:
    """The items that have a run at the scale. Raises UsageError if none has."""
    from repro.core.scales import runs_at_scale

    available = [item for item in items if scale is None or runs_at_scale(item.cells, scale)]
    if available or not items:
        return available
    others = [other for other in SCALES if any(runs_at_scale(item.cells, other) for item in items)]
    names = [item.name for item in items]
    why = awaited_search(names, scale) or f"{', '.join(names)}: nothing at {scale} scale"
    raise UsageError(f"{why}; try --scale {' or '.join(others)}")


def awaited_search(names: Sequence[str], scale: Scale | None) -> str:
    """A message about items that wait for a search at this scale; '' if none does."""
    if scale is None:
        return ""
    awaits = paper.current().awaits
    searches = {name: search for name in names if (search := awaits(name, scale))}
    if not searches:
        return ""
    needed = list(dict.fromkeys(searches.values()))
    return (f"{', '.join(searches)}: not at {scale} scale until {' and '.join(needed)} "
            f"{'is' if len(needed) == 1 else 'are'} done, and its best rates are recipes; "
            f"see `repro plan {' '.join(needed)} --scale {scale}`")  # fmt: skip


def _on_256px_crops(experiments: list[Experiment], scale: Scale | None) -> list[Experiment]:
    from repro.core.crops_256px import on_256px_crops

    if scale in ("demo", "proxy"):
        raise UsageError(f"--images 256px is for ImageNet, which the {scale} scale does not have")
    crops = [on_256px_crops(experiment) for experiment in experiments]
    if crops == experiments:
        items = ", ".join(experiment.name for experiment in experiments)
        raise UsageError(f"--images 256px is for ImageNet, of which {items} reads nothing")
    return crops


def check_rows(experiments: Sequence[Experiment], only: Sequence[str]) -> None:
    """Raise UsageError for a pattern that matches no row of the items, or no column of a row."""
    from repro.core import plan

    rows = list(dict.fromkeys(row for experiment in experiments for row in experiment.rows))
    for pattern in only:
        if any(plan.select(experiment, [pattern]) for experiment in experiments):
            continue
        items = ", ".join(experiment.name for experiment in experiments)
        row, _, column = pattern.rpartition("/")
        cells = [cell for e in experiments for cell in (plan.select(e, [row]) if row else ())]
        if columns := list(dict.fromkeys(cell.column for cell in cells)):
            raise UsageError(f"{items} has no column {column!r} of {row}; {hint(column, columns)}")
        raise UsageError(f"{items} has no method {pattern!r}; {hint(pattern, rows)}")


def run_named(name: str, results: Path) -> str:
    """The id of the only run whose id is `name` or begins with it."""
    from repro.launch import state

    run_ids = sorted(state.known_runs(results))
    matches = [run for run in run_ids if run == name] or [r for r in run_ids if r.startswith(name)]
    if not matches:
        near = hint(name, run_ids) if run_ids else f"there are no runs in {results}"
        raise UsageError(f"no run {name!r} in {results}; {near}")
    if len(matches) > 1:
        some = ", ".join(matches[:3]) + ", ..." * (len(matches) > 3)
        raise UsageError(f"{name!r} is ambiguous: {len(matches)} runs match, {some}")
    return matches[0]


def stored_run(name: str, root: Path) -> Run:
    """The run whose id has this prefix, as its folder has it.

    Raises UsageError if it has no folder yet, or one that is another run's.
    """
    from repro import results

    run_id = run_named(name, root)
    if not (root / run_id).exists():
        raise UsageError(f"{run_id} has not begun; see `repro status`")
    run = results.stored_run(root / run_id)
    if run.id != run_id:
        raise UsageError(f"{root / run_id} is not {run_id}, but {run.id} by its spec; rename it")
    return run


def _items_of(word: str) -> list[str]:
    try:
        return paper.current().matching(word)
    except KeyError:
        if word in NAMES:
            raise UsageError(
                f"{word!r} is a command, not an item; name it first: repro {word}"
            ) from None
        near = hint(word, [*paper.current().names(), "all", *NAMES])
        raise UsageError(f"unknown item {word!r}; {near}") from None
