"""`repro ITEM...`: train what is missing, if asked to and where, then draw the items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repro import output, plan
from repro.launch import start, state
from repro.options import (
    UsageError,
    add_results,
    add_rows,
    add_scale,
    add_seeds,
    chosen,
    folder_of,
    parse_items,
    parser_of,
    seeds_of,
    split_words,
)
from repro.spec import Experiment, Scale


def reproduce(words: Sequence[str]) -> int:
    """Train what is missing, if asked to, then draw the items."""
    items, given = _parse(words)
    start.settle(given)
    found = chosen(items, given)
    status = 0
    if given.launch != "none":
        request = plan.request(found, [given.scale], seeds_to_train(given.seeds), given.only)
        outcome = start.launch(request, given)
        if not outcome.is_over:
            return outcome.status
        status = outcome.status
    if not _may_draw(given):
        return status
    seeds = seeds_to_show(given.seeds, given.results)
    for experiment in found:
        _draw(experiment, given, seeds(experiment, given.scale))
    return status


def seeds_to_train(number: int | None) -> Callable[[Experiment, Scale], int]:
    """How many seeds of an item are trained; `number`: what --seeds says."""
    return lambda _, scale: seeds_of(number, scale)


def seeds_to_show(number: int | None, results: Path) -> Callable[[Experiment, Scale], int]:
    """How many seeds of an item are shown: without --seeds, all of which there is anything."""
    if number is not None:
        return lambda _, scale: seeds_of(number, scale)
    known = state.known_runs(results)
    return lambda e, scale: plan.seeds_known(e.cells, scale, known, seeds_of(None, scale))


def _parse(words: Sequence[str]) -> tuple[list[str], Any]:
    command = " ".join(split_words(words)[0]) or "ITEM..."
    parser = parser_of(command, "Draw items of the paper, training first what is missing.")
    parser.add_argument("--launch", choices=("none", "local", "slurm"), default="none",
                        help="where to train what is missing; none: only draw (the "
                        "default)")  # fmt: skip
    add_scale(parser, "paper")
    add_rows(parser)
    add_seeds(parser)
    add_results(parser)
    parser.add_argument("--out", type=folder_of, metavar="DIR",
                        help="where tables/ and figures/ are written (default: here)")  # fmt: skip
    start.add_options(parser)
    return parse_items(parser, words, "reproduce")


# --- drawing -------------------------------------------------------------------------------------


def _may_draw(given: Any) -> bool:
    """Whether to draw: not over the tables here from a folder that has no result at all."""
    if given.out or any(given.results.glob("*/result.json")):
        given.out = given.out or Path()
        return True
    why = f"there is no result in {given.results}, so the tables would be empty"
    if given.launch == "none":
        raise UsageError(
            f"{why}; train with --launch local, choose --results DIR, or draw into --out DIR"
        )
    print(f"{why}; nothing is drawn")
    return False


def _draw(experiment: Experiment, given: Any, seeds: int) -> None:
    """Draw one item into tables/ and figures/, and the table onto the screen."""
    from repro.render import latex, tables
    from repro.render.frame import tidy
    from repro.results import write

    frame, warnings = tidy(experiment, given.scale, given.results, seeds)
    for warning in warnings:
        output.warn(warning)
    drawn: dict[tuple[str, str], str | bytes] = {
        ("tables", "md"): tables.markdown(experiment, frame, given.scale),
        ("tables", "tex"): latex.latex(experiment, frame, given.scale),
        ("tables", "csv"): tables.csv(frame),
    }
    if experiment.plot in ("trees", "maps"):
        from repro.render import pictures

        drawn["figures", "svg"] = pictures.svg(experiment, given.scale, given.results)
        drawn["figures", "pdf"] = pictures.pdf(experiment, given.scale, given.results)
    elif experiment.plot:
        from repro.render import figures  # and with it matplotlib: only where there is a plot

        drawn["figures", "svg"] = figures.svg(experiment, frame, given.scale)
        drawn["figures", "pdf"] = figures.pdf(experiment, frame, given.scale)
    scale = "" if given.scale == "paper" else given.scale
    paths = [given.out / kind / scale / f"{experiment.name}.{ending}" for kind, ending in drawn]
    if given.dry_run:
        print(drawn["tables", "md"])
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
    print(drawn["tables", "md"], *paths, sep="\n")
